"""Connections to Services, packet by packet with a real conntrack: there and back, as both ends see them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import service_world
from flow_world import A1, A2, NODE
from packets import ROUTER
from service_world import EXTERNAL, FAR, LOAD_BALANCER, SHUT_LOAD_BALANCER, vip
from wire import ACK, PUSH, SYN, SYN_ACK, TCP, UDP, Arrived, Packet, Wire

from ovsnet import pipeline
from ovsnet.model import Frozen

Pair = tuple[str, str]


def both(translator: pipeline.Translator) -> Pair:
    return str(translator.ipv4), str(translator.ipv6)


GATEWAY: Pair = ("10.244.1.1", "fd00:1::1")
POD_1: Pair = service_world.A1
POD_2: Pair = ("10.244.1.3", "fd00:1::3")
PEER_POD: Pair = ("10.244.2.9", "fd00:2::9")
OUTSIDE: Pair = ("198.51.100.7", "2001:db8:100::7")
ELSEWHERE: Pair = ("203.0.113.200", "2001:db8:200::7")
BACK: Pair = both(pipeline.CLIENT)
NODE_PORT: Pair = both(pipeline.NODE_PORTS)
LOCAL_NODE_PORT: Pair = both(pipeline.LOCAL_NODE_PORTS)
MACS = {"a1": A1.mac, "a2": A2.mac, "gateway": NODE.mac, "peer": ROUTER.mac}


class Case(Frozen):
    """A client behind a port, what it talks to, and which endpoints answer behind which ports."""

    shows: str
    port: str
    client: Pair
    target: Pair
    answers: tuple[tuple[str, Pair], ...]
    dport: int = 80
    seen: Pair | None = None
    """As whom the endpoint sees the client, by another port; None: as it is."""
    seen_at_home: Pair | None = None
    """The same for endpoints in the node's own network."""
    protocol: int = TCP
    endpoint_port: int = 8080


HERE = ("a1", service_world.A1)
B1, B2 = ("peer", service_world.B1), ("peer", service_world.B2)
HOME, AWAY = ("gateway", service_world.NODE_A), ("peer", service_world.NODE_B)
ABROAD = ("gateway", FAR)

