"""The installer: one bundle at a time, shared by who asks meanwhile."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from installer_world import Memory, flow, installer, switch, turn

from ovsnet.agent.installer import Installer
from ovsnet.errors import SwitchUnavailable

__all__ = ["installer", "switch"]


async def test_a_start_replaces_whatever_there_is(switch: Memory) -> None:
    switch.flows = {"table=0,in_port=9": "cookie=0x9,table=0,in_port=9 actions=drop"}
    installer = Installer(switch)
    with pytest.raises(SwitchUnavailable):
        await installer.change({1: flow(1)})
    await installer.settle({1: flow(1), 2: flow(2)})
    assert switch.held == {*flow(1), *flow(2)}
    assert (switch.replacements, switch.bundles, installer.stale) == (1, [], False)


async def test_a_failed_start_stays_stale(switch: Memory) -> None:
    switch.trouble = SwitchUnavailable("away")
    installer = Installer(switch)
    with pytest.raises(SwitchUnavailable):
        await installer.settle({1: flow(1)})
    assert installer.stale
    assert installer.installed == {}


async def test_then_only_differences_are_sent(switch: Memory, installer: Installer) -> None:
    await installer.settle({1: flow(1), 2: flow(2)})
    await installer.settle({2: flow(2, actions="1")})
    assert switch.held == {*flow(2, actions="1")}
    assert [len(bundle) for bundle in switch.bundles] == [1, 2]
    assert installer.modifications == 3
    assert installer.installed == {2: flow(2, actions="1")}


async def test_nothing_to_change_is_not_sent(switch: Memory, installer: Installer) -> None:
    await installer.settle({1: flow(1)})
    await installer.change({1: flow(1), 7: ()})
    assert switch.bundles == []


async def test_what_comes_meanwhile_shares_the_next_bundle(switch: Memory, installer: Installer) -> None:
    switch.gate.clear()
    first = asyncio.create_task(installer.change({2: flow(2)}))
    await turn()
    others = [asyncio.create_task(installer.change({n: flow(n)})) for n in range(3, 23)]
    await turn()
    assert not any(task.done() for task in (first, *others))
    switch.gate.set()
    await asyncio.gather(first, *others)
    assert [len(bundle) for bundle in switch.bundles] == [1, 20]
    assert len(switch.held) == 22


async def test_an_add_and_its_delete_meanwhile_come_to_nothing(switch: Memory, installer: Installer) -> None:
    switch.gate.clear()
    tasks = [asyncio.create_task(installer.change({2: flow(2)}))]
    await turn()
    tasks += [asyncio.create_task(installer.change({3: lines})) for lines in (flow(3), ())]
    await turn()
    switch.gate.set()
    await asyncio.gather(*tasks)
    assert switch.held == {*flow(1), *flow(2)}


async def test_a_switch_that_went_away_makes_everything_stale(switch: Memory, installer: Installer) -> None:
    switch.trouble = SwitchUnavailable("away")
    tasks = [asyncio.create_task(installer.change({n: flow(n)})) for n in (2, 3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, SwitchUnavailable) for result in results)
    assert installer.stale
    switch.trouble = None
    switch.flows = {}
    await installer.settle({1: flow(1), 2: flow(2)})
    assert switch.held == {*flow(1), *flow(2)}
    assert switch.replacements == 2


async def test_who_stops_waiting_disturbs_nobody(switch: Memory, installer: Installer) -> None:
    switch.gate.clear()
    tasks = [asyncio.create_task(installer.change({n: flow(n)})) for n in (2, 3)]
    await turn()
    tasks[0].cancel()
    await turn()
    switch.gate.set()
    await tasks[1]
    assert {*flow(3)} <= switch.held
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[0]


async def test_a_replacement_waits_for_the_bundle_under_way(switch: Memory, installer: Installer) -> None:
    switch.gate.clear()
    change = asyncio.create_task(installer.change({2: flow(2)}))
    await turn()
    installer.invalidate()
    settle = asyncio.create_task(installer.settle({1: flow(1)}))
    await turn()
    assert switch.replacements == 1
    switch.gate.set()
    await asyncio.gather(change, settle)
    assert switch.held == {*flow(1)}
    assert installer.installed == {1: flow(1)}


async def test_nobody_waits_for_ever(switch: Memory, installer: Installer) -> None:
    """Whatever happens: here the agent has no file descriptor left for ovs-ofctl."""
    switch.trouble = OSError(24, "Too many open files")
    async with asyncio.timeout(5):
        with pytest.raises(OSError, match="Too many open files"):
            await installer.change({2: flow(2)})
    switch.trouble = None
    await installer.change({2: flow(2)})
    assert switch.held == {*flow(1), *flow(2)}


async def test_flows_lost_while_they_are_written_are_written_again(
    switch: Memory, installer: Installer
) -> None:
    installer.invalidate()
    switch.gate.clear()
    settle = asyncio.create_task(installer.settle({1: flow(1)}))
    await turn()
    installer.invalidate()
    switch.gate.set()
    await settle
    assert installer.stale
    await installer.settle({1: flow(1)})
    assert not installer.stale


async def test_what_is_asked_for_during_a_replacement_follows_it(
    switch: Memory, installer: Installer
) -> None:
    """A pod deleted while everything is written again is not in the switch afterwards."""
    await installer.change({2: flow(2)})
    installer.invalidate()
    switch.gate.clear()
    settle = asyncio.create_task(installer.settle({1: flow(1), 2: flow(2)}))
    await turn()
    gone = asyncio.create_task(installer.change({2: ()}))
    await turn()
    switch.gate.set()
    await asyncio.gather(settle, gone)
    assert switch.held == {*flow(1)}
    assert installer.installed == {1: flow(1)}


async def test_a_replacement_that_fails_fails_what_waits_for_it(switch: Memory, installer: Installer) -> None:
    installer.invalidate()
    switch.gate.clear()
    settle = asyncio.create_task(installer.settle({1: flow(1)}))
    await turn()
    change = asyncio.create_task(installer.change({2: flow(2)}))
    await turn()
    switch.trouble = SwitchUnavailable("gone again")
    switch.gate.set()
    for task in (settle, change):
        with pytest.raises(SwitchUnavailable):
            await task
