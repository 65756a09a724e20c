"""How many packets policies denied, by pod, direction and policies: from the counters of the flows that drop them.

A flow's counter begins anew when the flow does, with vswitchd or with another flow; what is told only grows. The flows
are read when somebody asks, by ovs-ofctl beside the agent's loop, at most once a second and for a bounded time: after
it, what was read last is told. Owns the sums. Called by `metrics`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from ovsnet import flowdump
from ovsnet.errors import OvsnetError
from ovsnet.policymodel import Direction
from ovsnet.policywords import DENIED, DENIED_BY_RULE, VERDICT

log = logging.getLogger("ovsnet.policies")

_KINDS = ("policedpod", "clusterrule")
"""Whose flows deny."""
_DIRECTIONS = DENIED | DENIED_BY_RULE
_PATIENCE = 2.0
"""Seconds that whoever asks waits for the switch."""
_FRESH = 1.0
"""Seconds for which what was read is told again: vswitchd itself learns no sooner what the datapath counted."""
_DURATION = re.compile(r"duration=([0-9.]+)s")


class Denied(NamedTuple):
    """Whose packets, and by what. policies: those that isolate the pod in that direction, "default/db,default/web"; or
    a rule of a ClusterNetworkPolicy, whatever pod it denied: then namespace and pod are empty."""

    namespace: str
    pod: str
    direction: str
    policies: str


class Switch(Protocol):
    """What is needed of `switch.openflow.OpenFlow`."""

    async def counted(self, kind: str, table: int) -> list[str]: ...


class _Seen(NamedTuple):
    packets: int
    seconds: float
    """Since the flow began."""


class Denials:
    """who: the pod that a cookie of the kind policedpod is of, and the policies that isolate it in a direction; "" and
    the rule that one of the kind clusterrule is of; None for a pod that is none of this node's. there: the keys of this
    node's pods. tables: numbers by name."""

    def __init__(
        self,
        switch: Switch,
        tables: Mapping[str, int],
        who: Callable[[int, Direction], tuple[str, Collection[str]] | None],
        there: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._switch = switch
        self._table = tables[VERDICT]
        self._who = who
        self._there = there
        self._clock = clock
        self._seen: dict[tuple[int, int, str], _Seen] = {}
        self._reading = asyncio.Lock()
        self._read_at: float | None = None
        self.sums: dict[Denied, int] = {}
        """Packets since the agent's start, and what the flows had counted before it."""

    async def read(self) -> None:
        """Brings the sums up to date, as far as the switch answers in time."""
        with contextlib.suppress(TimeoutError, OvsnetError):
            async with asyncio.timeout(_PATIENCE), self._reading:
                now = self._clock()
                if self._read_at is None or now - self._read_at >= _FRESH:
                    found = [await self._switch.counted(kind, self._table) for kind in _KINDS]
                    self._take([line for lines in found for line in lines])
                    self._read_at = now

    def _take(self, lines: Collection[str]) -> None:
        seen: dict[tuple[int, int, str], _Seen] = {}
        rules: set[str] = set()
        for line in lines:
            flow, lasting = flowdump.flow(line), _DURATION.search(line)
            direction = _DIRECTIONS.get(flow.priority) if flow is not None else None
            if flow is None or lasting is None or direction is None:
                continue
            key = flow.cookie, flow.priority, flow.match
            seen[key] = _Seen(flow.packets, float(lasting[1]))
            more = flow.packets - self._counted(key, seen[key])
            if (found := self._who(flow.cookie, direction)) is not None:
                namespace, _, pod = found[0].partition("/")
                denied = Denied(namespace, pod, direction.value.lower(), ",".join(sorted(found[1])))
                self.sums[denied] = self.sums.get(denied, 0) + more
                if not pod:
                    rules.add(denied.policies)
        self._seen = seen
        there = set(self._there())
        self.sums = {
            each: packets
            for each, packets in self.sums.items()
            if (f"{each.namespace}/{each.pod}" in there if each.pod else each.policies in rules)
        }

    def _counted(self, key: tuple[int, int, str], now: _Seen) -> int:
        """What has been added already of what the flow says now."""
        before = self._seen.get(key)
        if before is None or now.packets < before.packets or now.seconds < before.seconds:
            return 0
        return before.packets
