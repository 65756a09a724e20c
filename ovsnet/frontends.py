"""One Service as this node programs it: where it is reached, and the groups of endpoints behind that.

Pure. The rules of traffic policies are those of Kubernetes: internalTrafficPolicy is for ClusterIPs,
externalTrafficPolicy for clients outside of the cluster that use node ports, external addresses or load balancers'
addresses, while pods and nodes that use these reach all endpoints. Called by `services`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from ovsnet import names, pipeline
from ovsnet.endpoints import Backend, Here, choose
from ovsnet.model import Frozen, IPAddress, IPNetwork, Namespaced
from ovsnet.numbers import Numbers
from ovsnet.servicemodel import EndpointSlice, Protocol, Service, ServicePort

BUCKETS = 256
"""At most in one group, of endpoints or of groups: with so many Open vSwitch 3.1 still selects by the datapath's hash,
which takes no upcall for each connection, and a group stays far below the 64 KiB of a message."""
SLOTS = 16
"""Of the hash for each bucket, as far as BUCKETS allows: shares differ by one slot."""
FILL = 128
"""At most on average in each of several groups, if BUCKETS groups are enough: endpoints come and go without others
changing their group."""
CLIENTS = 4096
"""Clients from outside of the cluster whose endpoint the switch remembers, for each frontend: their addresses may be
forged, and each takes a flow for as long as the affinity lasts. Those inside are as many as the node has pods."""
LONGEST_TIMEOUT = 65535
"""Seconds that a flow's idle_timeout can say (OpenFlow 1.5, section 7.3.4.3); an affinity may last 86,400."""


