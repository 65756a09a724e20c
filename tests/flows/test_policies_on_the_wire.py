"""Connections under policies that come and go, packet by packet with a real conntrack."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from unittest.mock import create_autospec

import pytest
from msgspec.structs import replace
from ovs_sandbox import Sandbox, installed
from policed_world import PODS, policy, rule, selector
from policies_wire import World
from service_cases import GATEWAY, NODE_PORT, OUTSIDE, PEER_POD, POD_1, POD_2
from service_world import B1, vip
from wire import ACK, ICMP, ICMP6, PUSH, RESET, SCTP, SYN, SYN_ACK, TCP, UDP, Packet, about

from ovsnet import policycuts
from ovsnet.agent.departed import Departed
from ovsnet.agent.installer import Installer
from ovsnet.conntrack import known
from ovsnet.policymodel import Block, NetworkPolicy, PolicyPeer
from ovsnet.state import Topology
from ovsnet.switch import conntrack
from ovsnet.switch.openflow import OpenFlow

NODE_1 = Topology(
    name="node-1",
    addresses=(),
    internal=(),
    cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00:1::/64")),
    gateways=(),
    mac="",
    mtu=1450,
    encaps=(),
    tunnel_ports=(),
    peers=(),
)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
FIN = 0x11
SERVER, CLIENT, REMOTE = selector(app="a1"), selector(app="a2"), selector(app="b")
FROM_CLIENT = rule(PolicyPeer(pods=CLIENT), ports=[80])
TO_SERVER = rule(PolicyPeer(pods=SERVER), ports=[80])


@pytest.fixture(scope="module")
def ovs() -> Iterator[Sandbox]:
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def module_world(ovs: Sandbox) -> World:
    return World(ovs)


@pytest.fixture
def world(module_world: World) -> World:
    module_world.apply()
    module_world.end_of_doubt()
    module_world.wire.forget()
    return module_world


def first(src: str, dst: str, *, sport: int = 40000, dport: int = 80, protocol: int = TCP) -> Packet:
    body = b"" if protocol == TCP else b"question"
    return Packet(
        src=src, dst=dst, protocol=protocol, sport=sport, dport=dport, flags=SYN, seq=1000, body=body
    )


def establish(world: World, family: int) -> Packet:
    """A connection of a2 to a1; what the server got last."""
    got = world.passes("a2", first(POD_2[family], POD_1[family]))
    back = world.passes("a1", got.answer(SYN_ACK))
    return world.passes("a2", back.answer(ACK))


@FAMILIES
def test_pods_that_no_policy_concerns_are_known_to_nobody(world: World, family: int) -> None:
    world.apply(policy("a1", SERVER, ingress=[]))
    world.passes("a2", first(POD_2[family], PEER_POD[family]))
    world.passes("peer", first(PEER_POD[family], POD_2[family]))
    assert world.known == []


@FAMILIES
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_what_is_allowed_is_answered_and_nothing_else_passes(
    world: World, family: int, protocol: int
) -> None:
    world.apply(
        policy(
            "server",
            SERVER,
            ingress=[FROM_CLIENT if protocol == TCP else rule(PolicyPeer(pods=CLIENT))],
            egress=[],
        ),
        policy("client", CLIENT, ingress=[], egress=[rule(PolicyPeer(pods=SERVER))]),
    )
    got = world.passes("a2", first(POD_2[family], POD_1[family], protocol=protocol))
    world.passes("a1", got.answer(SYN_ACK, b"" if protocol == TCP else b"answer"))
    assert len(world.known) == 1
    assert "mark=1" not in world.known[0]
    world.is_dropped("a1", first(POD_1[family], POD_2[family], sport=81, protocol=protocol))
    world.is_dropped("peer", first(PEER_POD[family], POD_1[family], protocol=protocol))
    if protocol == TCP:
        world.is_dropped("a2", first(POD_2[family], POD_1[family], dport=81))


@FAMILIES
def test_a_connection_outlives_the_policies_that_allowed_it(world: World, family: int) -> None:
    world.apply(policy("server", SERVER, ingress=[FROM_CLIENT]))
    got = establish(world, family)
    world.apply(policy("server", SERVER, ingress=[], egress=[]))
    back = world.passes("a1", got.answer(PUSH, b"answer"))
    world.passes("a2", back.answer(PUSH, b"more"))
    world.is_dropped("a2", first(POD_2[family], POD_1[family], sport=40001))


@FAMILIES
@pytest.mark.parametrize("flags", [PUSH, FIN, RESET | ACK], ids=["data", "end", "reset"])
def test_a_server_goes_on_in_a_connection_that_is_older_than_its_policies(
    world: World, family: int, flags: int
) -> None:
    """Both ends become isolated, and the client has nothing to say at that moment: a download."""
    got = establish(world, family)
    world.apply(
        policy("server", SERVER, ingress=[FROM_CLIENT], egress=[]),
        policy("client", CLIENT, ingress=[], egress=[TO_SERVER]),
    )
    back = world.passes("a1", got.answer(flags, b"answer" if flags == PUSH else b""))
    assert world.known == [], "nobody has allowed a connection of the server's"
    if flags == PUSH:
        world.passes("a2", back.answer(ACK))
        assert len(world.known) == 1
        assert "mark=1" in world.known[0], "nobody has seen it begin"
        world.passes("a1", got.answer(PUSH, b"more"))


@FAMILIES
def test_an_answer_to_a_first_packet_that_was_before_the_policies(world: World, family: int) -> None:
    got = world.passes("a2", first(POD_2[family], POD_1[family]))
    world.apply(
        policy("server", SERVER, ingress=[FROM_CLIENT], egress=[]),
        policy("client", CLIENT, ingress=[], egress=[TO_SERVER]),
    )
    back = world.passes("a1", got.answer(SYN_ACK))
    world.passes("a2", back.answer(ACK))


@FAMILIES
def test_what_passes_as_an_answer_opens_nothing(world: World, family: int) -> None:
    """Packets of no connection, from a port that answers could come from, are no way to begin one."""
    world.apply(
        policy("server", SERVER, ingress=[FROM_CLIENT], egress=[]),
        policy("client", CLIENT, ingress=[], egress=[TO_SERVER]),
    )
    lone = first(POD_1[family], POD_2[family], sport=80, dport=7)
    world.send("a1", Packet(src=lone.src, dst=lone.dst, sport=80, dport=7, flags=ACK, seq=1, ack=1))
    world.is_dropped("a1", lone)
    assert world.known == []


@FAMILIES
def test_a_connection_that_policies_never_allowed_goes_on_for_a_while_if_it_could_be_the_other_ends(
    world: World, family: int
) -> None:
    """Conntrack does not know who began it. Where neither could have, it ends."""
    got = establish(world, family)
    more = got.answer(ACK).answer(PUSH, b"more")
    world.apply(policy("server", SERVER, ingress=[]))
    world.passes("a2", more)
    world.is_dropped("a2", first(POD_2[family], POD_1[family], sport=40001))
    world.end_of_doubt()
    world.is_dropped("a2", more)
    world.apply()
    world.passes("a2", more)
    world.apply(policy("server", SERVER, ingress=[], egress=[]))
    world.is_dropped("a2", more)


@FAMILIES
@pytest.mark.parametrize(
    ("rules", "port"),
    [(policy("server", SERVER, ingress=[]), "a2"), (policy("server", SERVER, egress=[]), "a1")],
    ids=["ingress", "egress"],
)
def test_packets_of_no_connection_are_no_way_around_policies(
    world: World, family: int, rules: NetworkPolicy, port: str
) -> None:
    """To and from a pod that was isolated from its first packet on."""
    world.apply(rules, older=False)
    src, dst = (POD_2[family], POD_1[family]) if port == "a2" else (POD_1[family], POD_2[family])
    for flags in (ACK, PUSH, FIN, RESET, RESET | ACK, SYN_ACK):
        world.is_dropped(port, Packet(src=src, dst=dst, sport=7, dport=8, flags=flags, seq=1, ack=1))


@FAMILIES
@pytest.mark.parametrize("target", [B1, None], ids=["endpoint", "Service's address"])
def test_a_client_of_a_service_is_judged_by_the_endpoint(
    world: World, family: int, target: tuple[str, str] | None
) -> None:
    """A rule about the Service's own address means nothing."""
    block = Block(cidr=ip_network((target or vip(14))[family]))
    world.apply(policy("client", CLIENT, ingress=[], egress=[rule(PolicyPeer(block=block), ports=[8080])]))
    question = first(POD_2[family], vip(14)[family])
    if target is None:
        world.is_dropped("a2", question)
        return
    got = world.passes("a2", question)
    assert (got.dst, got.dport) == (B1[family], 8080)
    for flags, body in ((SYN_ACK, b""), (PUSH, b"answer"), (PUSH, b"answer")):
        back = world.passes("peer", got.answer(flags, body))
        assert back.ends == (vip(14)[family], 80, POD_2[family], 40000)
        got = world.passes("a2", back.answer(ACK))


