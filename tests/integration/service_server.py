"""A server for tests of Services: tells its name and the client that it sees, over TCP, UDP and SCTP.

    TCP    each line "UP DOWN" is followed by UP bytes; the answer is a line of JSON and DOWN bytes; with
           "UP DOWN SECONDS" so much later
    SCTP   the same, where the kernel has it
    UDP    the answer to a datagram is JSON, padded to its length

Run as a script, so standard library only: `python -I -S service_server.py PORT[,PORT...] NAME[=NETNS]...` serves under
each of these names in that network namespace, and says READY when all of them listen; the first may go without, and is
served in its own. Listens on both families, also on addresses that come later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import sys

READY = "listening"


def both_families(kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    return sock


def sctp(family: socket.AddressFamily, port: int) -> socket.socket:
    """Of one family: at the begin of an association a socket names all addresses that it has, and who came through a
    Service and tries the others finds nobody there. Raises OSError where the kernel has no SCTP."""
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    return sock


class Server:
    """Answers under one name on one port."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    def words(self, client: tuple[str, int], received: int) -> bytes:
        address = client[0].removeprefix("::ffff:") if "." in client[0] else client[0]
        said = {"name": self.name, "client": address, "source": client[1], "port": self.port}
        return json.dumps({**said, "received": received}).encode()

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")
        # The caller may go away at any time.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                up, down, *delay = line.split()
                data = await reader.readexactly(int(up))
                await asyncio.sleep(float(delay[0]) if delay else 0)
                writer.write(self.words(client, len(data)) + b"\n" + bytes(int(down)))
                await writer.drain()
        writer.close()

    def datagrams(self, sock: socket.socket) -> None:
        """Answer from the address that was asked: a host with several would else choose another."""
        with contextlib.suppress(BlockingIOError, OSError):  # an ICMP error about an earlier answer
            data, control, _flags, client = sock.recvmsg(65536, socket.CMSG_SPACE(20))
            # 16 bytes of address and 4 of interface, which the route is to choose.
            source = [(level, kind, value[:16] + bytes(4)) for level, kind, value in control]
            sock.sendmsg([self.words(client, len(data)).ljust(len(data))], source, 0, client)

    async def start(self) -> None:
        with contextlib.suppress(OSError):  # a kernel without SCTP
            for family in (socket.AF_INET, socket.AF_INET6):
                await self.listen(sctp(family, self.port))
        udp = both_families(socket.SOCK_DGRAM, self.port)
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        udp.setblocking(False)
        asyncio.get_running_loop().add_reader(udp, self.datagrams, udp)
        await self.listen(both_families(socket.SOCK_STREAM, self.port))

    async def listen(self, sock: socket.socket) -> None:
        await asyncio.start_server(self.stream, sock=sock, backlog=512)


def enter(netns: str) -> None:
    """The namespace of sockets that are made from here on. Raises OSError."""
    descriptor = os.open(netns, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), f"setns {netns}")
    os.close(descriptor)


async def main(ports: list[int], places: list[str]) -> None:
    for place in places:
        name, _, netns = place.partition("=")
        if netns:
            enter(netns)
        for port in ports:
            await Server(name, port).start()
    print(READY, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(list(map(int, sys.argv[1].split(","))), sys.argv[2:]))
