"""Whose policies are known, and what becomes of them while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, cast

import pytest
from policing_world import APP, WEB, Installer, World, attached, doubted, policy

from ovsnet import names, policies
from ovsnet.errors import TryAgain
from ovsnet.model import Node
from ovsnet.policies import node_addresses
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    LabelledPod,
    PolicyRule,
    Selector,
    Subject,
    Tier,
)
from ovsnet.policynodes import NodeAddresses
from ovsnet.render import Lines, cookie_of
from ovsnet.store import Snapshot
from ovsnet.store.clusterpolicies import EVERYBODY


async def test_a_pod_comes_with_its_policies() -> None:
    world = World()
    assert await world.tell(policy(APP), pods=[WEB]) == {}
    world.pods.append(attached("web", 5))
    changed = world.policing.update()
    assert list(changed) == [names.cookie("policedpod", "default/web")]
    assert any(
        "table=47" in line and "10.244.1.5 actions=drop" in line
        for line in world.policing.rendered.popitem()[1]
    )
    world.pods.clear()
    assert world.policing.update() == {names.cookie("policedpod", "default/web"): ()}


async def test_a_pod_takes_along_what_denies_it_something_and_is_on_its_way() -> None:
    """A rule of a ClusterNetworkPolicy was derived and is not installed yet; a pod that comes adds nothing to it."""
    world = World()
    other = LabelledPod(namespace="default", name="other", labels={"app": "web"})
    shut = ClusterNetworkPolicy(
        name="shut",
        tier=Tier.ADMIN,
        priority=1,
        subject=Subject(pods=APP),
        ingress=(ClusterRule(action=Action.DENY, peers=EVERYBODY),),
    )
    snapshot = Snapshot(
        nodes={},
        problems={},
        version=1,
        pods={"default/web": WEB, other.key: other},
        cluster_policies={"shut": shut},
    )
    world.pods.append(attached("other", 6))
    await world.policing.follow(snapshot, unknown=False)
    [rule] = [each for each in world.policing.rendered if names.kind_of(each) == "clusterrule"]
    web = names.cookie("policedpod", "default/web")
    world.pods.append(attached("web", 5))
    coming = world.policing.coming()
    assert coming[rule] == world.policing.rendered[rule]
    assert coming[web]
    world.installed |= world.policing.rendered
    assert world.policing.coming() == {}
    world.pods.pop()
    assert world.policing.coming() == {web: ()}


async def test_labels_that_nobody_knows_select_all_and_allow_nothing() -> None:
    """Of a pod that was there before its Pod was known: as strict as it could be."""
    world = World()
    world.pods.append(attached("web", 5))
    changed = await world.tell(policy(APP, PolicyRule()))
    assert list(changed) == [names.cookie("policedpod", "default/web")]
    changed = await world.tell(policy(APP, PolicyRule()), pods=[WEB], version=2)
    assert changed == {names.cookie("policedpod", "default/web"): ()}, "the rule allows everything"


async def test_a_pod_is_admitted_when_the_store_tells_of_it() -> None:
    world = World()
    await world.tell(policy(APP))
    waiting = asyncio.create_task(world.policing.admit("default/web"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await world.tell(policy(APP), pods=[WEB], version=2)
    await waiting


async def test_a_pod_that_the_store_does_not_know_is_not_admitted() -> None:
    world = World()
    await world.tell(policy(APP))
    with pytest.raises(
        TryAgain, match=r"pod default/web are not known.*NetworkPolicy default/p selects by labels"
    ):
        await world.policing.admit("default/web")


async def test_a_cluster_policy_may_ask_for_labels_too() -> None:
    world = World()
    shut = ClusterNetworkPolicy(
        name="shut",
        tier=Tier.ADMIN,
        priority=0,
        subject=Subject(pods=APP),
        egress=(ClusterRule(action=Action.DENY, peers=EVERYBODY),),
    )

    def known(*pods: LabelledPod) -> Snapshot:
        found = {each.key: each for each in pods}
        return Snapshot(nodes={}, problems={}, version=1, cluster_policies={"shut": shut}, pods=found)

    await world.policing.follow(known(), unknown=False)
    with pytest.raises(
        TryAgain, match="no Pod of that name, and ClusterNetworkPolicy shut selects by labels"
    ):
        await world.policing.admit("default/web")
    await world.policing.follow(known(WEB), unknown=False)
    await world.policing.admit("default/web")
    world.pods.append(attached("web", 5))
    changed = world.policing.update()
    assert names.cookie("clusterrule", "shut egress[0]") in changed
    assert doubted(world) == set(), "it came with it"


async def test_nobody_waits_for_labels_that_mean_nothing() -> None:
    world = World()
    await world.policing.admit("default/web")
    await world.tell(policy(Selector()))
    await world.policing.admit("default/web")
    await world.policing.admit("other/web")


async def test_policies_of_an_earlier_agent_stay_until_the_store_is_there() -> None:
    cookie = names.cookie("policedpod", "default/web")
    line = f"cookie=0x{cookie:x}, table=47, priority=50,ip,nw_dst=10.244.1.5 actions=drop"
    world = World(line)
    assert await world.policing.follow(None, unknown=True) == {}
    assert world.policing.with_kept({1: ("a",)}) == {1: ("a",), cookie: (line,)}
    assert world.policing.was_needed
    with pytest.raises(TryAgain, match="the store is away, and there were policies before"):
        await world.policing.admit("default/other")
    await world.tell()
    assert world.policing.with_kept({1: ("a",)}) == {1: ("a",)}
    await world.policing.admit("default/other")


async def test_a_pod_of_an_earlier_ones_name_has_to_be_known_itself() -> None:
    """With other labels it may have other policies."""
    world = World()
    before = LabelledPod(namespace="default", name="web", uid="old", labels={"app": "other"})
    await world.tell(policy(APP), pods=[before])
    with pytest.raises(TryAgain, match="an earlier Pod of that name"):
        await world.policing.admit("default/web", "new")
    await world.policing.admit("default/web", "old")
    await world.policing.admit("default/web")
    after = LabelledPod(namespace="default", name="web", uid="new", labels={"app": "web"})
    await world.tell(policy(APP), pods=[after], version=2)
    await world.policing.admit("default/web", "new")


def drops(lines: Iterable[str]) -> set[str]:
    """Directions in which flows of the tables 46 and 47 end a look."""
    return {
        "egress" if "table=46" in line else "ingress"
        for line in lines
        if "actions=drop" in line and ("table=46" in line or "table=47" in line)
    }


async def test_what_the_switch_has_lost_is_closed_until_the_store_is_there() -> None:
    """Whoever was isolated is so again, and whoever is not known; who was free stays free."""
    met = attached("met", 8)
    flow = f"cookie=0x{cookie_of(met):x}, table=0, priority=1 actions=drop"
    cookie = names.cookie("policedpod", "default/kept")
    line = f"cookie=0x{cookie:x}, table=47, priority=50,ip,nw_dst=10.244.1.9 actions=drop"
    world = World(flow, line, said=names.SOME_POLICIES)
    for pod, said in (
        (attached("in", 5), "ingress"), (attached("both", 6), "egress ingress"), (attached("free", 7), "none"),
        (met, "ingress"), (attached("kept", 9), "egress ingress"), (attached("strange", 10), None),
    ):  # fmt: skip
        world.pods.append(pod)
        world.rows.put(pod, said)
    assert await world.policing.follow(None, unknown=True) == {}
    kept = world.policing.with_kept({})
    found = {
        name: drops(kept.get(names.cookie("policedpod", f"default/{name}"), ()))
        for name in ("in", "both", "free", "met", "strange")
    }
    both = {"ingress", "egress"}
    # The switch has the flows of `met` still, so it was free.
    assert found == {"in": {"ingress"}, "both": both, "free": set(), "met": set(), "strange": both}
    assert kept[cookie] == (line,)
    with pytest.raises(TryAgain, match="the store is away, and there were policies before"):
        await world.policing.admit("default/new")
    await world.tell(policy(Selector()))
    assert world.policing.with_kept({}) == {}
    assert "10.244.1.5" in doubted(world), "its connections may go on"


@pytest.mark.parametrize("said", [names.SOME_POLICIES, None])
async def test_no_pod_comes_while_nobody_knows_whether_there_are_policies(said: str | None) -> None:
    """Those of this node's pods that were there are all free."""
    world = World(said=said)
    with pytest.raises(TryAgain, match="the store is away"):
        await world.policing.admit("default/web")
    await world.tell()
    await world.policing.admit("default/web")


