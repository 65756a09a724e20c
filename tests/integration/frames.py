"""Ethernet frames made by hand, as an attacker would: honest or forged in any field. Pure."""

from __future__ import annotations

import ipaddress
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def packed(address: object) -> bytes:
    return ipaddress.ip_address(str(address)).packed


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def ethernet(source: str, target: str, kind: int, payload: bytes, vlan: int | None = None) -> bytes:
    tag = struct.pack("!HH", 0x8100, vlan) if vlan is not None else b""
    return (mac(target) + mac(source) + tag + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def kind_of(address: object) -> int:
    return 0x86DD if ":" in str(address) else 0x0800


def ip(source: object, target: object, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """An IP packet of the target's family."""
    if ":" in str(target):
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
        return head + packed(source) + packed(target) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, hops, protocol, 0)
    head += packed(source) + packed(target)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def pseudo(source: object, target: object, protocol: int, length: int) -> bytes:
    """What the checksum of UDP and ICMPv6 covers of the IP header."""
    form = "!II" if ":" in str(target) else "!HH"
    fields = (length, protocol) if form == "!II" else (protocol, length)
    return packed(source) + packed(target) + struct.pack(form, *fields)


def udp(source: object, target: object, payload: bytes, port: int = 9999, sport: int = 9998) -> bytes:
    """An IP packet with a UDP datagram."""
    head = struct.pack("!HHHH", sport, port, 8 + len(payload), 0)
    total = checksum(pseudo(source, target, 17, 8 + len(payload)) + head + payload) or 0xFFFF
    return ip(source, target, 17, head[:6] + total.to_bytes(2, "big") + payload)


def arp(operation: int, sender_mac: str, sender: object, target_mac: str, target: object) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + mac(sender_mac) + packed(sender) + mac(target_mac) + packed(target)


def icmp6(source: object, target: object, kind: int, body: bytes) -> bytes:
    """An ICMPv6 packet as neighbour discovery wants it: hop limit 255. body: what follows the checksum."""
    total = checksum(pseudo(source, target, 58, 4 + len(body)) + bytes((kind, 0, 0, 0)) + body)
    return ip(source, target, 58, bytes((kind, 0)) + total.to_bytes(2, "big") + body, hops=255)


def solicitation(source: object, target: object, about: object, link: str) -> bytes:
    return icmp6(source, target, 135, bytes(4) + packed(about) + b"\1\1" + mac(link))


def advertisement(source: object, target: object, about: object, link: str) -> bytes:
    """Overrides what the receiver knew."""
    return icmp6(source, target, 136, b"\x20\0\0\0" + packed(about) + b"\2\1" + mac(link))


def router_advertisement(source: object, target: object, link: str) -> bytes:
    return icmp6(source, target, 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + b"\1\1" + mac(link))


def vxlan(vni: int, inner: bytes) -> bytes:
    return struct.pack("!II", 0x08000000, vni << 8) + inner
