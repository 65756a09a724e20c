"""Which Service has an address and port that several claim.

Pure. A ClusterIP, which the API server gives out, goes before a load balancer's address in a status, which a controller
writes, and that before externalIPs, which anybody writes who may make a Service. Of like ones the elder has it, by
creationTimestamp if that is known and by key else, so that all nodes come to the same answer from the same objects. Who
comes second loses that port of the address, or the node port, and nothing else, and is told with both names; without
its ClusterIP it is left out. A change costs what it concerns, never what exists. Called by the stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import msgspec

from ovsnet.mappings import different
from ovsnet.model import IPAddress
from ovsnet.servicemodel import Protocol, Service

_NODE = (0, 0)
"""Stands for every address of a node, on which a port is everybody's."""
_TCP = Protocol.TCP.value
_NO_DATE = "~"
"""Sorts behind every date."""


class Claim(NamedTuple):
    """What only one can have, in numbers, which compare fast. family 0: the port on all of a node's own addresses."""

    family: int
    address: int
    protocol: str
    port: int


Rank = tuple[int, str, str]
"""Who gave the address, when the Service was made, its key: who sorts first has it."""
_BY_SERVER, _BY_CONTROLLER, _BY_USER = range(3)


class Frontends:
    """All Services as they are supplied, and those without what others have."""

    def __init__(self) -> None:
        self.services: Mapping[str, Service] = {}
        """What goes together; the same instance until something in it changes."""
        self.problems: dict[str, str] = {}
        """By the Service's key."""
        self.supplied: dict[str, Service] = {}
        """What `settle` was told of. Read only."""
        self._claims: dict[Claim, dict[str, Rank]] = {}

    def settle(self, changes: Mapping[str, Service | None]) -> bool:
        """Services that are new or different, or gone (None); True if `services` or `problems` are others now."""
        concerned = set(changes)
        for key, service in changes.items():
            if (old := self.supplied.get(key)) is not None:
                concerned |= self._withdraw(old)
            if service is not None:
                self.supplied[key] = service
                concerned |= self._enter(service)
            elif old is not None:
                del self.supplied[key]
        services = dict(self.services)
        changed = False
        for key in concerned:
            now, lines = self._judge(key)
            changed |= _put(services, key, now) | _put(self.problems, key, "; ".join(lines) or None)
        if changed:
            self.services = services
        return changed

    def replace(self, services: Mapping[str, Service]) -> bool:
        """As `settle`, with all Services that there are."""
        return self.settle({key: services.get(key) for key in different(self.supplied, services)})

    def _enter(self, service: Service) -> set[str]:
        """The keys of others that claim the same."""
        others: set[str] = set()
        for claim, rank in _claims(service):
            claimants = self._claims.setdefault(claim, {})
            others.update(claimants)
            claimants[service.key] = min(rank, claimants.get(service.key, rank))
        return others

    def _withdraw(self, service: Service) -> set[str]:
        others: set[str] = set()
        for claim, _ in _claims(service):
            claimants = self._claims.get(claim, {})
            claimants.pop(service.key, None)
            others.update(claimants)
            if not claimants:
                self._claims.pop(claim, None)
        return others

    def _judge(self, key: str) -> tuple[Service | None, list[str]]:
        """The Service without what others have, and what it lost to whom."""
        service = self.supplied.get(key)
        if service is None:
            return None, []
        lost = {claim: owner for claim, _ in _claims(service) if (owner := self._owner(claim)) is not service}
        if not lost:
            return service, []
        lines = [f"{_words(claim)} {_belongs(owner)}" for claim, owner in lost.items()]
        addresses = {(claim.family, claim.address) for claim in lost if claim.family}
        if any(_numbers(address) in addresses for address in service.cluster_ips):
            return None, [f"{line}; the Service is left out, give it another clusterIP" for line in lines]
        ports = {(claim.protocol, claim.port) for claim in lost if not claim.family}
        rest = msgspec.structs.replace(
            service,
            withheld=frozenset(
                (address, port.protocol, port.port)
                for address in service.outer_ips
                for port in service.ports
                if Claim(*_numbers(address), port.protocol.value, port.port) in lost
            ),
            ports=tuple(
                msgspec.structs.replace(port, node_port=0)
                if (port.protocol.value, port.node_port) in ports
                else port
                for port in service.ports
            ),
            health_check_port=0 if (_TCP, service.health_check_port) in ports else service.health_check_port,
        )
        return rest, [f"{line}; the rest of the Service works without it" for line in lines]

    def _owner(self, claim: Claim) -> Service:
        claimants = self._claims[claim]
        return self.supplied[min(claimants, key=claimants.__getitem__)]


def _claims(service: Service) -> Iterator[tuple[Claim, Rank]]:
    born = service.created or _NO_DATE
    first, second, third = ((giver, born, service.key) for giver in (_BY_SERVER, _BY_CONTROLLER, _BY_USER))
    addresses = [(*_numbers(address), first) for address in service.cluster_ips]
    addresses += [
        (*_numbers(address), second if address in service.load_balancer_ips else third)
        for address in service.outer_ips
    ]
    for port in service.ports:
        protocol = port.protocol.value
        for family, number, rank in addresses:
            yield Claim(family, number, protocol, port.port), rank
        if port.node_port:
            yield Claim(*_NODE, protocol, port.node_port), second
    if service.health_check_port:
        yield Claim(*_NODE, _TCP, service.health_check_port), second


def _words(claim: Claim) -> str:
    if not claim.family:
        return f"node port {claim.port}/{claim.protocol}"
    address = (IPv4Address if claim.family == 4 else IPv6Address)(claim.address)
    return f"{address} port {claim.port}/{claim.protocol}"


def _belongs(owner: Service) -> str:
    where = f" ({owner.source})" if owner.source else ""
    return f"is Service {owner.key}'s{where} already"


def _numbers(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def _put(mapping: dict[str, Service] | dict[str, str], key: str, value: Service | str | None) -> bool:
    """True if that is new. What is equal stays the same instance."""
    if mapping.get(key) == value:
        return False
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value  # type: ignore[assignment]
    return True
