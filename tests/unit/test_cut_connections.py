"""What conntrack says of connections that policies allowed, and which of them they deny by now."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

import pytest
from cluster_policy_parts import cluster_policy, cluster_specs
from clusters import asked, clusters
from hypothesis import given
from hypothesis import strategies as st
from oracle import verdict
from policy_world import Cluster
from test_policy_judge import world

from ovsnet import policies as deriving
from ovsnet.conntrack import Known, known
from ovsnet.model import IPAddress
from ovsnet.policies import Policies
from ovsnet.policycuts import CutJudge, denies_more
from ovsnet.policymodel import (
    Block,
    Direction,
    LabelledPod,
    NetworkPolicy,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Selector,
)
from ovsnet.servicemodel import Protocol

WEB, DB, OTHER, NODE, OWN = map(
    ipaddress.ip_address, ("10.244.1.2", "10.244.1.3", "10.244.2.9", "10.244.1.1", "198.51.100.1")
)
TCP, UDP = Protocol.TCP, Protocol.UDP


def line(protocol: str, ends: str, more: str = "") -> str:
    return f"{protocol},orig=({ends}),reply=(src=1.2.3.4,dst=1.2.3.4,sport=1,dport=2),zone=65502{more}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            line("tcp", "src=10.244.2.9,dst=10.244.1.2,sport=4000,dport=80", ",mark=1,protoinfo=(state=X)"),
            Known(source=OTHER, target=WEB, protocol=TCP, source_port=4000, port=80, unseen=True),
        ),
        (
            line("udp", "src=10.244.2.9,dst=10.244.1.2,sport=4000,dport=53", ",mark=0xfe"),
            Known(source=OTHER, target=WEB, protocol=UDP, source_port=4000, port=53),
        ),
        (
            line("tcp", "src=fd00::1,dst=fd00::2,sport=1,dport=2"),
            Known(
                source=ipaddress.ip_address("fd00::1"), target=ipaddress.ip_address("fd00::2"),
                protocol=TCP, source_port=1, port=2,
            ),
        ),
        (line("icmp", "src=10.244.2.9,dst=10.244.1.2,id=7,type=8,code=0"), Known(source=OTHER, target=WEB)),
        (line("sctp", "src=10.244.2.9,dst=10.244.1.2"), None),
        (line("sctp", "src=10.244.2.9,dst=10.244.1.2,sport=0,dport=0"), None),
        ("igmp,orig=(src=10.244.2.9,dst=10.244.1.2)", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_a_line_says(text: str, found: Known | None) -> None:
    assert known(text) == found


def judge(
    ingress: Iterable[PolicyRule] | None = None, egress: Iterable[PolicyRule] | None = None
) -> CutJudge:
    """Of the pod web; db is free."""
    policies = Policies()
    local = {"default/web": (WEB,), "default/db": (DB,)}
    policy = NetworkPolicy(
        namespace="default",
        name="p",
        pods=Selector(),
        ingress=None if ingress is None else tuple(ingress),
        egress=None if egress is None else tuple(egress),
    )
    free = LabelledPod(namespace="free", name="db", ips=(DB,))
    policies.update({policy.key: policy}, {}, {free.key: free}, {"default/web": local["default/web"]}, {})
    return CutJudge(policies, {WEB: "default/web", DB: "free/db"}, (NODE,), (NODE, OWN))


def rule(*blocks: str, port: int = 0) -> PolicyRule:
    return PolicyRule(
        peers=tuple(PolicyPeer(block=Block(cidr=ipaddress.ip_network(each))) for each in blocks) or None,
        ports=(PolicyPort(protocol=TCP, first=port, last=port),) if port else None,
    )


def tcp(source: IPAddress, target: IPAddress, *, unseen: bool = False) -> Known:
    return Known(source=source, target=target, protocol=TCP, source_port=4000, port=80, unseen=unseen)


INGRESS, EGRESS = ("default/web", Direction.INGRESS), ("default/web", Direction.EGRESS)


def test_addresses_and_ports_count() -> None:
    some = judge(ingress=[rule("10.244.2.0/24", port=80), rule("10.244.1.3/32", port=81)])
    assert some.denied(tcp(OTHER, WEB)) is None
    assert some.denied(tcp(DB, WEB)) == INGRESS
    assert some.denied(Known(source=OTHER, target=WEB)) == INGRESS, "a ping has no port"
    udp = Known(source=OTHER, target=WEB, protocol=UDP, source_port=4000, port=80)
    assert some.denied(udp) == INGRESS
    assert some.denied(tcp(WEB, OTHER)) is None, "what it began itself"


def test_both_ends_count() -> None:
    assert judge(egress=[]).denied(tcp(WEB, OTHER)) == EGRESS
    assert judge(egress=[]).denied(tcp(OTHER, WEB)) is None
    assert judge(egress=[rule("10.0.0.0/8")]).denied(tcp(WEB, DB)) is None
    everything = judge(ingress=[PolicyRule()])
    assert everything.denied(tcp(OTHER, WEB)) is None


def test_the_node_and_the_pod_itself_are_always_allowed() -> None:
    closed = judge(ingress=[], egress=[])
    assert closed.denied(tcp(NODE, WEB)) is None
    assert closed.denied(tcp(WEB, NODE)) is None
    assert closed.denied(tcp(WEB, WEB)) is None
    assert closed.denied(tcp(OWN, WEB)) is None, "an address of the node's that the store does not know"
    assert closed.denied(tcp(WEB, OWN)) == EGRESS


def test_one_that_nobody_saw_begin_may_have_begun_at_the_other_end() -> None:
    assert judge(ingress=[]).denied(tcp(OTHER, WEB, unseen=True)) is None
    assert judge(ingress=[], egress=[]).denied(tcp(OTHER, WEB, unseen=True)) == INGRESS


def test_only_what_is_taken_away_denies_more() -> None:
    one, two = (f"cookie=0x1,table=47,priority=100,ip,nw_src={each}" for each in ("1.1.1.1", "2.2.2.2"))
    few, more = f"{one} actions=conjunction(1,2/2)", f"{one} actions=conjunction(1,2/2),conjunction(3,2/3)"
    drop = f"{two} actions=drop"
    assert not denies_more([], [few])
    assert not denies_more([few], [more])
    assert denies_more([more], [few])
    assert denies_more([few], [])
    assert denies_more([few], [few, drop])
    assert not denies_more([few, drop], [few])
    assert denies_more([few, drop], [few, drop.replace("table=47", "table=46")])


# --- all policies together ---


@st.composite
def with_tiers(draw: st.DrawFn) -> Cluster:
    """Of most policies all pods are the subject, so that rules meet."""
    cluster = draw(clusters())
    made = []
    for number in range(draw(st.integers(1, 4))):
        spec = draw(cluster_specs())
        if draw(st.booleans()):
            spec["subject"] = {"namespaces": {}}
        made.append(cluster_policy(f"c{number}", spec))
    return replace(cluster, cluster_policies=tuple(made))


@given(cluster=with_tiers())
def test_what_it_denies_is_what_the_oracle_denies_this_nodes_pods(cluster: Cluster) -> None:
    seen = world(cluster)
    derived = Policies()
    nodes = deriving.node_addresses(seen.nodes)
    derived.update(seen.policies, seen.namespaces, seen.pods, seen.local, nodes, seen.cluster_policies)
    pods = {ip: key for key, ips in seen.local.items() for ip in ips}
    own = (*nodes[seen.node].gateways, *nodes[seen.node].addresses)
    cutting = CutJudge(derived, pods, own, own)
    for connection in asked(cluster, (79, 80, 8080)):
        source, target = (
            ipaddress.ip_address(each.address) for each in (connection.source, connection.destination)
        )
        denied_by = verdict(cluster, connection).denied_by
        expected = [
            (pods[ip], direction)
            for ip, direction in ((source, Direction.EGRESS), (target, Direction.INGRESS))
            if ip in pods and direction.value.lower() in denied_by
        ]
        found = cutting.denied(
            Known(
                source=source,
                target=target,
                protocol=Protocol(connection.protocol) if connection.protocol else None,
                source_port=4000 if connection.protocol else 0,
                port=connection.port,
            )
        )
        assert found == (expected[0] if expected else None), str(connection)
