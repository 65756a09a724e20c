"""The kubernetes store through what a real API server does to those who follow it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from api_server_world import (
    KINDS,
    TIERS,
    ApiServer,
    admin,
    advance,
    agent_account,
    answered,
    api_server,
    following,
    token_of,
)
from api_store_world import NODES, PODS, POLICIES, SERVICES, SLICES, Cluster, service
from api_wire import HOST, PORT

from ovsnet.store.kubernetes import reflector
from ovsnet.store.kubernetes.client import Gone
from ovsnet.store.kubernetes.reflector import Reflector
from ovsnet.store.kubernetes.store import RESOURCES, SELECTED

__all__ = ["admin"]
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1"
kubernetes = api_server


@pytest.fixture
async def agent(kubernetes: ApiServer, admin: Cluster) -> str:
    """The token of an agent, whose account has the administrator's name."""
    await agent_account(admin, admin.name)
    token = await token_of(admin, admin.name)
    await answered(kubernetes, 200, token)
    return token


async def test_what_the_server_has_forgotten_is_listed_anew(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path, agent: str
) -> None:
    """Where a watch was, and the moment of a list's first page. The store asks all the time while the server starts."""
    async with following(kubernetes, kubeconfig, tmp_path, agent) as world:
        pages = Reflector(world.admin, RESOURCES[1], *(3 * (lambda *_: None,)))
        page = await pages._page({"limit": 1})
        await world.wire.close()
        await world.create(SERVICES, service(f"{world.name}-new"))
        await world.delete(f"{SLICES}/{world.name}-x")
        await advance(1, forget=True)
        assert not any(map(world.lacks, world.published))
        kubernetes.stop()
        since, published = len(world.wire.asked), len(world.published)
        await world.wire.open()
        await kubernetes.resume()
        with pytest.raises(Gone, match="The provided continue parameter is too old"):
            await pages._page({"limit": 1, "continue": page.metadata.continue_})
        await world.until(lambda: world.watching(since), 60)
        watches = [each for each in world.wire.asked[since:] if each.verb == "watch"]
        gone = Counter(each.kind for each in watches for error in each.told("ERROR") if error["code"] == 410)
        # Once each; twice where the list was older than what a server that starts remembers.
        assert all(gone[kind] and world.wire.count("list", kind) == 1 + gone[kind] for kind in KINDS)
        await world.until(lambda: world.lacks(world.now) == {"endpointslices"})
        await world.until(lambda: f"{world.key}-new" in world.now.services)
        assert all(world.lacks(each) <= {"endpointslices"} for each in world.published[published:])
        await world.point(81)


