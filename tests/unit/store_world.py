"""A folder of manifests in a real loop, its store, and what that has published."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ovsnet.store import Snapshot
from ovsnet.store.file import FileStore


def text(name: str, number: int, address: str = "") -> str:
    high, low = divmod(number, 256)
    return (
        f"apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  podCIDRs:\n  - 10.{high}.{low}.0/24\n"
        f"status:\n  addresses:\n  - type: InternalIP\n    address: {address or f'192.168.{high}.{low}'}\n"
    )


def has_range(name: str, cidr: str) -> Callable[[Snapshot], bool]:
    return lambda now: [str(each) for each in now.nodes[name].pod_cidrs] == [cidr]


def put_in_place(folder: Path, other: Path) -> None:
    """`other` takes the place of `folder` as two renames leave it."""
    folder.rename(folder.parent / "old")
    other.rename(folder)


class Cluster:
    """A folder, its store, and what the store has published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FileStore(folder)
        self.published: list[Snapshot] = []
        self.store.subscribe(self._note)

    def _note(self) -> None:
        snapshot = self.store.snapshot()
        assert snapshot is not None
        self.published.append(snapshot)

    @property
    def now(self) -> Snapshot:
        snapshot = self.store.snapshot()
        assert snapshot is not None
        return snapshot

    def write(self, name: str, content: str) -> None:
        """As a careful writer does: under another name first."""
        partial = self.folder / f".{name}.partial"
        partial.write_text(content)
        partial.rename(self.folder / name)

    async def until(self, condition: Callable[[Snapshot], bool], seconds: float = 8) -> Snapshot:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            snapshot = self.store.snapshot()
            if snapshot is not None and condition(snapshot):
                return snapshot
            await asyncio.sleep(0.005)
        raise AssertionError(f"did not come to pass; now {self.store.snapshot()}")

    async def until_names(self, *names: str) -> Snapshot:
        return await self.until(lambda snapshot: set(snapshot.nodes) == set(names))


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(folder)
    task = asyncio.create_task(cluster.store.run())
    try:
        yield cluster
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "ovsnet.store"):
        yield
    assert not [record for record in caplog.records if record.name == "asyncio"]
