"""What stays closed after a start while a part of the store can't be read, and what does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, cast

import pytest
from policing_world import APP, WEB, Installer, World, attached, doubted, policy
from test_policing import drops

from ovsnet import names
from ovsnet.errors import TryAgain
from ovsnet.policies import Floor, Policies
from ovsnet.policyjudge import Connection, End, Judge, Why
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    NetworkPolicy,
    PolicyRule,
    Selector,
    Subject,
    Tier,
)
from ovsnet.policywords import Names, lines, shown
from ovsnet.servicemodel import Protocol
from ovsnet.store import Snapshot
from ovsnet.store.clusterpolicies import EVERYBODY

UNREAD = frozenset({"/store/lock.yaml"})
FREE = policy(Selector(), PolicyRule())
"""A rule that allows everything."""
GUESTS = ClusterNetworkPolicy(
    name="guests",
    tier=Tier.ADMIN,
    priority=0,
    subject=Subject(),
    ingress=(ClusterRule(action=Action.DENY, peers=EVERYBODY),),
)


def snapshot(
    *policies: NetworkPolicy,
    unread: Iterable[str] = UNREAD,
    version: int = 1,
    cluster: Iterable[ClusterNetworkPolicy] = (),
) -> Snapshot:
    return Snapshot(
        nodes={},
        problems={},
        version=version,
        policies={each.key: each for each in policies},
        cluster_policies={each.name: each for each in cluster},
        pods={WEB.key: WEB},
        unread_policies=frozenset(unread),
    )


def marked(*pods: tuple[str, str | None], said: str | None = names.SOME_POLICIES) -> World:
    """A world after a start: pods, and what the earlier agent noted of each."""
    world = World(said=said)
    for number, (name, mark) in enumerate(pods, 5):
        pod = attached(name, number)
        world.pods.append(pod)
        world.rows.put(pod, mark)
    return world


async def started(world: World, first: Snapshot) -> None:
    await world.policing.follow(first, unknown=True)
    await world.policing.note()


def closed(world: World, name: str) -> set[str]:
    return drops(world.policing.rendered.get(names.cookie("policedpod", f"default/{name}"), ()))


async def test_who_was_isolated_stays_so_until_all_is_read() -> None:
    world = marked(("web", "ingress"), ("both", "egress ingress"), ("free", "none"), ("strange", None))
    await started(world, snapshot())
    found = {pod.name: closed(world, pod.name) for pod in world.pods}
    both = {"egress", "ingress"}
    assert found == {"web": {"ingress"}, "both": both, "free": set(), "strange": both}
    with pytest.raises(TryAgain, match=r"pod default/new are not known: /store/lock\.yaml could not be read"):
        await world.policing.admit("default/new")
    await world.policing.settle()
    assert (world.rows.said, world.rows.says(world.pods[0])) == ("some", "ingress"), "no mark is taken away"
    (line,) = world.policing.remarks()
    assert line.startswith("/store/lock.yaml: could not be read")
    assert line.endswith("stay isolated: default/both, default/strange, default/web")
    await world.policing.follow(snapshot(unread=(), version=2), unknown=False)
    assert not any(closed(world, pod.name) for pod in world.pods)
    assert world.policing.remarks() == []
    await world.policing.admit("default/new")
    await world.policing.settle()
    assert (world.rows.said, world.rows.says(world.pods[0])) == ("none", "none")


async def test_policies_that_can_be_read_count() -> None:
    """They only add: what one of them allows is allowed, whatever another isolates."""
    world = marked(("web", "ingress"))
    await started(world, snapshot(FREE))
    assert closed(world, "web") == set()
    world = marked(("web", "egress ingress"))
    await started(world, snapshot(policy(APP)))
    assert closed(world, "web") == {"egress", "ingress"}
    await world.policing.follow(snapshot(FREE, version=2), unknown=False)
    assert closed(world, "web") == {"egress"}


async def test_a_rule_that_denied_comes_before_all_that_can_be_read() -> None:
    world = marked(("web", "cluster-ingress ingress"))
    await started(world, snapshot(FREE))
    assert closed(world, "web") == {"ingress"}
    assert world.policing.judge((), ()) is None, "what goes on is not cut by half of the policies"
    await world.policing.follow(snapshot(FREE, unread=(), version=2), unknown=False)
    assert closed(world, "web") == set()


async def test_rules_of_cluster_policies_are_noted_as_such() -> None:
    world = marked(("web", None))
    await world.policing.follow(snapshot(unread=(), cluster=[GUESTS]), unknown=False)
    await world.policing.note()
    assert world.rows.says(world.pods[0]) == "cluster-ingress ingress"
    again = marked(("web", world.rows.says(world.pods[0])))
    await started(again, snapshot(FREE))
    assert closed(again, "web") == {"ingress"}


async def test_where_there_were_no_policies_nothing_is_in_doubt() -> None:
    world = marked(("web", "none"), ("strange", None), said=names.NO_POLICIES)
    await started(world, snapshot())
    assert world.policing.rendered == {}
    await world.policing.admit("default/new")
    assert world.policing.remarks() == []


async def test_an_object_of_a_namespace_concerns_its_pods_alone() -> None:
    """Of the Kubernetes API, where it is known what can't be read."""
    for unread, concerned in (("NetworkPolicy other/p", False), ("NetworkPolicy default/p", True)):
        world = marked(("web", "ingress"))
        await started(world, snapshot(unread=[unread]))
        assert bool(closed(world, "web")) is concerned
        if not concerned:
            await world.policing.admit(WEB.key)
            continue
        with pytest.raises(TryAgain, match=f"{unread} could not be read"):
            await world.policing.admit(WEB.key)


