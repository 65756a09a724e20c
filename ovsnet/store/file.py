"""The `file` store: a folder of Kubernetes manifests, watched.

Owns the snapshot and what is said about it in the log: each problem once. Never reads a file itself (`folder`) nor
settles who is right (`cluster`, `frontends`). Called by the agent and, for one look, by the inspection commands.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from ovsnet.errors import StoreError
from ovsnet.store import Snapshot, cluster
from ovsnet.store.folder import Entry, ManifestFolder
from ovsnet.store.frontends import Frontends
from ovsnet.store.reading import Readable
from ovsnet.store.watch import FolderWatch

log = logging.getLogger("ovsnet.store")

_POLL = 10.0
"""Seconds between looks without an event: what inotify can't see is seen then."""
_BLIND_POLL = 1.0
"""The same when there is no inotify or no folder: nobody tells when something is mounted."""
_REMIND = 10.0
"""Seconds after which a folder that is away is mentioned again; doubles up to _REMIND_LONGEST."""
_REMIND_LONGEST = 600.0
_MANY = 20
"""More lines than this at once are counted, not written."""

_Object = TypeVar("_Object", bound=Readable)


class FileStore:
    """Nodes, Services and their endpoints from the manifests in `folder`. Does nothing before `run` or `look`."""

    def __init__(self, folder: Path) -> None:
        self._folder = ManifestFolder(folder)
        self._frontends = Frontends()
        self._snapshot: Snapshot | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._away = ""
        self._remind_at = 0.0
        self._remind_after = _REMIND

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._subscribers.append(callback)

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    async def run(self) -> None:
        """Follows the folder until cancelled, through its absence too."""
        watch = FolderWatch(self._folder.path)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(watch)
            except OSError as error:
                log.warning(
                    "no inotify (%s): looking at %s every %.0f s; raise fs.inotify.max_user_instances",
                    error.strerror,
                    self._folder.path,
                    _BLIND_POLL,
                )
            while True:
                # Watch first, then look: what changes in between is an event.
                if watch.aim():
                    self._folder.replaced()
                await self.look(watch.writing())
                await watch.changed(_BLIND_POLL if watch.blind or self._away else _POLL)

    async def look(self, being_written: Collection[str] = ()) -> None:
        """Looks at the folder once and publishes what is different. Not while `run` runs.

        being_written: names of files to leave alone for now.
        """
        started = time.monotonic()
        try:
            changed = await self._folder.look(being_written)
        except StoreError as error:
            changed = self._mark_away(str(error))
        else:
            changed = self._mark_back() or changed or self._snapshot is None
        if changed:
            self._publish(started)

    def _publish(self, started: float) -> None:
        before = self._snapshot
        if before is None and self._away:
            return
        now = self._snapshot = _combined(self._folder, self._frontends, before, self._away)
        if not self._away:
            self._tell(now.problems, before)
        if before is None:
            log.info(
                "%d nodes and %d Services in %d files of %s, read in %.0f ms",
                len(now.nodes),
                len(now.services),
                len(self._folder.entries),
                self._folder.path,
                1000 * (time.monotonic() - started),
            )
        for callback in self._subscribers:
            callback()

    def _tell(self, problems: Mapping[str, str], before: Snapshot | None) -> None:
        """What is wrong that was not before, and what is in order again."""
        known = before.problems if before else {}
        new = [f"{path}: {text}" for path, text in problems.items() if known.get(path) != text]
        for line in new[:_MANY]:
            log.warning("%s", line)
        if len(new) > _MANY:
            log.warning("and %d more manifests with problems; `ovsnet show` lists them", len(new) - _MANY)
        over = [path for path in known if path not in problems and path in self._folder.entries]
        for path in over[:_MANY]:
            log.info("%s: in order again", path)
        if len(over) > _MANY:
            log.info("and %d more in order again", len(over) - _MANY)

    def _mark_away(self, reason: str) -> bool:
        """True if that is new."""
        new = reason != self._away
        now = time.monotonic()
        if new:
            self._remind_after = _REMIND
        elif now < self._remind_at:
            return False
        else:
            self._remind_after = min(2 * self._remind_after, _REMIND_LONGEST)
        self._remind_at = now + self._remind_after
        self._away = reason
        kept = f"{len(self._snapshot.nodes)} nodes stay as they are" if self._snapshot else "waiting for it"
        log.warning("%s; %s", reason, kept)
        return new

    def _mark_back(self) -> bool:
        """True if it was away."""
        if not self._away:
            return False
        self._away = ""
        log.info("store %s is there", self._folder.path)
        return True


async def read_folder(path: Path) -> Snapshot:
    """One look at a folder, without a word in the log. Raises StoreError when it can't be read."""
    folder = ManifestFolder(path)
    await folder.look()
    return _combined(folder, Frontends(), None, "")


def _combined(folder: ManifestFolder, frontends: Frontends, before: Snapshot | None, away: str) -> Snapshot:
    """The snapshot that follows from what the files say. away: why the folder is not there, "" if it is."""
    entries = folder.entries
    settled = cluster.combine(
        {path: entry.nodes for path, entry in entries.items()}, before.nodes if before else {}
    )
    conflicts = {path: list(lines) for path, lines in settled.problems.items()}
    _add(conflicts, _settle_services(entries, frontends))
    slices, doubles = cluster.one_of_each(
        {path: entry.slices for path, entry in entries.items()}, before.slices if before else {}
    )
    _add(conflicts, doubles)
    problems = {
        path: "; ".join(lines)
        for path, entry in entries.items()
        if (lines := (*entry.problems, *entry.remarks, *conflicts.get(path, ())))
    }
    return Snapshot(
        nodes=_same(settled.nodes, before.nodes if before else {}),
        services=frontends.services,
        slices=_same({key: item for key, (_, item) in slices.items()}, before.slices if before else {}),
        problems=problems | ({str(folder.path): away} if away else {}),
        version=before.version + 1 if before else 1,
        unread=frozenset(path for path, entry in entries.items() if entry.problems and not entry.sound),
    )


def _settle_services(entries: Mapping[str, Entry], frontends: Frontends) -> dict[str, list[str]]:
    """Has `frontends` settle who has what, and returns what is wrong by file."""
    wanted, problems = cluster.one_of_each(
        {path: entry.services for path, entry in entries.items()}, frontends.supplied
    )
    frontends.replace({key: service for key, (_, service) in wanted.items()})
    for key, text in frontends.problems.items():
        problems.setdefault(wanted[key][0], []).append(f"Service {key}: {text}")
    return problems


def _same(now: Mapping[str, _Object], before: Mapping[str, _Object]) -> Mapping[str, _Object]:
    """The mapping that there was before if it says the same."""
    unchanged = len(before) == len(now) and all(before.get(key) is item for key, item in now.items())
    return before if unchanged else now


def _add(problems: dict[str, list[str]], more: Mapping[str, list[str]]) -> None:
    for path, lines in more.items():
        problems.setdefault(path, []).extend(lines)
