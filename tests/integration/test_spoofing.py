"""Real frames with forged senders: dropped, counted, and seen by nobody; honest ones arrive all the same.

A listener on each interface that a frame could reach writes down all it sees. Every forged frame is followed
by honest ones to the same places: when those have arrived, the forged one would have too.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import frames
import pytest
from lab_world import eventually, fetch, ovsnet_json, running

from ovsnet import pipeline
from ovsnet.lab.lab import Lab

SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind((sys.argv[1], 0))
    for line in sys.stdin:
        sock.send(bytes.fromhex(line))
"""
LISTEN = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind((sys.argv[1], 3))
print("ready", flush=True)
while True:
    frame, origin = sock.recvfrom(65536)
    if origin[2] != 4:  # PACKET_OUTGOING
        print(frame.hex(), flush=True)
"""
SEND_IP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
    for line in sys.stdin:
        packet = bytes.fromhex(line)
        sock.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
"""
PYTHON = [sys.executable, "-I", "-S", "-c"]


class Listeners:
    """What arrives where."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def listen(self, place: str, interface: str = "eth0") -> None:
        path = self.folder / place
        with path.open("wb") as file:
            command = self.lab.command(place, [*PYTHON, LISTEN, interface])
            self.processes.append(subprocess.Popen(command, stdout=file))
        eventually(lambda: path.read_text().startswith("ready"))

    def arrived(self, marker: bytes) -> list[str]:
        """The places that have seen a frame with the marker in it."""
        return [path.name for path in sorted(self.folder.iterdir()) if marker.hex() in path.read_text()]

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait()


class World:
    """A lab with listeners; a1 is the one who lies."""

    def __init__(self, lab: Lab, listeners: Listeners) -> None:
        self.lab = lab
        self.listeners = listeners
        self.node = lab.nodes[0]
        self.pods = {pod.name: pod for pod in lab.pods}
        self.gateway_mac = self.mac_of("node-a", "ovsnet0")
        self.macs = {name: self.mac_of(name, "eth0") for name in self.pods}

    def mac_of(self, place: str, interface: str) -> str:
        done = self.lab.run(place, ["cat", f"/sys/class/net/{interface}/address"])
        return done.stdout.strip()

    def ip(self, pod: str, version: int) -> str:
        return str(self.pods[pod].address(version))

    def gateway(self, version: int) -> str:
        return str(self.node.node.gateway(version))

    def send(self, *sent: bytes) -> None:
        done = self.lab.exec("a1", [*PYTHON, SEND, "eth0"], input="".join(f"{f.hex()}\n" for f in sent))
        assert done.returncode == 0, done.stderr

    def udp(self, source: object, target: str, marker: bytes, link: str = "") -> bytes:
        """A frame of a1 to a pod or, as node-a, to the gateway; link: its source MAC if not its own."""
        version = 6 if ":" in str(source) else 4
        to = self.gateway(version) if target == "node-a" else self.ip(target, version)
        to_mac = self.macs["a2"] if target == "a2" else self.gateway_mac
        return frames.ethernet(
            link or self.macs["a1"], to_mac, frames.kind_of(to), frames.udp(source, to, marker)
        )

    def honest(self, marker: bytes) -> list[bytes]:
        return [self.udp(self.ip("a1", 6), target, marker) for target in ("a2", "b1", "node-a")]

    def drops(self, owner: str) -> int:
        entries: list[dict[str, Any]] = ovsnet_json(self.node, "flows", "--drops")
        return sum(
            entry["packets"]
            for entry in entries
            if entry["table"] == "spoof_guard" and entry["object"] == owner
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(nodes=2, pods=1) as lab:
        lab.add_pod("node-a", "a2")
        listeners = Listeners(lab, tmp_path_factory.mktemp("heard"))
        try:
            for place, interface in (("a2", "eth0"), ("b1", "eth0"), ("node-a", "ovsnet0")):
                listeners.listen(place, interface)
            for target in ("a2", "b1", "node-a"):
                assert fetch(lab, "a1", target)
            yield World(lab, listeners)
        finally:
            listeners.stop()


POD, NODE = "pod default/a1", "node node-a"
LIAR = "0a:00:00:00:00:99"
Forge = Callable[[World, bytes], bytes]


def from_mac(version: int) -> Forge:
    return lambda w, marker: w.udp(w.ip("a1", version), "a2", marker, LIAR)


def from_ip(source: Callable[[World], str], target: str) -> Forge:
    return lambda w, marker: w.udp(source(w), target, marker)


def arp(
    operation: int, sender: Callable[[World], str], about: Callable[[World], str], link: str = ""
) -> Forge:
    def forge(w: World, marker: bytes) -> bytes:
        mine = w.macs["a1"]
        body = frames.arp(operation, link or mine, sender(w), "00:00:00:00:00:00", about(w))
        return frames.ethernet(mine, frames.BROADCAST, 0x0806, body + marker)

    return forge


def neighbour(make: Callable[[World], bytes]) -> Forge:
    """Neighbour discovery; the marker follows the packet as Ethernet's padding would."""
    return lambda w, marker: frames.ethernet(w.macs["a1"], frames.ALL_NODES, 0x86DD, make(w) + marker)


