"""The kubernetes store with ClusterNetworkPolicies, a kind that an API server may or may not have."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_api import ALWAYS, CLUSTER_POLICIES, NAMESPACES, PODS, namespace, pod, refuse
from store_kubernetes_world import World, following, made, running

from ovsnet.store.kubernetes import reflector

MISSING = refuse("404 Not Found", "the server could not find the requested resource")
ASKING = ("list", "watch", "check")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(reflector, "_ABSENT", (0.1, 0.2))
    monkeypatch.setattr(reflector, "_ABSENT_AT_FIRST", (0.1, 0.2))
    caplog.set_level(logging.INFO, "ovsnet.store")


def policy(name: str, **spec: Any) -> dict[str, Any]:
    given = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **spec}
    return {"metadata": {"name": name}, "spec": given}


def install(world: World, *, there: bool) -> None:
    for verb in ASKING:
        if there:
            world.api.always.pop((CLUSTER_POLICIES, verb), None)
        else:
            world.api.always[CLUSTER_POLICIES, verb] = MISSING


def has(world: World, *names: str) -> Callable[[], bool]:
    return lambda: (now := world.store.snapshot()) is not None and set(now.cluster_policies) == set(names)


async def furnish(world: World) -> None:
    await world.api.put(NAMESPACES, namespace("default", team="a"))
    await world.api.put(PODS, pod("web", "10.244.1.5", app="web"))


async def test_a_server_without_the_kind_is_no_trouble_and_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with made(tmp_path) as world:
        await furnish(world)
        install(world, there=False)
        async with running(world):
            await world.until_services("web")
            await world.until(lambda: world.api.count("list", CLUSTER_POLICIES) > 2)
            assert (world.now.cluster_policies, world.now.problems) == ({}, {})
            assert world.api.count("watch", CLUSTER_POLICIES) == 0
            assert world.api.count("list", PODS) == 0
            # It is installed, and has a policy at once.
            await world.api.put(CLUSTER_POLICIES, policy("lock"))
            install(world, there=True)
            await world.until(has(world, "lock"))
            assert set(world.now.pods) == {"default/web"}, "what policies select by comes with them"
            await world.until(lambda: world.api.count("watch", CLUSTER_POLICIES) == 1)
            await asyncio.sleep(0.05)
            await world.api.put(CLUSTER_POLICIES, policy("more"))
            await world.until(has(world, "lock", "more"))
    assert (
        "there are ClusterNetworkPolicies: all pods and namespaces are followed from now on"
        in caplog.messages
    )
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


async def test_a_server_that_errs_while_it_starts_hides_no_policy(tmp_path: Path) -> None:
    """An agent that starts would take it for the end of what an earlier one denied."""
    async with made(tmp_path) as world:
        await furnish(world)
        await world.api.put(CLUSTER_POLICIES, policy("lock"))
        world.api.once[CLUSTER_POLICIES, "list"] = [MISSING]
        async with running(world):
            await world.until_services("web")
            assert world.api.count("list", CLUSTER_POLICIES) == 2
            assert set(world.published[0].cluster_policies) == {"lock"}


async def test_a_start_without_the_kind_asks_twice_and_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No agent starts later by the pause between two later questions."""
    monkeypatch.undo()
    async with made(tmp_path) as world:
        install(world, there=False)
        async with running(world):
            started = time.monotonic()
            await world.until_services("web")
            assert time.monotonic() - started < 5
            assert world.api.count("list", CLUSTER_POLICIES) == 2
            await asyncio.sleep(2 * reflector._ABSENT_AT_FIRST[1])
            assert world.api.count("list", CLUSTER_POLICIES) == 2, "asked no faster than later ever after"


async def test_a_kind_that_is_taken_away_takes_its_policies_along(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await furnish(world)
        await world.api.put(CLUSTER_POLICIES, policy("lock"))
        await world.until(has(world, "lock"))
        before = world.api.count("list", CLUSTER_POLICIES)
        install(world, there=False)
        await world.api.end_watches(CLUSTER_POLICIES)
        # A server that has just started may not know of it yet: one answer is none.
        await world.until(lambda: world.api.count("list", CLUSTER_POLICIES) == before + 1)
        assert has(world, "lock")()
        await world.until(has(world))
        assert world.now.problems == {}
        install(world, there=True)
        await world.until(has(world, "lock"))


async def test_it_is_refused_as_any_other_kind(tmp_path: Path) -> None:
    """Without the right to list them nobody knows whether there are any."""
    async with made(tmp_path) as world:
        world.api.always[CLUSTER_POLICIES, "list"] = refuse("403 Forbidden", "no")
        async with running(world):
            await world.until(lambda: world.api.count("watch") == len(ALWAYS) - 1)
            await asyncio.sleep(0.3)
            assert world.store.snapshot() is None


async def test_one_look_at_a_server_without_the_kind(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        await furnish(world)
        install(world, there=False)
        now = await world.store.look()
        assert (now.cluster_policies, now.pods) == ({}, {})
        assert set(now.services) == {"default/web"}


async def test_what_can_not_be_read_is_told(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await furnish(world)
        rule = {"action": "Deny", "from": [{}]}
        await world.api.put(CLUSTER_POLICIES, policy("lock", ingress=[rule]))
        await world.until(has(world, "lock"))
        problem = world.now.problems["ClusterNetworkPolicy lock"]
        assert problem.startswith("spec.ingress[0].from[0]: must have one of namespaces, pods")
        assert problem.endswith("the rule denies everything")


async def test_a_policy_that_was_never_in_order_is_named(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        await furnish(world)
        await world.api.put(CLUSTER_POLICIES, {"metadata": {"name": "lock"}, "spce": {}})
        async with running(world):
            await world.until(lambda: world.store.snapshot() is not None)
            assert world.now.unread_policies == {"ClusterNetworkPolicy lock"}
            await world.until(lambda: world.api.count("watch", CLUSTER_POLICIES) == 1)
            await asyncio.sleep(0.05)
            await world.api.put(CLUSTER_POLICIES, policy("lock"))
            await world.until(has(world, "lock"))
            assert world.now.unread_policies == frozenset()
            await world.api.put(CLUSTER_POLICIES, {"metadata": {"name": "lock"}, "spce": {}})
            await world.until(lambda: bool(world.now.problems))
            assert world.now.unread_policies == frozenset(), "what was good of it stays"
