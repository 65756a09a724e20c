"""A store that follows the cluster's API, and who changes what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ovsnet.store import Snapshot
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.client import Client, Refused
from ovsnet.store.kubernetes.store import KubernetesStore

NODES = "/api/v1/nodes"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
MERGE = "application/merge-patch+json"


class Cluster:
    """An administrator, and a store that follows."""

    def __init__(self, kubeconfig: Path) -> None:
        self.admin = Client(Source(str(kubeconfig)))
        self.store = KubernetesStore(Source(str(kubeconfig)))
        self.name = f"t{uuid.uuid4().hex[:8]}"
        self._made: list[str] = []

    @property
    def now(self) -> Snapshot:
        snapshot = self.store.snapshot()
        assert snapshot is not None
        return snapshot

    async def create(self, path: str, item: dict[str, Any]) -> dict[str, Any]:
        answer = await self.admin.send("create", "POST", path, item)
        self._made.append(f"{path}/{item['metadata']['name']}")
        made: dict[str, Any] = json.loads(answer)
        return made

    async def patch(self, path: str, change: object) -> None:
        await self.admin.send("patch", "PATCH", path, change, MERGE)

    async def delete(self, path: str) -> None:
        self._made = [each for each in self._made if each != path]
        with contextlib.suppress(Refused):
            await self.admin.send("delete", "DELETE", path, {})

    async def get(self, path: str, **params: str | int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.admin.get(path, params, "get"))
        return found

    async def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"did not come to pass; now {self.store.snapshot()}"
            await asyncio.sleep(0.01)

    async def clean(self) -> None:
        made = list(reversed(self._made))
        for start in range(0, len(made), 20):
            await asyncio.gather(*map(self.delete, made[start : start + 20]))
        await self.admin.close()


@pytest.fixture
async def cluster(kubeconfig: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(kubeconfig)
    task = asyncio.create_task(cluster.store.run())
    try:
        await cluster.until(lambda: cluster.store.snapshot() is not None, 30)
        yield cluster
    finally:
        await cluster.clean()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def service(name: str, **spec: object) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}], **spec}}


def slice_(name: str, **more: object) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.77.5"], "conditions": {"ready": True}, "nodeName": "n1"}],
    } | more


def node(name: str, number: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "annotations": {"ovsnet.io/encapsulation": "geneve"}},
        "spec": {"podCIDR": f"10.199.{number}.0/24", "podCIDRs": [f"10.199.{number}.0/24"]},
    }
