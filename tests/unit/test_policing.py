"""Whose policies are known, and what becomes of them while the store is away."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from policy_rows import Rows

from ovsnet import names, resources
from ovsnet.agent.marks import Marks
from ovsnet.agent.policing import Policing
from ovsnet.errors import SwitchUnavailable, TryAgain
from ovsnet.model import Pod
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    LabelledPod,
    NetworkPolicy,
    Operator,
    PolicyRule,
    Requirement,
    Selector,
    Subject,
    Tier,
)
from ovsnet.render import Renderer, cookie_of
from ovsnet.store import Snapshot
from ovsnet.store.clusterpolicies import EVERYBODY

APP = Selector(requirements=(Requirement(key="app", operator=Operator.IN, values=frozenset({"web"})),))
WEB = LabelledPod(namespace="default", name="web", labels={"app": "web"})


class OpenFlow:
    """What an earlier agent has installed."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    async def flows_of(self, kind: str) -> list[str]:
        cookie, mask = names.cookies_of(kind)
        return [line for line in self.lines if int(line.partition(",")[0][7:], 16) & mask == cookie]


def attached(name: str, number: int) -> Pod:
    return Pod(
        namespace="default",
        name=name,
        container=f"c-{name}",
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=names.host_interface(f"{number:08x}"),
        ofport=number,
        mac="0a:58:0a:f4:01:02",
        ips=(ipaddress.ip_address(f"10.244.1.{number}"),),
    )


class World:
    def __init__(self, *lines: str, said: str | None = names.NO_POLICIES) -> None:
        """lines: flows of an earlier agent. said: what it noted on the Bridge row."""
        self.pods: list[Pod] = []
        self.rows = Rows(said)
        self.policing = Policing(
            cast(Any, OpenFlow(*lines)),
            Renderer(resources.flows_dir()),
            lambda: self.pods,
            Marks(self.rows),
            patience=0.05,
        )

    async def tell(
        self, *policies: NetworkPolicy, pods: Iterable[LabelledPod] = (), version: int = 1
    ) -> dict[int, tuple[str, ...]]:
        snapshot = Snapshot(
            nodes={},
            problems={},
            version=version,
            policies={each.key: each for each in policies},
            pods={each.key: each for each in pods},
        )
        return await self.policing.follow(snapshot, unknown=False)


def policy(selector: Selector, *rules: PolicyRule) -> NetworkPolicy:
    return NetworkPolicy(namespace="default", name="p", pods=selector, ingress=rules)


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
    with pytest.raises(TryAgain, match="the store is away, and there were policies before"):
        await world.policing.admit("default/other")
    await world.tell()
    assert world.policing.with_kept({1: ("a",)}) == {1: ("a",)}
    await world.policing.admit("default/other")


def doubted(world: World) -> set[str]:
    """Addresses that older connections are looked for of."""
    lines = [line for lines in world.policing.older.values() for line in lines]
    assert all("hard_timeout=300" in line for line in lines)
    found = {field for line in lines for part in line.split() for field in part.split(",")}
    return {field.partition("=")[2] for field in found if field.startswith("nw_src=")}


async def test_only_pods_that_were_there_before_their_policies_have_older_connections() -> None:
    world = World()
    world.pods.append(attached("old", 5))
    await world.tell()
    await world.tell(policy(Selector()), version=2)
    assert doubted(world) == {"10.244.1.5"}
    world.policing.older.clear()
    world.pods.append(attached("new", 6))
    world.policing.update()
    await world.tell(policy(Selector(), PolicyRule(peers=())), version=3)
    assert world.policing.older == {}


async def test_what_an_earlier_agent_isolated_has_none_if_the_switch_kept_it() -> None:
    line = f"cookie=0x{names.cookie('policedpod', 'default/met'):x}, table=47, priority=50 actions=drop"
    world = World(line)
    world.pods += [attached("met", 5), attached("lost", 6)]
    snapshot = Snapshot(nodes={}, problems={}, version=1, policies={"default/p": policy(Selector())})
    await world.policing.follow(snapshot, unknown=True)
    assert doubted(world) == {"10.244.1.6"}


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