async def test_who_is_isolated_is_noted_before_its_flows_and_taken_away_later() -> None:
    world = World()
    pod, other = attached("web", 5), attached("other", 6)
    for each in (pod, other):
        world.pods.append(each)
        world.rows.put(each)
    await world.tell()
    await world.policing.settle()
    assert (world.rows.said, world.rows.says(pod), world.rows.says(other)) == ("none", "none", "none")
    noted: list[str | None] = []

    class Looking(Installer):
        async def serve(self, changed: dict[int, Lines]) -> None:
            noted.append(world.rows.says(pod))

    installer = cast(Any, Looking(lambda: None))
    isolating = Snapshot(
        nodes={}, problems={}, version=2, policies={"default/p": policy(APP)}, pods={WEB.key: WEB},
    )  # fmt: skip
    await world.policing.enforce(isolating, installer)
    assert (noted, world.rows.said) == (["ingress"], "some")
    await world.policing.enforce(Snapshot(nodes={}, problems={}, version=3, pods={WEB.key: WEB}), installer)
    assert noted == ["ingress", "ingress"]
    await world.policing.settle()
    assert (world.rows.said, world.rows.says(pod)) == ("none", "none")
    count = len(world.rows.writes)
    await world.policing.settle()
    assert len(world.rows.writes) == count, "nothing is written twice"


