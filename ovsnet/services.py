"""From Services and EndpointSlices to what this node programs for them.

Pure. `Services` keeps what it derived from each object until that changes, so an update costs what changed. One Service
becomes frontends and groups in `frontends`; which endpoints count is in `endpoints`. Called by the agent's loop and by
the inspection commands.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping

from ovsnet import conntrack, pipeline
from ovsnet.claims import Claims
from ovsnet.conntrack import Departures, Way
from ovsnet.endpoints import Here
from ovsnet.frontends import Maker, ServiceObject
from ovsnet.mappings import different
from ovsnet.model import Frozen, IPAddress, IPNetwork, Namespaced
from ovsnet.numbers import Numbers
from ovsnet.servicemodel import EndpointSlice, Protocol, Service

Member = tuple[IPAddress, Protocol, int]

_COVER = {4: 16, 6: 112}
"""Length of the prefixes that routes to ClusterIPs are gathered in."""


class SliceObject(Namespaced):
    """The endpoints of a slice as they are rendered: answers from there may have to be translated back."""

    members: tuple[Member, ...]


class Reach(Frozen):
    """What the node's kernel has to know: what it sends to the bridge."""

    networks: tuple[IPNetwork, ...] = ()
    """With ClusterIPs and nothing else."""
    external: tuple[Member, ...] = ()
    """External addresses, which may be a host's or another node's own: nothing but these ports of them."""
    node_ports: tuple[tuple[int, Protocol, int], ...] = ()
    """(IP version, protocol, port) that answer on the node's addresses."""
    local_node_ports: tuple[tuple[int, Protocol, int], ...] = ()
    """Those of them that give clients outside only this node's endpoints, and endpoints the client's address."""


class Services:
    """What has been derived, by object."""

    def __init__(self) -> None:
        self.reach = Reach()
        self.departures = Departures()
        self.narrowed = True
        """Since somebody reset this, a group chooses by less of the datapath's hash than before, or is gone; or nobody
        knows yet what was before."""
        self.stale = False
        """Conntrack has forgotten some of those that slices show: `update` has something to do."""
        self._lingering: set[str] = set()
        """Slices that show endpoints which they have no more, because conntrack has not forgotten them yet."""
        self._news: dict[str, ServiceObject | None] = {}
        self._slice_news: dict[str, SliceObject | None] = {}
        """What is different since somebody asked; None: gone."""
        self._moved = False
        """Frontends are other ones; what is behind them does not matter."""
        self._numbers = Numbers()
        self._here = Here(node="")
        self._services: Mapping[str, Service] = {}
        self._slices: Mapping[str, EndpointSlice] = {}
        self._of: dict[str, dict[str, EndpointSlice]] = {}
        """Slices by their Service."""
        self._objects: dict[str, ServiceObject] = {}
        self._shown: dict[str, SliceObject] = {}
        self._claims: Claims[Member] = Claims()

    def update(
        self, services: Mapping[str, Service], slices: Mapping[str, EndpointSlice], here: Here
    ) -> None:
        """Derives anew what changed."""
        same = services is self._services and slices is self._slices and here == self._here
        if same and not self.stale:
            return
        dirty = set(different(self._services, services))
        touched = set(different(self._slices, slices))
        touched |= {key for name in dirty for key in self._of.get(name, ())}
        for key in touched:
            dirty |= self._index(self._slices.get(key), slices.get(key))
        if here != self._here:
            dirty |= services.keys() | self._objects.keys()
        self._services, self._slices, self._here = services, slices, here
        for key in dirty:
            self._make(key)
        for key in self._numbers.moved():
            self._make(key)
        for key in dirty & self._objects.keys():
            # Whichever was made first: what one Service lost another may have now.
            self.departures.left.difference_update(conntrack.ways(self._objects[key]))
        self._show(touched | {key for name in dirty for key in self._of.get(name, ())})
        if self._moved:
            self._moved = False
            reach = reach_of(each for made in self._objects.values() for each in _reached(made))
            if reach != self.reach:
                self.reach = reach

    def news(self) -> tuple[dict[str, ServiceObject | None], dict[str, SliceObject | None]]:
        """Objects that are new or others than when this was called last, by key; None for one that is gone."""
        news, self._news = self._news, {}
        slice_news, self._slice_news = self._slice_news, {}
        return news, slice_news

    def forgot(self, way: Way) -> None:
        """Conntrack sends nothing there any more; to be shown by the next `update`."""
        self.departures.left.discard(way)
        self.stale = bool(self._lingering)

    def found(self, ways: Collection[Way]) -> None:
        """Which UDP connections took when nobody knew yet what had changed before: what leads to endpoints that are
        gone is to be forgotten, and what leads to those that still serve later, as if it had been seen from the start.
        """
        alive = {way for made in self._objects.values() for way in conntrack.ways(made)}
        owners = {
            (each.address, each.port): key
            for key, made in self._objects.items()
            for each in made.frontends
            if each.protocol is Protocol.UDP
        }
        for way in set(ways) - alive:
            key = owners.get((way.address, way.port), "")
            serving = _serving(self._of.get(key, {}).values())
            self.departures.met(key, way, ending=(way.endpoint, way.endpoint_port) in serving)

    @property
    def services(self) -> Collection[ServiceObject]:
        return self._objects.values()

    @property
    def slices(self) -> Collection[SliceObject]:
        return self._shown.values()

    @property
    def objects(self) -> list[ServiceObject | SliceObject]:
        """What is rendered, in order of their keys."""
        services, slices = sorted(self._objects), sorted(self._shown)
        return [*(self._objects[key] for key in services), *(self._shown[key] for key in slices)]

    def _index(self, before: EndpointSlice | None, after: EndpointSlice | None) -> set[str]:
        """The Services that a changed slice concerns."""
        found = set()
        if before is not None:
            service = f"{before.namespace}/{before.service}"
            self._of.get(service, {}).pop(before.key, None)
            found.add(service)
        if after is not None:
            service = f"{after.namespace}/{after.service}"
            self._of.setdefault(service, {})[after.key] = after
            found.add(service)
        for service in found:
            if not self._of.get(service):
                self._of.pop(service, None)
        return found

    def _make(self, key: str) -> None:
        service = self._services.get(key)
        before = self._objects.get(key)
        if service is None:
            self.departures.note(key, before, None, ())
            self.narrowed |= _narrowed(before, None)
            if self._objects.pop(key, None) is not None:
                self._news[key] = None
                self._moved = True
            self._numbers.keep(key, ())
            return
        made = Maker(service, list(self._of.get(key, {}).values()), self._here, self._numbers).make()
        self.departures.note(key, before, made, _serving(self._of.get(key, {}).values()))
        if made != before:
            self.narrowed |= _narrowed(before, made)
            self._objects[key] = self._news[key] = made
            self._moved |= before is None or _reached(before) != _reached(made)

    def _show(self, keys: set[str]) -> None:
        """What of the slices' endpoints each of them renders: those that it has, and those that have just gone while
        conntrack may still send them datagrams. Their answers are translated as long."""
        touched: set[str] = set()
        going = self.departures.endpoints
        keys, self._lingering, self.stale = keys | self._lingering, set(), False
        for key in keys:
            there = list(self._members(self._slices.get(key)))
            late = [
                (address, protocol, port)
                for address, protocol, port in self._claims.named(key)
                if protocol is Protocol.UDP and (address, port) in going
            ]
            touched |= self._claims.name(key, (*there, *late))
            if not set(late).issubset(there):
                self._lingering.add(key)
        for key in sorted(touched):
            held = self._claims.held(key)
            if not held:
                if self._shown.pop(key, None) is not None:
                    self._slice_news[key] = None
                continue
            namespace, _, name = key.partition("/")
            shown = SliceObject(namespace=namespace, name=name, members=held)
            if shown != self._shown.get(key):
                self._shown[key] = self._slice_news[key] = shown

    def _members(self, piece: EndpointSlice | None) -> Iterator[Member]:
        if piece is None or f"{piece.namespace}/{piece.service}" not in self._services:
            return
        for port in piece.ports:
            for endpoint in piece.endpoints:
                yield endpoint.address, port.protocol, port.port


