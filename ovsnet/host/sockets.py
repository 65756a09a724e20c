"""Which ports processes of this node listen on, and which addresses are its own.

Reads what the kernel tells of the sockets of this network namespace (proc(5)). Called by the agent, which warns of node
ports that are taken.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from ovsnet.model import IPAddress
from ovsnet.servicemodel import Protocol

_LISTENING = {Protocol.TCP: "0A", Protocol.UDP: "07"}
"""The state of a socket that waits for whoever comes (enum in include/net/tcp_states.h; an unconnected UDP socket)."""
_FOLDER = "/proc/net"


def listening(folder: str = _FOLDER) -> set[tuple[int, Protocol, int]]:
    """(IP version, protocol, port). A socket of IPv6 counts for both versions, as most take both."""
    return {
        found for protocol in _LISTENING for version in (4, 6) for found in _read(folder, protocol, version)
    }


def is_own(address: IPAddress) -> bool:
    """Whether it is an address of this network namespace, on whatever interface."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.bind((str(address), 0))
        except OSError:
            return False
    return True


def _read(folder: str, protocol: Protocol, version: int) -> Iterator[tuple[int, Protocol, int]]:
    name = protocol.value.lower() + ("6" if version == 6 else "")
    # A kernel without IPv6 has no such file.
    with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", encoding="ascii") as lines:
        next(lines, None)
        for line in lines:
            _, local, _, state = line.split()[:4]
            if state == _LISTENING[protocol]:
                port = int(local.rpartition(":")[2], 16)
                yield version, protocol, port
                if version == 6:
                    yield 4, protocol, port
