"""Cutting, and the renewal of entries, where something fails meanwhile."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable
from typing import Any, cast

import pytest

from ovsnet import resources
from ovsnet.agent import entries
from ovsnet.agent.cutting import Cutting
from ovsnet.agent.entries import Entries
from ovsnet.conntrack import Known
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.model import IPAddress
from ovsnet.policymodel import Direction
from ovsnet.render import Renderer
from ovsnet.rows import BridgeRow
from ovsnet.servicemodel import Protocol
from ovsnet.switch import conntrack, control

CONNECTIONS = [
    Known(
        source=ipaddress.ip_address("10.244.2.2"),
        target=ipaddress.ip_address("10.244.1.2"),
        protocol=Protocol.TCP,
        source_port=port,
        port=80,
    )
    for port in range(4000, 4008)
]


class World:
    """Everything is denied. stale: the switch has lost its flows. fails: calls of `forget` that do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stale = False
        self.fails = 0
        self.dumps = 0
        self.forgotten: list[str] = []
        self.dropped: list[str] = []
        self.strict = True

        async def policed(_remote: str, _datapath: str) -> list[Known]:
            self.dumps += 1
            return CONNECTIONS

        monkeypatch.setattr(conntrack, "policed", policed)
        me = cast(Any, self)
        self.cutting = Cutting(me, me, Renderer(resources.flows_dir()), me, "unix:/nowhere/db.sock")
        self.tell()

    def tell(self) -> None:
        topology = cast(Any, type("Topology", (), {"gateways": (), "addresses": ()}))
        self.cutting.tell(topology, "netdev")

    async def forget(self, _zone: int, began: str) -> None:
        if self.fails:
            self.fails -= 1
            raise OvsnetError("ct-flush: no memory", "try again")
        self.forgotten.append(began)

    async def once(self, lines: Iterable[str]) -> None:
        self.dropped += lines

    def judge(self, _own: Iterable[IPAddress], _senders: Iterable[IPAddress]) -> Any:
        return type("Judge", (), {"denied": lambda _self, _each: ("default/web", Direction.INGRESS)})()

    def stricter(self) -> bool:
        strict, self.strict = self.strict, False
        return strict


async def test_what_could_not_be_forgotten_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.fails = 3
    with pytest.raises(OvsnetError):
        await world.cutting.look()
    for _ in range(4):
        try:
            await world.cutting.look()
        except OvsnetError:
            continue
    assert len(set(world.forgotten)) == len(CONNECTIONS)


async def test_a_look_while_the_switch_has_lost_its_flows_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.stale = True
    with pytest.raises(SwitchUnavailable):
        await world.cutting.look()
    world.stale = False
    await world.cutting.look()
    assert len(world.forgotten) == len(CONNECTIONS)


async def test_conntrack_is_asked_only_when_policies_may_deny_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    await world.cutting.look()
    for _ in range(3):
        world.tell()
        await world.cutting.look()
    assert world.dumps == 1
    assert world.cutting.count == len(CONNECTIONS)


class Database:
    def bridge(self) -> BridgeRow:
        return BridgeRow(
            name="br-int", datapath_type="netdev", fail_mode="secure", other_config={}, external_ids={}
        )


async def test_entries_are_renewed_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    third, fourth = asyncio.Event(), asyncio.Event()

    async def renew(_remote: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            fourth.set()
        elif calls == 3:
            third.set()
        else:
            raise OvsnetError("revalidator/purge: busy", "try again")

    monkeypatch.setattr(entries, "_RETRY", 0.01)
    monkeypatch.setattr(entries, "_PAUSE", 0.01)
    monkeypatch.setattr(control, "renew_entries", renew)
    asked = Entries(Database(), "unix:/nowhere/db.sock")
    asked.renew()
    async with asyncio.timeout(5):
        await third.wait()
    asked.renew()
    async with asyncio.timeout(5):
        await fourth.wait()
