"""The pods of this node and the addresses they hold, as the agent knows them.

Owns the list and the allocator; both are rebuilt from OVSDB rows at start. An address is taken from the moment an ADD
asks for it until the row that holds it is gone. Requests and repairs that concern one interface take turns
(`alone`). Does no I/O. Called by `attachments` and `upkeep`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import NamedTuple

from ovsnet import ipam, names, state
from ovsnet.config import Config
from ovsnet.errors import NotReady
from ovsnet.model import Pod
from ovsnet.rows import BridgeRow, PortRow, SetReleased
from ovsnet.state import Topology

Key = tuple[str, str]
"""Container ID and interface name: what identifies an attachment in the specification."""


class Serving(NamedTuple):
    """What is known of this node once the first comparison has begun."""

    topo: Topology
    allocator: ipam.Allocator


class Pods:
    """The attachments of one node."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.by_key: dict[Key, Pod] = {}
        """Pods whose flows shall be installed, those of ADDs under way included."""
        self._leaving: dict[Key, Pod] = {}
        """Pods of DELs under way: no flows any more, and addresses until the row is gone."""
        self.mtus: dict[str, int] = {}
        """Of pods' pairs in bytes, by the name of the host's end, as far as they are known."""
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._serving: Serving | None = None
        self.full = ""
        """Ranges that an ADD found full, in words."""
        self.on_gone: Callable[[], None] = lambda: None
        """Called when a pod's addresses have been given back."""

    def serve(self, topo: Topology, bridge: BridgeRow | None, rows: Mapping[str, PortRow]) -> None:
        """Takes note of this node's ranges and MTU; the first time, of the rows' pods as well."""
        if self._serving is None:
            self._serving = Serving(topo, self._load(topo, bridge, rows))
            return
        allocator = self._serving.allocator
        if self._serving.topo.cidrs != topo.cidrs:
            allocator = allocator.with_ranges(topo.cidrs)
        self._serving = Serving(topo, allocator)

    def _load(self, topo: Topology, bridge: BridgeRow | None, rows: Mapping[str, PortRow]) -> ipam.Allocator:
        found = state.pods(rows)
        self.by_key = {key_of(pod): pod for pod in found}
        released = bridge.external_ids.get(names.KEY_RELEASED, "") if bridge else ""
        return ipam.Allocator(
            topo.cidrs,
            self._config.excluded_addresses,
            self._config.reuse_after,
            taken={ip: holder(pod) for pod in found for ip in pod.ips},
            released=ipam.parse_released(released),
        )

    @property
    def known(self) -> bool:
        """Whether the rows have been read."""
        return self._serving is not None

    def serving(self) -> Serving:
        """Raises NotReady before the first comparison has begun."""
        if self._serving is None:
            raise NotReady("the agent has not read its rows yet", "see the agent's log")
        return self._serving

    def all(self) -> list[Pod]:
        return list(self.by_key.values())

    def policed(self) -> list[Pod]:
        """Those whose policies shall be installed: as long as there may be a packet of theirs."""
        return [*self.by_key.values(), *self._leaving.values()]

    def ports(self) -> set[str]:
        """Names of the ports that pods have, those of requests under way included."""
        return {pod.port for pod in (*self.by_key.values(), *self._leaving.values())}

    def busy(self, key: Key) -> bool:
        """Whether a request or a repair of this interface is under way."""
        return key in self._locks

    @contextlib.asynccontextmanager
    async def alone(self, key: Key) -> AsyncIterator[None]:
        """One at a time for each interface."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield

    def exhausted(self) -> list[str]:
        """Ranges that keep pods from being added, in words: those that an ADD found full, until there is room again."""
        if self.full and self.serving().allocator.has_room(time.time()):
            self.full = ""
        return [self.full] if self.full else []

    def figures(self) -> Mapping[str, Mapping[str, float]]:
        """How many addresses there are, and how many are free now, by range."""
        counts = self._serving.allocator.counts(time.time()) if self._serving else []
        return {
            "addresses": {str(each.network): each.usable for each in counts},
            "addresses_free": {str(each.network): each.free for each in counts},
        }

    # --- leaving -----------------------------------------------------------------------------------

    def leave(self, pod: Pod) -> None:
        """The pod is about to go: it has no flows any more, its addresses are still its own."""
        self.by_key.pop(key_of(pod), None)
        self._leaving[key_of(pod)] = pod

    def stay(self, pod: Pod) -> None:
        """The pod did not go after all."""
        self._leaving.pop(key_of(pod), None)
        self.by_key[key_of(pod)] = pod

    def gone(self, pod: Pod) -> None:
        """Its row is gone: its addresses rest, then they are free."""
        self._leaving.pop(key_of(pod), None)
        if self.by_key.get(key_of(pod)) is pod:
            del self.by_key[key_of(pod)]
        self.serving().allocator.release(pod.ips, time.time(), holder(pod))
        self.on_gone()

    def released(self) -> SetReleased:
        """The list of resting addresses for the Bridge row, those of pods that are leaving included."""
        leaving: Iterable[Pod] = self._leaving.values()
        addresses = [ip for pod in leaving for ip in pod.ips]
        return SetReleased(value=self.serving().allocator.released_text(time.time(), addresses))


def key_of(pod: Pod) -> Key:
    return pod.container, pod.ifname


def holder(pod: Pod) -> str:
    """Who holds the pod's addresses."""
    return names.holder(pod.namespace, pod.name, pod.container, pod.ifname)
