"""Who goes on sending from one port while a Service gets endpoints and loses them: packets with a real conntrack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import service_world
from flow_world import A1, A2, HERE, STATE
from msgspec.structs import replace
from ovs_sandbox import Sandbox, installed
from service_cases import B1, GATEWAY, OUTSIDE, REFUSED, Case, Pair, go, opening
from service_world import DNS, addresses, slices_of, vip
from wire import UDP, Wire, about, inside

from ovsnet import flowplan, resources
from ovsnet.render import Lines, Renderer
from ovsnet.servicemodel import Protocol
from ovsnet.services import Services

LATE_OUTSIDE: Pair = ("203.0.113.90", "2001:db8:80::90")
SERVICE = replace(DNS, name="late", cluster_ips=addresses(vip(30)), external_ips=addresses(LATE_OUTSIDE))


class Changing:
    """A switch that is led from one state of a Service to the next by bundles, as the agent does it."""

    def __init__(self, ovs: Sandbox) -> None:
        self.wire = Wire(ovs, (A1, A2), ())
        self._services = Services()
        self._renderer = Renderer(resources.flows_dir())
        self._installed: dict[int, Lines] = {}

    def serve(self, *endpoints: Pair) -> None:
        slices = slices_of(SERVICE.name, endpoints, Protocol.UDP, 8080)
        self._services.update({SERVICE.key: SERVICE}, slices, HERE)
        self._install()

    def withdraw(self) -> None:
        """There is no such Service."""
        self._services.update({}, {}, HERE)
        self._install()

    def _install(self) -> None:
        wanted = self._renderer.state([*STATE, *self._services.objects])
        bundle = "\n".join(flowplan.bundle(self._installed, wanted)) + "\n"
        bridge = self.wire.bridge
        bridge.ovs.ofctl("bundle", bridge.ovs.mgmt(bridge.name), "-", stdin=bundle)
        self._installed = wanted
        # Entries of the datapath that were made of the flows before.
        self.wire.ask("revalidator/wait")


@pytest.fixture(scope="module")
def changing() -> Iterator[Changing]:
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        yield Changing(running)


def refused(wire: Wire, case: Case, family: int) -> None:
    """The node's kernel gets it from an address that is not the node's, and its error comes to the client."""
    sent = opening(case, family, 40000)
    there = go(wire, "gateway", sent)
    assert (there.port, there.packet.src, there.packet.dst) == (
        "gateway",
        REFUSED[family],
        case.target[family],
    )
    error = go(wire, "gateway", about(there.packet, GATEWAY[family]))
    assert (error.port, error.packet.dst) == ("gateway", case.client[family])
    assert inside(error.packet).ends == sent.ends


def served(wire: Wire, case: Case, family: int) -> None:
    sent = opening(case, family, 40000)
    there = go(wire, "gateway", sent)
    assert (there.port, there.packet.src, there.packet.dst) == ("peer", GATEWAY[family], B1[1][family])
    back = go(wire, "peer", there.packet.answer())
    assert (back.port, back.packet.ends) == ("gateway", sent.answer().ends)


CLIENTS = {
    "the node, to a ClusterIP": (GATEWAY, vip(30)),
    "the node by its own address": (service_world.NODE_A, vip(30)),
    "outside, to an external address": (OUTSIDE, LATE_OUTSIDE),
}


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("shows", CLIENTS)
def test_conntrack_remembers_no_refusal_when_there_is_an_endpoint_nor_the_other_way_round(
    changing: Changing, shows: str, family: int
) -> None:
    """Without the Service, and without its endpoints."""
    client, target = CLIENTS[shows]
    case = Case(shows=shows, port="gateway", client=client, target=target, answers=(B1,), protocol=UDP)
    changing.wire.forget()
    for nobody in (changing.withdraw, changing.serve) * 2:
        nobody()
        refused(changing.wire, case, family)
        changing.serve(service_world.B1)
        served(changing.wire, case, family)
