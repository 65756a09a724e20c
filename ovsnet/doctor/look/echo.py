"""Pings that may not be fragmented, of full size and of less: what size comes back, and how fast. Called by `peers`.

The socket ignores a path MTU that was learnt (IP_PMTUDISC_PROBE): a packet that is too large must stay a failure.
The first packet through a tunnel of the userspace datapath may wait a second or two for a neighbour, so that each
is sent again before it counts as lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

from ovsnet.doctor.judge.peers import Echo
from ovsnet.doctor.look import packets
from ovsnet.model import IPAddress

_WAITS = (0.6, 0.9, 1.1)
"""Seconds for answers to each round. From the second on, what small packets reach is worth the whole ladder."""
_SMALL = {4: 84, 6: 104}
"""Bytes of the packet that `ping` sends of its own accord."""
_LADDER = (9000, 8950, 4000, 1500, 1492, 1480, 1476, 1472, 1460, 1450, 1442, 1430, 1420, 1400, 1380, 1350, 1320, 1280,
           1200, 1024, 576)  # fmt: skip
"""Sizes that networks commonly have, for when the full one does not pass."""
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG, _PROBE = 10, 23, 62, 3


class _Pings:
    """One raw socket between two addresses."""

    def __init__(self, sock: socket.socket, version: int) -> None:
        self._socket = sock
        self._version = version
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._sent: list[float] = []
        self.answered: set[int] = set()
        self.quickest = float("inf")
        self.error = ""

    async def round(self, sizes: list[int], seconds: float) -> None:
        """Sends all, and returns when all are answered or the time is over."""
        loop = asyncio.get_running_loop()
        for size in sizes:
            packet = packets.echo_request(self._version, self._identifier, len(self._sent), size)
            self._sent.append(time.perf_counter())
            try:
                await loop.sock_sendall(self._socket, packet)
            except OSError as error:
                self.error = error.strerror or str(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.answered.issuperset(sizes):
                    await self._receive()

    async def _receive(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        except OSError as error:  # what an ICMP message said of an earlier packet
            self.error = error.strerror or str(error)
            await asyncio.sleep(0.01)
            return
        reply = packets.echo_reply(self._version, data, self._identifier)
        if reply is not None and reply[0] < len(self._sent):
            sequence, size = reply
            self.answered.add(size)
            self.quickest = min(self.quickest, time.perf_counter() - self._sent[sequence])


async def echo(source: IPAddress, target: IPAddress, full: int) -> Echo:
    """Raises OSError where such a socket can't be had."""
    six = target.version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol) as sock:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
        found = _Pings(sock, target.version)
        try:
            sock.bind((str(source), 0))
            sock.connect((str(target), 0))
            await _rounds(found, full, _SMALL[target.version])
        except OSError as error:
            found.error = error.strerror or str(error)
    quickest = found.quickest * 1000 if found.answered else 0.0
    largest = max(found.answered, default=0)
    return Echo(
        source=source, target=target, full=full, largest=largest, milliseconds=quickest, error=found.error
    )


async def _rounds(found: _Pings, full: int, small: int) -> None:
    for number, wait in enumerate(_WAITS):
        await found.round([full, small], wait)
        if full in found.answered:
            return
        if number and small in found.answered:
            await found.round([*(size for size in _LADDER if small < size < full), full], _WAITS[1])
            return