class Installer:
    """`meanwhile` happens while it adds what is added once."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.served: list[dict[int, tuple[str, ...]]] = []
        self.ended: list[int] = []
        self.fails = False

    async def once(self, lines: Iterable[str]) -> None:
        self.meanwhile()
        if self.fails:
            raise SwitchUnavailable("away")

    async def end(self, cookies: Iterable[int]) -> None:
        if self.fails:
            raise SwitchUnavailable("away")
        self.ended += cookies

    async def serve(self, changed: dict[int, tuple[str, ...]]) -> None:
        self.served.append(dict(changed))


async def test_what_a_request_changes_meanwhile_is_not_undone() -> None:
    """The pod goes while flows for its older connections are added: its isolation must not come back."""
    world = World()
    world.pods.append(attached("old", 5))
    await world.tell()
    cookie = names.cookie("policedpod", "default/old")

    def goes() -> None:
        world.pods.clear()
        assert world.policing.update() == {cookie: ()}

    installer = Installer(goes)
    snapshot = Snapshot(nodes={}, problems={}, version=2, policies={"default/p": policy(Selector())})
    await world.policing.enforce(snapshot, cast(Any, installer))
    assert installer.served == [{cookie: ()}]


async def test_older_connections_are_not_forgotten_when_the_switch_is_away() -> None:
    """Nor those that come meanwhile."""
    world = World()
    world.pods += [attached("old", 5), attached("other", 6)]
    await world.tell()
    await world.tell(policy(APP), pods=[WEB, LabelledPod(namespace="default", name="other")], version=2)
    assert doubted(world) == {"10.244.1.5"}
    both = policy(Selector())
    later = Snapshot(nodes={}, problems={}, version=3, policies={"default/p": both})
    waiting: list[object] = []
    installer = Installer(
        lambda: waiting.append(asyncio.ensure_future(world.policing.follow(later, unknown=False)))
    )
    installer.fails = True
    with pytest.raises(SwitchUnavailable):
        await world.policing.add_older(cast(Any, installer))
    await asyncio.gather(*cast(Any, waiting))
    assert doubted(world) == {"10.244.1.5", "10.244.1.6"}


async def test_a_pod_that_goes_leaves_no_older_connections_to_its_address() -> None:
    """It may be another pod's before the flows end by themselves."""
    world = World()
    world.pods += [attached("old", 5), attached("other", 6)]
    await world.tell()
    await world.tell(policy(Selector()), version=2)
    installer = Installer(lambda: None)
    await world.policing.add_older(cast(Any, installer))
    assert installer.ended == []
    world.pods.pop(0)
    world.policing.update()
    installer.fails = True
    with pytest.raises(SwitchUnavailable):
        await world.policing.add_older(cast(Any, installer))
    installer.fails = False
    await world.policing.add_older(cast(Any, installer))
    older = names.cookie("older", "default/old")
    assert installer.ended == [older]
    # Another pod of the same name, with another address.
    world.pods[:] = [attached("other", 7)]
    world.policing.update()
    await world.policing.add_older(cast(Any, installer))
    assert installer.ended == [older, names.cookie("older", "default/other")]
    assert world.policing.older == {}


async def test_a_pod_that_goes_before_its_older_connections_are_looked_for_has_none() -> None:
    world = World()
    world.pods.append(attached("old", 5))
    await world.tell()
    await world.tell(policy(Selector()), version=2)

    def goes() -> None:
        world.pods.clear()
        world.policing.update()

    installer = Installer(goes)
    installer.fails = True
    with pytest.raises(SwitchUnavailable):
        await world.policing.add_older(cast(Any, installer))
    assert world.policing.older == {}


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
        async def serve(self, changed: dict[int, tuple[str, ...]]) -> None:
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
    snapshot = Snapshot(nodes={}, problems={}, version=1, unread=frozenset({"policy.yaml"}))
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
