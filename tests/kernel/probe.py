"""What gets lost between two pods, at the resolution of a millisecond: runs in a pod, on the standard library alone.

`serve` echoes numbered datagrams and accepts connections until it is killed. `probe HOST...` sends each host a
numbered datagram every millisecond and opens a connection from a fresh source port every 20 ms, until SIGINT; then it
prints what came back, as JSON: by host {"sent", "lost", "outage", "tries", "failed", "connected"}. lost: datagrams
without an echo; outage: milliseconds between two echoes, at most; failed: connections that were not there within a
second; connected: when, in seconds since the start, the last of these was tried. Driven by `test_restarts`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
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
_EVERY, _CONNECT_EVERY, _PATIENCE = 0.001, 0.02, 1.0
"""Seconds: between datagrams, between connections, until a connection has failed."""
_ROOM = 8 << 20
"""Bytes of a socket's buffer: what arrives while its process waits for a processor was not lost on the way."""
_TAIL = 0.5
"""Seconds that the last echoes have to come back."""


def serve() -> None:
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    udp.bind(("::", PORT))
    tcp = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    ready = selectors.DefaultSelector()
    ready.register(udp, selectors.EVENT_READ)
    ready.register(tcp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            if key.fileobj is udp:
                data, sender = udp.recvfrom(2048)
                with contextlib.suppress(OSError):
                    udp.sendto(data, sender)
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

    def send(self) -> None:
        with contextlib.suppress(OSError):
            self.udp.send(_NUMBER.pack(self.sent))
        self.sent += 1

    def receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                (number,) = _NUMBER.unpack(self.udp.recv(64))
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

    def result(self, begun: float) -> dict[str, Any]:
        numbers = sorted(self.times)
        gaps = [self.times[b] - self.times[a] for a, b in itertools.pairwise(numbers)]
        return {
            "sent": self.sent,
            "lost": self.sent - len(numbers),
            "outage": round(1000 * max(gaps, default=0.0)),
            "tries": self.tries,
            "failed": self.failed,
            "connected": round(max(0.0, self.last_failure - begun), 3),
        }


def probe(hosts: list[str]) -> None:
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    ready = selectors.DefaultSelector()
    targets = {host: Target(host, ready) for host in hosts}
    begun = time.monotonic()
    next_send = next_connect = begun
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
            next_connect += _CONNECT_EVERY
            for target in targets.values():
                target.connect()
        for key, _ in ready.select(max(0.0, min(next_send - now, _EVERY)) if not end else _EVERY):
            if key.fileobj is key.data.udp:
                key.data.receive()
            else:
                key.data.connected(key.fileobj)
        for target in targets.values():
            target.give_up(now)
    print(json.dumps({host: target.result(begun) for host, target in targets.items()}), flush=True)


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else probe(sys.argv[2:])
