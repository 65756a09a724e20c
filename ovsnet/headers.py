"""Who sent a packet, to whom and about what, from its first bytes.

Pure. Reads Ethernet (one VLAN tag or none), IPv4 and IPv6 (RFC 791, RFC 8200) with extension headers, and of TCP, UDP,
SCTP and ICMP what names a connection. What makes no sense is None, never an error. Knows no names but
those of protocols. Called by `agent.deniallog`.
"""

from __future__ import annotations

import ipaddress
import struct

from ovsnet import names
from ovsnet.model import Frozen, IPAddress

_ETHERNET = struct.Struct(">12xH")
_VLAN, _IPV4, _IPV6 = 0x8100, 0x0800, 0x86DD
_FIXED_IPV4 = struct.Struct(">BxHxxHxB2x4s4s")
"""version and header length, total length; flags and fragment offset; protocol; source, destination"""
_FIXED_IPV6 = struct.Struct(">BxxxHBx16s16s")
"""version, payload length; next header; source, destination"""
_OFFSET = 0x1FFF
_BOTH_PORTS = struct.Struct(">HH")
_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}
_ICMP = {1: "icmp", 58: "icmp6"}
_OPTIONS = (0, 43, 60)
"""Extension headers of IPv6 whose second byte is their length: hop-by-hop, routing, destination options."""
_FRAGMENT, _AUTHENTICATION = 44, 51
_MOST_EXTENSIONS = 8
_TYPES = {
    "icmp": {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"},
    "icmp6": {
        1: "unreachable",
        2: "packet too big",
        3: "time exceeded",
        128: "echo request",
        129: "echo reply",
    },
}


class Headers(Frozen):
    """protocol: tcp, udp, sctp, icmp, icmp6, or "protocol 47". Ports are None where there are none, or where they are
    in another fragment or cut off. icmp: the type; None of anything else."""

    source: IPAddress
    target: IPAddress
    protocol: str
    source_port: int | None = None
    port: int | None = None
    icmp: int | None = None
    fragment: bool = False
    """Not the first one of its packet."""

    @property
    def what(self) -> str:
        """What is sent, in words: "tcp", "icmp echo request", "udp fragment"."""
        if self.fragment:
            return f"{self.protocol} fragment"
        if self.icmp is None:
            return self.protocol
        return f"{self.protocol} {_TYPES[self.protocol].get(self.icmp, f'type {self.icmp}')}"

    @property
    def ends(self) -> tuple[str, str]:
        """Both addresses, with ports where there are any."""
        return _end(self.source, self.source_port), _end(self.target, self.port)


def _end(address: IPAddress, port: int | None) -> str:
    return str(address) if port is None else names.socket(address, port)


def read(frame: bytes) -> Headers | None:
    """The headers of an Ethernet frame, or of its beginning; None if it is no IP packet, or none that makes sense."""
    try:
        (kind,) = _ETHERNET.unpack_from(frame)
        at = _ETHERNET.size
        if kind == _VLAN:
            (kind,) = struct.unpack_from(">2xH", frame, at)
            at += 4
        if kind == _IPV4:
            return _ipv4(frame[at:])
        return _ipv6(frame[at:]) if kind == _IPV6 else None
    except (struct.error, IndexError):
        return None


def _ipv4(packet: bytes) -> Headers | None:
    first, total, flags, protocol, source, target = _FIXED_IPV4.unpack_from(packet)
    length = 4 * (first & 0x0F)
    if first >> 4 != 4 or length < _FIXED_IPV4.size or total < length:
        return None
    ends = ipaddress.IPv4Address(source), ipaddress.IPv4Address(target)
    return _transport(ends, protocol, packet[length:total], fragment=bool(flags & _OFFSET))


def _ipv6(packet: bytes) -> Headers | None:
    first, length, following, source, target = _FIXED_IPV6.unpack_from(packet)
    if first >> 4 != 6:
        return None
    ends = ipaddress.IPv6Address(source), ipaddress.IPv6Address(target)
    rest, fragment = packet[_FIXED_IPV6.size : _FIXED_IPV6.size + length], False
    for _ in range(_MOST_EXTENSIONS):
        if following in _OPTIONS:
            following, size = rest[0], 8 * (rest[1] + 1)
        elif following == _AUTHENTICATION:
            following, size = rest[0], 4 * (rest[1] + 2)
        elif following == _FRAGMENT:
            fragment = fragment or struct.unpack_from(">H", rest, 2)[0] >> 3 != 0
            following, size = rest[0], 8
        else:
            return _transport(ends, following, rest, fragment=fragment)
        if fragment:
            # What follows is in the middle of the packet.
            return _transport(ends, following, b"", fragment=True)
        rest = rest[size:]
    return None


def _transport(ends: tuple[IPAddress, IPAddress], number: int, rest: bytes, *, fragment: bool) -> Headers:
    source, target = ends
    protocol = _PORTS.get(number) or _ICMP.get(number) or f"protocol {number}"
    icmp, ports = None, (None, None)
    if number in _ICMP and not fragment:
        icmp = rest[0] if rest else None
    elif number in _PORTS and not fragment and len(rest) >= _BOTH_PORTS.size:
        ports = _BOTH_PORTS.unpack_from(rest)
    return Headers(
        source=source,
        target=target,
        protocol=protocol,
        source_port=ports[0],
        port=ports[1],
        icmp=icmp,
        fragment=fragment,
    )
