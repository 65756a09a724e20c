"""Connections under ClusterNetworkPolicies that come and go, packet by packet with a real conntrack."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from flow_world import NODE
from policed_world import PODS, labelled, policy
from policies_wire import World
from service_cases import PEER_POD, POD_1, POD_2
from test_policies_on_the_wire import (
    CLIENT,
    FAMILIES,
    FROM_CLIENT,
    SERVER,
    establish,
    first,
    module_world,
    ovs,
    world,
)
from wire import ACK, PUSH, SYN_ACK, UDP

from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    PolicyPeer,
    PolicyPort,
    Selector,
    Subject,
    Tier,
)
from ovsnet.servicemodel import Protocol
from ovsnet.store.clusterpolicies import EVERYBODY

__all__ = ["module_world", "ovs", "world"]

ANYWHERE = Selector()
EVERY_POD = PolicyPeer(namespaces=ANYWHERE)
FROM = PolicyPeer(namespaces=ANYWHERE, pods=CLIENT)
PORT_80 = (PolicyPort(protocol=Protocol.TCP, first=80, last=80),)


def tier(
    name: str,
    pods: Selector,
    ingress: tuple[ClusterRule, ...] = (),
    egress: tuple[ClusterRule, ...] = (),
    baseline: bool = False,
) -> ClusterNetworkPolicy:
    return ClusterNetworkPolicy(
        name=name,
        tier=Tier.BASELINE if baseline else Tier.ADMIN,
        priority=5,
        subject=Subject(pods=pods),
        ingress=ingress,
        egress=egress,
    )


def that(action: Action, *peers: PolicyPeer, ports: tuple[PolicyPort, ...] | None = None) -> ClusterRule:
    return ClusterRule(action=action, peers=peers or (EVERY_POD,), ports=ports)


DENY = that(Action.DENY)
DENY_ALL = that(Action.DENY, *EVERYBODY)
FAR = labelled("far", map(ip_address, PEER_POD), app="b")
WITH_FAR = {**PODS, FAR.key: FAR}


@FAMILIES
def test_admin_denies_what_a_policy_allows_and_accepts_what_none_does(world: World, family: int) -> None:
    a1, a2, far = POD_1[family], POD_2[family], PEER_POD[family]
    server = policy("server", SERVER, ingress=[FROM_CLIENT])
    more: dict[str, Any] = {"pods": WITH_FAR, "older": False}
    world.apply(server, cluster=[tier("shut", SERVER, ingress=(DENY,))], **more)
    world.is_dropped("a2", first(a2, a1))
    world.is_dropped("peer", first(far, a1))
    accept = that(Action.ACCEPT, EVERY_POD, ports=PORT_80)
    world.apply(server, cluster=[tier("open", SERVER, ingress=(accept, DENY))], **more)
    got = world.passes("peer", first(far, a1))
    # Its answers pass whatever is denied the other way.
    both = tier("open", SERVER, ingress=(accept, DENY), egress=(DENY,))
    world.apply(server, cluster=[both], **more)
    world.passes("a1", got.answer(SYN_ACK))
    world.is_dropped("a1", first(a1, far, sport=40002))
    world.is_dropped("peer", first(far, a1, dport=81))
    world.is_dropped("peer", first(far, a1, protocol=UDP))


@FAMILIES
def test_both_tiers_in_turn(world: World, family: int) -> None:
    """Passed by Admin, then a NetworkPolicy's if any isolates the pod, else Baseline's."""
    a1, a2 = POD_1[family], POD_2[family]
    cluster = [
        tier("admin", SERVER, ingress=(that(Action.PASS, FROM, ports=PORT_80), DENY)),
        tier("base", SERVER, ingress=(DENY,), baseline=True),
    ]
    world.apply(cluster=cluster, older=False)
    world.is_dropped("a2", first(a2, a1))
    world.apply(policy("server", SERVER, ingress=[FROM_CLIENT]), cluster=cluster, older=False)
    world.passes("a2", first(a2, a1, sport=40001))
    world.is_dropped("a2", first(a2, a1, sport=40002, dport=81))
    world.apply(policy("server", SERVER, ingress=[]), cluster=cluster, older=False)
    world.is_dropped("a2", first(a2, a1, sport=40003))
    world.apply(cluster=cluster[:1], older=False)
    world.passes("a2", first(a2, a1, sport=40004))


@FAMILIES
def test_a_connection_that_was_allowed_goes_on(world: World, family: int) -> None:
    opened = tier("rules", SERVER, ingress=(that(Action.ACCEPT, FROM), DENY))
    world.apply(cluster=[opened], older=False)
    got = establish(world, family)
    world.apply(cluster=[tier("rules", SERVER, ingress=(DENY,), egress=(DENY,))], older=False)
    more = world.passes("a1", got.answer(PUSH, b"more"))
    world.passes("a2", more.answer(ACK))
    world.is_dropped("a2", first(POD_2[family], POD_1[family], sport=40001))


@FAMILIES
def test_older_connections_are_judged_both_ways_for_a_while(world: World, family: int) -> None:
    """A Deny of the server's own connections lets it answer those that clients may open; after that it does not."""
    got = establish(world, family)
    answer = got.answer(PUSH, b"more")
    world.apply(cluster=[tier("rules", SERVER, egress=(DENY,))])
    world.passes("a1", answer)
    world.end_of_doubt()
    world.is_dropped("a1", answer)
    # Where neither way is allowed nothing passes at all.
    world.apply()
    world.passes("a1", answer)
    world.apply(cluster=[tier("rules", SERVER, ingress=(DENY,), egress=(DENY,))])
    world.is_dropped("a1", answer)
    # And where an Accept of the one way stands before it, it does.
    world.apply()
    world.apply(cluster=[tier("rules", SERVER, ingress=(that(Action.ACCEPT, FROM), DENY), egress=(DENY,))])
    world.passes("a1", answer)


