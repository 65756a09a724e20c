"""Ports by name in egress rules: what they mean while pods come and go, and what a pod that does costs."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet import policygroups
from ovsnet.policies import Policies
from ovsnet.policygroups import Group, Groups
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    LabelledPod,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Operator,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
    Subject,
    Tier,
)
from ovsnet.policyrules import Rules

TEAM = Selector(requirements=(Requirement(key="team", operator=Operator.IN, values=frozenset({"a"})),))
TO_DB = PolicyRule(peers=(PolicyPeer(pods=TEAM),), ports=(PolicyPort(name="db"),))
TO_TEAM = PolicyRule(peers=(PolicyPeer(namespaces=TEAM),), ports=(PolicyPort(name="db"),))
TO_ALL = PolicyRule(ports=(PolicyPort(name="db"), PolicyPort(name="web")))
SHOP = {"shop": Namespace(name="shop")}


def pod(name: str, number: int, *ports: NamedPort, namespace: str = "shop", team: str = "a") -> LabelledPod:
    ips = (ipaddress.ip_address(f"10.244.1.{number}"),)
    return LabelledPod(namespace=namespace, name=name, labels={"team": team}, ips=ips, ports=ports)


def db(port: int, *, several: bool = False) -> NamedPort:
    return NamedPort(name="db", port=port, several=several)


def policy(name: str, *rules: PolicyRule, namespace: str = "shop") -> NetworkPolicy:
    return NetworkPolicy(namespace=namespace, name=name, pods=Selector(), egress=rules)


def by_key(*pods: LabelledPod) -> dict[str, LabelledPod]:
    return {each.key: each for each in pods}


def sizes(thing: object) -> dict[str, int]:
    return {name: len(value) for name, value in vars(thing).items() if hasattr(value, "__len__")}


# --- what it costs -------------------------------------------------------------------------------


def test_a_pod_with_such_a_port_costs_no_look_at_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: set[str] = set()
    means = policygroups._means

    def look(group: Group, one: LabelledPod) -> bool:
        looked.add(one.key)
        return means(group, one)

    monkeypatch.setattr(policygroups, "_means", look)
    policies, asking = Policies(), {each.key: each for each in (policy("p", TO_DB), policy("q", TO_ALL))}
    pods = by_key(*(pod(f"p{each}", each, db(5432 + each % 2)) for each in range(2, 100)))
    local = {"shop/p2": pods["shop/p2"].ips}
    policies.update(asking, SHOP, pods, local, {})
    assert looked == set(pods)

    def follow(*changed: LabelledPod, gone: str = "") -> set[str]:
        nonlocal pods
        pods = {key: each for key, each in (pods | by_key(*changed)).items() if key != gone}
        looked.clear()
        policies.update(asking, SHOP, pods, local, {})
        return looked

    new = pod("new", 200, db(5432))
    assert follow(msgspec.structs.replace(new, ips=())) == {new.key}
    assert follow(new) == {new.key}
    assert follow(msgspec.structs.replace(new, labels={})) == {new.key}
    assert follow(pod("new", 200, db(5433))) == {new.key}
    assert follow(gone=new.key) == set()
    asking = {}
    follow()
    assert follow(new) == set(), "nobody asks any more"


def test_pods_whose_rules_ask_are_judged_anew_and_what_nobody_asks_is_forgotten() -> None:
    groups = Groups()
    rules = Rules(groups)
    one, other = pod("one", 2, db(5432)), pod("other", 3, db(5432))
    groups.update(SHOP, by_key(one, other), {}, {})
    before = sizes(groups), sizes(rules)

    def judge(key: str, *those: PolicyRule) -> list[str]:
        with rules.judging(key):
            return [
                each.text for rule in those for each in rules.allowances("shop", Direction.EGRESS, rule, None)
            ]

    assert judge("shop/x", TO_DB) == judge("shop/y", TO_DB, TO_ALL)[:1]
    judge("shop/z", PolicyRule())
    with_both = sizes(groups)

    def follow(*pods: LabelledPod) -> set[str]:
        groups.update(SHOP, by_key(*pods), {}, {})
        return rules.renumbered()

    assert follow(one) == set(), "there is another with that number"
    assert follow(one, pod("other", 3, db(5433), team="b")) == {"shop/y"}
    assert follow(one, pod("other", 3, db(5433))) == {"shop/x", "shop/y"}
    assert follow(one, pod("other", 4, db(5433))) == set()
    assert follow(one, pod("other", 4, db(5433, several=True))) == {"shop/x", "shop/y"}
    assert follow(one, pod("other", 4)) == {"shop/x", "shop/y"}
    assert follow(one, other) == set()
    # Whoever only looks keeps nothing.
    assert [*rules.allowances("shop", Direction.EGRESS, TO_TEAM, None)] == []
    assert sizes(groups) == with_both
    judge("shop/y", TO_DB)
    judge("shop/x")
    assert follow(one, pod("other", 4, db(5433))) == {"shop/y"}
    judge("shop/y")
    assert follow(one, other) == set()
    assert (sizes(groups), sizes(rules)) == before


# --- what it means -------------------------------------------------------------------------------

PORTS = st.sampled_from([(), (db(1),), (db(2),), (db(1, several=True), db(2, several=True)), (db(1), db(1))])
PODS = st.lists(
    st.builds(
        lambda name, number, ports, namespace, team: pod(
            name, number, *ports, namespace=namespace, team=team
        ),
        st.sampled_from(["x", "y", "z"]),
        st.integers(2, 5),
        PORTS,
        st.sampled_from(["shop", "bank"]),
        st.sampled_from(["a", "b"]),
    ),
    max_size=6,
).map(lambda pods: by_key(*pods))
NAMESPACES = st.fixed_dictionaries(
    {
        name: st.sampled_from([Namespace(name=name), Namespace(name=name, labels={"team": "a"})])
        for name in ("shop", "bank")
    }
)
POLICIES = st.lists(
    st.builds(policy, st.sampled_from("pq"), st.sampled_from([TO_DB, TO_TEAM, TO_ALL, PolicyRule()])),
    max_size=2,
).map(lambda policies: {each.key: each for each in policies})
LOCKDOWN = ClusterNetworkPolicy(
    name="lockdown",
    tier=Tier.ADMIN,
    priority=1,
    subject=Subject(pods=TEAM),
    egress=(
        ClusterRule(action=Action.DENY, peers=(PolicyPeer(namespaces=TEAM),), ports=(PolicyPort(name="db"),)),
    ),
)
CLUSTER: st.SearchStrategy[dict[str, ClusterNetworkPolicy]] = st.sampled_from([{}, {"lockdown": LOCKDOWN}])


@given(st.lists(st.tuples(POLICIES, NAMESPACES, PODS, CLUSTER), min_size=2, max_size=8))
def test_names_mean_the_same_whatever_pods_there_were(
    history: list[
        tuple[
            dict[str, NetworkPolicy],
            dict[str, Namespace],
            dict[str, LabelledPod],
            Mapping[str, ClusterNetworkPolicy],
        ]
    ],
) -> None:
    by_way = Policies()
    for policies, namespaces, pods, cluster in history:
        local = {key: each.ips for key, each in pods.items() if each.name == "x"}
        afresh = Policies()
        for each in (by_way, afresh):
            each.update(policies, namespaces, pods, local, {}, cluster)
        assert by_way.objects == afresh.objects
