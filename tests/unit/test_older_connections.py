"""For which pods connections are looked for that are older than their policies, and until when."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from policing_world import APP, WEB, Installer, World, attached, doubted, policy

from ovsnet import names
from ovsnet.errors import SwitchUnavailable
from ovsnet.policymodel import (
    LabelledPod,
    PolicyRule,
    Selector,
)
from ovsnet.render import cookie_of
from ovsnet.store import Snapshot


async def test_only_pods_that_were_there_before_their_policies_have_older_connections() -> None:
    world = World()
    world.pods.append(attached("old", 5))
    await world.tell()
    await world.tell(policy(Selector()), version=2)
    assert doubted(world) == {"10.244.1.5"}
    world.policing.older.flows.clear()
    world.pods.append(attached("new", 6))
    world.policing.update()
    await world.tell(policy(Selector(), PolicyRule(peers=())), version=3)
    assert world.policing.older.flows == {}


async def test_what_an_earlier_agent_isolated_has_none_if_the_switch_kept_it() -> None:
    line = f"cookie=0x{names.cookie('policedpod', 'default/met'):x}, table=47, priority=50 actions=drop"
    world = World(line)
    world.pods += [attached("met", 5), attached("lost", 6)]
    snapshot = Snapshot(nodes={}, problems={}, version=1, policies={"default/p": policy(Selector())})
    await world.policing.follow(snapshot, unknown=True)
    assert doubted(world) == {"10.244.1.6"}


async def test_in_the_kernel_all_are_known_still_when_the_switch_begins_anew() -> None:
    """Its conntrack outlives ovs-vswitchd: who was isolated then has no connections that nobody knows."""
    world = World()
    world.policing._renderer.use("system")
    world.pods.append(attached("met", 5))
    met = Snapshot(nodes={}, problems={}, version=1, policies={"default/p": policy(Selector())})
    await world.policing.follow(met, unknown=True)
    assert doubted(world) == {"10.244.1.5"}, "nobody knows of it"
    world.policing.older.flows.clear()
    world.pods.append(attached("new", 6))
    await world.policing.follow(msgspec.structs.replace(met, version=2), unknown=True)
    assert doubted(world) == {"10.244.1.6"}


async def test_in_the_kernel_an_agent_that_begins_anew_as_well_has_it_from_the_marks() -> None:
    world = World(said=names.SOME_POLICIES)
    world.policing._renderer.use("system")
    for name, number, said in (("met", 5, "ingress"), ("free", 6, "none"), ("unsaid", 7, None)):
        world.pods.append(attached(name, number))
        world.rows.put(world.pods[-1], said)
    met = Snapshot(nodes={}, problems={}, version=1, policies={"default/p": policy(Selector())})
    await world.policing.follow(met, unknown=True)
    assert doubted(world) == {"10.244.1.6", "10.244.1.7"}


async def test_marks_of_pods_whose_own_flows_are_there_are_older_than_their_policies() -> None:
    """The earlier agent noted that they are about to be isolated, and went no further."""
    pod = attached("met", 5)
    world = World(
        f"cookie=0x{cookie_of(pod):x}, table=0, priority=100 actions=drop", said=names.SOME_POLICIES
    )
    world.policing._renderer.use("system")
    world.pods.append(pod)
    world.rows.put(pod, "ingress")
    met = Snapshot(nodes={}, problems={}, version=1, policies={"default/p": policy(Selector())})
    await world.policing.follow(met, unknown=True)
    assert doubted(world) == {"10.244.1.5"}


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
        await world.policing.older.add(cast(Any, installer))
    await asyncio.gather(*cast(Any, waiting))
    assert doubted(world) == {"10.244.1.5", "10.244.1.6"}


async def test_a_pod_that_goes_leaves_no_older_connections_to_its_address() -> None:
    """It may be another pod's before the flows end by themselves."""
    world = World()
    world.pods += [attached("old", 5), attached("other", 6)]
    await world.tell()
    await world.tell(policy(Selector()), version=2)
    installer = Installer(lambda: None)
    await world.policing.older.add(cast(Any, installer))
    assert installer.ended == []
    world.pods.pop(0)
    world.policing.update()
    installer.fails = True
    with pytest.raises(SwitchUnavailable):
        await world.policing.older.add(cast(Any, installer))
    installer.fails = False
    await world.policing.older.add(cast(Any, installer))
    older = names.cookie("older", "default/old")
    assert installer.ended == [older]
    # Another pod of the same name, with another address.
    world.pods[:] = [attached("other", 7)]
    world.policing.update()
    await world.policing.older.add(cast(Any, installer))
    assert installer.ended == [older, names.cookie("older", "default/other")]
    assert world.policing.older.flows == {}


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
        await world.policing.older.add(cast(Any, installer))
    assert world.policing.older.flows == {}
