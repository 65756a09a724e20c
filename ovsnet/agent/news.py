"""What the store tells: when the loop is to look at it, and how long it took until that was in force.

Owns the pace at which changes of Services and endpoints alone are taken in: a few at once, and where more keep coming
those of a moment together, as each time costs a process and a bundle. So it is with what agents publish on their Nodes,
which all of a cluster do anew in a rollout. Whatever else changes is for now, and takes along what waits. Called
by the agent's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from ovsnet.mappings import different
from ovsnet.model import Node
from ovsnet.store import Snapshot, Store, kinds

_AT_ONCE = 4
"""Changes that need not wait, after a quiet second or so: a pod that replaces another is two or three."""
_BETWEEN = 0.3
"""Seconds between two when changes keep coming, so the longest that one waits; kube-proxy's minSyncPeriod is 1 s."""
_UNHURRIED = {"Service", "EndpointSlice"}
_MANY = 1000
"""Snapshots of which is remembered when they came: the switch may be away for long."""


class Timers(Protocol):
    """What `News` needs of the event loop."""

    def time(self) -> float:
        """Seconds, by the clock of `time.monotonic`."""

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle: ...


class Pace:
    """When each of those may be that ask: some at once, then one in each interval."""

    def __init__(self) -> None:
        self._spent = float("-inf")
        """When as many are allowed at once again as after a rest."""

    def next(self, now: float) -> float:
        """For one more, from now on or an interval later at most; it counts as taken. The generic cell rate algorithm
        of ITU-T I.371; of those that were taken and not used, as something else came first, little is owed."""
        when = min(max(now, self._spent - (_AT_ONCE - 1) * _BETWEEN), now + _BETWEEN)
        self._spent = min(max(when, self._spent) + _BETWEEN, when + _AT_ONCE * _BETWEEN)
        return when


class News:
    """Calls `wake` when the loop is to look at the store's latest snapshot."""

    def __init__(self, store: Store, wake: Callable[[], None], timers: Timers | None = None) -> None:
        """timers: the running loop unless given."""
        self._store = store
        self._wake = wake
        self._timers = timers
        self._pace = Pace()
        self._timer: asyncio.TimerHandle | None = None
        self._latest: Snapshot | None = None
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        """Versions that are not in force yet, and when their changes came."""
        self.programmed: Snapshot | None = None
        """What was in force last."""
        self.on_programmed: Callable[[str, float], None] = lambda kind, seconds: None
        """Called with the kind of objects of which a change is in force, and how many seconds after the store was told
        of it."""

    def heard(self) -> None:
        """The store has another snapshot."""
        before, now = self._latest, self._store.snapshot()
        if now is None:
            return
        self._latest = now
        if now.heard and len(self._waiting) < _MANY:
            self._waiting.append((now.version, now.heard))
        if before is None or not _may_wait(before, now):
            self._go()
        elif self._timer is None:
            timers = self._clock()
            self._timer = timers.call_at(self._pace.next(timers.time()), self._go)

    def applied(self, snapshot: Snapshot | None) -> None:
        """What it says is in force."""
        self.programmed = snapshot
        if snapshot is None:
            return
        now = self._clock().time()
        for version, heard in self._waiting:
            if version <= snapshot.version:
                for kind, when in heard.items():
                    self.on_programmed(kind, now - when)
        self._waiting = [each for each in self._waiting if each[0] > snapshot.version]
        if snapshot is self._latest:
            self._stop()

    def _go(self) -> None:
        self._stop()
        self._wake()

    def _stop(self) -> None:
        """Nothing waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _clock(self) -> Timers:
        return self._timers or asyncio.get_running_loop()


def published_alone(before: Mapping[str, Node], now: Mapping[str, Node]) -> bool:
    """Whether nothing is different, or nothing but what agents publish on Nodes: that is compared and told of, and
    nobody goes by it."""
    if before is now:
        return True
    if before.keys() != now.keys():
        return False
    return all(
        msgspec.structs.replace(before[name], published=now[name].published) == now[name]
        for name in different(before, now)
    )


def _may_wait(before: Snapshot, now: Snapshot) -> bool:
    """Whether Services, endpoints, or what agents publish are all that is different."""
    changed = set(kinds(before, now))
    unread = before.unread_nodes == now.unread_nodes and before.unread_policies == now.unread_policies
    hurried = changed - _UNHURRIED - ({"Node"} if published_alone(before.nodes, now.nodes) else set())
    return bool(changed) and not hurried and unread