def test_a_drop_is_the_rule_s_that_comes_first(world: World) -> None:
    """Egress before ingress, tiers before isolation."""
    closed = policy("closed", Selector(), ingress=[], egress=[])
    out, within = tier("out", CLIENT, egress=(DENY,)), tier("in", SERVER, ingress=(DENY,))

    def dropped() -> set[int]:
        """Priorities of those in table verdict that did."""
        ovs = world.wire.bridge.ovs
        text = ovs.ofctl("dump-flows", ovs.mgmt(world.wire.bridge.name), "table=48")
        return set(map(int, re.findall(r"n_packets=[1-9].* priority=([45][05]),.* actions=drop", text)))

    for policies, cluster, priority in (
        ([closed], [out, within], 55),
        ([closed], [within], 50),
        ([], [within], 45),
        ([closed], [], 50),
    ):
        world.apply()
        world.apply(*policies, cluster=cluster, older=False)
        world.is_dropped("a2", first(POD_2[0], POD_1[0]))
        assert dropped() == {priority}


@FAMILIES
def test_pods_that_nothing_is_denied_are_known_to_nobody(world: World, family: int) -> None:
    world.apply(
        cluster=[
            tier("open", Selector(), ingress=(that(Action.ACCEPT),), egress=(that(Action.PASS),)),
            tier("shut", SERVER, ingress=(DENY,)),
        ],
        older=False,
    )
    world.passes("a2", first(POD_2[family], PEER_POD[family]))
    assert world.known == []


@FAMILIES
def test_a_pod_of_this_node_is_reached_by_itself_and_its_node(world: World, family: int) -> None:
    """By the node whatever Admin denies: its gateway's address is no pod's."""
    world.apply(cluster=[tier("shut", Selector(), ingress=(DENY_ALL,), egress=(DENY_ALL,))], older=False)
    gateway = str(NODE.gateways[family])
    world.passes("a1", first(POD_1[family], gateway))
    world.passes("gateway", first(gateway, POD_1[family], sport=40001))
    world.is_dropped("a1", first(POD_1[family], POD_2[family]))
