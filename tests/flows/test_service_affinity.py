"""Session affinity while a Service changes, and with clients that are made up: packets with a real conntrack."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from flow_world import A1, A2, HERE, STATE
from msgspec.structs import replace
from ovs_sandbox import Sandbox, installed
from service_cases import GATEWAY, OUTSIDE, POD_1, POD_2, Pair, go
from service_world import B1 as ON_PEER
from service_world import STICKY_EXTERNAL, STICKY_KEPT, slices_of, vip
from wire import SYN, UDP, Packet, Wire

from ovsnet import flowplan, resources
from ovsnet.agent.affinity import LongAffinity
from ovsnet.agent.installer import Installer
from ovsnet.render import Lines, Renderer
from ovsnet.servicemodel import Protocol, Service, ServicePort
from ovsnet.services import Services
from ovsnet.switch.openflow import OpenFlow

CLUSTER_IP: Pair = vip(22)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
LIMIT = 16
HOUR = 3600


class Sticky:
    """A switch that is led from one state of a Service to the next by bundles, as the agent does it."""

    def __init__(self, ovs: Sandbox) -> None:
        self.wire = Wire(ovs, (A1, A2), ())
        self._services = Services()
        self._renderer = Renderer(resources.flows_dir())
        self._installed: dict[int, Lines] = {}
        self._port = 40000

    def serve(self, *endpoints: Pair, service: Service = STICKY_KEPT, **said: object) -> None:
        service = replace(service, **said)
        slices = slices_of(service.name, endpoints, service.ports[0].protocol, 8080)
        self._services.update({service.key: service}, slices, HERE)
        wanted = self._renderer.state([*STATE, *self._services.objects])
        bundle = "\n".join(flowplan.bundle(self._installed, wanted)) + "\n"
        bridge = self.wire.bridge
        bridge.ovs.ofctl("bundle", bridge.ovs.mgmt(bridge.name), "-", stdin=bundle)
        self._installed = wanted
        # Entries of the datapath that were made of the flows before.
        self.wire.ask("revalidator/wait")

    def call(self, port: str, client: str, target: str, *, protocol: int = 6) -> str:
        """The endpoint that a new connection gets."""
        self._port += 1
        sent = Packet(
            src=client, dst=target, protocol=protocol, sport=self._port, dport=80, flags=SYN, body=b""
        )
        return go(self.wire, port, sent).packet.dst

    def calls(self, port: str, client: Pair, target: Pair, family: int) -> set[str]:
        return {self.call(port, client[family], target[family]) for _ in range(12)}

    def later(self, seconds: int) -> None:
        """For ovs-vswitchd so much time goes by."""
        self.wire.ask("time/warp", str(1000 * seconds))
        self.wire.ask("revalidator/wait")

    def look(self) -> None:
        """What an agent does from time to time: one that has just started, for it knows nothing that the switch
        doesn't."""
        bridge = self.wire.bridge
        switch = OpenFlow(bridge.ovs.mgmt(bridge.name).removeprefix("unix:"))

        async def start_and_look() -> None:
            installer = Installer(switch)
            await installer.settle(self._installed)
            await LongAffinity(switch, installer, 37, lambda: self._services.services).look()

        asyncio.run(start_and_look())

    def learned(self) -> list[str]:
        bridge = self.wire.bridge
        dumped = bridge.ovs.ofctl("dump-flows", bridge.ovs.mgmt(bridge.name), "table=37").splitlines()
        return [line for line in dumped if "priority=100" in line]


@pytest.fixture
def sticky() -> Iterator[Sticky]:
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        yield Sticky(running)


@FAMILIES
def test_policy_local_comes_before_what_was_learned(sticky: Sticky, family: int) -> None:
    """Clients outside are sent to this node's endpoints from then on; pods stay where they are."""
    here, there = {POD_1[family]}, {ON_PEER[family]}
    clients = (("gateway", OUTSIDE), ("gateway", GATEWAY), ("a2", POD_2))
    sticky.serve(ON_PEER, external_local=False)
    for port, client in clients:
        assert sticky.calls(port, client, STICKY_EXTERNAL, family) == there
    sticky.serve(POD_1, ON_PEER)
    assert sticky.calls("gateway", OUTSIDE, STICKY_EXTERNAL, family) == here
    for port, client in clients[1:]:
        assert sticky.calls(port, client, STICKY_EXTERNAL, family) == there, client
    sticky.serve(POD_1, ON_PEER, external_local=False)
    assert sticky.calls("gateway", OUTSIDE, STICKY_EXTERNAL, family) == here, "learned since"


@FAMILIES
def test_internal_policy_local_comes_before_what_was_learned(sticky: Sticky, family: int) -> None:
    sticky.serve(ON_PEER)
    assert sticky.calls("a2", POD_2, CLUSTER_IP, family) == {ON_PEER[family]}
    assert sticky.calls("a2", POD_2, STICKY_EXTERNAL, family) == {ON_PEER[family]}
    sticky.serve(POD_1, ON_PEER, internal_local=True)
    assert sticky.calls("a2", POD_2, CLUSTER_IP, family) == {POD_1[family]}
    assert sticky.calls("a2", POD_2, STICKY_EXTERNAL, family) == {ON_PEER[family]}


