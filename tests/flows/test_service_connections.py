"""Connections to Services, packet by packet with a real conntrack: there and back, as both ends see them."""

from __future__ import annotations

import pytest
from service_cases import (
    B1,
    CASES,
    ELSEWHERE,
    GATEWAY,
    HERE,
    NODE_PORT,
    OUTSIDE,
    POD_1,
    POD_2,
    Case,
    go,
    opening,
)
from service_world import EXTERNAL, LOAD_BALANCER, vip
from wire import ACK, PUSH, SYN, SYN_ACK, TCP, Packet, Wire


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