CASES: Sequence[Case] = (
    Case(shows="pod to ClusterIP", port="a2", client=POD_2, target=vip(1), answers=(HERE, B1, B2)),
    Case(
        shows="pod to ClusterIP over UDP", port="a2", client=POD_2, target=vip(2), answers=(B1,), protocol=UDP
    ),
    Case(shows="pod to remote endpoint", port="a2", client=POD_2, target=vip(14), answers=(B1,)),
    Case(shows="pod to local endpoint", port="a2", client=POD_2, target=vip(11), answers=(HERE,)),
    Case(
        shows="node to ClusterIP",
        port="gateway",
        client=GATEWAY,
        target=vip(1),
        answers=(HERE, B1, B2),
        seen=GATEWAY,
    ),
    Case(
        shows="node by its own address to ClusterIP",
        port="gateway",
        client=service_world.NODE_A,
        target=vip(1),
        answers=(HERE, B1, B2),
        seen=GATEWAY,
    ),
    Case(shows="pod to itself", port="a1", client=POD_1, target=vip(11), answers=(HERE,), seen=BACK),
    Case(
        shows="node to itself",
        port="gateway",
        client=service_world.NODE_A,
        target=vip(8),
        answers=(HOME,),
        seen=BACK,
    ),
    Case(
        shows="node's gateway address to itself",
        port="gateway",
        client=GATEWAY,
        target=vip(8),
        answers=(HOME,),
        seen=BACK,
    ),
    Case(shows="pod to its node", port="a1", client=POD_1, target=vip(8), answers=(HOME,)),
    Case(
        shows="node to a peer node",
        port="gateway",
        client=GATEWAY,
        target=vip(9),
        answers=(AWAY,),
        seen=GATEWAY,
    ),
    Case(shows="pod to a peer node", port="a1", client=POD_1, target=vip(9), answers=(AWAY,)),
    Case(
        shows="node to outside", port="gateway", client=GATEWAY, target=vip(10), answers=(ABROAD,), seen=BACK
    ),
    Case(shows="pod to outside", port="a1", client=POD_1, target=vip(10), answers=(ABROAD,)),
    Case(shows="internal Local", port="a2", client=POD_2, target=vip(5), answers=(HERE,)),
    Case(shows="sticky", port="a2", client=POD_2, target=vip(7), answers=(HERE, B1, B2)),
    Case(
        shows="node port from outside",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(HERE, B1),
        dport=30012,
        seen=GATEWAY,
    ),
    Case(
        shows="node port from outside to a peer",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(B1,),
        dport=30014,
        seen=GATEWAY,
    ),
    Case(
        shows="node port from the node",
        port="gateway",
        client=service_world.NODE_A,
        target=NODE_PORT,
        answers=(HERE, B1),
        dport=30012,
        seen=GATEWAY,
    ),
    Case(
        shows="node port from a pod",
        port="gateway",
        client=POD_2,
        target=NODE_PORT,
        answers=(HERE, B1),
        dport=30012,
    ),
    Case(
        shows="node port of a pod's own Service",
        port="gateway",
        client=POD_1,
        target=NODE_PORT,
        answers=(HERE,),
        dport=30023,
        seen=BACK,
    ),
    Case(
        shows="node port from a pod, of a Service for the node's own network",
        port="gateway",
        client=POD_1,
        target=NODE_PORT,
        answers=(HOME,),
        dport=30016,
        seen=BACK,
    ),
    Case(
        shows="Local node port from outside",
        port="gateway",
        client=OUTSIDE,
        target=LOCAL_NODE_PORT,
        answers=(HERE,),
        dport=30013,
    ),
    Case(
        shows="Local node port from the node",
        port="gateway",
        client=GATEWAY,
        target=LOCAL_NODE_PORT,
        answers=(HERE, B1),
        dport=30013,
        seen=GATEWAY,
    ),
    Case(
        shows="node port of a Service for the node's own network",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(HOME,),
        dport=30016,
        seen=BACK,
    ),
    Case(
        shows="the same over UDP",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(HOME,),
        dport=30017,
        seen=BACK,
        protocol=UDP,
    ),
    Case(
        shows="node port of a Service for outside",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(ABROAD,),
        dport=30018,
        seen=BACK,
        protocol=UDP,
    ),
    Case(shows="external address from a pod", port="a2", client=POD_2, target=EXTERNAL, answers=(HERE, B1)),
    Case(
        shows="external address from outside",
        port="gateway",
        client=OUTSIDE,
        target=EXTERNAL,
        answers=(HERE, B1),
        seen=GATEWAY,
    ),
    Case(
        shows="external address from the node",
        port="gateway",
        client=GATEWAY,
        target=EXTERNAL,
        answers=(HERE, B1),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer from an admitted source",
        port="gateway",
        client=OUTSIDE,
        target=LOAD_BALANCER,
        answers=(B1,),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer from the node",
        port="gateway",
        client=service_world.NODE_A,
        target=LOAD_BALANCER,
        answers=(B1,),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer from the node, by the gateway's address",
        port="gateway",
        client=GATEWAY,
        target=LOAD_BALANCER,
        answers=(B1,),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer that admits pods, not nodes",
        port="a2",
        client=POD_2,
        target=SHUT_LOAD_BALANCER,
        answers=(B1,),
    ),
    Case(shows="directly to an endpoint", port="a2", client=POD_2, target=POD_1, answers=(HERE,), dport=8080),
    Case(
        shows="directly to a remote endpoint",
        port="a2",
        client=POD_2,
        target=service_world.B1,
        answers=(B1,),
        dport=8080,
    ),
    Case(
        shows="node directly to an endpoint",
        port="gateway",
        client=GATEWAY,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="outside directly to an endpoint",
        port="gateway",
        client=OUTSIDE,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="a peer's pod directly to an endpoint",
        port="peer",
        client=PEER_POD,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="a peer node to an endpoint",
        port="peer",
        client=service_world.NODE_B,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="a peer node over UDP",
        port="peer",
        client=service_world.NODE_B,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
        protocol=UDP,
    ),
    Case(
        shows="pod to pod", port="a2", client=POD_2, target=POD_1, answers=(HERE,), dport=9, endpoint_port=9
    ),
)


def go(wire: Wire, port: str, packet: Packet) -> Arrived:
    """The one packet that comes of it."""
    to_mac = ROUTER.mac if port in ("gateway", "peer") else NODE.mac
    arrived = wire.send(port, packet, MACS[port], to_mac)
    assert len(arrived) == 1, (port, packet, arrived, wire.ask("dpctl/dump-conntrack"))
    (one,) = arrived
    if one.port != "peer":
        assert one.to_mac == MACS[one.port]
        assert one.from_mac != one.to_mac, "a receiver would not take it"
    return one


def opening(case: Case, family: int, sport: int) -> Packet:
    return Packet(
        src=case.client[family],
        dst=case.target[family],
        protocol=case.protocol,
        sport=sport,
        dport=case.dport,
        flags=SYN,
        seq=1000,
        body=b"" if case.protocol == TCP else b"question",
    )


