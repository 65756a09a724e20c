"""What a client's kernel receives when it calls where nobody may answer: prints the packets, as JSON.

`python -I -S service_refusals.py SECONDS '[[HOST, PORT, PROTOCOL], ...]'` sends each a SYN or a datagram, all at once
(datagrams again until something comes: the kernel limits errors, see icmp_ratelimit), for so many seconds at most and
until some time after the last answer. The answers to each are [WHAT, HOST, PORT], each once: a TCP segment by its flags
("RST"), an ICMP error by type and code ("ICMP 3/3", in IPv6 "ICMPv6 1/4"), and from where it is, or which address and
port it is about. Raw sockets: an application sees the same error of either. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
import time

AFTER = 0.3
"""Seconds after the last answer in which another one would come."""
AGAIN = 0.4
"""Seconds after which a datagram that had no answer is sent once more."""
_FLAGS = {1: "FIN", 2: "SYN", 4: "RST", 16: "ACK"}
_TCP, _UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
Answer = tuple[str, str, int]
Key = tuple[int, int]
"""A protocol's number, and the client's port."""


def segment(sender: str, data: bytes) -> tuple[Key, Answer]:
    port, ours = struct.unpack_from("!HH", data)
    flags = "+".join(name for bit, name in _FLAGS.items() if data[13] & bit and name != "ACK")
    return (_TCP, ours), (flags or "other", sender, port)


def error4(data: bytes) -> tuple[Key, Answer]:
    about = data[8:]
    ours, port = struct.unpack_from("!HH", about, 4 * (about[0] & 15))
    return (about[9], ours), (f"ICMP {data[0]}/{data[1]}", socket.inet_ntoa(about[16:20]), port)


def error6(data: bytes) -> tuple[Key, Answer]:
    about = data[8:]
    ours, port = struct.unpack_from("!HH", about, 40)
    target = socket.inet_ntop(socket.AF_INET6, about[24:40])
    return (about[6], ours), (f"ICMPv6 {data[0]}/{data[1]}", target, port)


class Ears:
    """Raw sockets, which get what this host receives."""

    def __init__(self) -> None:
        kinds = (
            (socket.AF_INET, _TCP),
            (socket.AF_INET6, _TCP),
            (socket.AF_INET, socket.IPPROTO_ICMP),
            (socket.AF_INET6, socket.IPPROTO_ICMPV6),
        )
        self._socks = {socket.socket(family, socket.SOCK_RAW, number): number for family, number in kinds}

    def heard(self, seconds: float) -> list[tuple[Key, Answer]]:
        """What comes next, at most so long; nothing of what is neither TCP nor an error."""
        found = []
        for sock in select.select([*self._socks], [], [], seconds)[0]:
            data, (sender, *_) = sock.recvfrom(65536)
            if sock.family == socket.AF_INET:
                data = data[4 * (data[0] & 15) :]
            if self._socks[sock] == _TCP:
                found.append(segment(sender, data))
            elif sock.family == socket.AF_INET and data[0] in (3, 11, 12):
                found.append(error4(data))
            elif sock.family == socket.AF_INET6 and data[0] < 128:
                found.append(error6(data))
        return found


class Call:
    """A first packet to one of the targets."""

    def __init__(self, host: str, port: int, protocol: str) -> None:
        self.is_udp = protocol == "udp"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM if self.is_udp else socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._sock.connect_ex((host, port))
        self.key = (_UDP if self.is_udp else _TCP, self._sock.getsockname()[1])

    def send(self) -> None:
        if self.is_udp:
            with contextlib.suppress(ConnectionError):  # what an earlier one was answered
                self._sock.send(b"anybody")


def main(seconds: float, targets: list[tuple[str, int, str]]) -> list[list[Answer]]:
    ears = Ears()
    calls = [Call(*target) for target in targets]
    answers: dict[Key, set[Answer]] = {call.key: set() for call in calls}
    begun = last = time.monotonic()
    again = 0.0
    while (now := time.monotonic()) < begun + seconds and (not all(answers.values()) or now < last + AFTER):
        if now >= again:
            again = now + AGAIN
            for call in calls:
                if not answers[call.key]:
                    call.send()
        for key, answer in ears.heard(0.05):
            if key in answers:
                answers[key].add(answer)
                last = time.monotonic()
    return [sorted(answers[call.key]) for call in calls]


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]), json.loads(sys.argv[2]))))
