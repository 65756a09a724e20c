"""What an agent publishes of itself, when it is written again, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from scripted_api import NODES, Api, Request, node, refuse
from store_kubernetes_world import World, following

from ovsnet.model import Encap
from ovsnet.store import Facts
from ovsnet.store.kubernetes import writer

FACTS = Facts(encap=Encap.VXLAN, address="192.0.2.1", mtu=1450)
OWN = f"{NODES}/node-a"
TOLD = {
    "ovsnet.io/tunnel-encapsulation": "vxlan",
    "ovsnet.io/tunnel-address": "192.0.2.1",
    "ovsnet.io/mtu": "1450",
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_LOOK", 0.05)
    monkeypatch.setattr(writer, "_SEEN", 0.5)


def obeying(api: Api) -> None:
    """Has what is patched come back in watches, as from a real server."""

    async def patch(request: Request) -> None:
        known = api.objects[NODES]["/node-a"]
        annotations = {
            **known["metadata"].get("annotations", {}),
            **json.loads(request.body)["metadata"]["annotations"],
        }
        await api.put(NODES, {**known, "metadata": {**known["metadata"], "annotations": annotations}})
        await request.answer({})

    api.always[OWN, "PATCH"] = patch


@contextlib.asynccontextmanager
async def publishing(folder: Path) -> AsyncIterator[World]:
    async with following(folder) as world:
        obeying(world.api)
        task = asyncio.create_task(world.store.publish("node-a", lambda: FACTS, list))
        try:
            yield world
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def published(world: World) -> dict[str, Any]:
    found: dict[str, Any] = (
        world.api.objects[NODES].get("/node-a", {}).get("metadata", {}).get("annotations", {})
    )
    return found


async def test_it_is_written_once(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 1)
        await asyncio.sleep(1.5)
        assert published(world) == TOLD
        assert world.api.count("PATCH") == 2


async def test_a_node_that_is_made_anew_says_it_again(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 1)
        await world.api.remove(NODES, "/node-a")
        await world.until(lambda: "node-a" not in world.now.nodes)
        await asyncio.sleep(1.0)
        assert world.api.count("PATCH") == 2, "it was written to a Node that is not there"
        await world.api.put(NODES, node("node-a", 9))
        await world.until(lambda: published(world) == TOLD)
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 2)


@pytest.mark.parametrize("change", [{}, {**TOLD, "ovsnet.io/mtu": "9000"}], ids=["at once", "altered"])
async def test_what_somebody_takes_away_is_written_again(tmp_path: Path, change: dict[str, str]) -> None:
    """As a Node that is deleted and made anew within a moment, which no look notices."""
    async with publishing(tmp_path) as world:
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 1)
        known = world.api.objects[NODES]["/node-a"]
        await world.api.put(NODES, {**known, "metadata": {"name": "node-a", "annotations": change}})
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 2)
        assert published(world) == TOLD


async def test_what_somebody_takes_away_each_time_is_written_less_and_less_often(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        world.api.always.pop((OWN, "PATCH"))
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") >= 1)
        await asyncio.sleep(5)
        # After 0.5, 1 and 2 seconds, and not after half of one each time.
        assert world.api.count("PATCH", f"{OWN}/status") <= 4


async def test_of_a_node_that_can_not_be_read_what_is_new_is_written_once(tmp_path: Path) -> None:
    """It is there, as the agent may know its ranges from elsewhere."""
    async with following(tmp_path) as world:
        obeying(world.api)
        await world.api.put(NODES, {**node("node-a", 1), "spec": {}})
        await world.until(lambda: bool(world.now.problems))
        task = asyncio.create_task(world.store.publish("node-a", lambda: FACTS, list))
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 1)
        await asyncio.sleep(2)
        assert world.api.count("PATCH", f"{OWN}/status") == 1
        task.cancel()


async def test_a_server_that_asks_for_time_is_given_it_by_writes_too(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        loop = asyncio.get_running_loop()
        asked: list[float] = []

        async def busy(request: Request) -> None:
            asked.append(loop.time())
            await refuse("429 Too Many Requests", Retry_After="2")(request)

        world.api.once[OWN, "PATCH"] = [busy]
        task = asyncio.create_task(world.store.publish("node-a", lambda: FACTS, list))
        await world.until(lambda: world.api.count("PATCH", f"{OWN}/status") == 1)
        assert loop.time() - asked[0] >= 2
        assert world.api.count("PATCH", OWN) == 2
        task.cancel()
