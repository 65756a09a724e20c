"""What OVSDB keeps of policies: whether there are any, and which pods are isolated in which direction.

For an agent that starts while its store is away, on a switch that has lost its flows: what was isolated is isolated
then from all but its node (`closed`), whatever it was allowed, and so is a pod of which nothing is known. For one that
starts while a part of the store can't be read, what was isolated stays so (`floor`). What isolates is written before
the flows that do, but for those that an ADD takes along; what isolates no more is taken away later, with the loop's
next `settle`. Owns the key `ovsnet-policies` of the Bridge row and of pods' Port rows. Called by `policing`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ovsnet import names
from ovsnet.errors import OvsnetError
from ovsnet.model import Pod
from ovsnet.policies import Floor
from ovsnet.policymodel import Direction
from ovsnet.policyobjects import Isolation, PolicedPod
from ovsnet.rows import BridgeRow, Change, PortRow, SetPolicies

log = logging.getLogger("ovsnet.policies")

_PATIENCE = 2.0
"""Seconds that flows of policies wait for OVSDB."""

Directions = frozenset[Direction]
Mark = frozenset[str]
"""Directions as words, and for those in which rules of ClusterNetworkPolicies may deny something one more."""
NONE: Mark = frozenset()
_WAYS = {each: each.value.lower() for each in Direction}
_TIERS = {each: f"cluster-{word}" for each, word in _WAYS.items()}
_NO_FLOOR = Floor()
ALL: Mark = frozenset((*_WAYS.values(), *_TIERS.values()))


class Database(Protocol):
    """What is needed of `switch.ovsdb.Ovsdb`."""

    def bridge(self) -> BridgeRow | None: ...

    def ports(self) -> Mapping[str, PortRow]: ...

    async def apply(self, changes: Sequence[Change]) -> None: ...


class Marks:
    """The key, for as long as an agent runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def may_have_policies(self) -> bool:
        """Whether the cluster had policies when a store was last read, or nobody knows."""
        row = self._database.bridge()
        return row is None or row.external_ids.get(names.KEY_POLICIES) != names.NO_POLICIES

    async def strengthen(self, isolated: Mapping[str, Mark], *, policies: bool) -> None:
        """Before flows say so: these ports' pods are isolated so. Whoever is more than that by now stays as marked.

        Without a database flows go first: it can't be helped, and the next `settle` makes up for it.
        """
        ports = {
            name: word(before | wanted)
            for name, wanted in isolated.items()
            if not wanted <= (before := self._marked(name) or NONE)
        }
        bridge = names.SOME_POLICIES if policies and not self._said(names.SOME_POLICIES) else ""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._write(bridge, ports)
        except (OvsnetError, TimeoutError) as error:
            log.warning("OVSDB does not take note of which pods are isolated: %s", error or "no answer")

    async def settle(self, isolated: Mapping[str, Mark], *, policies: bool) -> None:
        """These ports' pods are isolated so, and not otherwise. Raises SwitchUnavailable or OvsnetError."""
        ports = {name: word(each) for name, each in isolated.items() if self._marked(name) != each}
        value = names.SOME_POLICIES if policies else names.NO_POLICIES
        await self._write("" if self._said(value) else value, ports)

    def isolated(self, pods: Iterable[Pod]) -> set[str]:
        """Keys of those of the pods that were isolated in some direction."""
        return {pod.pod_key for pod in pods if self._marked(pod.port)}

    def closed(self, pods: Iterable[Pod]) -> dict[str, PolicedPod]:
        """Those of the pods that were isolated, or that nobody knows, with no rule that allows anything; by key."""
        attachments: dict[str, list[Pod]] = {}
        for pod in pods:
            attachments.setdefault(pod.pod_key, []).append(pod)
        floors = self.floor(pod for those in attachments.values() for pod in those)
        return {
            key: PolicedPod(
                namespace=attachments[key][0].namespace,
                name=attachments[key][0].name,
                ips=tuple(ip for pod in attachments[key] for ip in pod.ips),
                ingress=Isolation() if Direction.INGRESS in floor.isolated else None,
                egress=Isolation() if Direction.EGRESS in floor.isolated else None,
            )
            for key, floor in floors.items()
            if floor.isolated
        }

    def floor(self, pods: Iterable[Pod]) -> dict[str, Floor]:
        """How far the pods are closed at least, by key: as they were, or as they may have been if nobody knows."""
        marks: dict[str, Mark] = {}
        for pod in pods:
            marked = self._marked(pod.port)
            marks[pod.pod_key] = marks.get(pod.pod_key, NONE) | (ALL if marked is None else marked)
        return {
            key: Floor(isolated=_meant(mark, _WAYS), closed=_meant(mark, _TIERS))
            for key, mark in marks.items()
            if mark
        }

    def _marked(self, port: str) -> Mark | None:
        row = self._database.ports().get(port)
        return None if row is None else mark_in(row.external_ids.get(names.KEY_POLICIES))

    def _said(self, value: str) -> bool:
        row = self._database.bridge()
        return row is not None and row.external_ids.get(names.KEY_POLICIES) == value

    async def _write(self, bridge: str, ports: dict[str, str]) -> None:
        ports = {name: value for name, value in ports.items() if name in self._database.ports()}
        if bridge or ports:
            await self._database.apply([SetPolicies(bridge=bridge, ports=ports)])


def word(mark: Mark) -> str:
    """As a row has it."""
    return " ".join(sorted(mark)) or names.NO_POLICIES


def mark_in(text: str | None) -> Mark | None:
    """What a row says; None if that is nothing, or nothing of ours."""
    if text is None:
        return None
    if text == names.NO_POLICIES:
        return NONE
    found = frozenset(text.split())
    return found if found and found <= ALL else None


def mark_of(pod: PolicedPod, floor: Floor = _NO_FLOOR) -> Mark:
    """By whom policies may deny it something, and in which directions. floor: how far it stays closed, whatever they
    say."""
    both = {Direction.INGRESS: pod.ingress, Direction.EGRESS: pod.egress}
    tiers = floor.closed | {each.direction for each in pod.tiers}
    ways = tiers | floor.isolated | {way for way, isolation in both.items() if isolation is not None}
    return frozenset((*(_WAYS[way] for way in ways), *(_TIERS[way] for way in tiers)))


def _meant(mark: Mark, words: Mapping[Direction, str]) -> Directions:
    return frozenset(way for way, word in words.items() if word in mark)
