"""Who else on the segment has this node's address: asked as a host asks before it takes one. Called by `examine`."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from ovsnet.doctor.look import packets
from ovsnet.model import IPAddress

_SECONDS = 1.0
"""For answers; the question is asked twice in this time."""
_ETHERNET = 1
"""ARPHRD_ETHER: other links have no such thing as a neighbour's MAC."""


async def others(interface: str, address: IPAddress) -> list[str] | None:
    """MACs that claim it, without this interface's own; None where the link is no Ethernet. Raises OSError."""
    kind = packets.ETH_IPV6 if address.version == 6 else packets.ETH_ARP
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(kind))
    with sock:
        sock.bind((interface, kind))
        _, _, _, link, mac = sock.getsockname()
        if link != _ETHERNET or len(mac) != 6:
            return None
        found: set[str] = set()
        asking = asyncio.create_task(_ask(sock, packets.question(address, mac)))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await _listen(sock, address, found)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    return sorted(found - {mac.hex(":")})


async def _ask(sock: socket.socket, frame: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, frame)
    await asyncio.sleep(_SECONDS / 2)
    await loop.sock_sendall(sock, frame)


async def _listen(sock: socket.socket, address: IPAddress, found: set[str]) -> None:
    while True:
        said = packets.claim(await asyncio.get_running_loop().sock_recv(sock, 2048))
        if said is not None and said.address == address:
            found.add(said.mac)
