"""Packets as bytes through the dummy datapath, with its connection tracking: what goes in, and what comes out where.

A trace changes no addresses where conntrack would, so what belongs to a connection is sent for real. Peers' tunnels are
plain ports here: the pipeline does not know the difference.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from flow_world import NODE, B, Bridge
from ovs.unixctl.client import UnixctlClient
from ovs_sandbox import Sandbox
from packets import ROUTER

from ovsnet.model import Attached, Frozen, Pod
from ovsnet.objects import Object

_QUIET = 0.1
"""Seconds after which nothing will come."""
TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
SYN, SYN_ACK, ACK, PUSH, RESET = 0x02, 0x12, 0x10, 0x18, 0x04


class Packet(Frozen):
    """One packet of a connection. body: what stands behind the ports, or a whole ICMP message."""

    src: str
    dst: str
    protocol: int = TCP
    sport: int = 0
    dport: int = 0
    flags: int = 0
    seq: int = 0
    ack: int = 0
    body: bytes = b""
    ttl: int = 64
    fragment: int = 0
    """The field of the IPv4 header: flags and offset."""
    ident: int = 7
    """That of the IPv4 header, the same for all fragments of a packet."""

    @property
    def ends(self) -> tuple[str, int, str, int]:
        return self.src, self.sport, self.dst, self.dport

    def answer(self, flags: int = 0, body: bytes = b"") -> Packet:
        """What who got this sends back."""
        length = len(self.body) + (1 if self.flags & SYN else 0)
        return Packet(
            src=self.dst,
            dst=self.src,
            protocol=self.protocol,
            sport=self.dport,
            dport=self.sport,
            flags=flags,
            seq=self.ack or 5000,
            ack=self.seq + length,
            body=body,
        )


class Arrived(Frozen):
    """A packet that left by a port. to_mac, from_mac: of its frame."""

    port: str
    to_mac: str
    from_mac: str
    packet: Packet


def _sum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def transport(packet: Packet) -> bytes:
    """Everything behind the IP header, with its checksum."""
    ports = struct.pack("!HH", packet.sport, packet.dport)
    if packet.protocol == SCTP:
        data = ports + struct.pack("!II", packet.seq, 0) + packet.body
        return data[:8] + struct.pack("<I", _crc32c(data)) + data[12:]
    if packet.protocol == ICMP:
        return packet.body[:2] + struct.pack("!H", _sum(packet.body)) + packet.body[4:]
    if packet.protocol == TCP:
        at, head = 16, struct.pack("!IIBBHHH", packet.seq, packet.ack, 5 << 4, packet.flags, 65535, 0, 0)
        data = ports + head + packet.body
    elif packet.protocol == UDP:
        at, data = 6, ports + struct.pack("!HH", 8 + len(packet.body), 0) + packet.body
    else:
        at, data = 2, packet.body
    src, dst = (ipaddress.ip_address(each).packed for each in (packet.src, packet.dst))
    checksum = _sum(src + dst + struct.pack("!II", len(data), packet.protocol) + data)
    return data[:at] + struct.pack("!H", checksum or 0xFFFF) + data[at + 2 :]


def network(packet: Packet, payload: bytes) -> bytes:
    """The packet with its IP header."""
    src, dst = (ipaddress.ip_address(each) for each in (packet.src, packet.dst))
    if src.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), packet.protocol, packet.ttl)
            + src.packed
            + dst.packed
            + payload
        )
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), packet.ident, packet.fragment, packet.ttl, packet.protocol, 0
    )
    head += src.packed + dst.packed
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + payload


def octets(packet: Packet) -> bytes:
    return network(packet, transport(packet))


def about(packet: Packet, sender: str, *, mtu: int = 0) -> Packet:
    """The ICMP error of `sender` to who sent the packet: port unreachable, or that it was too big for the MTU."""
    inner = octets(packet)
    if ipaddress.ip_address(packet.src).version == 6:
        head = struct.pack("!BBHI", 2, 0, 0, mtu) if mtu else struct.pack("!BBHI", 1, 4, 0, 0)
        return Packet(src=sender, dst=packet.src, protocol=ICMP6, body=head + inner)
    head = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) if mtu else struct.pack("!BBHI", 3, 3, 0, 0)
    return Packet(src=sender, dst=packet.src, protocol=ICMP, body=head + inner)


def inside(packet: Packet) -> Packet:
    """The packet that an ICMP error is about."""
    return _parse(packet.body[8:])


def _parse(data: bytes) -> Packet:
    if data[0] >> 4 == 4:
        protocol, ttl, fragment = data[9], data[8], struct.unpack_from("!H", data, 6)[0]
        ends, rest = (data[12:16], data[16:20]), data[20 : struct.unpack_from("!H", data, 2)[0]]
    else:
        protocol, ttl, fragment = data[6], data[7], 0
        ends, rest = (data[8:24], data[24:40]), data[40 : 40 + struct.unpack_from("!H", data, 4)[0]]
    src, dst = (str(ipaddress.ip_address(end)) for end in ends)
    made = Packet(src=src, dst=dst, protocol=protocol, ttl=ttl, fragment=fragment, body=rest)
    if protocol in (ICMP, ICMP6) or fragment & 0x1FFF:
        return made
    sport, dport = struct.unpack_from("!HH", rest)
    flags = seq = ack = 0
    if protocol == TCP:
        seq, ack, _, flags = struct.unpack_from("!IIBB", rest, 4)
    length = {TCP: 20, UDP: 8, SCTP: 12}[protocol]
    body = rest[length:]
    return Packet(
        src=src,
        dst=dst,
        protocol=protocol,
        sport=sport,
        dport=dport,
        flags=flags,
        seq=seq,
        ack=ack,
        body=body,
        ttl=ttl,
        fragment=fragment,
    )


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


class Wire:
    """A bridge with the node's gateway, pods and one peer."""

    def __init__(self, ovs: Sandbox, pods: Iterable[Pod], objects: Iterable[Object]) -> None:
        self.bridge = Bridge(ovs, "br-wire")
        self._ports: dict[str, Path] = {}
        self._read: dict[str, int] = {}
        command = ["add-br", "br-wire", "--", "set", "bridge", "br-wire", "datapath_type=dummy"]
        command.append("fail_mode=secure")
        for name, ofport, kind in (
            ("gateway", NODE.ofport, "internal"),
            ("peer", B.ofport, "dummy"),
            *((pod.name, pod.ofport, "dummy") for pod in pods),
        ):
            path = self._ports[name] = ovs.folder / f"wire-{name}.pcap"
            command += ["--", "add-port", "br-wire", name, "--", "set", "interface", name, f"type={kind}"]
            command += [f"ofport_request={ofport}", f"options:tx_pcap={path}"]
        ovs.vsctl(*command)
        error, self._control = UnixctlClient.create(f"{ovs.folder}/ovs-vswitchd.ctl")
        assert not error, error
        self.install(objects)

    def install(self, objects: Iterable[Object]) -> None:
        self.bridge.install(tuple(objects))

    def ask(self, command: str, *arguments: str) -> str:
        error, words, result = self._control.transact(command, list(arguments))
        assert not error, (error, words)
        assert not words, words
        return str(result)

    def renew(self) -> None:
        """Flows count for the next packet. vswitchd passes over an entry that it is looking at."""
        self.ask("revalidator/purge")
        while "recirc_id" in self.ask("dpctl/dump-flows"):
            self.ask("revalidator/purge")

    def forget(self) -> None:
        """All connections."""
        self.ask("dpctl/flush-conntrack")

    def send(self, port: str, packet: Packet, from_mac: str, to_mac: str = NODE.mac) -> list[Arrived]:
        """All that leaves the bridge for a packet that came in by the port."""
        return self.send_octets(port, octets(packet), from_mac, to_mac)

    def send_octets(self, port: str, data: bytes, from_mac: str, to_mac: str = NODE.mac) -> list[Arrived]:
        kind = b"\x08\x00" if data[0] >> 4 == 4 else b"\x86\xdd"
        frame = _mac(to_mac) + _mac(from_mac) + kind + data
        self.ask("netdev-dummy/receive", port, frame.ljust(60, b"\0").hex())
        deadline = time.monotonic() + _QUIET
        while True:
            # vswitchd looks at its ports between commands; what comes of a packet comes at once.
            self.ask("version")
            self.ask("version")
            arrived = [each for name in self._ports for each in self._new(name)]
            if arrived or time.monotonic() > deadline:
                return arrived

    def _new(self, port: str) -> Iterable[Arrived]:
        """What the port has sent since the last look. A file's header has 24 bytes, a record's 16."""
        data = self._ports[port].read_bytes() if self._ports[port].exists() else b""
        at = self._read.get(port, 24)
        while len(data) >= at + 16:
            (length,) = struct.unpack_from("=I", data, at + 8)
            frame = data[at + 16 : at + 16 + length]
            at += 16 + length
            yield Arrived(
                port=port, to_mac=frame[:6].hex(":"), from_mac=frame[6:12].hex(":"), packet=_parse(frame[14:])
            )
        self._read[port] = at


def sender_mac(obj: Attached) -> str:
    return obj.mac if isinstance(obj, Pod) or obj is NODE else ROUTER.mac
