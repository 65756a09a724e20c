"""What a start finds otherwise than it is to be: peers, ports, flows and groups, in a line or two.

Owns what OVSDB remembered of peers, and the count of what ovs-vswitchd tells while everything is written for the first
time: what it holds already is not written, and not told of. Whether somebody changed it while no agent ran, or store,
configuration or pipeline are others by now, nobody knows. Silent where OVSDB knew nothing of this agent: then all is
new. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ovsnet import names, recall, state
from ovsnet.agent import changes
from ovsnet.agent.drift import is_passing
from ovsnet.config import Config
from ovsnet.errors import OvsnetError
from ovsnet.render import Renderer, kind_of
from ovsnet.rows import AddPort, DeletePort, PortRow, SetIdentity, SetPort
from ovsnet.rows import Change as RowChange
from ovsnet.state import Topology
from ovsnet.switch.monitor import Change, FlowChange, GroupChange

log = logging.getLogger("ovsnet.agent")

_NEWS = 0.5
"""Seconds after everything was written within which vswitchd has told of it."""
_SELF = "the node itself"
_NAMED = 5
"""Names in a line."""


class Starting:
    """For one start of the agent."""

    def __init__(self, config: Config, renderer: Renderer) -> None:
        self._config = config
        self._renderer = renderer
        self._looked = self._over = False
        self._known = False
        """OVSDB has rows of an earlier run."""
        self._flows: collections.Counter[tuple[int, int]] = collections.Counter()
        """Changes by table and cookie."""
        self._groups: set[int] = set()
        self.earlier: Topology | None = None
        """This node and its peers as OVSDB remembered them; None: it did not."""

    def look(self, rows: Mapping[str, PortRow], topo: Topology, todo: Sequence[RowChange]) -> None:
        """Once, before the rows change; tells of ports. todo: what is to be done to them."""
        if self._looked:
            return
        self._looked = True
        # The bridge's own port is there as soon as the bridge is.
        self._known = any(row.role not in (None, names.ROLE_BRIDGE) for row in rows.values())
        self.earlier = self._remembered(rows, topo)
        told = changes.peers(self.earlier, topo)
        if self.earlier is not None and self.earlier.mtu != topo.mtu:
            told.add(_SELF)
        found = {
            name: who
            for name, who in _subjects(todo, rows)
            if not (told if who == "all peers" else who in told)
        }
        if self._known and found:
            words = [f"{name} of {who}" for name, who in found.items()]
            log.info("ports that were missing, or not as they are to be: %s", _some(words))

    def _remembered(self, rows: Mapping[str, PortRow], topo: Topology) -> Topology | None:
        nodes = recall.nodes(rows, {})
        if topo.name not in nodes:
            return None
        try:
            found = state.topology(self._config, topo.name, topo.ends, 65535, nodes)
        except OvsnetError:
            return None
        gateway = rows.get(names.GATEWAY)
        return replace(found, mtu=(gateway.mtu_request if gateway else None) or topo.mtu)

    def heard(self, change: Change) -> None:
        """vswitchd tells of a change while everything is written."""
        if self._over or is_passing(change):
            return
        if isinstance(change, FlowChange) and change.table >= 0:
            self._flows[change.table, change.cookie] += 1
        elif isinstance(change, GroupChange):
            self._groups.add(change.group)

    def written(self, total: int) -> None:
        """Everything has been written for the first time. total: flows that there are, groups among them."""
        asyncio.get_running_loop().call_later(_NEWS, self.tell, total)

    def tell(self, total: int) -> None:
        """Of flows and groups."""
        self._over = True
        count = self._flows.total()
        if not self._known or not (count or self._groups):
            return
        if 10 * count >= 9 * total:
            log.info("nearly all of %d flows were missing, or not as they are to be, and were written", total)
            return
        words = self._by_table() + ([f"{len(self._groups)} of groups"] if self._groups else [])
        log.info(
            "flows or groups that were missing, not as they are to be, or nobody's: %s; of %s",
            _some(words, 2 * _NAMED),
            _some(self._owners()) or "Services",
        )

    def _by_table(self) -> list[str]:
        titles = {table.number: table.name for table in self._renderer.tables}
        found: collections.Counter[str] = collections.Counter()
        for (table, _), times in self._flows.items():
            found[titles.get(table, str(table))] += times
        return [f"{times} in table {table}" for table, times in found.most_common()]

    def _owners(self) -> list[str]:
        """Whose flows they are, those with the most first."""
        found: collections.Counter[str] = collections.Counter()
        objects = self._renderer.objects
        for (_, cookie), times in self._flows.items():
            obj = objects.get(cookie)
            found["nobody" if obj is None else f"{kind_of(obj)} {obj.title}"] += times
        return [who for who, _ in found.most_common()]


def _subjects(todo: Iterable[RowChange], rows: Mapping[str, PortRow]) -> Iterable[tuple[str, str]]:
    """Name and owner of each port that is to change."""
    for change in todo:
        if isinstance(change, AddPort | SetPort):
            yield change.spec.name, _owner(change.spec.external_ids)
        elif isinstance(change, SetIdentity):
            yield change.name, _owner(change.external_ids)
        elif isinstance(change, DeletePort):
            yield change.name, _owner(rows[change.name].external_ids)


def _owner(ids: Mapping[str, str]) -> str:
    """As peers are told of, by name."""
    if ids.get(names.OWNER) == names.ROLE_GATEWAY:
        return _SELF
    return ids.get(names.KEY_PEER, "all peers")


def _some(words: Sequence[str], most: int = _NAMED) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return f"{', '.join(words[:most])}{more}"