class Group(Frozen):
    """Endpoints to choose from: backends, or other groups, of equal weight."""

    number: int
    mark: int
    """Of the connections."""
    backends: tuple[Backend, ...] = ()
    members: tuple[int, ...] = ()
    """Numbers of the groups. Their weights are no matter of their size: a change of one endpoint would rewrite this
    group as well, and where Open vSwitch hashes by itself the greater weight would take nearly all."""
    sticky: bool = False
    """A client stays with its endpoint (sessionAffinity: ClientIP); else each connection is a new choice."""
    level: int = 0
    """Groups that it is behind. Each level must choose by another hash."""
    version: int = 4

    @property
    def shares(self) -> tuple[tuple[Backend, int], ...]:
        """A bucket's backend and weight.

        Open vSwitch spreads buckets over as many slots of the datapath's hash as the least weight goes into their sum,
        rounded up to a power of two, 16 to 256: of nine equal buckets seven would have two slots and two have one. So
        one backend has two buckets, of which one is the least.
        """
        count = len(self.backends)
        weight = min(BUCKETS, 1 << (SLOTS * count - 1).bit_length()) // count if count > 1 else 1
        if self.sticky or self.level or weight < 2:
            return tuple((backend, 1) for backend in self.backends)
        first, *others = self.backends
        return (first, weight - 1), (first, 1), *((backend, weight) for backend in others)

    @property
    def slots(self) -> int:
        """How many parts of the datapath's hash Open vSwitch tells apart, with an entry each; 0: of another hash."""
        if self.sticky or self.level:
            return 0
        weights = [weight for _, weight in self.shares] or [1] * len(self.members)
        needed = -(-sum(weights) // min(weights))
        return max(SLOTS, 1 << (needed - 1).bit_length())


class Frontend(Frozen):
    """An address and port where a Service is reached."""

    address: IPAddress
    protocol: Protocol
    port: int
    mark: int = 0
    """Of its connections."""
    group: int = 0
    """0: nobody who may answer."""
    refused: bool = False
    """Nobody at all: the client is told."""
    external: bool = False
    """Clients outside of the cluster use it as well."""
    outside_group: int = 0
    """For those."""
    masquerade: bool = False
    """Their connections get this node's address, as the endpoint may be on another one."""
    sources: tuple[IPNetwork, ...] | None = None
    """Clients only from there; None: from everywhere."""
    admits_node: bool = True
    """This node is one of them, by its InternalIPs: whatever address its kernel takes for a connection."""

    @property
    def group_outside(self) -> int:
        """Of clients outside of the cluster, which reach ClusterIPs as well if they have a route to a node."""
        return self.outside_group if self.external else self.group


class Entry(Frozen):
    """A group that clients choose from by themselves; not what it is made of."""

    group: Group
    protocol: str
    """As in a match."""
    inside: bool
    """Pods and nodes do, not only clients outside of the cluster."""


class ServiceObject(Namespaced):
    """A Service as it is rendered."""

    frontends: tuple[Frontend, ...]
    groups: tuple[Group, ...]
    affinity: int = 0
    """Seconds without a new connection after which a client may get another endpoint; 0: each connection is a new
    choice."""
    health_check_port: int = 0
    """healthCheckNodePort of a Service that needs one (externalTrafficPolicy: Local); 0: none."""
    local_endpoints: int = 0
    """Ready ones of this node, for whoever asks there; one with addresses of two families counts once."""

    def backends(self, number: int) -> list[Backend]:
        """All that the group of this number leads to; none if there is no such group."""
        groups = {group.number: group for group in self.groups}
        found: list[Backend] = []
        waiting = [number]
        while waiting:
            group = groups.get(waiting.pop())
            if group is not None:
                waiting += reversed(group.members)
                found += group.backends
        return found

    @property
    def idle_timeout(self) -> int:
        """Seconds after which the switch forgets a client, as far as a flow can say them; `agent.affinity` does the
        rest."""
        return min(self.affinity, LONGEST_TIMEOUT)

    @property
    def learned(self) -> int:
        """The cookie of flows that are learned of its clients in the cluster."""
        return names.cookie(names.AFFINITY, self.key)

    def learned_outside(self, frontend: Frontend) -> int:
        """The cookie of those that are learned of other clients: the switch counts flows by their cookie."""
        end = names.socket(frontend.address, frontend.port)
        return names.cookie(names.AFFINITY, f"{self.key}|{frontend.protocol.value}|{end}")

    @property
    def entries(self) -> list[Entry]:
        """What clients stay with endpoints of: the groups that frontends use."""
        inside = {each.group for each in self.frontends}
        protocols = {
            number: _protocol(each.protocol, each.address.version)
            for each in self.frontends
            for number in (each.group, each.group_outside)
        }
        return [
            Entry(group=group, protocol=protocols[group.number], inside=group.number in inside)
            for group in self.groups
            if group.number in protocols
        ]


def _protocol(protocol: Protocol, version: int) -> str:
    return protocol.value.lower() + ("" if version == 4 else "6")


class Maker:
    """Makes one ServiceObject."""

    def __init__(
        self, service: Service, slices: Sequence[EndpointSlice], here: Here, numbers: Numbers
    ) -> None:
        self._service = service
        self._slices = slices
        self._here = here
        self._numbers = numbers
        self._used: set[str] = set()
        self._groups: list[Group] = []
        self._local: dict[int, set[IPAddress]] = {4: set(), 6: set()}

    def make(self) -> ServiceObject:
        """Numbers that it does not use any more are free afterwards."""
        service = self._service
        versions = sorted({address.version for address in service.cluster_ips})
        frontends = tuple(
            frontend
            for port in service.ports
            for version in versions
            for frontend in self._port(port, version)
        )
        self._numbers.keep(service.key, self._used)
        return ServiceObject(
            namespace=service.namespace,
            name=service.name,
            frontends=frontends,
            groups=tuple(self._groups),
            affinity=service.affinity,
            health_check_port=service.health_check_port if service.external_local else 0,
            local_endpoints=max(map(len, self._local.values())) if service.external_local else 0,
        )

    def _port(self, port: ServicePort, version: int) -> Iterator[Frontend]:
        service = self._service
        chosen = choose(port, self._slices, version, self._here)
        self._local[version].update(chosen.ready_here)
        everywhere = self._group(port, version, "", chosen.everywhere)
        local = 0
        if service.internal_local or service.external_local:
            local = self._group(port, version, "/local", chosen.here)
        outside = local if service.external_local else everywhere
        every = Frontend(
            address=service.cluster_ips[0],
            protocol=port.protocol,
            port=port.port,
            mark=self._mark(port),
            group=everywhere,
            refused=not chosen.any,
        )
        for address in _of(version, service.inner_ips):
            yield replace(every, address=address, group=local if service.internal_local else everywhere)
        external = replace(every, external=True, outside_group=outside, masquerade=not service.external_local)
        for address in _of(version, service.outer_ips):
            if (address, port.protocol, port.port) not in service.withheld:
                each = replace(external, address=address)
                yield each if address in service.external_ips else self._guarded(each)
        if port.node_port and chosen.any:
            # Without endpoints the node's kernel refuses by itself.
            yield from self._node_port(replace(external, port=port.node_port), version)

    def _guarded(self, external: Frontend) -> Frontend:
        """With its Service's loadBalancerSourceRanges, of which those of another family admit nobody."""
        ranges = self._service.source_ranges
        if not ranges:
            return external
        return replace(
            external,
            sources=tuple(each for each in ranges if each.version == external.address.version),
            admits_node=any(
                address in each
                for each in ranges
                for address in self._here.addresses
                if address.version == external.address.version
            ),
        )

    def _node_port(self, external: Frontend, version: int) -> Iterator[Frontend]:
        yield replace(
            external,
            address=pipeline.NODE_PORTS.of(version),
            outside_group=external.group,
            masquerade=True,
        )
        if self._service.external_local:
            yield replace(external, address=pipeline.LOCAL_NODE_PORTS.of(version))

    def _group(self, port: ServicePort, version: int, view: str, backends: tuple[Backend, ...]) -> int:
        """The number of the group of these; 0 for none."""
        if not backends:
            return 0
        name = f"{_title(port)}/{version}{view}"
        number = self._number(name)
        group = Group(
            number=number, mark=self._mark(port), sticky=bool(self._service.affinity), version=version
        )
        self._fill(group, name, backends)
        return number

    def _fill(self, group: Group, name: str, backends: tuple[Backend, ...]) -> None:
        """Adds the group, behind those that it is made of if it can't have all the backends itself."""
        if len(backends) <= BUCKETS:
            self._groups.append(replace(group, backends=backends))
            return
        members = []
        for index, part in enumerate(_parts(backends, group.level)):
            if part:
                number = self._number(f"{name}/{index}")
                members.append(number)
                self._fill(replace(group, number=number, level=group.level + 1), f"{name}/{index}", part)
        self._groups.append(replace(group, members=tuple(members)))

    def _mark(self, port: ServicePort) -> int:
        return self._number(_title(port))

    def _number(self, what: str) -> int:
        self._used.add(what)
        return self._numbers.number(self._service.key, what)


def _title(port: ServicePort) -> str:
    return f"{port.protocol.value.lower()}/{port.name or port.port}"


def _of(version: int, addresses: Iterable[IPAddress]) -> Iterator[IPAddress]:
    return (address for address in addresses if address.version == version)


def _parts(backends: tuple[Backend, ...], level: int) -> list[tuple[Backend, ...]]:
    """At most BUCKETS of them, each for a group of its own; a backend stays in its part while their count does."""
    count = 2
    while count * FILL < len(backends) and count < BUCKETS:
        count *= 2
    parts: list[list[Backend]] = [[] for _ in range(count)]
    for backend in backends:
        parts[_digest(backend, level) % count].append(backend)
    return [tuple(part) for part in parts]


def _digest(backend: Backend, level: int) -> int:
    """Another one for each level: what one put together is apart in the next."""
    text = f"{level}|{backend.address}|{backend.port}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
