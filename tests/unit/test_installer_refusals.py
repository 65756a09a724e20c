"""Flows that the switch refuses: only who is at fault is blamed."""

from __future__ import annotations

import asyncio

import pytest
from installer_world import Memory, flow, installer, switch, turn

from ovsnet import names
from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError

__all__ = ["installer", "switch"]


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


async def test_policies_go_in_together_or_not_at_all_and_no_pod_without_its_own(switch: Memory) -> None:
    """Half of them could allow too much."""
    made = Installer(switch)
    await made.settle({})
    pod, other, policed, rule = (names.cookie(kind, "x") for kind in ("pod", "service", "policedpod", "rule"))
    switch.refused = f"in_port={rule}"
    with pytest.raises(OvsnetError, match="refused"):
        await made.change({each: flow(each) for each in (pod, other, policed, rule)})
    assert switch.held == {*flow(other)}
