"""That the agent looks after long affinities, in the right table; what it does there is in tests/flows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from ovsnet import names
from ovsnet.agent import affinity, app
from ovsnet.agent.affinity import LongAffinity
from ovsnet.agent.installer import Installer
from ovsnet.agent.serving import Serving
from ovsnet.config import Config
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.frontends import ServiceObject
from ovsnet.host.worker import LinkWorker
from ovsnet.model import Node
from ovsnet.store import choice
from ovsnet.switch.openflow import OpenFlow
from ovsnet.switch.ovsdb import Ovsdb

DAY = ServiceObject(namespace="default", name="web", frontends=(), groups=(), affinity=86400)
LESS = ServiceObject(namespace="default", name="web", frontends=(), groups=(), affinity=65535)


async def nothing() -> Mapping[str, Node]:
    return {}


@pytest.mark.parametrize(("service", "asked"), [(DAY, [(names.AFFINITY, 37)]), (LESS, [])])
async def test_the_agent_asks_for_what_was_learned_where_a_service_needs_it(
    monkeypatch: pytest.MonkeyPatch, service: ServiceObject, asked: Sequence[tuple[str, int]]
) -> None:
    found: list[tuple[str, int]] = []

    async def counted(switch: OpenFlow, kind: str, table: int) -> list[str]:
        found.append((kind, table))
        return []

    monkeypatch.setattr(OpenFlow, "counted", counted)
    monkeypatch.setattr(Installer, "stale", False)
    monkeypatch.setattr(Serving, "services", (service,))
    config = Config()
    ovsdb = Ovsdb(config.ovsdb, config.bridge)
    store = choice.make(config, "node-1", nothing)
    agent, _ = app._compose(config, "node-1", store, LinkWorker(), ovsdb)
    assert agent.affinity is not None
    await agent.affinity.look()
    assert found == asked


async def test_a_switch_that_has_lost_its_flows_is_not_asked() -> None:
    switch = OpenFlow("/nowhere")
    with pytest.raises(SwitchUnavailable, match="flows are not in place"):
        await LongAffinity(switch, Installer(switch), 37, lambda: [DAY]).look()


async def test_looks_go_on_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OvsnetError("refused"), SwitchUnavailable("away")]
    enough = asyncio.Event()

    async def look(self: LongAffinity) -> None:
        if failures:
            raise failures.pop()
        enough.set()

    monkeypatch.setattr(affinity, "_PERIOD", 0.001)
    monkeypatch.setattr(LongAffinity, "look", look)
    switch = OpenFlow("/nowhere")
    running = asyncio.create_task(LongAffinity(switch, Installer(switch), 37, lambda: ()).run())
    await asyncio.wait_for(enough.wait(), 20)
    assert not running.done()
    running.cancel()