@FAMILIES
def test_an_endpoint_is_judged_by_the_client(world: World, family: int) -> None:
    """a1 is an endpoint of Service itself (vip 11), and client of it as well."""
    world.apply(policy("server", SERVER, ingress=[rule(PolicyPeer(pods=CLIENT), ports=[8080])], egress=[]))
    got = world.passes("a2", first(POD_2[family], vip(11)[family]))
    back = world.passes("a1", got.answer(SYN_ACK))
    assert back.ends == (vip(11)[family], 80, POD_2[family], 40000)
    world.apply(policy("server", SERVER, ingress=[], egress=[]))
    world.is_dropped("a2", first(POD_2[family], vip(11)[family], sport=40001))
    itself = world.passes("a1", first(POD_1[family], vip(11)[family], sport=40002))
    assert world.passes("a1", itself.answer(SYN_ACK)).src == vip(11)[family]


@FAMILIES
def test_the_node_reaches_its_pods_and_clients_outside_do_not(world: World, family: int) -> None:
    """Through a node port too, where both come from the node's gateway address."""
    world.apply(policy("all", selector(), ingress=[], egress=[]))
    for client in (GATEWAY, ("192.0.2.11", "2001:db8::11")):
        got = world.passes("gateway", first(client[family], POD_1[family]))
        world.passes("a1", got.answer(SYN_ACK))
    got = world.passes("gateway", first(GATEWAY[family], vip(11)[family], sport=40003))
    world.passes("a1", got.answer(SYN_ACK))
    world.is_dropped("gateway", first(OUTSIDE[family], POD_1[family]))
    outside = first(OUTSIDE[family], NODE_PORT[family], dport=30012)
    seen = [
        arrived.port
        for sport in range(41000, 41016)
        for arrived in world.send("gateway", replace(outside, sport=sport))
    ]
    assert set(seen) == {"peer"}, "of both endpoints a1 is isolated"
    world.passes("a1", first(POD_1[family], GATEWAY[family], dport=10250))


