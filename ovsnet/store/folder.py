"""The manifest files of a folder: reads those that changed and keeps what was good in the others.

Owns what each file said when it was last in order. A file that can't be read or has a mistake in it withdraws
nothing; a folder that is away keeps everything. Only a file that is gone from a folder that is there takes its objects
with it. Never writes, never waits for a change: `watch` does. Called by `file`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ovsnet.errors import StoreError
from ovsnet.store import manifest
from ovsnet.store.reading import Readable

SUFFIXES = (".yaml", ".yml", ".json")
MAX_SIZE = 4 * 2**20
"""Bytes. A larger file would hold up the loop for longer than a pod's start may."""
_SLICE = 0.005
"""Seconds after which others get their turn."""
_LOOKS = 5
"""At a folder whose names change all the time; then nothing is taken for gone. Its watch tells of the next change."""
_GRAIN = 2_500_000_000
"""Nanoseconds within which a file system may give two versions of a file the same time (FAT: 2 s)."""


class Stamp(NamedTuple):
    """What changes when a file does. ctime also does when someone sets the modification time."""

    mtime_ns: int
    ctime_ns: int
    size: int
    device: int
    inode: int


class Entry(NamedTuple):
    """What is known of a file. stamp None: it could not be looked at."""

    stamp: Stamp | None = None
    fresh: bool = False
    """Too new for its stamp to tell versions apart."""
    digest: bytes = b""
    objects: manifest.Objects = {}
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unread: frozenset[str] = manifest.KINDS
    """Kinds that never were in order here: nobody knows which of these it has."""


class ManifestFolder:
    """A folder and its entries, by path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._identity: tuple[int, int] | None = None

    def replaced(self) -> None:
        """The folder that has the name now is not the one of the last look, though its inode number may be."""
        self._identity = None

    async def look(self, being_written: Collection[str] = ()) -> bool:
        """Reads what changed; True if anything that was read is different now.

        being_written: names of files to leave alone. Raises StoreError when the folder is away.
        """
        entries: dict[str, Entry] = {}
        for _ in range(_LOOKS):
            names, identity = self._list()
            entries = await self._read(names, being_written, self.entries | entries)
            if self._list()[0] == names and entries.keys() >= self._paths(names, being_written):
                break
            # What was renamed meanwhile may have been met under neither name, and is not gone.
        else:
            entries = self.entries | entries
        changed = list(map(_said, self.entries.items())) != list(map(_said, entries.items()))
        self.entries, self._identity = entries, identity
        return changed

    def _paths(self, names: Iterable[str], without: Collection[str]) -> set[str]:
        return {os.path.join(self.path, name) for name in names if name not in without}

    async def _read(
        self, names: Iterable[str], being_written: Collection[str], before: Mapping[str, Entry]
    ) -> dict[str, Entry]:
        """By path; without those that were gone when their turn came."""
        entries: dict[str, Entry] = {}
        first = self._identity is None and not self.entries
        slice_end = time.perf_counter() + _SLICE
        for name in names:
            path = os.path.join(self.path, name)
            known = before.get(path)
            if name not in being_written:
                entry = _look_at(path, known or Entry())
            else:
                # At the first look nobody knows what it had; later one that is new comes when it is whole.
                entry = known or (Entry(problems=("is being written",)) if first else None)
            if entry is not None:
                entries[path] = entry
            if time.perf_counter() > slice_end:
                await asyncio.sleep(0)
                slice_end = time.perf_counter() + _SLICE
        return entries

    def _list(self) -> tuple[list[str], tuple[int, int]]:
        """The names of the manifests in order, and which folder this is."""
        try:
            status = os.stat(self.path)
            names = sorted(
                name for name in os.listdir(self.path) if name.endswith(SUFFIXES) and not name.startswith(".")
            )
        except OSError as error:
            self.replaced()
            raise StoreError(f"store {self.path}: {error.strerror}", "restore the folder") from error
        identity = (status.st_dev, status.st_ino)
        if not names and self.entries and identity != self._identity:
            raise StoreError(
                f"store {self.path} is another folder than before and empty",
                "mount it or put the manifests back; if it shall be empty, restart the agent",
            )
        return names, identity


def _said(item: tuple[str, Entry]) -> tuple[object, ...]:
    path, entry = item
    return path, entry.objects, entry.problems, entry.remarks


def _look_at(path: str, known: Entry) -> Entry | None:
    """The entry of a file as it is now; None if it is gone."""
    try:
        status = os.stat(path)
        if known.stamp == _stamp(status) and not known.fresh:
            return known
        if problem := _unfit(status, known):
            return known._replace(stamp=_stamp(status), digest=b"", problems=(problem,))
        status, data = _contents(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            return None
        return known._replace(
            stamp=None, digest=b"", problems=("the link points to nothing; correct or remove it",)
        )
    except OSError as error:
        return known._replace(stamp=None, digest=b"", problems=(f"can't be read: {error.strerror}",))
    return _parsed(path, data, known)._replace(stamp=_stamp(status), fresh=_is_fresh(status))


def _parsed(path: str, data: bytes, known: Entry) -> Entry:
    """What the file says now; what it said before as well, as far as it is not in order."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    if digest == known.digest:
        return known
    try:
        contents = manifest.read(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        contents = manifest.broken(f"not UTF-8 text at byte {error.start}; is this a manifest?")
    if contents.empty and any(known.objects.values()):
        contents = manifest.broken("is empty; remove the file if what was in it shall go")
    doubtful = contents.doubtful
    return Entry(
        digest=digest,
        objects={
            kind: _kept(known.objects.get(kind, {}), contents.objects.get(kind, {}), kind in doubtful)
            for kind in manifest.KINDS
        },
        problems=contents.problems,
        remarks=contents.remarks,
        unread=known.unread & doubtful,
    )


def _kept(
    before: Mapping[str, Readable], read: Mapping[str, Readable], broken: bool
) -> Mapping[str, Readable]:
    """The objects of one kind as they are read now; broken: with those that the file had before as well."""
    # Who kept an object that is the same still has the same one.
    items = {key: old if (old := before.get(key)) == item else item for key, item in read.items()}
    missing = {key: item for key, item in before.items() if key not in items} if broken else {}
    return items | missing


def _contents(path: str) -> tuple[os.stat_result, bytes]:
    """The file's status and bytes, of one and the same file."""
    # O_NONBLOCK: the file may have become a pipe since it was looked at.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        return status, file.read(MAX_SIZE + 1)


def _unfit(status: os.stat_result, known: Entry) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        what = "is a folder, and no manifest" if stat.S_ISDIR(status.st_mode) else "is not a file"
        stays = (
            "; until then what the file of this name had stays in force"
            if any(known.objects.values())
            else ""
        )
        return f"{what}; remove or rename it{stays}"
    if status.st_size > MAX_SIZE:
        return f"has {status.st_size} bytes; split it into files of at most {MAX_SIZE}"
    return None


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_dev, status.st_ino)


def _is_fresh(status: os.stat_result) -> bool:
    return max(status.st_mtime_ns, status.st_ctime_ns) > time.time_ns() - _GRAIN
