"""The meter that flows of policies send packets through: missing, it is made again at once; where it can't be, flows
are to need none, and nobody is kept out for longer."""

from __future__ import annotations

import logging

import pytest
from installer_world import Memory, flow, switch

from ovsnet import names, resources
from ovsnet.agent.auditor import Auditor
from ovsnet.agent.complaints import Complaints
from ovsnet.agent.installer import Installer
from ovsnet.errors import MeterRefused, SwitchUnavailable
from ovsnet.render import Renderer

__all__ = ["switch"]

NODE, POLICED, POD = (names.cookie(kind, "x") for kind in ("node", "policedpod", "pod"))
METER = f"cookie={NODE:#x},meter=1 pktps burst bands=type=drop rate=10 burst_size=10"
METERED = "meter:1,controller(max_len=128)"
STATE = {NODE: (METER,), 1: flow(1, actions=METERED)}
NEWS = {POLICED: flow(POLICED, "nw_dst=10.244.1.5", METERED), POD: flow(POD, "in_port=5")}


class Given:
    """An installer, and what it says of the meter."""

    def __init__(self, switch: Memory) -> None:
        self.installer = Installer(switch)
        self.refusals: list[str] = []
        self.losses = 0
        self.installer.on_meter_refused = lambda error: self.refusals.append(error.message)
        self.installer.on_loss = self._lost

    def _lost(self) -> None:
        self.losses += 1


async def test_a_pod_is_added_although_somebody_has_deleted_the_meter(switch: Memory) -> None:
    given = Given(switch)
    await given.installer.settle(STATE)
    switch.lose_meters()
    switch.bundles.clear()
    await given.installer.change(NEWS)
    assert {*NEWS[POLICED], *NEWS[POD]} <= switch.held
    assert [len(each) for each in switch.bundles] == [2, 3]
    assert switch.bundles[1][0] == f"meter set {METER.partition(',')[2]}"
    assert (given.refusals, given.losses, given.installer.stale) == ([], 0, False)
    # It is told from what somebody else does.
    switch.lose_meters()
    await given.installer.once(flow(7, actions=METERED))
    assert switch.meters.keys() == {1}


@pytest.mark.parametrize("why", ["none is made", "it is deleted all the time"])
async def test_flows_are_to_need_no_meter_that_does_not_stay(switch: Memory, why: str) -> None:
    given = Given(switch)
    await given.installer.settle(STATE)
    switch.lose_meters()
    if why == "none is made":
        switch.meters_made = 0
    else:
        switch.robbers = 1000
    switch.bundles.clear()
    # The runtime tries again, as when ovs-vswitchd is away; and pods are not tried one by one.
    with pytest.raises(SwitchUnavailable):
        await given.installer.change(NEWS)
    assert len(switch.bundles) == 2
    assert len(given.refusals) == 1
    assert given.losses
    assert given.installer.stale
    plain = {NODE: flow(NODE), 1: flow(1), POLICED: flow(POLICED, "nw_dst=10.244.1.5"), POD: NEWS[POD]}
    await given.installer.settle(plain)
    assert switch.held == {line for lines in plain.values() for line in lines}
    assert given.installer.refused == {}, "all that was refused has its flows"


async def test_everything_is_written_once_more_if_the_meter_went_meanwhile(switch: Memory) -> None:
    given = Given(switch)
    switch.robbers = 1
    await given.installer.settle(STATE)
    assert (given.refusals, given.installer.stale) == ([], False)
    assert switch.meters.keys() == {1}


async def test_a_meter_that_goes_with_each_replacement_is_given_up(switch: Memory) -> None:
    given = Given(switch)
    switch.robbers = 2
    with pytest.raises(MeterRefused):
        await given.installer.settle(STATE)
    assert len(given.refusals) == 1
    assert given.installer.stale
    await given.installer.settle({1: flow(1)})
    assert switch.held == {*flow(1)}


async def test_whoever_keeps_deleting_it_the_meter_comes_back_each_time(
    switch: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    """Other flows are left alone for a while, if somebody keeps changing them; without this one policies have none."""
    given = Given(switch)
    await given.installer.settle({**STATE, 2: flow(2)})
    complaints = Complaints(logging.getLogger("ovsnet.agent"))
    auditor = Auditor(given.installer, Renderer(resources.flows_dir()), complaints, lambda: None)
    for number in range(12):
        switch.lose_meters()
        if number % 2:
            # A bundle brings it back before, but not the flows.
            await given.installer.change({100 + number: flow(100 + number, actions=METERED)})
            assert switch.meters.keys() == {1}
        await auditor.audit()
        assert switch.meters.keys() == {1}
        assert await given.installer.audit() == []
    assert "left alone" not in caplog.text
    for _ in range(12):
        switch.flows.clear()
        await auditor.audit()
    assert switch.held == set()
    assert "somebody keeps changing it: flow of" in caplog.text
    # Not even then.
    switch.lose_meters()
    await auditor.audit()
    assert await given.installer.audit() == [f"+{flow(2)[0]}"]
