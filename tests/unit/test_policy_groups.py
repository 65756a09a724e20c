"""Whom groups mean while pods and namespaces come and go, and what is kept of those that are gone."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet import policygroups
from ovsnet.model import IPNetwork
from ovsnet.policies import Policies
from ovsnet.policygroups import Group, Groups
from ovsnet.policymodel import (
    Block,
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
from ovsnet.policynodes import NodeAddresses, beside, selected
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


# --- nodes ---------------------------------------------------------------------------------------


def network(text: str) -> IPNetwork:
    return ipaddress.ip_network(text)


def node(addresses: Iterable[str], gateways: Iterable[str] = (), **labels: str) -> NodeAddresses:
    own, others = (tuple(map(ipaddress.ip_address, each)) for each in (addresses, gateways))
    return NodeAddresses(addresses=own, gateways=others, labels=labels)


BLOCKS = tuple(
    Group(block=Block(cidr=network(cidr), excepts=tuple(map(network, excepts))))
    for cidr, *excepts in (
        ("192.0.2.0/24",),
        ("192.0.2.0/24", "192.0.2.16/28", "10.244.1.1/32"),
        ("10.244.1.1/32",),
        ("192.0.2.17/32",),
        ("10.244.0.0/16",),
        ("fd00::/64",),
    )
)
OF_NODES = tuple(Group(nodes=each) for each in (Selector(), TEAM))
ADDRESSES = ("192.0.2.1", "192.0.2.17", "198.51.100.1", "10.244.1.1", "fd00::1")
GATEWAYS = ("10.244.1.1", "10.244.2.1", "192.0.2.1", "fd00:1::1")
KNOWN_NODES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.builds(
        lambda addresses, gateways, team: node(addresses, gateways, team=team),
        st.sets(st.sampled_from(ADDRESSES)),
        st.sets(st.sampled_from(GATEWAYS)),
        st.sampled_from(["a", "b"]),
    ),
)


@given(st.lists(KNOWN_NODES, min_size=2, max_size=6))
def test_blocks_and_nodes_mean_the_same_whichever_nodes_there_were(
    history: list[dict[str, NodeAddresses]],
) -> None:
    """Nodes may have an address in common, and a block may be just such an address."""
    groups = Groups()
    numbers = {each: groups.add(each) for each in (*BLOCKS, *OF_NODES)}
    for nodes in history:
        groups.update({}, {}, {}, nodes)
        afresh = Groups()
        afresh.update({}, {}, {}, nodes)
        for group, number in numbers.items():
            assert meant(groups, number) == sorted(map(str, afresh.look(group))), group.text
            for each in map(ipaddress.ip_address, (*ADDRESSES, *GATEWAYS)):
                found = any(each in part for part in groups.networks(number))
                assert groups.means(group, each) is afresh.means(group, each) is found, (group.text, each)
    for number in numbers.values():
        groups.remove(number)
    groups.update({}, {}, {}, {})
    assert kept(groups) == kept(Groups())


def test_of_nodes_only_those_that_changed_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []

    def look_beside(block: Block, one: NodeAddresses | None) -> set[IPNetwork]:
        looked.append(one)
        return beside(block, one)

    def look_selected(selector: Selector, one: NodeAddresses | None) -> set[IPNetwork]:
        looked.append(one)
        return selected(selector, one)

    monkeypatch.setattr(policygroups, "beside", look_beside)
    monkeypatch.setattr(policygroups, "selected", look_selected)
    groups = Groups()
    nodes = {f"n{each}": node([f"192.0.2.{each}"], [f"10.244.{each}.1"]) for each in range(50)}
    groups.update({}, {}, {}, nodes)
    block, every = groups.add(BLOCKS[0]), groups.add(OF_NODES[0])
    assert len(meant(groups, block)) == 51
    # Whatever is split into parts once is not again.
    monkeypatch.setattr(policygroups, "parts", None)

    def follow(**changed: NodeAddresses) -> list[object]:
        nodes.update(changed)
        looked.clear()
        groups.touched()
        groups.update({}, {}, {}, dict(nodes))
        return looked

    same = {name: msgspec.structs.replace(each) for name, each in nodes.items()}
    assert follow(**same) == [], "other objects that say the same"
    before, labelled = nodes["n7"], node(["192.0.2.7"], ["10.244.7.1"], team="b")
    assert follow(n7=labelled) == [before, labelled], "by labels alone, not by the block"
    assert groups.touched() == set()
    moved = node(["192.0.2.7"], ["10.244.77.1"], team="b")
    assert follow(n7=moved) == [labelled, moved] * 2
    assert groups.touched() == {network("10.244.7.1"), network("10.244.77.1")}
    assert follow(n50=node(["198.51.100.1"])) == [None, nodes["n50"]] * 2
    assert len(meant(groups, block)) == 51
    assert "198.51.100.1/32" in meant(groups, every)
