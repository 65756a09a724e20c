"""What the agent has to complain about, as Events of Nodes and of policies: however often, in few writes.

Owns what was told lately. The first time of a problem is written at once, if not too much else was; from then on it is
one series (events.k8s.io/v1), whose count is written at growing intervals. Nothing waits for an Event: the log has it
all. Called by `store`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from ovsnet.errors import StoreError
from ovsnet.store.kubernetes.client import Client, Refused

log = logging.getLogger("ovsnet.store")

_PATH = "/apis/events.k8s.io/v1/namespaces/{}/events"
_SHARED = re.compile(r"(?:NetworkPolicy ([a-z0-9.-]+)/|(ClusterNetworkPolicy|Node) )([a-z0-9.-]+): ")
"""How what is about a policy or a Node begins. Every agent says the same: the Event has the same name on all, so that
it is one, and is not counted."""
_LOOK = 1.0
_FIRST = 60.0
_LONGEST = 1800.0
"""Seconds after which a series is written again; doubled each time."""
_FORGET = 3000.0
"""Seconds after which what comes again is new: the API server keeps an Event for an hour."""
_BURST, _BURST_SECONDS = 10, 600.0
"""New Events in that time, and as many of those that all agents share: whoever makes many of these takes none from what
this node alone knows. What is more is not written."""
_MOST = 200
"""Problems that are kept in mind; whoever has more has them in the log."""
_NOTE = 1024
"""Bytes that the API takes for a note."""
_STEM = 200
"""Characters of an object's name that an Event's begins with: what follows makes it no longer than 253."""
_NOT_FOUND, _EXISTS = 404, 409


def _regarding(namespace: str | None, kind: str | None, name: str) -> dict[str, str]:
    """The object; only a NetworkPolicy has a namespace."""
    if kind == "Node":
        # kubectl finds a Node's Events by its name in place of a uid.
        return {"apiVersion": "v1", "kind": kind, "name": name, "uid": name}
    if namespace is None:
        return {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "name": name,
        }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "namespace": namespace,
        "name": name,
    }


def _named(name: str, ending: str) -> str:
    """An Event's name, a DNS subdomain as the object's: that may be cut where no part of one ends."""
    return f"{name[:_STEM].rstrip('.-')}.{ending}"


class _Series:
    def __init__(self, node: str, note: str, now: float) -> None:
        shared = _SHARED.match(note)
        self.shared = shared is not None
        self.name = _named(node, os.urandom(8).hex())
        """Of the Event: the same however often it is tried, so that a lost answer makes no second one."""
        self.namespace = "default"
        """Where those of objects without a namespace are kept."""
        self.regarding = _regarding(None, "Node", node)
        if shared is not None:
            namespace, kind, name = shared.groups()
            self.namespace = namespace or self.namespace
            digest = hashlib.blake2b(note.encode(), digest_size=8).hexdigest()
            self.name = _named(name, digest)
            self.regarding = _regarding(namespace, kind, name)
        self.exists = False
        self.count = 1
        self.written = 0
        self.last = now
        self.due = now
        self.interval = _FIRST
        self.there = True
        """It is wrong at this moment."""


class Events:
    """Turns what is wrong now, as the agent says it, into Events."""

    def __init__(
        self,
        client: Client,
        node: str,
        current: Callable[[], list[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """current: what is wrong at this moment, in words."""
        self._client = client
        self._node = node
        self._current = current
        self._clock = clock
        self._series: dict[str, _Series] = {}
        self._created: dict[bool, deque[float]] = {shared: deque() for shared in (False, True)}
        self._told = False

    async def run(self) -> None:
        """Tells until cancelled."""
        while True:
            self.look()
            await self.write()
            await asyncio.sleep(_LOOK)

    def look(self) -> None:
        """Takes down what is wrong now."""
        now, current = self._clock(), set(self._current())
        for note, series in list(self._series.items()):
            if note not in current:
                series.there = False
                if now - series.last > _FORGET:
                    del self._series[note]
        for note in current:
            known = self._series.get(note)
            if known is None and len(self._series) < _MOST:
                self._series[note] = _Series(self._node, note, now)
            elif known is not None and known.shared:
                known.there = True
                if now - known.last > _FORGET:
                    # The Event is about to be forgotten, and this is not over.
                    known.last, known.exists, known.count = now, False, known.count + 1
            elif known is not None and (not known.there or now - known.last > _FORGET):
                # It is back, or goes on, and the server would forget the Event.
                known.there, known.last = True, now
                known.count += 1

    async def write(self) -> None:
        """Writes what is due."""
        now = self._clock()
        for note, series in list(self._series.items()):
            if series.count == series.written or now < series.due:
                continue
            series.due, series.interval = now + series.interval, min(2 * series.interval, _LONGEST)
            count = series.count
            try:
                if not series.exists:
                    if not self._may_create(series.shared, now):
                        continue
                    await self._create(note, series)
                    series.exists = True
                else:
                    await self._continue(series)
            except StoreError as error:
                status = error.status if isinstance(error, Refused) else 0
                if status == _EXISTS:
                    # It was made, and the answer was lost.
                    series.exists, series.written = True, count if series.shared else 1
                    continue
                series.exists = series.exists and status != _NOT_FOUND
                self._tell(error)
            else:
                series.written = count
                self._told = False

    def _may_create(self, shared: bool, now: float) -> bool:
        created = self._created[shared]
        while created and now - created[0] > _BURST_SECONDS:
            created.popleft()
        if len(created) >= _BURST:
            return False
        created.append(now)
        return True

    async def _create(self, note: str, series: _Series) -> None:
        await self._client.send(
            "create",
            "POST",
            _PATH.format(series.namespace),
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": series.name, "namespace": series.namespace},
                "eventTime": _now(),
                "reportingController": "ovsnet.io/agent",
                "reportingInstance": self._node[:128],
                "action": "Networking",
                "reason": "NetworkProblem",
                "type": "Warning",
                "note": note.encode()[:_NOTE].decode(errors="ignore"),
                "regarding": series.regarding,
                **(
                    {"series": {"count": series.count, "lastObservedTime": _now()}}
                    if series.count > 1 and not series.shared
                    else {}
                ),
            },
        )

    async def _continue(self, series: _Series) -> None:
        body = {"series": {"count": series.count, "lastObservedTime": _now()}}
        await self._client.send(
            "patch", "PATCH", f"{_PATH.format('default')}/{series.name}", body, "application/merge-patch+json"
        )

    def _tell(self, error: StoreError) -> None:
        if not self._told:
            self._told = True
            log.info("Events are not written: %s", error)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
