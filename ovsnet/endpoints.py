"""Which endpoints of a Service this node sends connections to.

Pure. The rules are Kubernetes': ready endpoints, or if there are none those that still serve while they terminate
(KEP-1669); those that are meant for this node or its zone, where every one says whom it is meant for
(EndpointSlice hints: topology-aware routing and trafficDistribution); for Local policies those on this node. Called by
`services`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ovsnet.model import Frozen, IPAddress
from ovsnet.servicemodel import Endpoint, EndpointSlice, ServicePort


class Here(Frozen):
    """This node. zone: label topology.kubernetes.io/zone, "" if it has none. addresses: its InternalIPs."""

    node: str
    zone: str = ""
    addresses: tuple[IPAddress, ...] = ()


class Backend(Frozen):
    """Where a connection goes."""

    address: IPAddress
    port: int


class Chosen(Frozen):
    """everywhere: for traffic policy Cluster; here: for Local. Sorted, each once."""

    everywhere: tuple[Backend, ...] = ()
    here: tuple[Backend, ...] = ()
    any: bool = False
    """Whether there are any that could be chosen by some node."""
    ready_here: tuple[IPAddress, ...] = ()
    """Ready endpoints of this node. Those that terminate don't count: load balancers are to go elsewhere."""


def choose(port: ServicePort, slices: Iterable[EndpointSlice], version: int, here: Here) -> Chosen:
    """The endpoints of one port of a Service, in one family."""
    found = [
        (endpoint, Backend(address=endpoint.address, port=each.port))
        for piece in slices
        for each in piece.ports
        if each.name == port.name and each.protocol == port.protocol
        for endpoint in piece.endpoints
        if endpoint.address.version == version
    ]
    ready = _usable([endpoint for endpoint, _ in found])
    local = _usable([endpoint for endpoint, _ in found if endpoint.node == here.node])
    near = _near(ready, here)
    return Chosen(
        everywhere=_backends(found, near),
        here=_backends(found, local),
        any=bool(ready),
        ready_here=tuple(each.address for each in local if each.ready),
    )


def _usable(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    return [each for each in endpoints if each.ready] or [
        each for each in endpoints if each.serving and each.terminating
    ]


def _near(endpoints: list[Endpoint], here: Here) -> list[Endpoint]:
    """Those that are meant for this node, if all say whom they are meant for and some mean it; else all."""
    if all(each.for_nodes for each in endpoints):
        ours = [each for each in endpoints if here.node in each.for_nodes]
        if ours:
            return ours
    if here.zone and all(each.for_zones for each in endpoints):
        return [each for each in endpoints if here.zone in each.for_zones] or endpoints
    return endpoints


def _backends(found: Iterable[tuple[Endpoint, Backend]], chosen: Iterable[Endpoint]) -> tuple[Backend, ...]:
    wanted = {id(each) for each in chosen}
    backends = {backend: None for endpoint, backend in found if id(endpoint) in wanted}
    return tuple(sorted(backends, key=lambda backend: (int(backend.address), backend.port)))
