"""Who sent a packet to whom: of what ovs-vswitchd 3.1 has sent, of headers in front, and of anything else."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet import headers
from ovsnet.switch import packetins

BODIES = {
    "tcp": "ffffffff0036010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000508004500002800000000400666ce0a0000010a000002a8ca0050000000000000000050020000f2c50000",
    "udp6": "ffffffff007e010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000586dd6000000000481140fd000000000000000000000000000001fd0000000000000000000000000000020fa0"
    "003500481181000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b"
    "2c2d2e2f303132333435363738393a3b3c3d3e3f",
    "sctp": "ffffffff002e010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000508004500002000000000408466580a0000010a000002138813890000000000000000",
    "icmp": "ffffffff006a010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000508004500005c000000004001669f0a0000010a000002080013fc00000000000102030405060708090a0b0c0d"
    "0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
    "icmp6": "ffffffff007e010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000586dd6000000000483a40fd000000000000000000000000000001fd0000000000000000000000000000028000"
    "a17400000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b"
    "2c2d2e2f303132333435363738393a3b3c3d3e3f",
    "fragment": "ffffffff0022010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000508004500001400002064401146730a0000010a000002",
    "first": "ffffffff006a010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000508004500005c000020004011468f0a0000010a0000020fa000350048f782000102030405060708090a0b0c0d"
    "0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
    "gre": "ffffffff0022010007000000000000550001000c8000000400000001000000000000505400000007"
    "50540000000508004500001400000000402f66b90a0000010a000002",
    "vlan": "ffffffff003a010007000000000000550001000c8000000400000001000000000000505400000007"
    "5054000000058100000508004500002800000000400666ce0a0000010a000002a8ca0050000000000000000050020000f2c5"
    "0000",
}
"""Of messages of type PACKET_IN, as ovs-vswitchd 3.1.0 sends them for a flow of this cookie."""
COOKIE = 0x0700000000000055
IPV4, IPV6 = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")


def frame(name: str) -> bytes:
    packet = packetins.read(bytes.fromhex(BODIES[name]))
    assert packet is not None
    assert (packet.cookie, packet.table) == (COOKIE, 0)
    return packet.frame


@pytest.mark.parametrize(
    ("name", "ends", "what"),
    [
        ("tcp", ("10.0.0.1:43210", "10.0.0.2:80"), "tcp"),
        ("udp6", ("[fd00::1]:4000", "[fd00::2]:53"), "udp"),
        ("sctp", ("10.0.0.1:5000", "10.0.0.2:5001"), "sctp"),
        ("icmp", IPV4, "icmp echo request"),
        ("icmp6", IPV6, "icmp6 echo request"),
        ("fragment", IPV4, "udp fragment"),
        ("first", ("10.0.0.1:4000", "10.0.0.2:53"), "udp"),
        ("gre", IPV4, "protocol 47"),
        ("vlan", ("10.0.0.1:43210", "10.0.0.2:80"), "tcp"),
    ],
)
def test_what_vswitchd_sends(name: str, ends: tuple[str, str], what: str) -> None:
    found = headers.read(frame(name))
    assert found is not None
    assert (found.ends, found.what) == (ends, what)


def ipv6(following: int, rest: bytes) -> bytes:
    source, target = (ipaddress.IPv6Address(each).packed for each in IPV6)
    return (
        bytes(12)
        + b"\x86\xdd"
        + struct.pack(">IHBB", 6 << 28, len(rest), following, 64)
        + source
        + target
        + rest
    )


PORTS = struct.pack(">HHII", 4000, 53, 0, 0)
HOP_BY_HOP, DESTINATION = bytes([60, 0]) + bytes(6), bytes([51, 1]) + bytes(14)
AUTHENTICATION = bytes([44, 4]) + bytes(22)


def fragment(offset: int, following: int = 17) -> bytes:
    return struct.pack(">BxHI", following, offset << 3 | 1, 7)


@pytest.mark.parametrize(
    ("packet", "ends", "what"),
    [
        (
            ipv6(0, HOP_BY_HOP + DESTINATION + AUTHENTICATION + fragment(0) + PORTS),
            ("[fd00::1]:4000", "[fd00::2]:53"),
            "udp",
        ),
        (ipv6(44, fragment(185) + PORTS), IPV6, "udp fragment"),
        (ipv6(44, fragment(185, 58) + PORTS), IPV6, "icmp6 fragment"),
        (ipv6(58, bytes([200, 0])), IPV6, "icmp6 type 200"),
        (ipv6(17, PORTS[:3]), IPV6, "udp"),
        (ipv6(58, b""), IPV6, "icmp6"),
        (ipv6(59, b""), IPV6, "protocol 59"),
    ],
)
def test_headers_in_front_and_packets_cut_short(packet: bytes, ends: tuple[str, str], what: str) -> None:
    found = headers.read(packet)
    assert found is not None
    assert (found.ends, found.what) == (ends, what)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(13),
        bytes(12) + b"\x08\x06" + bytes(28),
        bytes(12) + b"\x08\x00" + b"\x65" + bytes(40),
        bytes(12) + b"\x08\x00" + b"\x41" + bytes(40),
        bytes(12) + b"\x08\x00" + b"\x45\x00\x00\x10" + bytes(40),
        bytes(12) + b"\x86\xdd" + b"\x45" + bytes(60),
        ipv6(0, b"\x00"),
        ipv6(0, bytes(8 * 20)),
    ],
)
def test_no_packet_that_makes_sense(packet: bytes) -> None:
    assert headers.read(packet) is None


@given(st.binary(max_size=200))
def test_garbage_does_no_harm(data: bytes) -> None:
    headers.read(data)
    headers.read(bytes(12) + b"\x08\x00\x45" + data)
    headers.read(bytes(12) + b"\x86\xdd\x60" + data)
    packetins.read(data)


@given(st.sampled_from(sorted(BODIES)), st.integers(0, 200), st.integers(0, 255))
def test_a_message_with_a_wrong_byte_or_end_does_no_harm(name: str, at: int, byte: int) -> None:
    body = bytearray.fromhex(BODIES[name])
    packetins.read(bytes(body[:at]))
    body[at % len(body)] = byte
    packet = packetins.read(bytes(body))
    if packet is not None:
        headers.read(packet.frame)
