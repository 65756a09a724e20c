"""The kubernetes store and the Pods of its own node: from the start, beside the snapshot, and never of a server that is
away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from scripted_api import (
    ALWAYS,
    NAMESPACES,
    PODS,
    POLICIES,
    SERVICES,
    Api,
    Request,
    namespace,
    pod,
    policy,
    refuse,
    service,
    silent,
)
from store_kubernetes_world import World, following, made, running

from ovsnet.store import OwnPods

HERE = "spec.nodeName=node-a"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Two pods of the node, one of which has come to its end, and one of another node."""
    async with made(tmp_path, pods_of="node-a") as world:
        await furnish(world.api)
        async with running(world):
            await world.until_services("web")
            await world.watching()
            await world.until(lambda: world.store.own_pods() is not None and own_watches(world.api) == 1)
            # The request is there; its answer is on its way.
            await asyncio.sleep(0.05)
            yield world


async def furnish(api: Api) -> None:
    await api.put(PODS, pod("web", "10.244.1.5"))
    await api.put(PODS, pod("done", "10.244.1.6", phase="Succeeded"))
    await api.put(PODS, elsewhere("other", "10.244.2.7"))


def elsewhere(name: str, address: str) -> dict[str, Any]:
    return {**pod(name, address), "spec": {"nodeName": "node-b"}}


def own_watches(api: Api) -> int:
    return sum(
        (each.verb, each.path, each.params.get("fieldSelector")) == ("watch", PODS, HERE) for each in api.log
    )


def own(world: World) -> OwnPods:
    found = world.store.own_pods()
    assert found is not None
    return found


def addresses(world: World) -> dict[str, list[str]]:
    return {key: [str(ip) for ip in each.ips] if each else ["?"] for key, each in own(world).pods.items()}


async def test_they_are_followed_from_the_start_and_change_no_snapshot(world: World) -> None:
    before, published = world.now, len(world.published)
    assert addresses(world) == {"default/web": ["10.244.1.5"], "default/done": []}
    listed = [each.params for each in world.api.log if (each.verb, each.path) == ("list", PODS)]
    assert listed == [{"fieldSelector": HERE}]
    requests, heard = len(world.api.log), own(world).heard
    await world.api.put(PODS, pod("web", "10.244.1.5", phase="Failed"))
    await world.api.put(PODS, pod("new", "10.244.1.8"))
    await world.api.put(PODS, elsewhere("far", "10.244.2.9"))
    await world.until(
        lambda: addresses(world) == {"default/web": [], "default/done": [], "default/new": ["10.244.1.8"]}
    )
    assert own(world).heard > heard
    await world.api.remove(PODS, "default/web")
    await world.until(lambda: set(own(world).pods) == {"default/done", "default/new"})
    # A word that nothing is new counts as one.
    heard = own(world).heard
    await world.api.bookmark(PODS, world.api.version)
    await world.until(lambda: own(world).heard > heard)
    await asyncio.sleep(0.05)
    assert world.now is before
    assert (len(world.published), len(world.api.log)) == (published, requests)
    assert not world.now.problems


async def test_one_that_can_not_be_read_is_there(world: World) -> None:
    odd = pod("odd", "10.244.1.9")
    odd["status"] = [1]
    await world.api.put(PODS, odd)
    await world.until(lambda: addresses(world).get("default/odd") == ["?"])


async def test_policies_bring_all_pods_beside_them(world: World) -> None:
    await world.api.put(NAMESPACES, namespace("default"))
    await world.api.put(POLICIES, policy("lock", podSelector={}))
    await world.until(lambda: "default/lock" in world.now.policies)
    assert set(world.now.pods) == {"default/web", "default/other"}
    assert set(own(world).pods) == {"default/web", "default/done"}
    # The first was not asked for again.
    listed = [
        each.params.get("fieldSelector", "")
        for each in world.api.log
        if (each.verb, each.path) == ("list", PODS)
    ]
    assert listed == [HERE, "status.phase!=Succeeded,status.phase!=Failed"]


async def test_who_may_not_list_them_has_a_snapshot_all_the_same(tmp_path: Path) -> None:
    async with made(tmp_path, pods_of="node-a") as world:
        await furnish(world.api)
        world.api.always[PODS, "list"] = refuse("403 Forbidden", "pods is forbidden")
        async with running(world):
            await world.until_services("web")
            await world.until(lambda: bool(world.now.problems))
            assert world.store.own_pods() is None
            (problem,) = world.now.problems.items()
            assert problem[0] == "Pods of this node"
            assert "403 pods is forbidden" in problem[1]
            assert not world.store.figures()["store_away"], "everything else is known"
            del world.api.always[PODS, "list"]
            await world.until(lambda: world.store.own_pods() is not None, 40)
            await world.until(lambda: not world.now.problems)


async def test_before_a_complete_list_nobody_says(tmp_path: Path) -> None:
    async with made(tmp_path, pods_of="node-a") as world:
        await furnish(world.api)
        go = asyncio.Event()

        async def wait(request: Request) -> None:
            await go.wait()
            await world.api._list(request)

        world.api.once[PODS, "list"] = [wait]
        async with running(world):
            # The snapshot does not wait for it.
            await world.until_services("web")
            await world.until(lambda: world.api.count("list", PODS) == 1)
            assert world.store.own_pods() is None
            go.set()
            await world.until(lambda: world.store.own_pods() is not None)
            assert set(own(world).pods) == {"default/web", "default/done"}


async def test_a_server_that_is_away_says_nothing(world: World) -> None:
    known = addresses(world)
    await world.api.stop()
    await world.until(lambda: world.store.own_pods() is None)
    await world.api.start()
    await world.until(lambda: world.store.own_pods() is not None, 40)
    assert addresses(world) == known


async def test_a_backup_that_has_come_past_their_version(world: World) -> None:
    """The version of another kind shows it: whose deletion was undone is there again, and its port not left over."""
    api = world.api
    restored = dict(api.objects[PODS])
    await api.remove(PODS, "default/web")
    await world.until(lambda: "default/web" not in own(world).pods)
    api.version += 100
    await api.put(SERVICES, service("new", 7))
    await world.until_services("web", "new")
    await api.stop()
    api.objects[PODS] = restored
    del api.objects[SERVICES]["default/new"]
    api.version -= 50
    await api.start()
    await world.until_services("web")
    await world.until(lambda: (now := world.store.own_pods()) is not None and "default/web" in now.pods)


async def test_a_watch_that_is_silent_is_no_word(tmp_path: Path) -> None:
    async with made(tmp_path, pods_of="node-a") as world:
        await furnish(world.api)
        world.api.always[PODS, "watch"] = silent
        began = time.monotonic()
        async with running(world):
            await world.until_services("web")
            await world.until(lambda: own_watches(world.api) == 1)
            heard = own(world).heard
            assert began < heard < time.monotonic()
            await asyncio.sleep(0.2)
            assert own(world).heard == heard


async def test_the_version_is_asked_of_any_object(world: World) -> None:
    """The server would have to look through all pods for one of the node."""
    await world.api.end_watches(PODS)
    await world.until(lambda: own_watches(world.api) == 2)
    (asked,) = [each.params for each in world.api.log if (each.verb, each.path) == ("check", PODS)]
    assert asked == {"limit": "1"}


async def test_without_a_node_nobody_asks(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await furnish(world.api)
        await asyncio.sleep(0.1)
        assert world.store.own_pods() is None
        assert {each.path for each in world.api.log} == set(ALWAYS)