async def test_bookmarks_are_where_a_watch_goes_on(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server sends one two seconds before a watch's time is up, as it does once a minute."""
    monkeypatch.setattr(reflector, "_LENGTH", (3, 3))
    async with following(kubernetes, kubeconfig, tmp_path) as world:
        wire, reflectors = world.wire, world.store._reflectors
        now = await advance(5)
        for resource in (*RESOURCES, *SELECTED):
            # A list has the server's cache come as far.
            await world.get(resource.path)
        await world.until(lambda: all(int(each._version) >= now for each in reflectors), 60)
        marked = {each.resource.plural: int(each._version) for each in reflectors}
        since = len(wire.asked)
        await wire.cut()
        await world.until(lambda: world.watching(since))
        again = {each.kind: each for each in reversed(wire.asked[since:]) if each.verb == "watch"}
        assert all(int(again[kind].params["resourceVersion"]) >= marked[kind] for kind in KINDS)
        # And where their time is up.
        since = len(wire.asked)
        await world.until(lambda: world.watching(since))
        assert {each.kind for each in wire.asked if each.told("BOOKMARK")} == KINDS
        assert all(wire.count("list", kind) == 1 for kind in KINDS)
        assert not any(map(world.lacks, world.published))
        await world.point(81)


async def test_a_backup_is_restored(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path, agent: str
) -> None:
    """The server has come past what most kinds were at, which no number shows, and not past one of them."""
    async with following(kubernetes, kubeconfig, tmp_path, agent) as world:
        kubernetes.back_up(tmp_path / "etcd")
        # So much the server itself may write at its start.
        await advance(50)
        undone = {"nodes", "networkpolicies", "clusternetworkpolicies", "pods", "endpointslices"}
        for path in (NODES, POLICIES, TIERS, PODS, SLICES):
            name = f"{world.name}-x" if path == SLICES else world.name
            await world.admin.send("delete", "DELETE", f"{path}/{name}", {})
        await world.until(lambda: world.lacks(world.now) == undone)
        await advance(200)
        await world.create(SERVICES, service(f"{world.name}-new"))
        await world.point(81)
        known, published = int(world.store._services._version), len(world.published)
        kubernetes.stop()
        kubernetes.restore(tmp_path / "etcd")
        await world.wire.close()
        await kubernetes.resume()
        assert 0 < await advance(100) < known
        since = len(world.wire.asked)
        await world.wire.open()
        for each in world.store._reflectors:
            each.retry()
        await world.until(lambda: not world.lacks(world.now) and world.port == 80, 60)
        await world.until(lambda: world.watching(since), 60)
        assert f"{world.key}-new" not in world.now.services
        assert all(world.lacks(each) <= undone for each in world.published[published:])
        await world.point(82)
        assert int(world.store._services._version) < known


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(
    kubernetes: ApiServer, kubeconfig: Path, tmp_path: Path, admin: Cluster, agent: str
) -> None:
    """The agent's account may have one request at a time, and one that is never finished takes that place."""
    name = admin.name
    async with following(kubernetes, kubeconfig, tmp_path, agent) as world:
        await admin.create(
            f"{FLOWS}/prioritylevelconfigurations", {"metadata": {"name": name}, "spec": NO_PLACE}
        )
        await admin.create(f"{FLOWS}/flowschemas", flow_of(name))
        slow = await unfinished(kubernetes, agent)
        since = len(world.wire.asked)
        await world.wire.cut()
        await world.until(
            lambda: sum(each.status == 429 for each in world.wire.asked[since:]) >= 2 * len(KINDS), 60
        )
        await admin.delete(f"{FLOWS}/flowschemas/{name}")
        slow.transport.abort()
        await world.until(lambda: world.watching(since), 60)
        for kind in KINDS:
            asked = [each for each in world.wire.asked[since:] if each.kind == kind]
            for before, after in itertools.pairwise(asked):
                if before.status == 429:
                    assert after.at - before.at >= before.retry_after > 0
        assert all(world.wire.count("list", kind) == 1 for kind in KINDS)
        assert not any(map(world.lacks, world.published))
        await world.point(81)


NO_PLACE = {
    "type": "Limited",
    "limited": {
        "nominalConcurrencyShares": 0,
        "lendablePercent": 0,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    },
}


def flow_of(account: str) -> dict[str, Any]:
    """All requests of the service account are of the priority level of that name."""
    subject = {"kind": "ServiceAccount", "serviceAccount": {"name": account, "namespace": "default"}}
    every = {
        "verbs": ["*"],
        "apiGroups": ["*"],
        "resources": ["*"],
        "namespaces": ["*"],
        "clusterScope": True,
    }
    spec = {
        "matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": account},
        "rules": [{"subjects": [subject], "resourceRules": [every]}],
    }
    return {"metadata": {"name": account}, "spec": spec}


async def unfinished(server: ApiServer, token: str) -> asyncio.StreamWriter:
    """A request whose body never comes, made until it keeps the server from all others of its account."""
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n"
    body = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    for _ in range(20):
        _, writer = await asyncio.open_connection(HOST, PORT, ssl=server.upstream())
        writer.write(f"{head}{body}".encode())
        with contextlib.suppress(AssertionError):
            await answered(server, 429, token, seconds=1)
            return writer
        writer.transport.abort()
    raise AssertionError("the server has room for more")
