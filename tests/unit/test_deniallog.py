"""Lines about what policies deny: whose the addresses are, who denies, and what a datapath without meters comes to."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from test_headers import BODIES
from test_render import NODE, pod

from ovsnet import pipeline, resources
from ovsnet.agent.complaints import Complaints
from ovsnet.agent.deniallog import DenialLog
from ovsnet.agent.logs import _Json
from ovsnet.agent.metrics import COUNTERS
from ovsnet.errors import MeterRefused
from ovsnet.model import Encap, IPAddress
from ovsnet.policymodel import Direction, LabelledPod
from ovsnet.policyobjects import Isolation, PolicedPod
from ovsnet.render import Renderer
from ovsnet.servicemodel import Service
from ovsnet.state import PeerNode, Topology
from ovsnet.switch.packetins import PacketIn, PacketIns, read

COOKIE = 0x0700000000000055
A, B = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2")
TOPOLOGY = Topology(
    name="node-a",
    addresses=(ipaddress.ip_address("192.0.2.11"),),
    internal=(),
    cidrs=(),
    gateways=(),
    mac="",
    mtu=1450,
    encaps=(),
    tunnel_ports=(),
    peers=(
        PeerNode(
            name="node-b",
            remote=B,
            local=A,
            encap=Encap.VXLAN,
            cidrs=(ipaddress.ip_network("10.0.0.0/24"),),
            addresses=(B,),
        ),
    ),
)


class World:
    """What the log asks: the switch and the policies."""

    path = "/nowhere"

    def __init__(self) -> None:
        self.refusal: MeterRefused | None = None
        self.bundles: list[list[str]] = []
        self.anew = 0
        self.now = 0.0
        self.known_pods: dict[str, LabelledPod] = {}
        self.known_services: dict[str, Service] = {}
        self.by = ["NetworkPolicy default/all", "NetworkPolicy default/web"]
        self.renderer = Renderer(resources.flows_dir(), 10)
        self.log = DenialLog(self, self.renderer, 10, self, list, clock=lambda: self.now)

    async def bundle(self, lines: Iterable[str]) -> None:
        self.bundles.append([*lines])
        if self.refusal is not None:
            raise self.refusal

    def denier(self, cookie: int, source: IPAddress) -> tuple[Direction | None, list[str]]:
        return (Direction.INGRESS, self.by) if cookie == COOKIE and self.by else (None, [])

    def render_anew(self) -> None:
        self.anew += 1

    def comes(self, name: str) -> None:
        packet = read(bytes.fromhex(BODIES[name]))
        assert packet is not None
        self.log.came(packet)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "ovsnet.denied"):
        yield caplog


def test_names_are_those_of_now(lines: pytest.LogCaptureFixture) -> None:
    world = World()
    world.comes("tcp")
    world.log.topology = TOPOLOGY
    world.now += 2
    world.comes("icmp")
    world.known_pods = {
        "default/b": LabelledPod(namespace="default", name="b", ips=(B,), labels={}, node="x")
    }
    world.known_services = {"default/s": Service(namespace="default", name="s", cluster_ips=(A,), ports=())}
    world.now += 2
    world.comes("sctp")
    world.comes("fragment")
    by = "by NetworkPolicy default/all, default/web"
    assert lines.messages == [
        f"10.0.0.1:43210 -> 10.0.0.2:80 tcp, ingress, {by}",
        f"node node-b 10.0.0.1 -> node node-b 10.0.0.2 icmp echo request, ingress, {by}",
        f"node node-b 10.0.0.1:5000 -> pod default/b 10.0.0.2:5001 sctp, ingress, {by}",
        f"node node-b 10.0.0.1 -> pod default/b 10.0.0.2 udp fragment, ingress, {by}",
    ]


def test_a_service_s_address_and_policies_that_went(lines: pytest.LogCaptureFixture) -> None:
    world = World()
    world.known_services = {"default/s": Service(namespace="default", name="s", cluster_ips=(B,), ports=())}
    world.comes("tcp")
    world.now += 2
    world.by = []
    world.comes("tcp")
    world.comes("icmp")
    world.by = ["ClusterNetworkPolicy lockdown ingress[0] (no\nnews)"]
    world.comes("sctp")
    world.now += 2
    world.comes("gre")
    assert lines.messages == [
        "10.0.0.1:43210 -> Service default/s 10.0.0.2:80 tcp, ingress, by NetworkPolicy default/all, default/web",
        "10.0.0.1 -> Service default/s 10.0.0.2 icmp echo request, by policies that nobody knows now",
        # Of the same pod within a second.
        "10.0.0.1:5000 -> Service default/s 10.0.0.2:5001 sctp, by policies that nobody knows now",
        "10.0.0.1 -> Service default/s 10.0.0.2 protocol 47, ingress, "
        "by ClusterNetworkPolicy lockdown ingress[0] (no news)",
    ]


def test_a_later_line_tells_how_many_and_who_denied_then(lines: pytest.LogCaptureFixture) -> None:
    world = World()
    for _ in range(5):
        world.comes("tcp")
    world.by = []
    world.now += 11
    world.log.tell_due()
    assert lines.messages[1:] == [
        "10.0.0.1:43210 -> 10.0.0.2:80 tcp, ingress, by NetworkPolicy default/all, default/web, and 3 more"
    ]
    assert world.log.counts == {"denied_log_lines": 2, "denied_log_suppressed_packets": 4}
    assert world.log.counts.keys() <= COUNTERS.keys()


def test_no_ip_packet_is_no_line(lines: pytest.LogCaptureFixture) -> None:
    World().log.came(PacketIn(COOKIE, 48, bytes(12) + b"\x08\x06" + bytes(28)))
    assert lines.messages == []


def test_collectors_get_the_parts_as_well(lines: pytest.LogCaptureFixture) -> None:
    World().comes("tcp")
    (record,) = lines.records
    entry = json.loads(_Json().format(record))
    assert entry["part"] == "denied"
    assert entry["denied"] == {
        "source": "10.0.0.1",
        "sourceName": "",
        "sourcePort": 43210,
        "destination": "10.0.0.2",
        "destinationName": "",
        "port": 80,
        "protocol": "tcp",
        "icmpType": None,
        "direction": "ingress",
        "by": ["NetworkPolicy default/all", "NetworkPolicy default/web"],
        "packets": 1,
    }


async def test_without_a_meter_packets_are_dropped_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A datapath may have none, or no more of them."""
    world, complaints = World(), Complaints(logging.getLogger("ovsnet.agent"))
    policed = PolicedPod(namespace="default", name="a5", ips=pod(5).ips, ingress=Isolation())
    denying = [
        line for line in world.renderer.object(policed) if line.endswith(f"actions={pipeline.DENY_AND_TELL}")
    ]
    assert len(denying) == 1
    assert any("meter=1 pktps burst" in line for line in world.renderer.object(NODE))
    await world.log.look_for_meters(complaints)
    assert world.bundles == [["meter set meter=1 pktps burst bands=type=drop rate=10 burst_size=10"]]
    assert (world.anew, complaints.current()) == (0, [])
    world.refusal = MeterRefused("ovs-vswitchd refuses a meter: OFPMMFC_OUT_OF_METERS", "see its log")
    for _ in range(3):
        await world.log.look_for_meters(complaints)
    assert world.anew == 1
    (told,) = caplog.messages
    assert (
        "dropped and not logged, until ovs-vswitchd starts anew: ovs-vswitchd refuses a meter: OFPMMFC_"
        in told
    )
    assert "set policy.logDenied to 0" in told
    lines = (*world.renderer.object(NODE), *world.renderer.object(policed))
    assert not [line for line in lines if "meter" in line or "controller" in line]
    plain = Renderer(resources.flows_dir())
    assert lines == (*plain.object(NODE), *plain.object(policed))
    world.refusal = None
    await world.log.look_for_meters(complaints)
    assert world.anew == 2
    assert complaints.current() == []
    assert [each for each in caplog.messages if "dropped" in each] == [told]
    # It is made, and does not stay: no reason to ask again before flows are in.
    asked = len(world.bundles)
    world.log.give_up(MeterRefused("ovs-vswitchd refuses flows for want of one: OFPMMFC_INVALID_METER"))
    await world.log.look_for_meters(complaints)
    assert (len(world.bundles), world.renderer.tells) == (asked, False)
    assert "INVALID_METER" in complaints.current()[0]
    world.log.give_up(MeterRefused("another bundle that was on its way"))
    await world.log.look_for_meters(complaints)
    assert (len(world.bundles), world.renderer.tells) == (asked + 1, True)
    assert complaints.current() == []


