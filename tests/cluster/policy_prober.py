"""Opens many connections at once from the network namespace that it runs in, and tells which were answered.

Run as a script (`python -I -S policy_prober.py`), so standard library only. Reads lines of JSON from standard input,
prints one for each, and ends with its input:

    {"ways": [[HOST, PORT, "TCP" | "UDP" | "PING", EXPECTED], ...], "seconds": LONGEST}   ->   [ANSWER, ...]

An answer is "answered", "" for silence, or the error's own words. Who is not expected to answer is waited for until all
others have answered and as long again, so that a busy machine's answer is not taken for silence, but PATIENCE at least;
LONGEST is for all together. A TCP connection counts when it is there, a datagram or ping when the answer is.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import time
from typing import Any

PATIENCE = 0.2
AGAIN = 0.15
"""Seconds after which a way is tried once more; a connection only where an answer is expected."""
BURST = 8
PAUSE = 0.004
"""So many at once, and seconds until the next: a switch in user space has room for some 300 packets."""
PORTS = itertools.cycle(range(33000, 60000))
"""Of UDP, each after the other: conntrack may know the connection of a port that was used a moment ago."""
next(itertools.islice(PORTS, random.randrange(27000), None))
IDENTIFIERS = itertools.cycle(range(0x10000))
"""Of pings, the same."""


class Probe:
    """One way. answer: None while it is under way."""

    def __init__(self, host: str, port: int, protocol: str, expected: bool) -> None:
        self.target = (host, port)
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.protocol = protocol
        self.expected = expected
        self.answer: str | None = None
        self.sent = 0.0
        self.identifier = next(IDENTIFIERS) if protocol == "PING" else 0
        self.sock = self._socket()

    def _socket(self) -> socket.socket:
        if self.protocol == "TCP":
            sock = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            # Ends with a reset, so that nothing is left.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return sock
        if self.protocol == "UDP":
            sock = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            for port in itertools.islice(PORTS, 100):
                try:
                    sock.bind(("", port))
                    return sock
                except OSError:
                    continue
            raise OSError("no port is free")
        number = socket.IPPROTO_ICMPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_ICMP
        return socket.socket(self.family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number)

    def begin(self) -> None:
        try:
            if self.protocol == "TCP":
                self.sock.connect(self.target)
            else:
                self.sock.connect((self.target[0], self.target[1] or 0))
                self.send()
        except BlockingIOError:
            pass
        except OSError as error:
            self.answer = os.strerror(error.errno or 0)
        self.sent = time.monotonic()

    def send(self) -> None:
        if self.protocol == "UDP":
            self.sock.send(b"hostname")
        elif self.protocol == "PING":
            kind = 128 if self.family == socket.AF_INET6 else 8
            body = struct.pack("!HH", self.identifier, 1) + bytes(16)
            checked = struct.pack("!BBH", kind, 0, checksum(struct.pack("!BBH", kind, 0, 0) + body))
            self.sock.send(checked + body)  # IPv6's checksum is the kernel's business

    def again(self) -> None:
        """A datagram once more; a connection from another port, since the kernel would try this one after a second."""
        if self.protocol == "TCP":
            self.sock.close()
            self.sock = self._socket()
            self.begin()
            return
        self.sent = time.monotonic()
        try:
            self.send()
        except OSError as error:
            self.answer = os.strerror(error.errno or 0)

    def ready(self) -> None:
        """Something has come."""
        try:
            if self.protocol == "TCP":
                error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self.answer = os.strerror(error) if error else "answered"
            else:
                data = self.sock.recv(65536)
                if self.protocol == "UDP" or self._is_answer(data):
                    self.answer = "answered"
        except BlockingIOError:
            pass
        except OSError as error:
            self.answer = os.strerror(error.errno or 0)

    def _is_answer(self, data: bytes) -> bool:
        """A raw socket has all that comes from there; of IPv4 with its header."""
        if self.family == socket.AF_INET:
            data = data[(data[0] & 15) * 4 :]
        return data[0] in (0, 129) and int.from_bytes(data[4:6], "big") == self.identifier


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Round:
    """All that is asked at once."""

    def __init__(self, ways: list[Any]) -> None:
        self.probes = [Probe(*way) for way in ways]
        self.poll = select.epoll()
        self.by_fd: dict[int, Probe] = {}
        self.begun = time.monotonic()

    def run(self, longest: float) -> list[str]:
        queue = iter(self.probes)
        while batch := list(itertools.islice(queue, BURST)):
            for probe in batch:
                probe.begin()
                self.watch(probe)
            self.gather(PAUSE)
        self.wait(time.monotonic(), longest)
        for probe in self.probes:
            probe.sock.close()
        self.poll.close()
        return [probe.answer or "" for probe in self.probes]

    def watch(self, probe: Probe) -> None:
        if probe.answer is None:
            events = select.EPOLLOUT if probe.protocol == "TCP" else select.EPOLLIN
            self.by_fd[probe.sock.fileno()] = probe
            self.poll.register(probe.sock, events)

    def gather(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for fd, _ in self.poll.poll(left):
                probe = self.by_fd[fd]
                probe.ready()
                if probe.answer is not None:
                    self.poll.unregister(fd)
            if all(probe.answer is not None or not probe.sent for probe in self.probes):
                return

    def wait(self, sent: float, longest: float) -> None:
        """sent: when the last of them was."""
        done = sent
        while any(probe.answer is None for probe in self.probes):
            now = time.monotonic()
            if any(probe.answer is None and probe.expected for probe in self.probes):
                done = now
            patience = max(PATIENCE, done - sent)
            if now > self.begun + longest or (now > done and now > done + patience):
                return
            for probe in self.probes:
                if probe.answer is None and now > probe.sent + AGAIN:
                    self.again(probe)
            self.gather(0.02)

    def again(self, probe: Probe) -> None:
        if probe.protocol != "TCP":
            probe.again()
        elif probe.expected:
            probe.again()  # the socket that is closed leaves the poll by itself
            self.watch(probe)


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(Round(asked["ways"]).run(asked["seconds"])), flush=True)


if __name__ == "__main__":
    main()