@FAMILIES
def test_clients_that_are_made_up_take_a_limited_number_of_flows_and_are_served(
    monkeypatch: pytest.MonkeyPatch, family: int
) -> None:
    """Those beyond the limit get endpoints as without affinity, and cost nobody inside theirs."""
    monkeypatch.setattr("ovsnet.render.CLIENTS", LIMIT)
    with Sandbox() as running:
        sticky = Sticky(running)
        both = POD_1, ON_PEER
        service = replace(
            STICKY_KEPT, external_local=False, ports=(ServicePort(port=80, protocol=Protocol.UDP),)
        )
        sticky.serve(*both, service=service)
        target = STICKY_EXTERNAL[family]
        forged = [("198.51.100.{}", "2001:db8:100::{:x}")[family].format(each) for each in range(1, 41)]
        met = [sticky.call("gateway", each, target, protocol=UDP) for each in forged]
        assert set(met) == {POD_1[family], ON_PEER[family]}
        assert len(sticky.learned()) == LIMIT
        first, last = forged[0], forged[-1]
        assert {sticky.call("gateway", first, target, protocol=UDP) for _ in range(12)} == {met[0]}
        assert len({sticky.call("gateway", last, target, protocol=UDP) for _ in range(24)}) == 2
        assert len(sticky.learned()) == LIMIT
        pod = {sticky.call("a2", POD_2[family], target, protocol=UDP) for _ in range(12)}
        other = {sticky.call("gateway", last, CLUSTER_IP[family], protocol=UDP) for _ in range(12)}
        assert (len(pod), len(other), len(sticky.learned())) == (1, 1, LIMIT + 2)
        cookies = {re.findall(r"cookie=(0x\w+)", line)[0] for line in sticky.learned()}
        assert len(cookies) == 3
        # Those that have a flow are told from others when their endpoint goes.
        assert ON_PEER[family] in met[:LIMIT]
        for endpoints in ([POD_1], both):
            sticky.serve(*endpoints, service=service)
            for client in forged[:LIMIT]:
                found = {sticky.call("gateway", client, target, protocol=UDP) for _ in range(6)}
                assert found == {POD_1[family]}, client
        assert len(sticky.learned()) == LIMIT + 2


DAY_ALMOST = 24 * HOUR - 60


@FAMILIES
@pytest.mark.parametrize("client", ["pod", "outside"])
def test_an_affinity_longer_than_a_flow_can_say_ends_when_it_is_over_and_not_before(
    sticky: Sticky, family: int, client: str
) -> None:
    """Kubernetes allows a day; 65,535 seconds are some 18.2 hours."""
    port, source, target = (
        ("a2", POD_2[family], CLUSTER_IP[family])
        if client == "pod"
        else ("gateway", OUTSIDE[family], STICKY_EXTERNAL[family])
    )
    sticky.serve(POD_1, ON_PEER, affinity=24 * HOUR, external_local=False)
    met = sticky.call(port, source, target)
    for _ in range(3):
        # Each time a client that was nearly forgotten is back, and begins anew.
        for seconds in (17 * HOUR, HOUR, DAY_ALMOST - 18 * HOUR):
            sticky.later(seconds)
            sticky.look()
        assert {sticky.call(port, source, target) for _ in range(6)} == {met}
        sticky.look()
    for seconds in (18 * HOUR, DAY_ALMOST - 18 * HOUR):
        sticky.later(seconds)
        sticky.look()
    assert len(sticky.learned()) == 1
    sticky.later(120)
    assert sticky.learned() == []


def test_a_long_affinity_ends_by_itself_where_no_agent_prolongs_it(sticky: Sticky) -> None:
    sticky.serve(POD_1, ON_PEER, affinity=24 * HOUR)
    sticky.call("a2", POD_2[0], CLUSTER_IP[0])
    sticky.later(18 * HOUR)
    assert len(sticky.learned()) == 1
    sticky.later(HOUR)
    assert sticky.learned() == []


@pytest.mark.parametrize("seconds", [18 * HOUR, 65535])
def test_nobody_is_prolonged_for_whom_flows_can_say_all(sticky: Sticky, seconds: int) -> None:
    sticky.serve(POD_1, ON_PEER, affinity=seconds)
    for _ in range(2):
        sticky.call("a2", POD_2[0], CLUSTER_IP[0])
    sticky.later(seconds - 60)
    sticky.look()
    assert len(sticky.learned()) == 1
    sticky.later(120)
    assert sticky.learned() == []


def test_one_client_is_prolonged_and_the_other_not_yet(sticky: Sticky) -> None:
    sticky.serve(POD_1, ON_PEER, affinity=24 * HOUR)
    sticky.call("a2", POD_2[0], CLUSTER_IP[0])
    sticky.later(12 * HOUR)
    sticky.call("a2", POD_2[1], CLUSTER_IP[1])
    for hours in (6, 5):
        sticky.later(hours * HOUR)
        sticky.look()
    assert len(sticky.learned()) == 2
    sticky.later(2 * HOUR)
    sticky.look()
    (left,) = sticky.learned()
    assert "ipv6_dst" in left
    assert "idle_timeout=65535" in left