async def test_an_incomplete_store_takes_no_mark_away() -> None:
    world = World(said=names.SOME_POLICIES)
    pod = attached("web", 5)
    world.pods.append(pod)
    world.rows.put(pod, "ingress")
    snapshot = Snapshot(nodes={}, problems={}, version=1, unread_policies=frozenset({"policy.yaml"}))
    await world.policing.follow(snapshot, unknown=False)
    await world.policing.settle()
    assert (world.rows.said, world.rows.says(pod)) == ("some", "ingress")


async def test_policies_come_into_force_without_a_database() -> None:
    world = World()
    world.pods.append(attached("web", 5))
    world.rows.put(world.pods[0])
    await world.tell()
    world.rows.away = True
    installer = Installer(lambda: None)
    snapshot = Snapshot(nodes={}, problems={}, version=2, policies={"default/p": policy(Selector())})
    await world.policing.enforce(snapshot, cast(Any, installer))
    assert installer.served


async def test_a_pod_that_comes_is_noted_with_its_row() -> None:
    world = World()
    pod = attached("web", 5)
    await world.tell(policy(APP), pods=[WEB])
    world.pods.append(pod)
    world.policing.update()
    assert world.policing.identity(pod) == {names.KEY_POLICIES: "ingress"}
    free = attached("free", 6)
    assert world.policing.identity(free) == {names.KEY_POLICIES: "none"}


async def test_of_nodes_only_those_are_read_that_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []

    def reading(nodes: Mapping[str, Node]) -> dict[str, NodeAddresses]:
        read.append([*nodes])
        return node_addresses(nodes)

    monkeypatch.setattr(policies, "node_addresses", reading)
    world = World()
    a, b = Node(name="a"), Node(name="b")
    for nodes in ([a, b], [a, Node(name="b")], [a], [b]):
        known = {each.name: each for each in nodes}
        await world.policing.follow(Snapshot(nodes=known, problems={}, version=1), unknown=False)
    assert read == [["a", "b"], ["b"], [], ["b"]]


async def test_whether_conntrack_may_know_what_policies_allowed() -> None:
    """From when a pod of this node is isolated, and whatever becomes of the policy."""
    world = World()
    world.pods = [attached("web", 2)]
    await world.tell(policy(APP), pods=[LabelledPod(namespace="default", name="web", labels={})])
    assert not world.policing.was_needed
    await world.tell(policy(APP), pods=[WEB], version=2)
    assert world.policing.was_needed
    await world.tell(pods=[WEB], version=3)
    assert world.policing.was_needed
