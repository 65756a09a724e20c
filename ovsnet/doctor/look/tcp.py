"""Whether TCP segments arrive with right checksums, on a peer where nothing is known to listen. Called by `peers`.

A kernel answers a SYN to any port of its own addresses, with SYN and ACK where somebody listens and with RST where
nobody does (RFC 9293, section 3.10.7.1); one with a wrong checksum it drops in silence. So two are sent:

- one by connect(2), whose checksum is left to whatever the interface offloads it to;
- one through a raw socket, whose checksum is computed here. No interface's settings are changed for it. Its port
  belongs to a socket that does not listen, so that the kernel itself takes back with RST what the answer opened.

A raw socket sees answers before their checksum is looked at. Both answered, and the first taken by the kernel: right
both ways. The first answered, but not taken: the peer's are wrong. Only the second answered: ours are. Neither: a
firewall, or both. A SYN is one small segment: what goes wrong with large ones alone shows in the pings of full size.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from ovsnet.doctor.judge.peers import Tcp
from ovsnet.doctor.look import packets
from ovsnet.model import IPAddress

PORT = 10250
"""The kubelet's: firewalls between nodes have it open, and it does not matter here whether it listens."""
_SECONDS = 2.6
"""The kernel sends its SYN again after 1 s."""
_AGAIN = 0.8
_BY_RST = struct.pack("ii", 1, 0)
"""struct linger: close at once and leave nothing behind."""


async def tcp(source: IPAddress, target: IPAddress) -> Tcp:
    """Raises OSError where such sockets can't be had."""
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    with contextlib.ExitStack() as stack:
        kinds = (socket.SOCK_RAW, socket.SOCK_STREAM, socket.SOCK_STREAM)
        raw, own, reserved = (
            stack.enter_context(
                socket.socket(
                    family, kind | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP if kind == socket.SOCK_RAW else 0
                )
            )
            for kind in kinds
        )
        try:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _BY_RST)
            for each in (raw, own, reserved):
                each.bind((str(source), 0))
            raw.connect((str(target), 0))
            return await _exchange(raw, own, reserved, source, target)
        except OSError as error:
            return Tcp(source=source, target=target, error=error.strerror or str(error))


async def _exchange(
    raw: socket.socket, own: socket.socket, reserved: socket.socket, source: IPAddress, target: IPAddress
) -> Tcp:
    own_port, crafted_port = own.getsockname()[1], reserved.getsockname()[1]
    seen: set[int] = set()
    connecting = asyncio.create_task(_connect(own, target))
    watching = asyncio.create_task(_watch(raw, target.version, seen, {own_port, crafted_port}))
    sending = asyncio.create_task(_send(raw, packets.syn(source, target, crafted_port, PORT, 0x6F76736E)))
    tasks = [connecting, watching, sending]
    try:
        await asyncio.wait([connecting, watching], timeout=_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    error = next((each for each in results if isinstance(each, OSError)), None)
    return Tcp(
        source=source,
        target=target,
        kernel=results[0] is True,
        kernel_seen=own_port in seen,
        software=crafted_port in seen,
        error=(error.strerror or str(error)) if error else "",
    )


async def _connect(own: socket.socket, target: IPAddress) -> bool:
    """Whether the kernel took an answer, to which RST belongs. Raises OSError for other failures."""
    with contextlib.suppress(ConnectionRefusedError):
        await asyncio.get_running_loop().sock_connect(own, (str(target), PORT))
    return True


async def _watch(raw: socket.socket, version: int, seen: set[int], ports: set[int]) -> None:
    """Notes whose SYN was answered, until both were."""
    while not seen >= ports:
        data = await asyncio.get_running_loop().sock_recv(raw, 65536)
        port = packets.answered_port(version, data, PORT)
        if port in ports:
            seen.add(port)


async def _send(raw: socket.socket, segment: bytes) -> None:
    while True:
        await asyncio.get_running_loop().sock_sendall(raw, segment)
        await asyncio.sleep(_AGAIN)
