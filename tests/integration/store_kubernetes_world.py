"""A store on a scripted API server, and what it has published."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from scripted_api import ALWAYS, NODES, SERVICES, SLICES, Api, node, service, serving, slice_

from ovsnet.store import Snapshot
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.store import KubernetesStore


class World:
    """silence: what the store takes for a dead watch. pods_of: the node whose Pods it follows in any case."""

    def __init__(self, api: Api, folder: Path, silence: float, pods_of: str = "") -> None:
        self.api = api
        self.token = folder / "token"
        self.token.write_text("first")
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            f"clusters: [{{name: c, cluster: {{server: '{api.url}'}}}}]\n"
            "users: [{name: u, user: {tokenFile: token}}]\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
        )
        self.store = KubernetesStore(Source(str(kubeconfig)), pods_of=pods_of, silence=silence)
        self.published: list[Snapshot] = []
        self.store.subscribe(lambda: self.published.append(self.now))

    @property
    def now(self) -> Snapshot:
        snapshot = self.store.snapshot()
        assert snapshot is not None
        return snapshot

    async def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"did not come to pass; now {self.store.snapshot()}"
            await asyncio.sleep(0.005)

    async def until_services(self, *names: str) -> Snapshot:
        wanted = {f"default/{name}" for name in names}
        await self.until(lambda: (now := self.store.snapshot()) is not None and set(now.services) == wanted)
        return self.now

    async def watching(self, times: int = 1) -> None:
        """Until every kind that is followed in any case is watched for so many times."""
        await self.until(lambda: all(self.api.count("watch", each) >= times for each in ALWAYS))
        # The request is there; its answer is on its way.
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def made(folder: Path, *, silence: float = 150, pods_of: str = "") -> AsyncIterator[World]:
    """A server with two nodes, a Service and its slice; the store does nothing yet."""
    async with serving() as api:
        await api.put(NODES, node("node-a", 1))
        await api.put(NODES, node("node-b", 2))
        await api.put(SERVICES, service("web", 1))
        await api.put(SLICES, slice_("web", "10.244.1.5"))
        yield World(api, folder, silence, pods_of)


@contextlib.asynccontextmanager
async def following(folder: Path, *, silence: float = 150, pods_of: str = "") -> AsyncIterator[World]:
    """The same with the store running and watching."""
    async with made(folder, silence=silence, pods_of=pods_of) as world, running(world):
        await world.until_services("web")
        await world.watching()
        yield world


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.store.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
