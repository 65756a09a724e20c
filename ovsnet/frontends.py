"""One Service as this node programs it: where it is reached, and the groups of endpoints behind that.

Pure. The rules of traffic policies are those of Kubernetes: internalTrafficPolicy is for ClusterIPs,
externalTrafficPolicy for clients outside of the cluster that use node ports, external addresses or load balancers'
addresses, while pods and nodes that use these reach all endpoints. Called by `services`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from ovsnet import pipeline
from ovsnet.endpoints import Backend, Chosen, Here, choose
from ovsnet.model import Frozen, IPAddress, IPNetwork
from ovsnet.numbers import Numbers
from ovsnet.servicemodel import EndpointSlice, Protocol, Service, ServicePort

BUCKETS = 256
"""At most in one group: with so many Open vSwitch 3.1 still selects by the datapath's hash, which takes no upcall for
each connection, and a group stays far below the 64 KiB of a message."""
SLOTS = 16
"""Of the hash for each bucket, as far as BUCKETS allows: shares differ by one slot."""
FILL = 128
"""Of each group where there are several, on average: endpoints come and go without others changing their group."""


class Group(Frozen):
    """Endpoints to choose from: backends of equal weight, or other groups."""

    number: int
    mark: int
    """Of the connections."""
    backends: tuple[Backend, ...] = ()
    members: tuple[tuple[int, int], ...] = ()
    """(number, weight) of the groups."""
    by_client: bool = False
    """The client's address decides (sessionAffinity: ClientIP), else each connection is a new choice."""
    nested: bool = False
    """One of a group's members, which must choose by another hash than that."""
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
        if self.by_client or self.nested or weight < 2:
            return tuple((backend, 1) for backend in self.backends)
        first, *others = self.backends
        return (first, weight - 1), (first, 1), *((backend, weight) for backend in others)


class Frontend(Frozen):
    """An address and port where a Service is reached."""

    address: IPAddress
    protocol: Protocol
    port: int
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


class ServiceObject(Frozen):
    """A Service as it is rendered."""

    namespace: str
    name: str
    frontends: tuple[Frontend, ...]
    groups: tuple[Group, ...]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        return self.key


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

    def make(self) -> ServiceObject:
        """Numbers that it does not use any more are free afterwards."""
        service = self._service
        addresses = (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
        versions = sorted({address.version for address in addresses})
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
        )

    def _port(self, port: ServicePort, version: int) -> Iterator[Frontend]:
        service = self._service
        chosen = choose(port, self._slices, version, self._here)
        everywhere = self._group(port, version, "", chosen.everywhere)
        needs_local = service.internal_local or service.external_local
        local = self._group(port, version, "/local", chosen.here) if needs_local else 0
        for address in service.cluster_ips:
            if address.version == version:
                yield Frontend(
                    address=address,
                    protocol=port.protocol,
                    port=port.port,
                    group=local if service.internal_local else everywhere,
                    refused=not chosen.any,
                )
        outside = local if service.external_local else everywhere
        for address in service.external_ips:
            if address.version == version:
                yield self._external(address, port.protocol, port.port, everywhere, outside, chosen)
        for address in service.load_balancer_ips:
            if address.version == version and address not in service.external_ips:
                sources = service.source_ranges or None
                yield self._external(address, port.protocol, port.port, everywhere, outside, chosen, sources)
        if port.node_port and chosen.any:
            # Without endpoints the node's kernel refuses by itself.
            yield from self._node_port(port, version, everywhere, outside, chosen)

    def _node_port(
        self, port: ServicePort, version: int, everywhere: int, outside: int, chosen: Chosen
    ) -> Iterator[Frontend]:
        address = pipeline.NODE_PORTS.of(version)
        yield Frontend(
            address=address,
            protocol=port.protocol,
            port=port.node_port,
            group=everywhere,
            external=True,
            outside_group=everywhere,
            masquerade=True,
        )
        if self._service.external_local:
            yield Frontend(
                address=pipeline.LOCAL_NODE_PORTS.of(version),
                protocol=port.protocol,
                port=port.node_port,
                group=everywhere,
                external=True,
                outside_group=outside,
            )

    def _external(
        self,
        address: IPAddress,
        protocol: Protocol,
        port: int,
        group: int,
        outside: int,
        chosen: Chosen,
        sources: tuple[IPNetwork, ...] | None = None,
    ) -> Frontend:
        return Frontend(
            address=address,
            protocol=protocol,
            port=port,
            group=group,
            refused=not chosen.any,
            external=True,
            outside_group=outside,
            masquerade=not self._service.external_local,
            sources=None
            if sources is None
            else tuple(each for each in sources if each.version == address.version),
        )

    def _group(self, port: ServicePort, version: int, view: str, backends: tuple[Backend, ...]) -> int:
        """The number of the group of these; 0 for none."""
        if not backends:
            return 0
        name = f"{port.protocol.value.lower()}/{port.name or port.port}/{version}{view}"
        mark = self._number(f"{port.protocol.value.lower()}/{port.name or port.port}")
        by_client = bool(self._service.affinity)
        if len(backends) <= BUCKETS:
            number = self._number(name)
            self._groups.append(
                Group(number=number, mark=mark, backends=backends, by_client=by_client, version=version)
            )
            return number
        members = []
        for index, part in enumerate(_parts(backends)):
            if part:
                number = self._number(f"{name}/{index}")
                members.append((number, len(part)))
                self._groups.append(
                    Group(
                        number=number,
                        mark=mark,
                        backends=part,
                        by_client=by_client,
                        nested=True,
                        version=version,
                    )
                )
        number = self._number(name)
        self._groups.append(
            Group(number=number, mark=mark, members=tuple(members), by_client=by_client, version=version)
        )
        return number

    def _number(self, what: str) -> int:
        self._used.add(what)
        return self._numbers.number(self._service.key, what)


def _parts(backends: tuple[Backend, ...]) -> list[tuple[Backend, ...]]:
    """Parts of at most BUCKETS; a backend stays in its part while their count does."""
    count = 2
    while count * FILL < len(backends):
        count *= 2
    while True:
        parts: list[list[Backend]] = [[] for _ in range(count)]
        for backend in backends:
            digest = hashlib.blake2b(f"{backend.address}|{backend.port}".encode(), digest_size=4).digest()
            parts[int.from_bytes(digest, "big") % count].append(backend)
        if max(map(len, parts)) <= BUCKETS:
            return [tuple(part) for part in parts]
        count *= 2
