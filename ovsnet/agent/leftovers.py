"""Tells of ports whose Pod is gone from the API server, and of Pods that run here by its word and have no port.

The first are of DELs that never came, the second of pods that another network has attached, or none. Neither is acted
upon: a CNI DEL or GC removes, and the API server may be wrong. Only what has lasted is told, longer than any order of
events takes in which pods come and go, and only if the server has been heard since: a watch that hangs accuses nobody.
Owns the memory of that. Runs beside the agent's loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from ovsnet.agent.complaints import Complaints
from ovsnet.agent.pods import Pods
from ovsnet.leftovers import Stray, Strays, strays
from ovsnet.store import OwnPods

log = logging.getLogger("ovsnet.pods")

_PERIOD = 5.0
"""Seconds between two looks, of a patience that is shorter no fewer than the next."""
_LEAST = 0.1
_MANY = 10
"""Ports, and Pods, that are told one by one. Of more a line says that they are many, as where another network was on
the node before: each would be an Event."""


class _Since(NamedTuple):
    words: str
    at: float


class Leftovers:
    """own: the Pods of this node by the store's word, None while it can't say. patience: seconds after which what is
    not right is told."""

    def __init__(
        self,
        own: Callable[[], OwnPods | None],
        pods: Pods,
        complaints: Complaints,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._pods = pods
        self._complaints = complaints
        self._patience = patience
        self._clock = clock
        self._since: dict[str, _Since] = {}
        """When each that there is now began, by port or key of a Pod."""
        self.told: Strays | None = None
        """What has lasted; None while nobody can say."""

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(min(_PERIOD, max(self._patience, _LEAST)))

    def look(self) -> None:
        """Compares, and tells what has lasted, and what is over."""
        own = self._own() if self._pods.known else None
        before = self.told
        if own is None:
            # It begins anew, with a list that is complete again.
            self._since, self.told = {}, None
        else:
            found = strays(self._pods.all(), own.pods)
            self._remember({**found.ports, **found.pods})
            self.told = Strays(ports=self._lasting(found.ports, own), pods=self._lasting(found.pods, own))
        self._complaints.only("leftover", _words(self.told), waits=True)
        if own is not None:
            # What is not right in another way has to last anew.
            for name in _all(before).keys() - self._since.keys():
                log.info("%s: in order again", _all(before)[name].subject)

    def _remember(self, found: Mapping[str, Stray]) -> None:
        now, before = self._clock(), self._since
        self._since = {
            name: known
            if (known := before.get(name)) is not None and known.words == each.words
            else _Since(each.words, now)
            for name, each in found.items()
        }

    def _lasting(self, found: Mapping[str, Stray], own: OwnPods) -> dict[str, Stray]:
        latest = min(self._clock() - self._patience, own.heard)
        return {name: each for name, each in found.items() if self._since[name].at <= latest}

    def figures(self) -> dict[str, float]:
        """For `metrics`: none while nobody can say."""
        if self.told is None:
            return {}
        return {"leftover_pods": len(self.told.ports), "unattached_pods": len(self.told.pods)}

    def report(self) -> object:
        """For `ovsnet show` and the doctor, as plain data; None while nobody can say."""
        return msgspec.to_builtins(self.told)


def _words(told: Strays | None) -> list[str]:
    """What is told of them; of many always the same, however many they are."""
    if told is None:
        return []
    ports, pods = ([each.words for each in found.values()] for found in (told.ports, told.pods))
    if len(ports) > _MANY:
        ports = ["many pods' ports are left over; ovsnet doctor names them, with what to do"]
    if len(pods) > _MANY:
        pods = [
            "many pods run on this node by the API server's word without a port here; ovsnet doctor names them, with "
            "what to do"
        ]
    return [*ports, *pods]


def _all(told: Strays | None) -> dict[str, Stray]:
    return {**told.ports, **told.pods} if told is not None else {}
