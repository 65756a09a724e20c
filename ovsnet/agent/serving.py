"""The Services that this node serves, from the store's snapshots or, while there is none, from the switch.

Owns what has been derived from Services. An agent that starts while its store is away goes on with what an earlier one
has installed: flows and groups are read back and stay as they are until there is a complete list. Called by the
agent's loop.
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator

from ovsnet import names, pipeline, stale
from ovsnet.endpoints import Here
from ovsnet.frontends import ServiceObject
from ovsnet.model import IPAddress
from ovsnet.objects import Object
from ovsnet.render import Rendered
from ovsnet.servicemodel import Protocol
from ovsnet.services import Reach, Services, reach_of
from ovsnet.store import Snapshot
from ovsnet.switch.openflow import OpenFlow

log = logging.getLogger("ovsnet.services")

_FRONTEND = re.compile(r"(tcp|udp|sctp)6?,(?:\S*,)?(?:nw|ipv6)_dst=([0-9a-f.:]+),(?:\S*,)?tp_dst=(\d+)")
_AT_ONCE = 40
"""Ways that conntrack forgets in one go, of some 5 ms each: what else has changed meanwhile need not wait for all."""
_KINDS = ("service", "endpointslice")


class Serving:
    """What is to be installed for Services, and what the node's kernel must know of them."""

    def __init__(self, openflow: OpenFlow, wake: Callable[[], None]) -> None:
        self._openflow = openflow
        self._wake = wake
        self._services = Services()
        self._kept: Rendered = {}
        self.reach = Reach()
        self.objects: list[Object] = []
        self._served: dict[str, ServiceObject] = {}
        self._gone: set[stale.Way] = set()
        """Ways that conntrack may remember."""

    async def follow(self, snapshot: Snapshot | None, here: Here, *, unknown: bool) -> None:
        """Takes in the latest snapshot. unknown: nobody knows yet what the switch holds.

        Raises SwitchUnavailable.
        """
        if snapshot is not None:
            self._services.update(snapshot.services, snapshot.slices, here)
            self._kept, self.reach, self.objects = {}, self._services.reach, [*self._services.objects]
            self._compare()
        elif unknown:
            await self._remember()

    def with_kept(self, rendered: Rendered) -> Rendered:
        """What is to be installed, with what has been read back."""
        return {**rendered, **self._kept} if self._kept else rendered

    async def forget(self) -> None:
        """Has conntrack forget ways that are gone, when no new connection takes them any more; of many some each time.

        Raises SwitchUnavailable, or OvsnetError with ovs-ofctl's words.
        """
        for way in list(itertools.islice(self._gone, _AT_ONCE)):
            await self._openflow.forget(pipeline.SERVICE_ZONE, *way.tuples)
            self._gone.discard(way)
        if self._gone:
            self._wake()

    def _compare(self) -> None:
        served = {each.key: each for each in self.objects if isinstance(each, ServiceObject)}
        for key in served.keys() | self._served.keys():
            before, after = self._served.get(key), served.get(key)
            if before is not after:
                self._gone -= stale.ways(after)
                self._gone |= stale.gone(before, after) if before else frozenset()
        self._served = served

    async def _remember(self) -> None:
        kept: dict[int, tuple[str, ...]] = {}
        flows: list[str] = []
        groups: dict[int, str] = {}
        for kind in _KINDS:
            found, groups = await self._openflow.remembered(*names.cookies_of(kind))
            flows += found
        for line in flows:
            cookie = int(line.partition(",")[0].removeprefix("cookie="), 16)
            kept[cookie] = (*kept.get(cookie, ()), line)
        if groups:
            kept[0] = tuple(groups.values())
        self._kept = kept
        service, mask = names.cookies_of("service")
        self.reach = reach_of(
            _frontends(line for cookie in kept if cookie & mask == service for line in kept[cookie])
        )
        if kept:
            log.warning("Services stay as an earlier agent has installed them until the store is there")


def _frontends(lines: Iterable[str]) -> Iterator[tuple[IPAddress, Protocol, int, bool]]:
    for line in lines:
        found = _FRONTEND.search(line)
        if found is not None:
            yield ipaddress.ip_address(found[2]), Protocol(found[1].upper()), int(found[3]), True
