"""The installer: one bundle at a time, shared by who asks meanwhile; a refusal blames only who is at fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import pytest

from ovsnet import names
from ovsnet.agent.drift import Drift, Echo, describe
from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.render import Lines


def flow(cookie: int, match: str = "", actions: str = "drop") -> Lines:
    return (f"cookie=0x{cookie:x},table=0,{match or f'in_port={cookie}'} actions={actions}",)


class Memory:
    """A switch that takes bundles. `gate` holds the next ones back; `trouble` is raised instead."""

    def __init__(self) -> None:
        self.flows: dict[str, str] = {}
        self.bundles: list[list[str]] = []
        self.replacements = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.trouble: BaseException | None = None
        self.refused = ""

    async def replace(self, lines: Iterable[str]) -> None:
        wanted = list(lines)
        await self._answer(wanted)
        self.replacements += 1
        self.flows = {}
        for line in wanted:
            self._add(line)

    async def bundle(self, lines: Iterable[str]) -> None:
        wanted = list(lines)
        self.bundles.append(wanted)
        await self._answer(wanted)
        for line in wanted:
            if line.startswith("flow add "):
                self._add(line.removeprefix("flow add "))
            elif line.startswith("flow "):
                cookie, _, match = line.removeprefix("flow delete_strict ").partition("/-1,")
                if self.flows.get(match, "").startswith(f"{cookie},"):
                    del self.flows[match]

    async def differences(self, lines: Iterable[str]) -> list[str]:
        wanted = set(lines)
        await self._answer([])
        return [f"-{line}" for line in self.held - wanted] + [f"+{line}" for line in wanted - self.held]

    async def _answer(self, lines: list[str]) -> None:
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        if self.refused and any(self.refused in line for line in lines):
            raise OvsnetError(f"ovs-ofctl refused the flows: {self.refused}")

    def _add(self, line: str) -> None:
        self.flows[line.partition(" actions=")[0].partition(",")[2]] = line

    @property
    def held(self) -> set[str]:
        return set(self.flows.values())


@pytest.fixture
async def switch() -> Memory:
    return Memory()


@pytest.fixture
async def installer(switch: Memory) -> Installer:
    made = Installer(switch)
    await made.settle({1: flow(1)})
    return made


async def turn() -> None:
    """Lets every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


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


async def test_only_who_is_at_fault_hears_of_a_refusal(switch: Memory, installer: Installer) -> None:
    switch.refused = "in_port=4"
    switch.gate.clear()
    tasks = [asyncio.create_task(installer.change({n: flow(n)})) for n in range(2, 6)]
    await turn()
    switch.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), OvsnetError, type(None)]
    assert switch.held == {line for n in (1, 2, 3, 5) for line in flow(n)}
    assert installer.installed.keys() == {1, 2, 3, 5}
    assert not installer.stale


async def test_of_many_that_share_a_bundle_one_is_found_quickly(switch: Memory, installer: Installer) -> None:
    switch.refused = "in_port=777"
    with pytest.raises(OvsnetError):
        await installer.change({number: flow(number) for number in range(1, 1001)})
    assert len(switch.held) == 999
    assert len(switch.bundles) < 25
    assert installer.refused.keys() == {777}


async def test_a_service_that_is_refused_keeps_nobody_out(switch: Memory) -> None:
    """At a start, when everything is written at once, and later."""
    pod, bad, good = (names.cookie(*key) for key in (("pod", "a"), ("service", "b"), ("endpointslice", "c")))
    state = {pod: flow(pod, "in_port=1"), bad: flow(bad, "in_port=2"), good: flow(good, "in_port=3")}
    switch.refused = "in_port=2"
    made = Installer(switch)
    await made.settle(state)
    assert switch.held == {*state[pod], *state[good]}
    assert not made.stale
    assert made.refused.keys() == {bad}
    await made.settle(state)
    assert made.refused.keys() == {bad}
    await made.settle({pod: state[pod]})
    assert made.refused == {}
    switch.refused = ""
    await made.settle(state)
    assert switch.held == {line for lines in state.values() for line in lines}


async def test_a_pod_that_is_refused_at_a_start_is_an_error(switch: Memory) -> None:
    pod = names.cookie("pod", "a")
    switch.refused = "in_port=1"
    made = Installer(switch)
    with pytest.raises(OvsnetError):
        await made.settle({pod: flow(pod, "in_port=1")})
    assert made.stale


async def test_a_flow_moves_although_its_bundle_was_refused(switch: Memory, installer: Installer) -> None:
    """The objects of the bundle are tried one by one, the heir perhaps before the one who gives up the match."""
    await installer.change({2: flow(2, "nw_dst=10.244.1.5")})
    switch.refused = "in_port=4"
    with pytest.raises(OvsnetError):
        await installer.settle({1: flow(1), 3: flow(3, "nw_dst=10.244.1.5"), 4: flow(4)})
    assert switch.held == {*flow(1), *flow(3, "nw_dst=10.244.1.5")}


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