async def test_what_is_spoilt_later_closes_nothing() -> None:
    """The store keeps what was good of it."""
    world = marked(("web", "ingress"))
    await started(world, snapshot(unread=()))
    await world.policing.follow(snapshot(version=2), unknown=False)
    assert world.policing.rendered == {}
    await world.policing.admit("default/new")


async def test_a_second_file_makes_up_for_none_that_is_still_unread() -> None:
    world = marked(("web", "ingress"))
    await started(world, snapshot(unread={"a", "b"}))
    await world.policing.follow(snapshot(unread={"b", "c"}, version=2), unknown=False)
    assert closed(world, "web") == {"ingress"}
    await world.policing.follow(snapshot(unread={"c"}, version=3), unknown=False)
    assert closed(world, "web") == {"ingress"}, "c may be what a was"
    await world.policing.follow(snapshot(unread=(), version=4), unknown=False)
    assert closed(world, "web") == set()
    await world.policing.follow(snapshot(unread={"d"}, version=5), unknown=False)
    assert closed(world, "web") == set()


async def test_the_next_start_closes_what_this_one_does() -> None:
    """Nobody had noted anything, so all is closed; policies that can be read take nothing back."""
    first = marked(("web", None), said=None)
    await started(first, snapshot(FREE))
    assert closed(first, "web") == {"ingress", "egress"}
    again = marked(("web", first.rows.says(first.pods[0])))
    await started(again, snapshot(FREE))
    assert closed(again, "web") == {"ingress", "egress"}


async def test_what_is_installed_is_pending_no_more() -> None:
    world = marked(("web", None), said=None)
    await started(world, snapshot(policy(APP), unread=()))
    await world.policing.settle()
    assert world.policing.rendered
    assert world.policing._pending == set(world.policing.rendered), "nothing is installed"
    world.installed = dict(world.policing.rendered)
    await world.policing.settle()
    assert world.policing._pending == set()


async def test_what_closes_is_named_and_no_policy_that_does_not() -> None:
    world = marked(("web", "cluster-ingress ingress"))
    await started(world, snapshot(policy(APP)))
    cookie = names.cookie("policedpod", "default/web")
    reason = ["what could not be read since the agent started"]
    assert world.policing.denying(cookie, Direction.INGRESS) == ("default/web", reason)
    stranger = ipaddress.ip_address("10.244.9.9")
    assert world.policing.denier(cookie, stranger) == (Direction.INGRESS, reason)
    await world.policing.follow(snapshot(policy(APP), unread=(), version=2), unknown=False)
    assert world.policing.denying(cookie, Direction.INGRESS) == ("default/web", ["default/p"])


async def test_who_stays_closed_has_no_connections_that_nobody_knows() -> None:
    """The flows were there all the time: a packet that begins nothing is not let through for older ones."""
    cookie = names.cookie("policedpod", "default/web")
    world = World(
        f"cookie=0x{cookie:x}, table=47, priority=50,ip,nw_dst=10.244.1.5 actions=drop", said="some"
    )
    world.pods.append(attached("web", 5))
    world.rows.put(world.pods[0], "ingress")
    await started(world, snapshot())
    assert closed(world, "web") == {"ingress"}
    assert doubted(world) == set()
    await world.policing.enforce(
        snapshot(policy(APP), unread=(), version=2), cast(Any, Installer(lambda: None))
    )
    assert doubted(world) == set()


@pytest.mark.parametrize(
    ("floor", "policies", "why"),
    [
        (Floor(isolated=frozenset({Direction.INGRESS})), [], Why.UNREAD),
        (Floor(isolated=frozenset({Direction.INGRESS})), [FREE], Why.RULE),
        (
            Floor(isolated=frozenset({Direction.INGRESS}), closed=frozenset({Direction.INGRESS})),
            [FREE],
            Why.UNREAD,
        ),
        (Floor(isolated=frozenset({Direction.EGRESS})), [], Why.OPEN),
    ],
    ids=["isolated", "isolated, and a policy is known", "closed", "the other way"],
)
def test_people_are_told(floor: Floor, policies: list[NetworkPolicy], why: Why) -> None:
    web, other = (ipaddress.ip_address(f"10.244.1.{number}") for number in (5, 6))
    found = Policies()
    found.update(
        {each.key: each for each in policies},
        {},
        {WEB.key: WEB},
        {WEB.key: (web,)},
        {},
        floor={WEB.key: floor},
    )
    asked = Connection(source=other, target=web, protocol=Protocol.TCP, port=80)
    target = End(title="pod default/web", ips=(web,), pod=WEB.key)
    _, side = Judge(found, {}).sides(End(title="outside", ips=(other,)), target, asked)
    assert side.why is why
    assert side.allowed is (why is not Why.UNREAD)
    assert found.denies(WEB.key, Direction.INGRESS, other, Protocol.TCP, 80) is not side.allowed
    said = next(
        each for each in lines(shown(WEB.key, found, Names({}, {}, {}))) if each.startswith("ingress: ")
    )
    assert ("stays isolated until" in said) is not side.allowed
