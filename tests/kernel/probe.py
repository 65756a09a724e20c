"""What gets lost between two pods, at the resolution of a millisecond: runs in a pod, on the standard library alone.

`serve` echoes datagrams and accepts connections until it is killed. `probe LIMIT HOST...` sends each host a numbered
datagram every millisecond, or every OVSNET_PROBE_EVERY seconds, and opens a connection from a fresh source port every
20th time. `pairs LIMIT
PATH=SOURCE>HOST...` sends a single datagram from each source to its host, one every 200 ms. Both go on until SIGINT and
then until every host, or path, has been steady for a second, but for no more than LIMIT seconds. Then they print what
came back as JSON, by host or path: {"tries", "failed", "last_failure", "steady"}, and of a host {"sent", "lost",
"outage"} too. lost: datagrams without an echo; outage: milliseconds between two echoes, at most; tries: connections, or
pairs' datagrams; failed: those that were not there, or not answered, within a second; last_failure: when the last of
these was tried, in seconds of the machine's monotonic clock, 0 if none failed; steady: seconds of tries since then, up
to the last one, all of which succeeded. Driven by `restart_world`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

PORT = 9009
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
"""asm-generic/socket.h; Python has no names for them."""
_NUMBER = struct.Struct("!Q")
_EVERY = float(os.environ.get("OVSNET_PROBE_EVERY", "0.001"))
_CONNECT_EVERY, _PAIR_EVERY, _PATIENCE = 20 * _EVERY, 0.2, 1.0
"""Seconds: between datagrams, connections, pairs; until a connection or a pair's datagram has failed."""
KNOCK = 0.1
"""Seconds: seldom enough not to get in the way of what is measured."""
_ROOM = 8 << 20
"""Bytes of a socket's buffer: what arrives while its process waits for a processor was not lost on the way, nor what
waits in a kernel that has no time for it: with the usual room for 277 datagrams the next ones are not even sent."""
_TAIL = _PATIENCE + 0.1
"""Seconds that the last echoes have to come back, and the last connections to be there or to fail."""
STEADY = 1.0
"""Seconds without a failure after which it is taken to work again."""
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


class Tries:
    """How those went whose outcome is known: for how long none has failed."""

    def __init__(self) -> None:
        self.failed = self.succeeded = 0
        self.last_failure = self.last_success = self.since = 0.0

    def ended(self, begun: float, *, failed: bool) -> None:
        if failed:
            self.failed += 1
            self.last_failure = max(self.last_failure, begun)
            return
        self.succeeded += 1
        self.last_success = max(self.last_success, begun)
        if self.since <= self.last_failure < begun:
            self.since = begun

    def steady(self, under_way: Iterable[float] = ()) -> float:
        """Seconds from the first try to the last one of which none has failed; those under way may fail yet."""
        if self.since <= self.last_failure:
            return 0.0
        return max(0.0, min(self.last_success, *under_way, self.last_success) - self.since)

    def result(self) -> dict[str, Any]:
        return {
            "tries": self.failed + self.succeeded,
            "failed": self.failed,
            "last_failure": self.last_failure,
            "steady": round(self.steady(), 2),
        }


class Target:
    """One host: a connected socket for datagrams, and connections under way."""

    def __init__(self, host: str, ready: selectors.BaseSelector) -> None:
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.address = (host, PORT)
        self.udp = socket.socket(self.family, socket.SOCK_DGRAM)
        for room in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self.udp.setsockopt(socket.SOL_SOCKET, room, _ROOM)
        self.udp.setblocking(False)
        self.udp.connect(self.address)
        self.ready = ready
        ready.register(self.udp, selectors.EVENT_READ, self)
        self.sent = 0
        self.times: dict[int, float] = {}
        self.trying: dict[socket.socket, float] = {}
        self.tries = Tries()

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
        with contextlib.suppress(BlockingIOError):
            trial.connect(self.address)
        self.trying[trial] = time.monotonic()
        self.ready.register(trial, selectors.EVENT_WRITE, self)

    def connected(self, trial: socket.socket) -> None:
        self.end(trial, failed=trial.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)

    def end(self, trial: socket.socket, *, failed: bool) -> None:
        self.tries.ended(self.trying.pop(trial), failed=failed)
        self.ready.unregister(trial)
        trial.close()

    def give_up(self, now: float) -> None:
        for trial, begun in list(self.trying.items()):
            if now - begun > _PATIENCE:
                self.end(trial, failed=True)

    def steady(self) -> float:
        return self.tries.steady(self.trying.values())

    def result(self) -> dict[str, Any]:
        numbers = sorted(self.times)
        gaps = [self.times[b] - self.times[a] for a, b in itertools.pairwise(numbers)]
        return {
            "sent": self.sent,
            "lost": self.sent - len(numbers),
            "outage": round(1000 * max(gaps, default=0.0)),
            **self.tries.result(),
        }


def many_files() -> None:
    """Connections that nobody answers add up, the more the slower this process is."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))


def met(target: Target) -> Target:
    target.meet()
    return target


def interrupted() -> list[float]:
    """When SIGINT came, once it has."""
    times: list[float] = []
    signal.signal(signal.SIGINT, lambda number, frame: times.append(time.monotonic()))
    return times


def enough(stopped: list[float], limit: float, steady: Iterable[float]) -> bool:
    """Whether to end: told to, and all is steady or never will be."""
    if not stopped:
        return False
    return time.monotonic() > stopped[0] + limit or all(each >= STEADY for each in steady)


def probe(limit: float, hosts: list[str]) -> None:
    stopped = interrupted()
    ready = selectors.DefaultSelector()
    targets = {host: met(Target(host, ready)) for host in hosts}
    next_send = next_connect = time.monotonic()
    end = 0.0
    print("ready", flush=True)
    while not end or time.monotonic() < end:
        now = time.monotonic()
        if not end and enough(stopped, limit, (target.steady() for target in targets.values())):
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


def pairs(limit: float, named: list[str]) -> None:
    stopped = interrupted()
    by_path = {name.partition("=")[0]: Tries() for name in named}
    rest = iter(named)
    waiting: list[tuple[str, socket.socket, float]] = []
    print("ready", flush=True)
    while True:
        over = enough(stopped, limit, (tries.steady() for tries in by_path.values()))
        path, _, pair = ("" if over else next(rest, "")).partition("=")
        if pair:
            waiting.append((path, first_words(pair), time.monotonic()))
        elif not waiting:
            break
        time.sleep(_PAIR_EVERY)
        while waiting and time.monotonic() - waiting[0][2] > _PATIENCE:
            path, udp, when = waiting.pop(0)
            by_path[path].ended(when, failed=not echoed(udp))
            udp.close()
    if not stopped:
        signal.pause()
    print(json.dumps({path: tries.result() for path, tries in by_path.items()}), flush=True)


def knock(hosts: list[str]) -> None:
    sent: deque[socket.socket] = deque(maxlen=50 * len(hosts))
    print("ready", flush=True)
    while True:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = socket.socket(family, kind)
                sock.setblocking(False)
                with contextlib.suppress(OSError):
                    sock.connect((host, PORT))
                    if kind == socket.SOCK_DGRAM:
                        sock.send(_NUMBER.pack(_GREETING))
                sent.append(sock)
        time.sleep(KNOCK)


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
    if sys.argv[1] == "serve":
        serve()
    if sys.argv[1] == "knock":
        knock(sys.argv[2:])
    {"probe": probe, "pairs": pairs}[sys.argv[1]](float(sys.argv[2]), sys.argv[3:])