@FAMILIES
def test_errors_about_what_is_allowed_arrive(world: World, family: int) -> None:
    world.apply(policy("client", CLIENT, ingress=[], egress=[rule(PolicyPeer(pods=REMOTE))]))
    got = world.passes("a2", first(POD_2[family], B1[family], dport=9, protocol=UDP))
    world.passes("peer", about(got, B1[family]))
    never = first(POD_2[family], PEER_POD[family], dport=9, protocol=UDP)
    world.is_dropped("a2", never)
    world.is_dropped("peer", about(never, PEER_POD[family]))


@FAMILIES
def test_a_pods_label_opens_and_closes(world: World, family: int) -> None:
    rules = policy("server", SERVER, ingress=[FROM_CLIENT])
    world.apply(rules)
    world.passes("a2", first(POD_2[family], POD_1[family]))
    other = {**PODS, "default/a2": replace(PODS["default/a2"], labels={"app": "other"})}
    bundle = world.apply(rules, pods=other)
    assert len(bundle) == 2, "a flow for each address of the pod, and nothing else"
    world.is_dropped("a2", first(POD_2[family], POD_1[family], sport=40001))
    world.apply(rules)
    world.passes("a2", first(POD_2[family], POD_1[family], sport=40002))


@FAMILIES
def test_a_node_port_is_no_way_around_policies(world: World, family: int) -> None:
    """What a pod sends to a port of its node comes back from the node's kernel, as the pod's."""
    question = first(POD_2[family], NODE_PORT[family], dport=30023)
    got = world.passes("gateway", question)
    assert (got.src, got.dst) == (POD_2[family], POD_1[family])
    world.apply(policy("client", CLIENT, egress=[]))
    world.is_dropped("gateway", replace(question, sport=40001))
    world.apply(policy("server", SERVER, ingress=[rule(PolicyPeer(pods=REMOTE))]))
    world.is_dropped("gateway", replace(question, sport=40002))
    world.apply(policy("server", SERVER, ingress=[rule(PolicyPeer(pods=CLIENT))]))
    world.passes("gateway", replace(question, sport=40003))


