"""Whom groups mean while pods and namespaces come and go, and what is kept of those that are gone."""

from __future__ import annotations

import ipaddress

import msgspec

from ovsnet.policies import Policies
from ovsnet.policygroups import Group, Groups
from ovsnet.policymodel import (
    Direction,
    LabelledPod,
    Namespace,
    NetworkPolicy,
    Operator,
    PolicyPeer,
    PolicyRule,
    Requirement,
    Selector,
)
from ovsnet.servicemodel import Protocol

APP = Selector(requirements=(Requirement(key="app", operator=Operator.IN, values=frozenset({"db"})),))
TEAM = Selector(requirements=(Requirement(key="team", operator=Operator.IN, values=frozenset({"a"})),))


def pod(number: int, namespace: str) -> LabelledPod:
    return LabelledPod(
        namespace=namespace,
        name="db-0",
        labels={"app": "db"},
        ips=(ipaddress.ip_address(f"10.244.1.{number + 2}"),),
    )


def test_a_pod_that_lingers_here_while_another_of_its_name_runs_elsewhere() -> None:
    """Peers mean the one that the store knows; the other is a subject until it is gone."""
    old, new = (ipaddress.ip_address(each) for each in ("10.244.1.3", "10.244.2.9"))
    web = msgspec.structs.replace(pod(5, "shop"), name="web", labels={"app": "web"}, node="node-a")
    rule = PolicyRule(peers=(PolicyPeer(pods=APP),))
    policy = NetworkPolicy(namespace="shop", name="p", pods=Selector(), ingress=(rule,))
    local = {"shop/db-0": (old,), web.key: web.ips}
    policies = Policies()

    def follow(*known: LabelledPod) -> list[str]:
        pods = {each.key: each for each in (web, *known)}
        policies.update({policy.key: policy}, {"shop": Namespace(name="shop")}, pods, local, {}, {}, "node-a")
        denied = [policies.denies(web.key, Direction.INGRESS, each, Protocol.TCP, 80) for each in (old, new)]
        assert "shop/db-0" in {each.key for each in policies.isolated}
        found = [str(each) for each in policies.networks(Group(namespace="shop", pods=APP))]
        assert denied == [f"{each}/32" not in found for each in (old, new)]
        assert policies.means(Group(namespace="shop", pods=APP), new) is (f"{new}/32" in found)
        return found

    db = msgspec.structs.replace(pod(1, "shop"), ips=(), node="node-a")
    assert follow(db) == [f"{old}/32"], "kubelet has not told its address yet"
    there = msgspec.structs.replace(db, node="node-b")
    assert follow(there) == []
    assert follow(msgspec.structs.replace(there, ips=(new,))) == [f"{new}/32"]
    assert follow(msgspec.structs.replace(db, node="")) == [f"{old}/32"], "nobody knows where it is"


def meant(groups: Groups, number: int) -> list[str]:
    return sorted(map(str, groups.networks(number)))


def kept(groups: Groups) -> dict[str, int]:
    """How much of everything that it holds, but for what stays as long as the groups do."""
    groups.touched()
    asked = "_numbers", "_groups", "_networks"
    return {
        name: len(value)
        for name, value in vars(groups).items()
        if hasattr(value, "__len__") and name not in asked
    }


def test_nothing_is_left_of_namespaces_that_came_and_went() -> None:
    groups = Groups()
    everywhere = groups.add(Group(namespaces=Selector(), pods=APP))
    empty = kept(groups)
    for number in range(100):
        name = f"n{number}"
        found = pod(number, name)
        own = groups.add(Group(namespace=name, pods=APP))
        groups.update({name: Namespace(name=name)}, {found.key: found}, {found.key: found.ips}, {})
        assert meant(groups, everywhere) == meant(groups, own) == [f"{found.ips[0]}/32"]
        groups.remove(own)
        if number % 2:
            # The pods of a namespace that goes are gone before it.
            groups.update({name: Namespace(name=name)}, {}, {}, {})
        groups.update({}, {}, {}, {})
    assert kept(groups) == empty


def test_a_namespace_whose_last_pod_goes_and_that_gets_another() -> None:
    groups = Groups()
    one, other = pod(1, "shop"), pod(2, "shop")
    own = groups.add(Group(namespace="shop", pods=APP))
    team = groups.add(Group(namespaces=TEAM))
    groups.update({"shop": Namespace(name="shop")}, {one.key: one}, {}, {})
    assert (meant(groups, own), meant(groups, team)) == (["10.244.1.3/32"], [])
    groups.update({"shop": Namespace(name="shop", labels={"team": "a"})}, {}, {}, {})
    all_of_it = groups.add(Group(namespace="shop"))
    groups.update({"shop": Namespace(name="shop", labels={"team": "a"})}, {other.key: other}, {}, {})
    assert {tuple(meant(groups, each)) for each in (own, team, all_of_it)} == {("10.244.1.4/32",)}
    groups.update({"shop": Namespace(name="shop")}, {other.key: other}, {}, {})
    assert meant(groups, team) == []