def vlan(w: World, marker: bytes) -> bytes:
    packet = frames.udp(w.ip("a1", 4), w.ip("a2", 4), marker)
    return frames.ethernet(w.macs["a1"], w.macs["a2"], 0x0800, packet, vlan=0)


def other_protocol(w: World, marker: bytes) -> bytes:
    return frames.ethernet(w.macs["a1"], frames.BROADCAST, 0x88CC, marker)


SOURCES: dict[str, Forge] = {
    "MAC of nobody, IPv4": from_mac(4),
    "MAC of nobody, IPv6": from_mac(6),
    "IPv4 of a pod here": from_ip(lambda w: w.ip("a2", 4), "b1"),
    "IPv4 of a pod elsewhere": from_ip(lambda w: w.ip("b1", 4), "a2"),
    "IPv4 of the gateway": from_ip(lambda w: w.gateway(4), "a2"),
    "IPv4 of nobody": from_ip(lambda w: "10.244.1.77", "node-a"),
    "IPv4 of the outside": from_ip(lambda w: "192.0.2.1", "b1"),
    "IPv6 of a pod here": from_ip(lambda w: w.ip("a2", 6), "b1"),
    "IPv6 of a pod elsewhere": from_ip(lambda w: w.ip("b1", 6), "a2"),
    "IPv6 of the gateway": from_ip(lambda w: w.gateway(6), "a2"),
    "IPv6 link-local": from_ip(lambda w: "fe80::1", "a2"),
    "its own, behind a VLAN tag": vlan,
    "its own, another protocol": other_protocol,
}
ARP: dict[str, Forge] = {
    "request as another pod": arp(1, lambda w: w.ip("a2", 4), lambda w: w.gateway(4)),
    "request with another MAC": arp(1, lambda w: w.ip("a1", 4), lambda w: w.gateway(4), LIAR),
    "announcement of the gateway": arp(1, lambda w: w.gateway(4), lambda w: w.gateway(4)),
    "reply as the gateway": arp(2, lambda w: w.gateway(4), lambda w: w.ip("a2", 4)),
}
NEIGHBOUR_DISCOVERY: dict[str, Forge] = {
    "solicitation as another pod": neighbour(
        lambda w: frames.solicitation(w.ip("a2", 6), w.gateway(6), w.gateway(6), w.macs["a1"])
    ),
    "solicitation with another MAC": neighbour(
        lambda w: frames.solicitation(w.ip("a1", 6), w.gateway(6), w.gateway(6), LIAR)
    ),
    "advertisement of the gateway": neighbour(
        lambda w: frames.advertisement(w.ip("a1", 6), "ff02::1", w.gateway(6), w.macs["a1"])
    ),
    "advertisement as the gateway": neighbour(
        lambda w: frames.advertisement(w.gateway(6), w.ip("a2", 6), w.gateway(6), w.macs["a1"])
    ),
    "router advertisement": neighbour(
        lambda w: frames.router_advertisement("fe80::1", "ff02::1", w.macs["a1"])
    ),
}


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("forged", "owner"),
    [
        pytest.param(SOURCES, POD, id="sources"),
        pytest.param(ARP, POD, id="arp"),
        pytest.param(NEIGHBOUR_DISCOVERY, NODE, id="neighbour-discovery"),
    ],
)
def test_forged_frames_are_dropped_and_counted(world: World, forged: dict[str, Forge], owner: str) -> None:
    before = world.drops(owner)
    markers = {what: uuid.uuid4().bytes for what in forged}
    honest = uuid.uuid4().bytes
    world.send(*(forge(world, markers[what]) for what, forge in forged.items()), *world.honest(honest))
    eventually(lambda: world.listeners.arrived(honest) == ["a2", "b1", "node-a"])
    assert {
        what: found for what, marker in markers.items() if (found := world.listeners.arrived(marker))
    } == {}
    eventually(lambda: world.drops(owner) - before >= len(forged))


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("target", ["a2", "b1", "node-a"])
def test_the_same_frames_arrive_when_they_are_honest(world: World, target: str, version: int) -> None:
    marker = uuid.uuid4().bytes
    world.send(world.udp(world.ip("a1", version), target, marker))
    eventually(lambda: world.listeners.arrived(marker) == [target])


@pytest.mark.kernel
def test_honest_traffic_goes_on(world: World) -> None:
    for target in ("a2", "b1", "node-a", "node-b", "outside"):
        answer = fetch(world.lab, "a1", target)
        assert answer["name"] == target