@FAMILIES
def test_what_a_pod_that_is_gone_was_allowed_is_forgotten(
    world: World, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another pod's soon. Both as who began and as who was called, of all protocols; of others nothing."""
    world.apply(policy("all", selector(), ingress=[rule(PolicyPeer(pods=selector()))]))
    ways = [(POD_2, POD_1, "a2"), (POD_1, POD_2, "a1"), (B1, POD_2, "peer")]
    for src, dst, port in ways:
        for protocol in (TCP, UDP, SCTP):
            world.passes(port, first(src[family], dst[family], protocol=protocol))
    kind, number = (ICMP6, 128) if family else (ICMP, 8)
    echo = struct.pack("!BBHHH", number, 0, 0, 77, 1)
    world.passes("a2", Packet(src=POD_2[family], dst=POD_1[family], protocol=kind, body=echo))
    # Of SCTP user space knows no ports, so that both ways are one.
    assert len(world.known) == 9
    ovs, name = world.wire.bridge.ovs, world.wire.bridge.name
    openflow = OpenFlow(f"{ovs.folder}/{name}.mgmt")
    gone = ip_address(POD_1[family])
    there = [ip_address(POD_2[family])]

    async def ask(_remote: str, *arguments: str) -> str:
        return world.wire.ask(*arguments)

    monkeypatch.setattr(conntrack, "appctl", ask)
    installed: list[str] = []
    installer = create_autospec(Installer, instance=True)
    installer.once.side_effect = installed.extend
    departed = Departed(openflow, installer, world.policed.renderer, "", lambda: there)
    departed.tell(NODE_1, "dummy")
    asyncio.run(departed.look())
    # User space forgets no pings when it is asked to: they are dropped until it does, in both directions.
    assert len(installed) == 4
    assert all("icmp" in line and str(gone) in line and "timeout" in line for line in installed)
    left = [line for line in world.known if not line.startswith("icmp")]
    assert len(left) == 3
    assert all(B1[family] in line for line in left)


@FAMILIES
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_what_has_been_cut_passes_neither_way_and_nothing_else_is_dropped(
    world: World, family: int, protocol: int
) -> None:
    world.apply(policy("server", SERVER, ingress=[rule(PolicyPeer(pods=CLIENT))]))
    got = world.passes("a2", first(POD_2[family], POD_1[family], protocol=protocol))
    (entry,) = filter(None, map(known, world.known))
    body = b"" if protocol == TCP else b"answer"
    world.passes("a1", got.answer(SYN_ACK, body))
    lines = [*world.policed.renderer.lines(policycuts.cut(entry))]
    assert all("_timeout=" in line for line in lines)
    ovs = world.wire.bridge.ovs
    ovs.ofctl("bundle", ovs.mgmt("br-wire"), "-", stdin="".join(f"flow add {line}\n" for line in lines))
    world.wire.renew()
    world.is_dropped("a1", got.answer(SYN_ACK, body))
    world.is_dropped("a2", first(POD_2[family], POD_1[family], protocol=protocol))
    world.passes("a2", first(POD_2[family], POD_1[family], protocol=protocol, sport=40001))
    cookie = lines[0].partition(",")[0]
    ovs.ofctl("bundle", ovs.mgmt("br-wire"), "-", stdin=f"flow delete {cookie}/-1\n")
    world.wire.renew()
    world.passes("a1", got.answer(SYN_ACK, body))


MANY = 4500
"""More lists of rules than a flow takes, of whatever size."""


def allowed_much() -> list[NetworkPolicy]:
    """One pod has so many rules, one address is in so many, and one port; the last of each allows something else."""
    by_port = [rule(PolicyPeer(pods=CLIENT), ports=[1000 + each]) for each in range(MANY)]
    blocks = (ip_network(f"10.{9 + each // 250}.{each % 250}.0/24") for each in range(MANY))
    by_block = [rule(PolicyPeer(block=Block(cidr=each)), ports=[80]) for each in blocks]
    peer = [Block(cidr=ip_network(f"{each}/32")) for each in PEER_POD[:1]]
    by_block += [rule(PolicyPeer(block=each), ports=[80]) for each in peer]
    return [policy("server", SERVER, ingress=by_port), policy("more", SERVER, ingress=by_block)]


def test_more_rules_for_a_pod_an_address_and_a_port_than_one_flow_takes(world: World) -> None:
    """All count, and other policies come and go as ever."""
    policies = allowed_much()
    world.apply(*policies)
    source, target = POD_2[0], POD_1[0]
    for number in (1000, 1000 + MANY // 2, 1000 + MANY - 1):
        world.passes("a2", first(source, target, dport=number))
    world.is_dropped("a2", first(source, target, dport=999))
    world.is_dropped("a2", first(source, target, dport=1000 + MANY))
    world.is_dropped("a2", first(source, target, dport=80))
    world.passes("peer", first(PEER_POD[0], target, dport=80))
    world.is_dropped("peer", first(PEER_POD[0], target, dport=1000))
    world.is_dropped("peer", first("10.244.2.10", target, dport=80))
    lines = [line for each in world.policed.installed.values() for line in each]
    assert max(line.count("conjunction(") for line in lines) == 2000
    ovs = world.wire.bridge.ovs
    switch = OpenFlow(ovs.mgmt("br-wire").removeprefix("unix:"))
    differ = asyncio.run(switch.differences(lines))
    assert [line for line in differ if "table=47" in line] == []
    left = [replace(policies[0], ingress=policies[0].ingress[1:]), policies[1]] if policies[0].ingress else []
    world.apply(*left)
    world.is_dropped("a2", first(source, target, dport=1000))
    world.passes("a2", first(source, target, dport=1001, sport=40002))