def _reached(service: ServiceObject) -> list[tuple[IPAddress, Protocol, int, bool]]:
    """For `reach_of`."""
    return [(each.address, each.protocol, each.port, each.external) for each in service.frontends]


def _narrowed(before: ServiceObject | None, after: ServiceObject | None) -> bool:
    slots = {group.number: group.slots for group in after.groups} if after is not None else {}
    return before is not None and any(group.slots > slots.get(group.number, 0) for group in before.groups)


def _serving(slices: Iterable[EndpointSlice]) -> set[tuple[IPAddress, int]]:
    """Endpoints that answer, whether they get new connections or not."""
    return {
        (endpoint.address, port.port)
        for piece in slices
        for port in piece.ports
        if port.protocol is Protocol.UDP
        for endpoint in piece.endpoints
        if endpoint.serving
    }


def reach_of(frontends: Iterable[tuple[IPAddress, Protocol, int, bool]]) -> Reach:
    """frontends: (address, protocol, port, whether it is an external address, of which no other port is ours)."""
    inside: dict[tuple[int, int], list[int]] = {}
    outside: set[Member] = set()
    node_ports: set[tuple[int, Protocol, int]] = set()
    local: set[tuple[int, Protocol, int]] = set()
    for address, protocol, port, external in frontends:
        version, number = address.version, int(address)
        if address in pipeline.NODE_PORTS.addresses:
            node_ports.add((version, protocol, port))
        elif address in pipeline.LOCAL_NODE_PORTS.addresses:
            local.add((version, protocol, port))
        elif external:
            outside.add((address, protocol, port))
        else:
            prefix = number >> ((32 if version == 4 else 128) - _COVER[version])
            inside.setdefault((version, prefix), []).append(number)
    networks = {_cover(version, numbers) for (version, _), numbers in inside.items()}
    return Reach(
        networks=tuple(sorted(networks, key=lambda each: (each.version, each))),
        external=tuple(sorted(outside, key=lambda each: (each[0].version, *each))),
        node_ports=tuple(sorted(node_ports)),
        local_node_ports=tuple(sorted(local)),
    )


def _cover(version: int, numbers: list[int]) -> IPNetwork:
    """The smallest network with all of the addresses."""
    bits = 32 if version == 4 else 128
    first = min(numbers)
    length = bits - (first ^ max(numbers)).bit_length()
    make = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return make((first, length), strict=False)
