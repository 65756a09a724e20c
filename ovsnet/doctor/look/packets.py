"""Packets as bytes: ICMP echoes, TCP SYNs, ARP and neighbour solicitations; and what their answers say.

Pure. Called by `echo`, `tcp` and `claims`.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from ovsnet.model import IPAddress

ETH_ARP, ETH_IPV6 = 0x0806, 0x86DD
_ICMPV6, _TCP = 58, 6
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_BROADCAST = b"\xff" * 6


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def pseudo_header(source: IPAddress, target: IPAddress, protocol: int, length: int) -> bytes:
    """What TCP and ICMPv6 checksums cover besides the segment (RFC 9293, section 3.1; RFC 8200, section 8.1)."""
    if source.version == 4:
        return source.packed + target.packed + struct.pack("!BBH", 0, protocol, length)
    return source.packed + target.packed + struct.pack("!IxxxB", length, protocol)


def echo_headers(version: int) -> int:
    """Bytes of the IP header and that of an echo request."""
    return 48 if version == 6 else 28


def echo_request(version: int, identifier: int, sequence: int, size: int) -> bytes:
    """An echo request that makes an IP packet of `size` bytes. ICMPv6: the kernel fills the checksum in."""
    payload = bytes(size - echo_headers(version))
    if version == 6:
        return struct.pack("!BBHHH", 128, 0, 0, identifier, sequence) + payload
    head = struct.pack("!BBHHH", 8, 0, 0, identifier, sequence)
    return head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:] + payload


def echo_reply(version: int, data: bytes, identifier: int) -> tuple[int, int] | None:
    """Sequence and IP packet's size of a reply with that identifier, as a raw socket gets it; None for others."""
    message = data if version == 6 else data[(data[0] & 15) * 4 :]
    if len(message) < 8:
        return None
    kind, _, _, identifies, sequence = struct.unpack_from("!BBHHH", message)
    if kind != (129 if version == 6 else 0) or identifies != identifier:
        return None
    return sequence, len(message) - 8 + echo_headers(version)


def syn(source: IPAddress, target: IPAddress, source_port: int, target_port: int, sequence: int) -> bytes:
    """A SYN with a right checksum."""
    head = struct.pack("!HHIIBBHHH", source_port, target_port, sequence, 0, 5 << 4, _SYN, 1024, 0, 0)
    value = checksum(pseudo_header(source, target, _TCP, len(head)) + head)
    return head[:16] + struct.pack("!H", value) + head[18:]


def answered_port(version: int, data: bytes, target_port: int) -> int | None:
    """The port whose SYN this segment answers, by RST or SYN and ACK, as a raw socket gets it; None for others."""
    segment = data if version == 6 else data[(data[0] & 15) * 4 :]
    if len(segment) < 14:
        return None
    source_port, own_port = struct.unpack_from("!HH", segment)
    flags = segment[13]
    answers = bool(flags & _RST) or flags & (_SYN | _ACK) == _SYN | _ACK
    return int(own_port) if source_port == target_port and answers else None


class Claim(NamedTuple):
    """Somebody's word that an address is his."""

    mac: str
    address: IPAddress


def question(address: IPAddress, mac: bytes) -> bytes:
    """The frame that asks who has the address, from nobody's: what is asked before an address is used.

    RFC 5227, section 2.1.1 for ARP; RFC 4862, section 5.4.2 for IPv6. Nobody learns anything from either.
    """
    if isinstance(address, ipaddress.IPv4Address):
        head = _BROADCAST + mac + struct.pack("!H", ETH_ARP)
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + bytes(4) + bytes(6) + address.packed
        return head + body + bytes(18)
    group = ipaddress.IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[13:])
    message = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address.packed
    unspecified = ipaddress.IPv6Address(0)
    value = checksum(pseudo_header(unspecified, group, _ICMPV6, len(message)) + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + unspecified.packed + group.packed
    return b"\x33\x33" + group.packed[12:] + mac + struct.pack("!H", ETH_IPV6) + header + message


def claim(frame: bytes) -> Claim | None:
    """Whom a frame says an address to be: an ARP message's sender, an advertisement's target."""
    if len(frame) < 42:
        return None
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == ETH_ARP:
        return Claim(frame[22:28].hex(":"), ipaddress.IPv4Address(frame[28:32]))
    if kind == ETH_IPV6 and len(frame) >= 78 and frame[20] == _ICMPV6 and frame[54] == _ADVERTISEMENT:
        return Claim(frame[6:12].hex(":"), ipaddress.IPv6Address(frame[62:78]))
    return None
