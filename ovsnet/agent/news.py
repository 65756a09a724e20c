"""What the store tells, and how long it took until that was in force.

Owns when changes came that are not in force yet. Called by the agent's loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ovsnet.store import Snapshot, Store

_MANY = 1000
"""Snapshots of which is remembered when they came: the switch may be away for long."""


class News:
    """Calls `wake` when the loop is to look at the store's latest snapshot."""

    def __init__(
        self, store: Store, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._wake = wake
        self._clock = clock
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        """Versions that are not in force yet, and when their changes came."""
        self.programmed: Snapshot | None = None
        """What was in force last."""
        self.on_programmed: Callable[[str, float], None] = lambda kind, seconds: None
        """Called with the kind of objects of which a change is in force, and how many seconds after the store was told
        of it."""

    def heard(self) -> None:
        """The store has another snapshot."""
        now = self._store.snapshot()
        if now is None:
            return
        if now.heard and len(self._waiting) < _MANY:
            self._waiting.append((now.version, now.heard))
        self._wake()

    def applied(self, snapshot: Snapshot | None) -> None:
        """What it says is in force."""
        self.programmed = snapshot
        if snapshot is None:
            return
        now = self._clock()
        for version, heard in self._waiting:
            if version <= snapshot.version:
                for kind, when in heard.items():
                    self.on_programmed(kind, now - when)
        self._waiting = [each for each in self._waiting if each[0] > snapshot.version]
