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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ovsnet import names, nodeports, pipeline
from ovsnet.agent.drift import cookie_in
from ovsnet.agent.healthchecks import HealthChecks
from ovsnet.config import Config
from ovsnet.endpoints import Here
from ovsnet.frontends import ServiceObject
from ovsnet.host import sockets
from ovsnet.model import IPAddress
from ovsnet.objects import Object
from ovsnet.pipeline import SERVICE_ZONE
from ovsnet.render import Lines, Rendered, Renderer
from ovsnet.servicemodel import Protocol
from ovsnet.services import Reach, Services, SliceObject, reach_of
from ovsnet.store import Snapshot
from ovsnet.switch import conntrack, control
from ovsnet.switch.openflow import OpenFlow

log = logging.getLogger("ovsnet.services")

_FRONTEND = re.compile(r"(tcp|udp|sctp)6?,(?:\S*,)?(?:nw|ipv6)_dst=([0-9a-f.:]+),(?:\S*,)?tp_dst=(\d+)")
_FROM_OUTSIDE = re.compile(r"\breg3=")
"""Only flows of external addresses tell clients outside from others."""
_PLAIN = re.compile(r"\bpriority=10[05],(?!ct_state)")
"""Flows of `track` for whoever comes: all that a ClusterIP with endpoints has."""
_AT_ONCE = 40
"""Ways that conntrack forgets in one go, of some 5 ms each: what else has changed meanwhile need not wait for all."""
_FEW = 8
"""Ways of which each is forgotten whether anybody took it or not; of more, conntrack is asked first which it knows."""


