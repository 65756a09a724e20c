"""Which Service has an address and port that several claim, and who may have none.

Pure. First each Service loses what no Service can have: addresses of pods and nodes (`taken`), and node ports outside
of the range that the configuration allows. It keeps the rest, and is told.

Of what is left, a ClusterIP, which the API server gives out, goes before a load balancer's address in a status, which a
controller writes, and that before externalIPs, which anybody writes who may make a Service. Of like ones the elder has
it, by creationTimestamp if that is known and by key else, so that all nodes come to the same answer from the same
objects. Who comes second loses that port of the address, or the node port, and nothing else, and is told with both
names; without its ClusterIP it is left out.

A change of Services costs what it concerns, never what exists; one of nodes' ranges or addresses is one look through
all claims. Called by the stores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

import msgspec

from ovsnet.mappings import different
from ovsnet.model import IPAddress, Node
from ovsnet.servicemodel import Protocol, Service
from ovsnet.store.taken import NO_LIMITS, Limits, Spans, Taken

_NODE = (0, 0)
"""Stands for every address of a node, on which a port is everybody's."""
_TCP = Protocol.TCP.value
_NO_DATE = "~"
"""Sorts behind every date."""
_REST = "the rest of the Service works without it"
_NOT_THERE = "the Service is not reached there, give it another clusterIP"


class Claim(NamedTuple):
    """What only one can have, in numbers, which compare fast. family 0: the port on all of a node's own addresses."""

    family: int
    address: int
    protocol: str
    port: int


class NodePort(NamedTuple):
    """port: of the Service, by name or number; "" for healthCheckNodePort."""

    protocol: str
    number: int
    port: str

    @property
    def words(self) -> str:
        if not self.port:
            return f"healthCheckNodePort {self.number}"
        return f"node port {self.number}/{self.protocol} of port {self.port}"


Rank = tuple[int, str, str]
"""Who gave the address, when the Service was made, its key: who sorts first has it."""
_BY_SERVER, _BY_CONTROLLER, _BY_USER = range(3)