async def test_garbage_on_the_connection_and_one_that_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is asked again; what made sense is handed on, and probes are answered. It is told of once."""
    body = bytes.fromhex(BODIES["tcp"])
    packet = struct.pack(">BBHI", 6, 10, 8 + len(body), 0) + body
    hello, probe = struct.pack(">BBHI", 6, 0, 8, 1), struct.pack(">BBHI", 6, 2, 12, 77) + b"ping"
    sessions = [
        b"\xff" * 64,
        hello + packet + struct.pack(">BBHI", 6, 10, 3, 0),
        hello + probe + packet + packet[:9],
    ]
    asked: list[bytes] = []
    came: list[PacketIn] = []
    answer = asyncio.get_running_loop().create_future()
    again = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readexactly(8 + 12))
        if not sessions:
            again.set()
        else:
            for byte in (said := sessions.pop(0)):
                writer.write(bytes([byte]))
                await writer.drain()
            if probe in said:
                answer.set_result(await reader.readexactly(12))
        writer.close()

    path = tmp_path / "mgmt"
    async with await asyncio.start_unix_server(serve, path), asyncio.timeout(20):
        running = asyncio.create_task(PacketIns(str(path), came.append).run())
        assert await answer == struct.pack(">BBHI", 6, 3, 12, 77) + b"ping"
        await again.wait()
        running.cancel()
    assert [each.cookie for each in came] == [COOKIE, COOKIE]
    assert len([each for each in caplog.messages if "is no OpenFlow" in each]) == 1
    assert asked == 4 * [hello + struct.pack(">BBHIHH", 6, 9, 12, 2, 0, 128)]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.11", "node node-a"),
        ("10.0.0.2", "node node-b"),
        # Its gateway's: what it sends to others' pods.
        ("10.0.0.1", "node node-b"),
        # The own one's: the node itself is never denied, but clients outside that come through its node ports.
        ("10.244.1.1", "a client of node-a's ports"),
        ("fd00:10:244:1::1", "a client of node-a's ports"),
        # Another node, or a pod, through a port of this node.
        ("169.254.77.5", "a client of node-a's ports"),
        ("fd6f:7673:6e65::5", "a client of node-a's ports"),
        ("169.254.77.4", ""),
        ("10.0.0.3", ""),
    ],
)
def test_whose_addresses_are_without_policies(address: str, name: str) -> None:
    """Names of nodes are there while the store is away."""
    world = World()
    gateways = (ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("fd00:10:244:1::1"))
    world.log.topology = msgspec.structs.replace(TOPOLOGY, gateways=gateways)
    assert world.log._naming.of(ipaddress.ip_address(address), world.log.topology) == name
