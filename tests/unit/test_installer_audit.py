"""Audits: what others did is found and undone, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from installer_world import Memory, flow, installer, switch, turn

from ovsnet.agent.drift import Drift, Echo, describe
from ovsnet.agent.installer import Installer

__all__ = ["installer", "switch"]


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
    assert switch.bundles[-1] == [
        "flow delete_strict cookie=0x9/0xfffffffffffffffe,table=7",
        f"flow add {flow(1)[0]}",
    ]
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
