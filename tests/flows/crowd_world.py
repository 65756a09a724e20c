"""Many Services: what a pair of pods that none of them concerns must not pay for."""

from __future__ import annotations

import ipaddress

from ovsnet.endpoints import Here
from ovsnet.frontends import ServiceObject
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from ovsnet.services import Services, SliceObject

SERVICES, EACH = 200, 10
PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


def _endpoint(number: int, family: int) -> Endpoint:
    """On this node from .60 up, and on all four peers; the pods of a test have lower addresses."""
    node, host = number % 5 + 1, 60 + number // 5 % 190
    text = f"10.244.{node}.{host}" if family == 0 else f"fd00:{node}::{host:x}"
    return Endpoint(address=ipaddress.ip_address(text), node=f"node-{'abcde'[node - 1]}")


def crowd() -> list[ServiceObject | SliceObject]:
    """200 Services with 2,000 endpoints in each family, on all ports and protocols."""
    services, slices = {}, {}
    for number in range(SERVICES):
        protocol = PROTOCOLS[number % len(PROTOCOLS)]
        service = Service(
            namespace="crowd",
            name=f"s{number}",
            cluster_ips=(
                ipaddress.ip_address("10.96.8.0") + number,
                ipaddress.ip_address("fd00:96::8:0") + number,
            ),
            ports=(ServicePort(port=80, protocol=protocol, node_port=30100 + number),),
        )
        services[service.key] = service
        for family in (0, 1):
            piece = EndpointSlice(
                namespace="crowd",
                name=f"s{number}-{family}",
                service=service.name,
                ports=(EndpointPort(port=8000 + number, protocol=protocol),),
                endpoints=tuple(_endpoint(number * EACH + at, family) for at in range(EACH)),
            )
            slices[piece.key] = piece
    made = Services()
    made.update(services, slices, Here(node="node-a"))
    return made.objects