def talk(wire: Wire, case: Case, family: int, sport: int) -> tuple[str, str]:
    """A whole conversation. Which endpoint answered, and behind which port."""
    first = opening(case, family, sport)
    there = go(wire, case.port, first)
    assert (there.port, there.packet.dst, there.packet.dport) in {
        (port, endpoint[family], case.endpoint_port) for port, endpoint in case.answers
    }
    assert there.packet.src == (case.seen or case.client)[family]
    if case.seen is None:
        assert there.packet.sport == sport
    elif case.seen == GATEWAY:
        # The kernel gives its own connections, direct ones to endpoints among them, none of these ports.
        assert there.packet.sport in range(1024, 32768)
    server = there.packet
    steps = ((SYN_ACK, ACK), (PUSH, PUSH), (PUSH, PUSH)) if case.protocol == TCP else ((0, 0), (0, 0))
    for answered, asked in steps:
        body = b"answer" if answered != SYN_ACK else b""
        back = go(wire, there.port, server.answer(answered, body))
        assert back.port == case.port
        assert back.packet.ends == (case.target[family], case.dport, case.client[family], sport)
        more = go(wire, case.port, back.packet.answer(asked, b"more" if asked != ACK else b""))
        assert more.port == there.port
        assert more.packet.ends == server.ends
        server = more.packet
    return there.port, there.packet.dst


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.shows))
def test_a_connection_goes_there_and_back(wire: Wire, case: Case, family: int) -> None:
    wire.forget()
    met = {talk(wire, case, family, 40000 + number) for number in range(24)}
    if case.target != vip(7):
        assert met == {(port, endpoint[family]) for port, endpoint in case.answers}
    else:
        assert len(met) == 1


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_node_calls_an_endpoint_directly_and_through_its_service_from_one_port(
    wire: Wire, family: int
) -> None:
    """As kubelet's probes and clients on the node do, which know nothing of each other."""
    wire.forget()
    cases = {case.shows: case for case in CASES}
    direct = cases["node directly to an endpoint"]
    service = Case(shows="", port="gateway", client=GATEWAY, target=vip(11), answers=(HERE,), seen=GATEWAY)
    for case in (direct, service, direct, service):
        talk(wire, case, family, 40000)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_session_affinity_tells_clients_apart_that_are_masqueraded(wire: Wire, family: int) -> None:
    """To the endpoints all of them have the node's address; each stays with one, and not all with the same."""
    wire.forget()
    met = []
    for number in range(1, 25):
        client = (f"198.51.100.{number}", f"2001:db8:100::{number:x}")
        case = Case(
            shows="",
            port="gateway",
            client=client,
            target=NODE_PORT,
            answers=(HERE, B1),
            dport=30020,
            seen=GATEWAY,
        )
        (one,) = {talk(wire, case, family, 40000 + again) for again in range(2)}
        met.append(one)
    assert len(set(met)) == 2


COLLIDING = {
    "directly, then a Service": (("a2", POD_2, POD_1, 8080), ("a2", POD_2, vip(11), 80)),
    "two Services": (("a2", POD_2, vip(11), 80), ("a2", POD_2, vip(5), 80)),
    "the node's own and a client outside": (
        ("gateway", GATEWAY, vip(14), 80),
        ("gateway", OUTSIDE, LOAD_BALANCER, 80),
    ),
    "the node's own and a client outside of one address": (
        ("gateway", GATEWAY, LOAD_BALANCER, 80),
        ("gateway", OUTSIDE, LOAD_BALANCER, 80),
    ),
    "two clients outside": (("gateway", OUTSIDE, EXTERNAL, 80), ("gateway", ELSEWHERE, EXTERNAL, 80)),
}
"""Not a direct connection that comes second: this datapath has no way to find it another port, see flows/38-service."""


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("shows", COLLIDING)
def test_connections_that_look_alike_to_an_endpoint_are_kept_apart(
    wire: Wire, shows: str, family: int
) -> None:
    """One client port, two ways to one endpoint: each answer comes from where its question went."""
    wire.forget()
    there = []
    for port, client, target, dport in COLLIDING[shows]:
        first = Packet(src=client[family], dst=target[family], sport=40000, dport=dport, flags=SYN)
        there.append((first, port, go(wire, port, first)))
    assert len({(each.port, *each.packet.ends) for _, _, each in there}) == 2
    for first, port, each in there:
        back = go(wire, each.port, each.packet.answer(SYN_ACK))
        assert back.port == port
        assert back.packet.ends == first.answer().ends


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("client", ["a2", "gateway"])
def test_a_client_stays_with_the_endpoint_that_the_switch_learned(
    wire: Wire, client: str, family: int
) -> None:
    """From twenty ports; and when conntrack has forgotten all of its connections."""
    source = POD_2 if client == "a2" else GATEWAY
    reached = set()
    for sport in range(41000, 41020):
        wire.forget()
        case = Case(shows="", port=client, client=source, target=vip(7), answers=())
        reached.add(go(wire, client, opening(case, family, sport)).packet.dst)
    assert len(reached) == 1
