"""The `file` store: a folder of Kubernetes manifests, watched.

Owns what was last good in each file. A file that can't be read or does not parse keeps what it said
before; a folder that is away keeps everything. Only a file that is gone from a folder that is there
takes its objects with it. Never writes. Called by the agent and, once, by the inspection commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from asyncinotify import Inotify, Mask

from ovsnet.errors import StoreError
from ovsnet.model import Node
from ovsnet.store import Snapshot, manifest

log = logging.getLogger("ovsnet.store")

_SUFFIXES = (".yaml", ".yml", ".json")
_SETTLE = 0.05
"""Seconds without an event after which a burst is over."""
_LONGEST_BURST = 0.5
_POLL = 5.0
"""Seconds for which a missed event may be missed."""
_AWAY = 0.5
"""Seconds between looks for a folder that is away."""
_SLICE = 25
"""Files parsed before others get their turn: some 10 ms."""
_MASK = Mask.CLOSE_WRITE | Mask.MOVE | Mask.CREATE | Mask.DELETE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.MODIFY


_LOST = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED | Mask.UNMOUNT


class _Stamp(NamedTuple):
    """What changes when a file does."""

    mtime_ns: int
    size: int
    inode: int


class _File(NamedTuple):
    stamp: _Stamp | None
    nodes: tuple[Node, ...]
    problem: str


class FileStore:
    """Node objects from the manifests in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._snapshot: Snapshot | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._said: dict[str, str] = {}
        self._away = False

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._subscribers.append(callback)

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    async def run(self) -> None:
        """Follows the folder until cancelled, through its absence too."""
        while True:
            try:
                with Inotify() as inotify:
                    inotify.add_watch(self._folder, _MASK)
                    self._back()
                    await self._follow(inotify)
            except OSError as error:
                self._gone(error.strerror or str(error))
            await asyncio.sleep(_AWAY)

    async def _follow(self, inotify: Inotify) -> None:
        """Reads, waits for events, reads again; returns when the folder itself is gone."""
        while await self.refresh():
            try:
                async with asyncio.timeout(_POLL):
                    event = await inotify.get()
            except TimeoutError:
                continue
            if event.mask & _LOST:
                return
            # A burst of files is one change: wait until it is quiet, but not for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_BURST):
                    while True:
                        async with asyncio.timeout(_SETTLE):
                            await inotify.get()

    async def refresh(self) -> bool:
        """Reads what changed; False when the folder is not there."""
        stamps = self._list()
        if stamps is None:
            return False
        files: dict[str, _File] = {}
        parsed = 0
        for name, stamp in sorted(stamps.items()):
            known = self._files.get(name)
            if known is not None and known.stamp == stamp and stamp is not None:
                files[name] = known
                continue
            files[name] = self._read(name, stamp, known)
            parsed += 1
            if parsed % _SLICE == 0:
                await asyncio.sleep(0)
        if files != self._files or self._snapshot is None:
            self._files = files
            self._publish()
        return True

    def _list(self) -> dict[str, _Stamp | None] | None:
        """The manifests that there are; None when the folder is away."""
        found: dict[str, _Stamp | None] = {}
        try:
            for path in self._folder.iterdir():
                if path.suffix in _SUFFIXES and not path.name.startswith("."):
                    try:
                        status = path.stat()
                    except OSError:
                        found[path.name] = None
                        continue
                    found[path.name] = _Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            self._gone(error.strerror or str(error))
            return None
        return found

    def _read(self, name: str, stamp: _Stamp | None, known: _File | None) -> _File:
        path = self._folder / name
        before = known.nodes if known is not None else ()
        try:
            nodes = manifest.nodes(path.read_text(encoding="utf-8"), str(path))
        except StoreError as error:
            return _File(stamp, before, str(error))
        except (OSError, UnicodeDecodeError) as error:
            return _File(stamp, before, f"{path}: can't be read: {error}")
        same = {node.name: node for node in before}
        return _File(stamp, tuple(same[n.name] if same.get(n.name) == n else n for n in nodes), "")

    def _publish(self) -> None:
        settled = self._snapshot.nodes if self._snapshot is not None else {}
        contents = {name: each.nodes for name, each in self._files.items()}
        nodes, problems = manifest.combine(contents, settled)
        problems |= {name: each.problem for name, each in self._files.items() if each.problem}
        self._snapshot = Snapshot(nodes=nodes, problems=problems)
        self._tell(problems)
        for callback in self._subscribers:
            callback()

    def _tell(self, problems: dict[str, str]) -> None:
        """Each problem once."""
        for name, problem in problems.items():
            if self._said.get(name) != problem:
                log.warning("%s", problem)
        for name in self._said.keys() - problems.keys():
            log.info("%s: in order again", self._folder / name)
        self._said = dict(problems)

    def _gone(self, reason: str) -> None:
        if not self._away:
            self._away = True
            kept = f"; {len(self._snapshot.nodes)} nodes stay as they are" if self._snapshot else "; waiting"
            log.warning("store %s: %s%s", self._folder, reason, kept)

    def _back(self) -> None:
        if self._away:
            self._away = False
            log.info("store %s is back", self._folder)


async def read_folder(folder: Path) -> Snapshot:
    """One look at a folder. Raises StoreError when it is not there."""
    store = FileStore(folder)
    await store.refresh()
    snapshot = store.snapshot()
    if snapshot is None:
        raise StoreError(f"store {folder} can't be read", "is store.file in the configuration right?")
    return snapshot
