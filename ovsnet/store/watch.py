"""Tells that something in a folder may have changed, once a burst is over.

Owns the inotify descriptor. Says *that* something changed and which files are being written this moment, never
what changed: whoever is told looks at the folder, so a lost event costs time and nothing else. What inotify can't see
(a network file system, the target of a symbolic link) the wait's time limit covers. Called by `file`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from asyncinotify import Event, Inotify, Mask, Watch

_QUIET = 0.01
"""Seconds without an event after which a burst is over."""
_FILLING = 0.1
"""The same for a folder that has just appeared."""
_LONGEST = 1.0
"""Seconds after which a burst that does not end is looked at all the same."""
_WRITING = 2.0
"""Seconds without a write after which a file that is still open for writing counts as written."""

_INSIDE = (
    Mask.MODIFY
    | Mask.CLOSE_WRITE
    | Mask.ATTRIB
    | Mask.CREATE
    | Mask.DELETE
    | Mask.MOVE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
_ABOVE = Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ONLYDIR
"""What is watched in the folder's parent: the folder may be removed, come back, or be a link that is swapped."""


class FolderWatch:
    """Watches one folder, through its absence too. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inotify: Inotify | None = None
        self._inside: Watch | None = None
        self._above: Watch | None = None
        self._identity: tuple[int, int] | None = None
        self._writing: dict[str, float] = {}
        """When each file that is open for writing was last written to."""
        self._changed = asyncio.Event()
        self._first: float | None = None
        """When the first event came since `changed` returned."""
        self._latest = 0.0
        self._reader: asyncio.Task[None] | None = None

    def __enter__(self) -> FolderWatch:
        """Raises OSError when the system has no inotify instance left."""
        self._inotify = Inotify()
        self._reader = asyncio.get_running_loop().create_task(self._read(self._inotify))
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._inotify is not None:
            # The task is cancelled only when the loop gets to it, and must not find a closed descriptor.
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()

    @property
    def blind(self) -> bool:
        """Whether only the time limit of `changed` tells: there is no inotify, or no folder."""
        return self._inside is None

    def aim(self) -> bool:
        """Watches the folder that has the name now, and its parent, as far as they are there.

        True if it is another folder than before.
        """
        if self._inotify is None:
            return False
        if self._above is None:
            with contextlib.suppress(OSError):
                self._above = self._inotify.add_watch(self._folder.parent, _ABOVE)
        try:
            status = os.stat(self._folder)
            identity = (status.st_dev, status.st_ino)
            if self._inside is not None and identity == self._identity:
                return False
            self._drop_inside()
            self._inside = self._inotify.add_watch(self._folder, _INSIDE)
            self._identity = identity
        except OSError:
            self._drop_inside()
        return True

    def writing(self) -> set[str]:
        """Names of files that are being written: what is in them now is half the truth."""
        now = asyncio.get_running_loop().time()
        self._writing = {name: last for name, last in self._writing.items() if now - last < _WRITING}
        return set(self._writing)

    async def changed(self, patience: float) -> float | None:
        """Waits until something has changed and a burst of changes is over, at most `patience` seconds.

        When its first event came, by the loop's clock; None if none did.
        """
        if self._writing:
            patience = min(patience, _WRITING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._changed.wait()
        await self._calm(_QUIET)
        self._changed.clear()
        first, self._first = self._first, None
        return first

    async def filled(self) -> None:
        """Waits until nobody is filling a folder that has just appeared: half of it would be another state."""
        if self._inside is not None:
            self._latest = asyncio.get_running_loop().time()
            await self._calm(_FILLING)

    async def _calm(self, seconds: float) -> None:
        """Until nothing has happened for so long, at most _LONGEST."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LONGEST
        while True:
            rest = min(self._latest + seconds, deadline) - loop.time()
            if rest <= 0:
                break
            await asyncio.sleep(rest)

    async def _read(self, inotify: Inotify) -> None:
        async for event in inotify:
            if self._concerns_us(event):
                self._latest = asyncio.get_running_loop().time()
                self._first = self._latest if self._first is None else self._first
                self._changed.set()

    def _concerns_us(self, event: Event) -> bool:
        mask, watch = event.mask, event.watch
        if mask & Mask.Q_OVERFLOW:
            self._writing.clear()
            return True
        if mask & Mask.IGNORED:
            # The kernel has ended this watch: its folder is gone or was unmounted.
            self._inside = None if watch is self._inside else self._inside
            self._above = None if watch is self._above else self._above
            return True
        name = str(event.name) if event.name is not None else ""
        if watch is not None and watch is self._above:
            return name == self._folder.name
        if watch is not self._inside:
            return False
        if mask & Mask.MODIFY:
            self._writing[name] = asyncio.get_running_loop().time()
        elif mask & (Mask.CLOSE_WRITE | Mask.DELETE | Mask.MOVE):
            self._writing.pop(name, None)
        return True

    def _drop_inside(self) -> None:
        if self._inside is not None and self._inotify is not None:
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(self._inside)
        self._inside = None
        self._writing.clear()
