"""The kubernetes store and a scripted API server: what it hands out, when, and at which cost."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from scripted_api import ALWAYS, NODES, SERVICES, SLICES, Request, cut, node, refuse, service, slice_
from store_kubernetes_world import following, made, running

from ovsnet.errors import StoreError


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ovsnet.store")


async def test_nothing_before_every_kind_was_listed(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        go = asyncio.Event()

        async def wait(request: Request) -> None:
            await go.wait()
            await request.answer({"metadata": {"resourceVersion": "1"}, "items": []})

        world.api.once[SLICES, "list"] = [cut, wait]
        async with running(world):
            await world.until(lambda: world.api.count("watch") == len(ALWAYS) - 1)
            await asyncio.sleep(0.2)
            assert world.store.snapshot() is None
            go.set()
            now = await world.until_services("web")
            assert set(now.nodes) == {"node-a", "node-b"}
            assert now.slices == {}


async def test_changes_arrive_and_the_rest_stays_the_same(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        before = world.now
        assert before.services["default/web"].source == "Service default/web"
        await world.api.put(SERVICES, service("dns", 2))
        after = await world.until_services("web", "dns")
        assert after.services["default/web"] is before.services["default/web"]
        assert after.nodes is before.nodes
        assert after.slices is before.slices
        await world.api.put(SLICES, slice_("web", "10.244.1.5", "10.244.2.5"))
        await world.until(lambda: len(world.now.slices["default/web-1"].endpoints) == 2)
        await world.api.remove(SERVICES, "default/web")
        await world.until_services("dns")
        await world.api.remove(NODES, "/node-b")
        await world.until(lambda: set(world.now.nodes) == {"node-a"})
        assert world.api.count("list") == len(ALWAYS)


async def test_a_snapshot_says_when_the_first_event_came_of_what_is_different(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        assert set(world.published[0].heard) == {"Node", "Service", "EndpointSlice"}
        published: list[float] = []
        world.store.subscribe(lambda: published.append(time.monotonic()))
        before, sent = len(world.published), time.monotonic()
        await world.api.put(SLICES, slice_("web", "10.244.1.5", "10.244.2.5"))
        await world.until(lambda: bool(published))
        heard = world.published[before].heard
        assert set(heard) == {"EndpointSlice"}
        # From the event on it has waited whether more come.
        assert sent <= heard["EndpointSlice"] <= published[0] - 0.0049
        await world.api.put(NODES, node("node-c", 1))
        await world.until(lambda: bool(world.now.problems))
        assert world.now.heard == {}, "it has another node's range and counts for nothing"


async def test_what_says_nothing_new_is_not_published(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        before, published = world.now, len(world.published)
        for number in range(5):
            heartbeat: dict[str, Any] = node("node-a", 1)
            heartbeat["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": number}]
            await world.api.put(NODES, heartbeat)
        await world.api.put(SERVICES, service("other", 9, clusterIP="None"))
        await world.api.bookmark(SLICES, 5000)
        await asyncio.sleep(0.3)
        assert world.now is before
        assert len(world.published) == published


async def test_a_burst_is_few_snapshots_and_costs_what_it_changes(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        for number in range(2, 502):
            await world.api.put(SERVICES, service(f"s{number}", number))
        await world.until(lambda: len(world.now.services) == 501)
        assert len(world.published) < 60
        requests, received = dict(world.store.requests), world.store.received
        assert requests == {"list": len(ALWAYS), "watch": len(ALWAYS)}
        await asyncio.sleep(0.3)
        assert world.store.received == received
        await world.api.put(SERVICES, service("one", 700))
        await world.until(lambda: len(world.now.services) == 502)
        assert world.store.received - received < 400
        assert dict(world.store.requests) == requests


async def test_pages(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        for number in range(2, 1202):
            await world.api.put(SERVICES, service(f"s{number}", number))
        async with running(world):
            await world.until(lambda: world.store.snapshot() is not None)
            assert len(world.now.services) == 1201
            assert world.api.count("list", SERVICES) == 3


async def test_pages_that_are_gone_are_begun_again(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        for number in range(2, 602):
            await world.api.put(SERVICES, service(f"s{number}", number))

        async def page(request: Request) -> None:
            await world.api._list(request)

        gone = refuse("410 Gone", "The provided continue parameter is too old")
        world.api.once[SERVICES, "list"] = [page, gone, page, gone]
        async with running(world):
            await world.until(lambda: world.store.snapshot() is not None)
            assert len(world.now.services) == 601
            asked = [each.params for each in world.api.log if each.path == SERVICES and each.verb == "list"]
            assert [each.get("limit") for each in asked] == ["500", "500", "500", "500", None]


async def test_an_object_that_is_wrong_keeps_what_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as world:
        before = world.now
        await world.api.put(SERVICES, service("web", 1, ports=[{"port": "http"}]))
        await world.api.put(NODES, node("node-c", 999))
        await world.until(lambda: len(world.now.problems) == 2)
        assert world.now.services is before.services
        assert world.now.nodes is before.nodes
        assert world.now.problems["Service default/web"].startswith(
            "spec.ports[0].port: must be a whole number"
        )
        assert world.now.unread_nodes == frozenset({"node-c"})
        assert not world.now.unread_policies
        await world.api.put(SERVICES, service("web", 3))
        await world.api.remove(NODES, "/node-c")
        await world.until(lambda: not world.now.problems)
        assert str(world.now.services["default/web"].cluster_ips[0]) == "10.96.0.4"
    assert [each.message for each in caplog.records if "default/web" in each.message][-1] == (
        "Service default/web: in order again"
    )


async def test_two_that_claim_the_same(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await world.api.put(SERVICES, service("zzz", 1))
        await world.api.put(NODES, node("node-z", 1))
        await world.until(lambda: len(world.now.problems) == 2)
        assert set(world.now.services) == {"default/web"}
        assert (
            "is Service default/web's (Service default/web) already"
            in world.now.problems["Service default/zzz"]
        )
        assert world.now.problems["Node node-z"].startswith("10.244.1.0/24 overlaps a range of node node-a")
        await world.api.remove(SERVICES, "default/web")
        await world.until_services("zzz")


async def test_one_look(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        now = await world.store.look()
        assert (set(now.nodes), set(now.services)) == ({"node-a", "node-b"}, {"default/web"})
        assert world.api.count("watch") == 0
        await world.api.stop()
        with pytest.raises(StoreError, match="Connection refused"):
            await world.store.look()