async def test_an_audit_finds_what_someone_else_did_and_a_repair_undoes_it(
    switch: Memory, installer: Installer
) -> None:
    found = await installer.audit()
    assert found == []
    switch.flows.clear()
    switch.flows["table=7"] = "cookie=0x9,table=7 actions=drop"
    found = await installer.audit()
    assert found == ["-cookie=0x9,table=7 actions=drop", f"+{flow(1)[0]}"]
    drifts = describe(found, {}, {})
    assert await installer.repair(drifts) == drifts
    assert switch.bundles[-1] == ["flow delete_strict cookie=0x9/-1,table=7", f"flow add {flow(1)[0]}"]
    assert switch.held == {*flow(1)}
    assert not installer.stale, "pods can be added meanwhile"


@pytest.mark.parametrize("order", ["audit", "change"])
async def test_an_audit_overlooks_what_changes_meanwhile_and_sees_the_rest(
    switch: Memory, installer: Installer, order: str
) -> None:
    switch.flows.clear()
    switch.gate.clear()
    if order == "audit":
        audit = asyncio.create_task(installer.audit())
        await turn()
    change = asyncio.create_task(installer.change({2: flow(2)}))
    await turn()
    if order == "change":
        audit = asyncio.create_task(installer.audit())
        await turn()
    switch.gate.set()
    await change
    found = await audit
    assert found is not None
    drifts = [drift for drift in describe(found, {}, {}) if installer.settled(drift)]
    assert [drift.lines for drift in drifts] == [(f"+{flow(1)[0]}",)]
    assert not installer.stale


async def test_an_audit_says_nothing_when_everything_was_lost_and_written_meanwhile(
    switch: Memory, installer: Installer
) -> None:
    switch.gate.clear()
    audit = asyncio.create_task(installer.audit())
    await turn()
    installer.invalidate()
    settle = asyncio.create_task(installer.settle({2: flow(2)}))
    await turn()
    switch.gate.set()
    await settle
    assert not installer.stale
    assert await audit is None


async def test_nothing_is_repaired_that_was_found_before_everything_was_written(
    switch: Memory, installer: Installer
) -> None:
    switch.flows.clear()
    drifts = describe(await installer.audit() or [], {}, {})
    assert drifts
    installer.invalidate()
    await installer.settle({2: flow(2)})
    assert await installer.repair(drifts) == []
    assert switch.held == {*flow(2)}


@pytest.mark.parametrize("order", ["change", "audit"])
async def test_an_audit_does_not_take_a_new_group_for_a_foreign_one(
    switch: Memory, installer: Installer, order: str
) -> None:
    """The switch keeps no cookie with a group, so it does not say whose it is."""
    line = "group_id=7,type=all,bucket=bucket_id:0,actions=drop"
    foreign = Drift(subject="group 7", what="added", lines=(f"-{line}",))
    if order == "audit":
        await installer.audit()
    switch.gate.clear()
    change = asyncio.create_task(installer.change({2: (f"cookie=0x2,{line}",)}))
    await turn()
    if order == "change":
        audit = asyncio.create_task(installer.audit())
        await turn()
    switch.gate.set()
    await change
    if order == "change":
        await audit
    assert not installer.settled(foreign)
    await installer.audit()
    assert installer.settled(foreign)


async def test_a_repair_does_not_bring_back_what_was_removed_since(
    switch: Memory, installer: Installer
) -> None:
    switch.flows.clear()
    found = await installer.audit()
    assert found is not None
    await installer.change({1: ()})
    assert await installer.repair(describe(found, {}, {})) == []
    assert switch.held == set()


async def test_a_repair_waits_for_the_bundle_under_way(switch: Memory, installer: Installer) -> None:
    switch.flows.clear()
    found = await installer.audit()
    assert found is not None
    switch.gate.clear()
    change = asyncio.create_task(installer.change({1: ()}))
    await turn()
    repair = asyncio.create_task(installer.repair(describe(found, {}, {})))
    await turn()
    switch.gate.set()
    await change
    assert await repair == []
    assert switch.held == set()


async def test_news_of_own_changes_is_told_from_news_of_others(switch: Memory, installer: Installer) -> None:
    installer.echo = Echo()  # without that of the replacement at the start
    await installer.change({2: flow(2)})
    assert installer.echo.is_ours(2)
    assert not installer.echo.is_ours(2), "one change of ours, two that were told of"
    assert not installer.echo.is_ours(3)


async def test_policies_go_in_together_or_not_at_all_and_no_pod_without_its_own(switch: Memory) -> None:
    """Half of them could allow too much."""
    made = Installer(switch)
    await made.settle({})
    pod, other, policed, rule = (names.cookie(kind, "x") for kind in ("pod", "service", "policedpod", "rule"))
    switch.refused = f"in_port={rule}"
    with pytest.raises(OvsnetError, match="refused"):
        await made.change({each: flow(each) for each in (pod, other, policed, rule)})
    assert switch.held == {*flow(other)}
