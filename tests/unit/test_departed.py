"""Conntrack forgets what pods that are gone were allowed, whatever goes wrong the first time."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from unittest.mock import AsyncMock, create_autospec

import pytest
from lost_pods import TOPOLOGY

from ovsnet import resources
from ovsnet.agent import departed
from ovsnet.agent.departed import Departed
from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.render import Renderer
from ovsnet.switch import conntrack
from ovsnet.switch.openflow import OpenFlow

HERE, GONE, FAR, GATEWAY = "10.244.1.2", "10.244.1.3", "10.244.2.9", "10.244.1.1"
DUMP = f"""
tcp,orig=(src={HERE},dst={FAR},sport=4000,dport=80),reply=(src={FAR},dst={HERE},sport=80,dport=4000),zone=65502
tcp,orig=(src={GONE},dst={FAR},sport=4000,dport=80),reply=(src={FAR},dst={GONE},sport=80,dport=4000),zone=65502
udp,orig=(src={FAR},dst={GONE},sport=4000,dport=53),reply=(src={GONE},dst={FAR},sport=53,dport=4000),zone=65502
47,orig=(src={FAR},dst={GONE}),reply=(src={GONE},dst={FAR}),zone=65502
icmp,orig=(src={HERE},dst={GONE},id=7,type=8,code=0),reply=(src={GONE},dst={HERE},id=7,type=0,code=0),zone=65502
udp,orig=(src={GATEWAY},dst={HERE},sport=4000,dport=53),reply=(src={HERE},dst={GATEWAY},sport=53,dport=4000),zone=65502
garbage
"""


class World:
    """policed: whether pods have been isolated since the start. dump: what conntrack knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, policed: bool = True, dump: str = DUMP) -> None:
        self.policed = policed
        self.asked = AsyncMock(return_value=dump)
        self.there = [ip_address(HERE)]
        self.openflow = create_autospec(OpenFlow, instance=True)
        self.installer = create_autospec(Installer, instance=True)
        self.departed = Departed(
            self.openflow,
            self.installer,
            Renderer(resources.flows_dir()),
            "",
            lambda: self.there,
            lambda: self.policed,
        )
        monkeypatch.setattr(conntrack, "appctl", self.asked)
        monkeypatch.setattr(departed, "_PAUSE", 0.01)
        monkeypatch.setattr(departed, "_RETRY", 0.01)
        self.departed.tell(TOPOLOGY, "system")

    @property
    def forgotten(self) -> set[str]:
        return {call.args[1] for call in self.openflow.forget.await_args_list}


WANTED = {
    f"ct_nw_src={GONE},ct_nw_proto=6",
    f"ct_nw_dst={GONE},ct_nw_proto=17",
    f"ct_nw_dst={GONE},ct_nw_proto=47",
}


async def test_of_addresses_that_no_pod_has_all_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    await world.departed.look()
    assert world.forgotten == WANTED
    lines = list(world.installer.once.await_args.args[0])
    assert len(lines) == 4
    assert all("icmp" in line and GONE in line and "hard_timeout=60" in line for line in lines)


async def test_it_is_tried_again_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    done = asyncio.Event()
    world.installer.once.side_effect = lambda _lines: done.set()
    refusals = [SwitchUnavailable("no answer", "wait"), OvsnetError("busy", "try again")]

    async def forget(_zone: int, text: str) -> None:
        if "proto=6" in text and refusals:
            raise refusals.pop()

    world.openflow.forget.side_effect = forget
    running = asyncio.create_task(world.departed.run())
    async with asyncio.timeout(5):
        await done.wait()
    running.cancel()
    assert not refusals
    assert world.forgotten == WANTED


async def test_a_protocol_that_the_datapath_cannot_forget_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)

    async def forget(_zone: int, text: str) -> None:
        if "proto=47" in text:
            raise OvsnetError("not supported", "")

    world.openflow.forget.side_effect = forget
    await world.departed.look()
    assert world.forgotten == WANTED
    world.installer.once.assert_awaited_once()


async def test_conntrack_is_asked_at_the_start_and_when_a_pod_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    looks = 0
    looked = asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        looked.set()

    monkeypatch.setattr(world.departed, "look", look)
    running = asyncio.create_task(world.departed.run())
    async with asyncio.timeout(5):
        await looked.wait()
    world.departed.tell(TOPOLOGY, "system")
    await asyncio.sleep(0.05)
    assert looks == 1
    looked.clear()
    world.departed.gone()
    async with asyncio.timeout(5):
        await looked.wait()
    running.cancel()
    assert looks == 2


async def test_conntrack_is_not_asked_where_no_pod_has_been_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """But at the start, for what an earlier agent's policies allowed, until that has ended."""
    world = World(monkeypatch, policed=False)
    running = asyncio.create_task(world.departed.run())

    async def asked() -> int:
        """How often, since this was called last."""
        await asyncio.sleep(0.1)
        count = world.asked.await_count
        world.asked.reset_mock()
        return count

    assert await asked() == 1
    world.departed.gone()
    assert await asked() == 1
    world.asked.return_value = ""
    world.departed.gone()
    assert await asked() == 1
    world.departed.gone()
    assert await asked() == 0
    world.policed = True
    world.departed.gone()
    assert await asked() == 1
    running.cancel()