class Frontends:
    """All Services as they are supplied, and those without what others have."""

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        self.services: Mapping[str, Service] = {}
        """What goes together; the same instance until something in it changes."""
        self.problems: dict[str, str] = {}
        """By the Service's key."""
        self.supplied: dict[str, Service] = {}
        """What `settle` was told of. Read only."""
        self._reduced: dict[str, tuple[Service, list[str]]] = {}
        """Those of them that ask for what no Service can have: without that, and what it is."""
        self._claims: dict[Claim, dict[str, Rank]] = {}
        self._taken = Taken(limits)
        self._node_ports = limits.node_ports

    def settle(self, changes: Mapping[str, Service | None]) -> bool:
        """Services that are new or different, or gone (None); True if `services` or `problems` are others now."""
        concerned = set(changes)
        for key, service in changes.items():
            old = self.supplied.get(key)
            if old is not None:
                concerned |= self._withdraw(key)
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

    def follow(self, nodes: Mapping[str, Node]) -> bool:
        """Nodes as they are now, whose ranges lie apart; returns as `settle`."""
        spans = self._taken.follow(nodes)
        concerned = self._within(spans) if spans else ()
        return bool(concerned) and self.settle({key: self.supplied[key] for key in concerned})

    def _within(self, spans: Spans) -> set[str]:
        """The keys of Services that claim one of these addresses, or asked for one in vain."""
        found = {
            key
            for (family, number, _, _), claimants in self._claims.items()
            if family and spans.have(family, number)
            for key in claimants
        }
        return found | {
            key
            for key, (service, _) in self._reduced.items()
            if any(spans.have(*_numbers(address)) for address in service.refused)
        }

    def _enter(self, service: Service) -> set[str]:
        """The keys of others that claim the same."""
        rest, lines = self._reduce(service)
        if lines:
            self._reduced[service.key] = rest, lines
        others: set[str] = set()
        for claim, rank in _claims(rest):
            claimants = self._claims.setdefault(claim, {})
            others.update(claimants)
            claimants[service.key] = min(rank, claimants.get(service.key, rank))
        return others

    def _withdraw(self, key: str) -> set[str]:
        service, _ = self._reduced.pop(key, (self.supplied[key], ()))
        others: set[str] = set()
        for claim, _ in _claims(service):
            claimants = self._claims.get(claim, {})
            claimants.pop(key, None)
            others.update(claimants)
            if not claimants:
                self._claims.pop(claim, None)
        return others

    def _reduce(self, service: Service) -> tuple[Service, list[str]]:
        """The Service without what no Service can have, and what that was."""
        refused = {
            address: words
            for addresses, outside in ((service.cluster_ips, False), (service.outer_ips, True))
            for address in addresses
            if (words := self._taken.words(address, outside=outside)) is not None
        }
        range_ = self._node_ports
        beyond = (
            () if range_ is None else [each for each in _node_ports(service) if each.number not in range_]
        )
        if not refused and not beyond:
            return service, []
        lines = [
            f"{address} {words}; {_NOT_THERE if address in service.cluster_ips else _REST}"
            for address, words in refused.items()
        ]
        lines += [
            f"{each.words} is outside of {range_}, nodePortRange in the agent's configuration; {_REST}"
            for each in beyond
        ]
        rest = _without_node_ports(service, [(each.protocol, each.number) for each in beyond])
        return msgspec.structs.replace(rest, refused=frozenset(refused)), lines

    def _judge(self, key: str) -> tuple[Service | None, list[str]]:
        """The Service without what it can't have, and without what others have; and what it lost to whom."""
        if key not in self.supplied:
            return None, []
        service, told = self._reduced.get(key, (self.supplied[key], []))
        lost = {claim: owner for claim, _ in _claims(service) if (owner := self._owner(claim)).key != key}
        if not lost:
            return service if not told or _reached(service) else None, told
        lines = [f"{_words(claim)} {_belongs(owner)}" for claim, owner in lost.items()]
        addresses = {(claim.family, claim.address) for claim in lost if claim.family}
        if any(_numbers(address) in addresses for address in service.inner_ips):
            left_out = "; the Service is left out, give it another clusterIP"
            return None, [*told, *(f"{line}{left_out}" for line in lines)]
        rest = msgspec.structs.replace(
            _without_node_ports(service, [claim[2:] for claim in lost if not claim.family]),
            withheld=frozenset(
                (address, port.protocol, port.port)
                for address in service.outer_ips
                for port in service.ports
                if Claim(*_numbers(address), port.protocol.value, port.port) in lost
            ),
        )
        return rest, [*told, *(f"{line}; {_REST}" for line in lines)]

    def _owner(self, claim: Claim) -> Service:
        claimants = self._claims[claim]
        return self.supplied[min(claimants, key=claimants.__getitem__)]


def _claims(service: Service) -> Iterator[tuple[Claim, Rank]]:
    born = service.created or _NO_DATE
    first, second, third = ((giver, born, service.key) for giver in (_BY_SERVER, _BY_CONTROLLER, _BY_USER))
    addresses = [(*_numbers(address), first) for address in service.inner_ips]
    addresses += [
        (*_numbers(address), second if address in service.load_balancer_ips else third)
        for address in service.outer_ips
    ]
    for port in service.ports:
        protocol = port.protocol.value
        for family, number, rank in addresses:
            yield Claim(family, number, protocol, port.port), rank
    for each in _node_ports(service):
        yield Claim(*_NODE, each.protocol, each.number), second


def _node_ports(service: Service) -> Iterator[NodePort]:
    for port in service.ports:
        if port.node_port:
            yield NodePort(port.protocol.value, port.node_port, port.name or str(port.port))
    if service.health_check_port:
        yield NodePort(_TCP, service.health_check_port, "")


def _without_node_ports(service: Service, lost: Collection[tuple[str, int]]) -> Service:
    """lost: protocols and ports."""
    if not lost:
        return service
    ports = (
        msgspec.structs.replace(port, node_port=0) if (port.protocol.value, port.node_port) in lost else port
        for port in service.ports
    )
    checked = 0 if (_TCP, service.health_check_port) in lost else service.health_check_port
    return msgspec.structs.replace(service, ports=tuple(ports), health_check_port=checked)


def _reached(service: Service) -> bool:
    """Whether there is still something that leads to it."""
    return bool(service.inner_ips or service.outer_ips or any(port.node_port for port in service.ports))


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