class Serving:
    """What is to be installed for Services, and what the node's kernel must know of them."""

    def __init__(
        self, openflow: OpenFlow, renderer: Renderer, config: Config, wake: Callable[[], None]
    ) -> None:
        self._openflow = openflow
        self._renderer = renderer
        self._remote = config.ovsdb
        self._configured = config.node_port_addresses
        self._wake = wake
        self._looked = False
        self._checks = HealthChecks()
        self._checked_at: frozenset[str | None] = frozenset((None,))
        """Addresses that health checks are answered on."""
        self._answering = nodeports.NodePortAddresses()
        self._conflicts: list[str] = []
        self._unanswered: list[str] = []
        self.problems: list[str] = []
        """What can't be served, in words."""
        self._services = Services()
        self._kept: Rendered = {}
        self._remembered = False
        self.reach = Reach()
        self.rendered: dict[int, Lines] = {}
        """Flows and groups of Services, by cookie."""

    async def follow(self, snapshot: Snapshot | None, here: Here, *, unknown: bool) -> dict[int, Lines]:
        """Takes in the latest snapshot; what is to be installed otherwise than before, by cookie.

        unknown: nobody knows yet what the switch holds. Raises SwitchUnavailable.
        """
        if snapshot is None:
            if unknown and not self._remembered:
                # Once: a switch that has lost its flows since has nothing to remember, and gets back what was there.
                await self._remember()
                self._remembered = True
            return {}
        self._services.update(snapshot.services, snapshot.slices, here)
        self._kept = {}
        answering, before = nodeports.chosen(self._configured, here.addresses), self._answering
        if self.reach is not self._services.reach or answering != before:
            self.reach, self._answering = self._services.reach, answering
            self._conflicts = self._taken()
        services, slices = self._services.news()
        await self._check(services)
        self.problems = [*self._unanswered, *self._conflicts]
        return self._render(services, slices)

    async def _check(self, services: Mapping[str, ServiceObject | None]) -> None:
        """Answers load balancers for these as well, and wherever the node has addresses for node ports by now."""
        hosts = self._checked_at
        if services or self._checks.any:
            hosts = _hosts(self._answering)
        if services or self._unanswered or hosts != self._checked_at:
            self._checked_at = hosts
            self._unanswered = await self._checks.serve(services, hosts)

    def _taken(self) -> list[str]:
        """Node ports that a process of this node listens on, in words."""
        answering = self._answering
        taken = {
            (address.version, protocol, port)
            for address, protocol, port in sockets.listening()
            if (answering.of(address.version) if address.is_unspecified else answering.include(address))
        }
        found = {
            f"Service {service.title}: a process of this node listens on node port {each.port}/{each.protocol.value} "
            f"and gets no connections from elsewhere{answering.words(each.address.version)}; give the Service another "
            "nodePort or end it (ss -lnp)": None
            for service in self._services.services
            for each in service.frontends
            if each.address in pipeline.NODE_PORTS.addresses
            and (each.address.version, each.protocol, each.port) in taken
        }
        return list(found)

    def _render(
        self, services: Mapping[str, ServiceObject | None], slices: Mapping[str, SliceObject | None]
    ) -> dict[int, Lines]:
        """Renders what is new, and nothing else."""
        news: list[tuple[int, Object | None]] = [
            *((names.cookie("service", key), obj) for key, obj in services.items()),
            *((names.cookie("endpointslice", key), obj) for key, obj in slices.items()),
        ]
        changed: dict[int, Lines] = {}
        for cookie, obj in news:
            if obj is None:
                self.rendered.pop(cookie, None)
                changed[cookie] = ()
            else:
                self.rendered[cookie] = changed[cookie] = self._renderer.object(obj)
        return changed

    @property
    def services(self) -> Collection[ServiceObject]:
        """As they were derived last; none while there is no list of them."""
        return self._services.services

    def figures(self) -> dict[str, float]:
        """For `metrics`."""
        return {
            "services": len(self._services.services),
            "endpoints": sum(len(each.members) for each in self._services.slices),
        }

    def tell(self, in_force: Callable[[], bool]) -> None:
        """How health checks are to know whether flows are in."""
        self._checks.in_force = in_force

    def close(self) -> None:
        """Answers no health checks any more; flows stay."""
        self._checks.close()

    async def forget(self, datapath: str) -> None:
        """Ends what remembers endpoints that are gone: in user space entries of the datapath, and UDP connections in
        conntrack, of many some each time. Called when no flow leads there any more. datapath: the bridge's
        datapath_type.

        Raises SwitchUnavailable, or OvsnetError with vswitchd's words.
        """
        if self._kept:
            return
        if self._services.narrowed and datapath == "netdev":
            # Entries for fewer slots of a group overlap with those for more that are there still. Of two such entries
            # Open vSwitch 3.1.0 alters one, and the other sends new connections to an endpoint that left.
            await control.renew_entries(self._remote)
        self._services.narrowed = False
        left = self._services.departures.left
        if not self._looked or len(left) > _FEW:
            found = await conntrack.ways(self._remote, datapath)
            if not self._looked:
                # Endpoints may have gone while no agent ran.
                self._services.found(found)
                self._looked = True
            for way in left - found:
                self._services.forgot(way)
        ways = list(itertools.islice(left, _AT_ONCE))
        for way in ways:
            await self._openflow.forget(SERVICE_ZONE, *conntrack.tuples(way))
            self._services.forgot(way)
        if left or self._services.stale:
            # For others, and for the flows of answers, which nobody waits for any more.
            self._wake()

    def with_kept(self, rendered: Rendered) -> Rendered:
        """What is to be installed, with what has been read back."""
        return {**rendered, **self._kept} if self._kept else rendered

    async def _remember(self) -> None:
        kept: dict[int, tuple[str, ...]] = {}
        flows: list[str] = []
        for kind in names.SERVED:
            flows += await self._openflow.flows_of(kind)
        groups = await self._openflow.groups()
        for line in flows:
            cookie = cookie_in(line)
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


def _hosts(answering: nodeports.NodePortAddresses) -> frozenset[str | None]:
    """Where to listen, so that it answers there and nowhere else; None: on every address of both families."""
    if not answering.limits(4) and not answering.limits(6):
        return frozenset((None,))
    found: set[str | None] = set()
    for address in sockets.own():
        if not answering.limits(address.version):
            found.add("0.0.0.0" if address.version == 4 else "::")  # noqa: S104
        elif answering.include(address) and not (address.version == 6 and address.is_link_local):
            # One of a link alone could not be bound without the link's name.
            found.add(str(address))
    return frozenset(found)


def _frontends(lines: Iterable[str]) -> Iterator[tuple[IPAddress, Protocol, int, bool]]:
    """What an earlier agent rendered, as `reach_of` takes it. An address without endpoints may be of either kind: then
    it is external, of which nothing but the ports is taken."""
    found: set[tuple[IPAddress, Protocol, int]] = set()
    inside: set[IPAddress] = set()
    outside: set[IPAddress] = set()
    for line in lines:
        frontend = _FRONTEND.search(line)
        if frontend is None:
            continue
        address = ipaddress.ip_address(frontend[2])
        found.add((address, Protocol(frontend[1].upper()), int(frontend[3])))
        if _FROM_OUTSIDE.search(line):
            outside.add(address)
        elif _PLAIN.search(line):
            inside.add(address)
    for address, protocol, port in found:
        yield address, protocol, port, address in outside or address not in inside
