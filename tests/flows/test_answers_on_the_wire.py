"""ARP replies and neighbour advertisements as bytes: what a pod's kernel gets to see.

A trace shows fields, not checksums or options: these packets go through the dummy datapath and are read
from the file that the pod's port writes.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from pathlib import Path

import pytest
from flow_world import A1, A2, NODE, Bridge, pcap

ARP, IPV6 = b"\x08\x06", b"\x86\xdd"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def checksum(source: bytes, target: bytes, message: bytes) -> int:
    """Of ICMPv6 (RFC 4443, section 2.3); 0 when that in the message is right."""
    data = source + target + struct.pack("!II", len(message), 58) + message
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def solicitation(source: str, target: str) -> bytes:
    """A neighbour solicitation of A1; a duplicate address probe has no option (RFC 4862, section 5.4.2)."""
    group = address("ff02::1:ff00:0")[:13] + address(target)[13:]
    option = b"" if source == "::" else b"\x01\x01" + mac(A1.mac)
    message = struct.pack("!BBHI", 135, 0, 0, 0) + address(target) + option
    message = message[:2] + struct.pack("!H", checksum(address(source), group, message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + address(source) + group
    return b"\x33\x33" + group[12:] + mac(A1.mac) + IPV6 + header + message


def exchange(bridge: Bridge, packet: bytes) -> bytes:
    """Sends the packet as A1 and returns what its port sends back."""
    path = Path(pcap(bridge.ovs, bridge.name, A1))
    before = path.stat().st_size if path.exists() else 0
    bridge.ovs.appctl("netdev-dummy/receive", f"{A1.ofport}-{bridge.name}", packet.hex())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        data = path.read_bytes() if path.exists() else b""
        # The file's own header has 24 bytes, a record's 16, of which the third word is the length.
        start = max(before, 24)
        if len(data) > start + 16:
            (length,) = struct.unpack_from("=I", data, start + 8)
            if len(data) >= start + 16 + length:
                return data[start + 16 : start + 16 + length]
        time.sleep(0.01)
    raise AssertionError("no answer")


@pytest.mark.parametrize(
    ("target", "holder"), [("10.244.1.1", NODE.mac), ("10.244.1.3", A2.mac)], ids=["gateway", "pod"]
)
@pytest.mark.parametrize("sender", ["10.244.1.2", "0.0.0.0"], ids=["request", "probe"])
def test_arp(bridge: Bridge, sender: str, target: str, holder: str) -> None:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    request = (
        b"\xff" * 6 + mac(A1.mac) + ARP + head + mac(A1.mac) + address(sender) + bytes(6) + address(target)
    )
    reply = exchange(bridge, request)
    assert reply[:14] == mac(A1.mac) + mac(holder) + ARP
    assert reply[14:22] == struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    assert reply[22:42] == mac(holder) + address(target) + mac(A1.mac) + address(sender)


@pytest.mark.parametrize(
    ("target", "holder", "flags"),
    [("fd00:1::1", NODE.mac, 0xE), ("fd00:1::3", A2.mac, 0x6)],
    ids=["gateway", "pod"],
)
def test_advertisement(bridge: Bridge, target: str, holder: str, flags: int) -> None:
    reply = exchange(bridge, solicitation("fd00:1::2", target))
    assert reply[:14] == mac(A1.mac) + mac(holder) + IPV6
    header, message = reply[14:54], reply[54:]
    assert header[6:8] == b"\x3a\xff", "ICMPv6 with hop limit 255 (RFC 4861, section 7.1.2)"
    assert header[8:] == address(target) + address("fd00:1::2")
    assert message[:2] == b"\x88\x00"
    assert message[4:] == struct.pack("!I", flags << 28) + address(target) + b"\x02\x01" + mac(holder)
    assert checksum(header[8:24], header[24:40], message) == 0


def test_advertisement_for_a_probe(bridge: Bridge) -> None:
    """It goes to all nodes and needs no option: the probe had none that could be turned into one."""
    reply = exchange(bridge, solicitation("::", "fd00:1::3"))
    header, message = reply[14:54], reply[54:]
    assert header[8:] == address("fd00:1::3") + address("ff02::1")
    assert message[:2] == b"\x88\x00"
    assert message[4:] == struct.pack("!I", 0x2 << 28) + address("fd00:1::3")
    assert checksum(header[8:24], header[24:40], message) == 0
