"""What gets lost between two pods, at the resolution of a millisecond: runs in a pod, on the standard library alone.

`serve` echoes datagrams and accepts connections until it is killed. `probe HOST...` sends each host a numbered datagram
every millisecond and opens a connection from a fresh source port every 20 ms, until SIGINT; then it prints what came
back, as JSON: by host {"sent", "lost", "outage", "tries", "failed", "last_failure"}. lost: datagrams without an echo;
outage: milliseconds between two echoes, at most; failed: connections that were not there within a second; last_failure:
when the last of these was tried, in seconds of the machine's monotonic clock, 0 if none failed. `pairs SOURCE>HOST...`
sends a single datagram from each source to its host, one every 200 ms until SIGINT, and prints for each that was sent
[pair, when, whether its echo came within a second]. Driven by `restart_world`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from typing import Any

PORT = 9009
_SO_RCVBUFFORCE = 33
"""asm-generic/socket.h; Python has no name for it."""
_NUMBER = struct.Struct("!Q")
_EVERY, _CONNECT_EVERY, _PAIR_EVERY, _PATIENCE = 0.001, 0.02, 0.2, 1.0
"""Seconds: between datagrams, connections, pairs; until a connection or a pair's datagram has failed."""
_ROOM = 8 << 20
"""Bytes of a socket's buffer: what arrives while its process waits for a processor was not lost on the way."""
_TAIL = 0.5
"""Seconds that the last echoes have to come back."""
_MEETING = 20.0
"""Seconds within which a host must answer for the first time."""
_GREETING = 2**64 - 1
"""The number of datagrams that don't count."""


def serve() -> None:
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    udp.bind(("::", PORT))
    tcp = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    ready = selectors.DefaultSelector()
    ready.register(udp, selectors.EVENT_READ)
    ready.register(tcp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            if key.fileobj is udp:
                # The echo comes from the address that was asked, of however many.
                data, asked, _, sender = udp.recvmsg(2048, 64)
                with contextlib.suppress(OSError):
                    udp.sendmsg([data], asked, 0, sender)
            else:
                tcp.accept()[0].close()


class Target:
    """One host: a connected socket for datagrams, and connections under way."""

    def __init__(self, host: str, ready: selectors.BaseSelector) -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.address = (host, PORT)
        self.udp = socket.socket(self.family, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        self.udp.setblocking(False)
        self.udp.connect(self.address)
        self.ready = ready
        ready.register(self.udp, selectors.EVENT_READ, self)
        self.sent = 0
        self.times: dict[int, float] = {}
        self.trying: dict[socket.socket, float] = {}
        self.tries = self.failed = 0
        self.last_failure = 0.0

    def meet(self) -> None:
        """One datagram and one connection at a time, until both have come through: what follows has flows."""
        with socket.create_connection(self.address, _MEETING):
            pass
        end = time.monotonic() + _MEETING
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                self.udp.send(_NUMBER.pack(_GREETING))
            time.sleep(_CONNECT_EVERY)
            with contextlib.suppress(OSError):
                self.udp.recv(64)
                return
        sys.exit(f"{self.address[0]} does not answer")

    def send(self) -> None:
        with contextlib.suppress(OSError):
            self.udp.send(_NUMBER.pack(self.sent))
        self.sent += 1

    def receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                (number,) = _NUMBER.unpack(self.udp.recv(64))
                if number != _GREETING:
                    self.times[number] = time.monotonic()

    def connect(self) -> None:
        trial = socket.socket(self.family, socket.SOCK_STREAM)
        trial.setblocking(False)
        self.tries += 1
        with contextlib.suppress(BlockingIOError):
            trial.connect(self.address)
        self.trying[trial] = time.monotonic()
        self.ready.register(trial, selectors.EVENT_WRITE, self)

    def connected(self, trial: socket.socket) -> None:
        self.end(trial, failed=trial.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)

    def end(self, trial: socket.socket, *, failed: bool) -> None:
        begun = self.trying.pop(trial)
        if failed:
            self.failed += 1
            self.last_failure = begun
        self.ready.unregister(trial)
        trial.close()

    def give_up(self, now: float) -> None:
        for trial, begun in list(self.trying.items()):
            if now - begun > _PATIENCE:
                self.end(trial, failed=True)

    def result(self) -> dict[str, Any]:
        numbers = sorted(self.times)
        gaps = [self.times[b] - self.times[a] for a, b in itertools.pairwise(numbers)]
        return {
            "sent": self.sent,
            "lost": self.sent - len(numbers),
            "outage": round(1000 * max(gaps, default=0.0)),
            "tries": self.tries,
            "failed": self.failed,
            "last_failure": self.last_failure,
        }


def many_files() -> None:
    """Connections that nobody answers add up, the more the slower this process is."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))


def met(target: Target) -> Target:
    target.meet()
    return target


def probe(hosts: list[str]) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    ready = selectors.DefaultSelector()
    targets = {host: met(Target(host, ready)) for host in hosts}
    next_send = next_connect = time.monotonic()
    end = 0.0
    print("ready", flush=True)
    while not end or time.monotonic() < end:
        now = time.monotonic()
        if stopped and not end:
            end = now + _TAIL
        if not end and now >= next_send:
            # A process that was not scheduled for a while sends what it missed at once.
            next_send += _EVERY
            for target in targets.values():
                target.send()
        if not end and now >= next_connect:
            # Connections that were missed for longer than they are waited for are never made.
            next_connect = max(next_connect + _CONNECT_EVERY, now - _PATIENCE)
            for target in targets.values():
                target.connect()
        for key, _ in ready.select(max(0.0, min(next_send - now, _EVERY)) if not end else _EVERY):
            if key.fileobj is key.data.udp:
                key.data.receive()
            else:
                key.data.connected(key.fileobj)
        for target in targets.values():
            target.give_up(now)
    print(json.dumps({host: target.result() for host, target in targets.items()}), flush=True)


def pairs(names: list[str]) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    rest = iter(names)
    waiting: list[tuple[str, socket.socket, float]] = []
    said: list[tuple[str, float, bool]] = []
    print("ready", flush=True)
    while True:
        name = "" if stopped else next(rest, "")
        if name:
            waiting.append((name, first_words(name), time.monotonic()))
        elif not waiting:
            break
        time.sleep(_PAIR_EVERY)
        while waiting and time.monotonic() - waiting[0][2] > _PATIENCE:
            name, udp, when = waiting.pop(0)
            said.append((name, when, echoed(udp)))
            udp.close()
    if not stopped:
        signal.pause()
    print(json.dumps(said), flush=True)


def first_words(pair: str) -> socket.socket:
    source, _, host = pair.partition(">")
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.bind((source, 0))
    udp.connect((host, PORT))
    with contextlib.suppress(OSError):
        udp.send(pair.encode())
    return udp


def echoed(udp: socket.socket) -> bool:
    with contextlib.suppress(OSError):  # there is none, or the host can't be reached
        return bool(udp.recv(2048))
    return False


if __name__ == "__main__":
    many_files()
    {"serve": lambda names: serve(), "probe": probe, "pairs": pairs}[sys.argv[1]](sys.argv[2:])