def tunnel_packet(lab: Lab, source: str, marker: bytes, vni: int = 77, inner_source: str = "") -> bytes:
    """What a peer would send to node-a's tunnel: b1 to a1, within VXLAN. inner_source: who says to be b1."""
    a1, b1 = lab.pod("a1").address(4), lab.pod("b1").address(4)
    router = pipeline.ROUTER.mac
    inner = frames.ethernet(router, router, 0x0800, frames.udp(inner_source or b1, a1, marker))
    node = lab.node("node-a").node.address(4)
    return frames.udp(source, node, frames.vxlan(vni, inner), port=4789, sport=50000)


@pytest.mark.parametrize(
    "tunnels",
    [pytest.param("ports", marks=pytest.mark.kernel), pytest.param("flow", marks=pytest.mark.slow)],
)
def test_tunnel_packets_of_strangers_are_dropped(tunnels: str, tmp_path: Path) -> None:
    with running(nodes=2, pods=1, tunnels=tunnels, families="4", underlay="4") as lab:
        assert fetch(lab, "a1", "b1")
        listeners = Listeners(lab, tmp_path)
        listeners.listen("a1")
        try:
            before = dropped_by(lab, "classify")
            guarded = dropped_by(lab, "tunnel_guard")
            gateway, node = (
                str(ip(4)) for ip in (lab.node("node-a").node.gateway, lab.node("node-a").node.address)
            )
            forged = {ip: uuid.uuid4().bytes for ip in (gateway, node, "10.244.1.77", "192.0.2.1")}
            stranger, wrong, peer = (uuid.uuid4().bytes for _ in range(3))
            packets = [
                tunnel_packet(lab, "192.0.2.1", stranger),
                tunnel_packet(lab, "192.0.2.12", wrong, vni=78),
                *(tunnel_packet(lab, "192.0.2.12", each, inner_source=ip) for ip, each in forged.items()),
                # Only the senders' addresses make the difference: this one arrives.
                tunnel_packet(lab, "192.0.2.12", peer),
            ]
            done = lab.run("outside", [*PYTHON, SEND_IP], input="".join(f"{p.hex()}\n" for p in packets))
            assert done.returncode == 0, done.stderr
            eventually(lambda: listeners.arrived(peer) == ["a1"])
            assert listeners.arrived(stranger) == []
            assert listeners.arrived(wrong) == []
            assert {ip: found for ip, each in forged.items() if (found := listeners.arrived(each))} == {}
            eventually(lambda: dropped_by(lab, "tunnel_guard") - guarded == len(forged))
            if tunnels == "flow":
                eventually(lambda: dropped_by(lab, "classify") > before)
            assert fetch(lab, "b1", "a1")
        finally:
            listeners.stop()


SEND_UDP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for line in sys.stdin:
        address, port, payload = line.split()
        sock.sendto(bytes.fromhex(payload), (address, int(port)))
"""


@pytest.mark.parametrize(
    "tunnels",
    [pytest.param("flow", marks=pytest.mark.kernel), pytest.param("ports", marks=pytest.mark.slow)],
)
def test_a_pod_can_not_pose_as_its_nodes_tunnel(tunnels: str, tmp_path: Path) -> None:
    """A tunnel's packet within a datagram that leaves with the node's address, sent to where a peer would take it."""
    with running(nodes=2, pods=1, tunnels=tunnels, families="4", underlay="4") as lab:
        a, b = lab.nodes
        # Not in its Node object: not reached through the tunnel.
        b.ip([f"address add 192.0.2.62/24 dev {b.uplink}"])
        listeners = Listeners(lab, tmp_path)
        listeners.listen("b1")
        try:
            assert fetch(lab, "b1", "a1")
            inner = frames.udp("10.244.1.77", lab.pod("b1").address(4), marker := uuid.uuid4().bytes)
            frame = frames.ethernet(pipeline.ROUTER.mac, pipeline.ROUTER.mac, 0x0800, inner)
            lie = frames.vxlan(77, frame)

            def send() -> None:
                targets = ["192.0.2.62", str(b.node.address(4)), str(a.node.address(4))]
                lines = "".join(f"{target} 4789 {lie.hex()}\n" for target in targets)
                assert lab.exec("a1", [*PYTHON, SEND_UDP], input=lines).returncode == 0
                assert fetch(lab, "a1", "b1"), "what was sent before has arrived by now"

            send()
            assert listeners.arrived(marker) == []
            table = a.run(["nft", "list", "table", "inet", "ovsnet"], check=True).stdout
            assert " packets 1 " in table.partition("chain forward")[2].partition("chain postrouting")[0], (
                table
            )
            # Without the first defence the peer takes it for what it is: not sent to its end of the tunnel.
            a.run(["nft", "flush", "chain", "inet", "ovsnet", "forward"], check=True)
            send()
            assert listeners.arrived(marker) == []
        finally:
            listeners.stop()


def dropped_by(lab: Lab, table: str) -> int:
    entries = ovsnet_json(lab.node("node-a"), "flows", "--drops")
    return sum(entry["packets"] for entry in entries if entry["table"] == table)
