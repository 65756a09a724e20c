"""Which ports processes of this node listen on, and which addresses are its own.

Reads what the kernel tells of the sockets of this network namespace (proc(5)). Called by the agent, which warns of node
ports that are taken.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
from collections.abc import Iterator

from ovsnet.model import IPAddress
from ovsnet.servicemodel import Protocol

_LISTENING = {Protocol.TCP: "0A", Protocol.UDP: "07"}
"""The state of a socket that waits for whoever comes (enum in include/net/tcp_states.h; an unconnected UDP socket)."""
_FOLDER = "/proc/net"
_ADDRESSES = (
    ("fib_trie", re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")),
    ("if_inet6", re.compile(r"^([0-9a-f]{32}) ", re.MULTILINE)),
)


def listening(folder: str = _FOLDER) -> set[tuple[IPAddress, Protocol, int]]:
    """(address, protocol, port). A socket of IPv6 on every address counts for both versions, as most take both."""
    return {
        found for protocol in _LISTENING for version in (4, 6) for found in _read(folder, protocol, version)
    }


def own(folder: str = _FOLDER) -> set[IPAddress]:
    """Addresses of this network namespace, on whatever interface."""
    found: set[IPAddress] = set()
    for name, pattern in _ADDRESSES:
        with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", encoding="ascii") as lines:
            texts = pattern.findall(lines.read())
            found.update(_address(each) for each in texts)
    return found


def _address(text: str) -> IPAddress:
    return ipaddress.IPv4Address(text) if "." in text else ipaddress.IPv6Address(bytes.fromhex(text))


def _read(folder: str, protocol: Protocol, version: int) -> Iterator[tuple[IPAddress, Protocol, int]]:
    name = protocol.value.lower() + ("6" if version == 6 else "")
    # A kernel without IPv6 has no such file.
    with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", encoding="ascii") as lines:
        next(lines, None)
        for line in lines:
            _, local, _, state = line.split()[:4]
            if state == _LISTENING[protocol]:
                text, _, port = local.rpartition(":")
                for address in _both(_bound(text)):
                    yield address, protocol, int(port, 16)


def _bound(text: str) -> IPAddress:
    """An address as words of 32 bits, each of them a number of this machine's."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return ipaddress.ip_address(packed)


def _both(address: IPAddress) -> tuple[IPAddress, ...]:
    """What a socket that is bound there is asked for by."""
    if address.version == 4:
        return (address,)
    if address.is_unspecified:
        return address, ipaddress.IPv4Address(0)
    return (address.ipv4_mapped or address,)
