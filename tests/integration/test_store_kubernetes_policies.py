"""The kubernetes store with NetworkPolicies: when it follows pods and namespaces, and that none is without them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_api import (
    ALL,
    ALWAYS,
    NAMESPACES,
    PODS,
    POLICIES,
    SERVICES,
    Request,
    cut,
    namespace,
    pod,
    policy,
    refuse,
    service,
)
from store_kubernetes_world import World, following, made, running

EVERYBODY: dict[str, Any] = {"podSelector": {}}
PHASES = "status.phase!=Succeeded,status.phase!=Failed"


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ovsnet.store")


async def furnish(world: World) -> None:
    await world.api.put(NAMESPACES, namespace("default", team="a"))
    await world.api.put(PODS, pod("web", "10.244.1.5", app="web"))
    await world.api.put(PODS, pod("done", "10.244.1.6", phase="Succeeded"))


def has_policy(world: World, name: str = "default/lock") -> Callable[[], bool]:
    return lambda: (now := world.store.snapshot()) is not None and name in now.policies


async def lock(world: World) -> None:
    """A policy, and the store has all that it takes and follows it."""
    await furnish(world)
    await world.api.put(POLICIES, policy("lock", **EVERYBODY))
    await world.until(has_policy(world))
    await world.until(lambda: all(world.api.count("watch", each) == 1 for each in (PODS, NAMESPACES)))
    # The requests are there; their answers are on their way.
    await asyncio.sleep(0.05)


def whole(world: World) -> bool:
    """Whether no snapshot has ever had policies without all that there was to select by."""
    return all(
        set(each.pods) >= {"default/web"} and set(each.namespaces) == {"default"}
        for each in world.published
        if each.policies
    )


async def test_without_policies_pods_cost_nothing(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await furnish(world)
        await asyncio.sleep(0.2)
        assert {each.path for each in world.api.log} == set(ALWAYS)
        assert (world.now.policies, world.now.namespaces, world.now.pods) == ({}, {}, {})


async def test_the_first_policy_brings_pods_and_namespaces(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as world:
        await furnish(world)
        await world.api.put(POLICIES, policy("lock", **EVERYBODY))
        await world.until(has_policy(world))
        now = world.now
        assert now.policies["default/lock"].ingress == ()
        assert now.namespaces["default"].labels == {"team": "a", "kubernetes.io/metadata.name": "default"}
        assert set(now.pods) == {"default/web"}
        assert dict(now.pods["default/web"].labels) == {"app": "web"}
        assert whole(world)
        asked = {each.params.get("fieldSelector") for each in world.api.log if each.path == PODS}
        assert asked == {PHASES}
        assert (
            "there are NetworkPolicies: all pods and namespaces are followed from now on" in caplog.messages
        )


async def test_policies_that_are_there_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with made(tmp_path) as world:
        await furnish(world)
        await world.api.put(POLICIES, policy("lock", **EVERYBODY))
        go = asyncio.Event()

        async def wait(request: Request) -> None:
            await go.wait()
            await world.api._list(request)

        world.api.once[PODS, "list"] = [cut, wait]
        async with running(world):
            await world.until(lambda: world.api.count("watch") == len(ALL) - 1)
            await asyncio.sleep(0.2)
            assert world.store.snapshot() is None
            go.set()
            await world.until(has_policy(world))
            assert whole(world)
            assert world.published[0].policies
    assert any(
        "2 nodes and 1 Services, 1 NetworkPolicies over 1 pods in 1 namespaces from" in each
        for each in caplog.messages
    )


async def test_until_all_pods_are_there_the_snapshot_before_stays(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await furnish(world)
        before = world.now
        world.api.always[PODS, "list"] = refuse("403 Forbidden", "pods is forbidden")
        await world.api.put(POLICIES, policy("lock", **EVERYBODY))
        await world.api.put(SERVICES, service("dns", 2))
        await world.until(lambda: bool(world.now.problems))
        await asyncio.sleep(0.2)
        assert (world.now.policies, world.now.pods) == ({}, {})
        assert world.now.services is before.services
        (problem,) = world.now.problems.values()
        assert "403 pods is forbidden (give the agent the rights" in problem
        del world.api.always[PODS, "list"]
        await world.until(has_policy(world), 40)
        assert set(world.now.services) == {"default/web", "default/dns"}
        assert not world.now.problems
        assert whole(world)


async def test_a_policy_that_goes_before_its_pods_are_there_holds_nothing_up(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        world.api.always[PODS, "list"] = refuse("403 Forbidden", "pods is forbidden")
        await world.api.put(POLICIES, policy("lock", **EVERYBODY))
        await world.until(lambda: bool(world.now.problems))
        await world.api.remove(POLICIES, "default/lock")
        await world.api.put(SERVICES, service("dns", 2))
        await world.until_services("web", "dns")
        assert not world.now.policies


async def test_pods_come_change_and_go_and_the_rest_stays_the_same(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await lock(world)
        before = world.now
        await world.api.put(PODS, pod("db", "10.244.1.7"))
        await world.until(lambda: "default/db" in world.now.pods)
        assert world.now.pods["default/web"] is before.pods["default/web"]
        assert (world.now.policies, world.now.namespaces) == (before.policies, before.namespaces)
        assert world.now.policies is before.policies
        assert world.now.namespaces is before.namespaces
        await world.api.put(PODS, pod("db", "10.244.1.7", app="db"))
        await world.until(lambda: bool(world.now.pods["default/db"].labels))
        # It ends: the selection loses it.
        await world.api.put(PODS, pod("db", "10.244.1.7", phase="Failed", app="db"))
        await world.until(lambda: "default/db" not in world.now.pods)
        await world.api.put(NAMESPACES, namespace("default", team="b"))
        await world.until(lambda: world.now.namespaces["default"].labels["team"] == "b")
        # Once begun they are followed whether there are policies or not.
        await world.api.remove(POLICIES, "default/lock")
        await world.until(lambda: not world.now.policies)
        await world.api.remove(PODS, "default/web")
        await world.until(lambda: not world.now.pods)
        assert world.api.count("list") == len(ALL)


async def test_a_status_that_says_nothing_of_ours_is_not_published(tmp_path: Path) -> None:
    async with following(tmp_path) as world:
        await lock(world)
        before, published = world.now, len(world.published)
        for number in range(5):
            changed = pod("web", "10.244.1.5", app="web")
            changed["status"]["conditions"] = [{"type": "Ready", "lastProbeTime": number}]
            changed["status"]["containerStatuses"] = [{"name": "c", "restartCount": number}]
            changed["metadata"]["annotations"] = {"n": str(number)}
            await world.api.put(PODS, changed)
        await asyncio.sleep(0.3)
        assert world.now is before
        assert len(world.published) == published


async def test_what_a_policy_says_that_can_not_be_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as world:
        await furnish(world)
        await world.api.put(POLICIES, policy("lock", ingress=[{"from": [{}]}], **EVERYBODY))
        await world.until(has_policy(world))
        problem = world.now.problems["NetworkPolicy default/lock"]
        assert problem.startswith("spec.ingress[0].from[0]: is nobody")
        (rule,) = world.now.policies["default/lock"].ingress or ()
        assert rule.peers == ()
        await world.api.put(POLICIES, policy("lock", **EVERYBODY))
        await world.until(lambda: not world.now.problems)
    assert "NetworkPolicy default/lock: in order again" in caplog.messages


async def test_a_pod_of_another_shape_is_a_problem_and_no_nonsense(tmp_path: Path) -> None:
    """Only the fields that are read are decoded, but what is wrong is told in the same words."""
    async with following(tmp_path) as world:
        await lock(world)
        before = world.now.pods["default/web"]
        odd = pod("web", "10.244.1.5")
        odd["spec"] = [1]
        await world.api.put(PODS, odd)
        await world.until(lambda: "Pod default/web" in world.now.problems)
        assert world.now.problems["Pod default/web"] == "spec: must be a mapping, is a list"
        assert world.now.pods["default/web"] is before


async def test_one_look(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        await furnish(world)
        now = await world.store.look()
        assert (now.policies, now.pods) == ({}, {})
        assert {each.path for each in world.api.log} == set(ALWAYS)
    async with made(_sub(tmp_path)) as world:
        await furnish(world)
        await world.api.put(POLICIES, policy("lock", **EVERYBODY))
        now = await world.store.look()
        assert (set(now.policies), set(now.pods), set(now.namespaces)) == (
            {"default/lock"},
            {"default/web"},
            {"default"},
        )
        assert world.api.count("watch") == 0


def _sub(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub"
