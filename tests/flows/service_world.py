"""Services of every sort, as a store would hand them out, for the node node-a with pods a1 and a2.

Their names say what is special about them. Endpoints: a1 (10.244.1.2), b1 and b2 on node-b (10.244.2.5, .6), node-a and
node-b themselves, and one outside of the cluster.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort

A1, B1, B2 = ("10.244.1.2", "fd00:1::2"), ("10.244.2.5", "fd00:2::5"), ("10.244.2.6", "fd00:2::6")
NODE_A, NODE_B = ("192.0.2.11", "2001:db8::11"), ("192.0.2.12", "2001:db8::12")
FAR = ("203.0.113.9", "2001:db8:f::9")
_ON = {A1: "node-a", NODE_A: "node-a", B1: "node-b", B2: "node-b", NODE_B: "node-b", FAR: ""}
LOAD_BALANCER = ("203.0.113.80", "2001:db8:80::80")
EXTERNAL = ("203.0.113.81", "2001:db8:80::81")
SHUT_LOAD_BALANCER = ("203.0.113.82", "2001:db8:80::82")
STICKY_EXTERNAL = ("203.0.113.83", "2001:db8:80::83")

SERVICES: dict[str, Service] = {}
SLICES: dict[str, EndpointSlice] = {}


def vip(number: int) -> tuple[str, str]:
    return f"10.96.0.{number}", f"fd00:96::{number:x}"


def addresses(pair: Sequence[str]) -> tuple[Any, ...]:
    return tuple(map(ipaddress.ip_address, pair))


def networks(*texts: str) -> tuple[Any, ...]:
    return tuple(map(ipaddress.ip_network, texts))


def slices_of(
    name: str, endpoints: Sequence[tuple[str, str]], protocol: Protocol, port: int, **said: Any
) -> dict[str, EndpointSlice]:
    """One for each family."""
    found = {}
    for family in (0, 1):
        piece = EndpointSlice(
            namespace="default",
            name=f"{name}-{'v6' if family else 'v4'}",
            service=name,
            ports=(EndpointPort(port=port, protocol=protocol),),
            endpoints=tuple(
                Endpoint(address=ipaddress.ip_address(each[family]), node=_ON.get(each, ""), **said)
                for each in endpoints
            ),
        )
        found[piece.key] = piece
    return found


def _add(
    number: int,
    name: str,
    *endpoints: tuple[str, str],
    protocol: Protocol = Protocol.TCP,
    node_port: int = 0,
    **more: Any,
) -> Service:
    service = Service(
        namespace="default",
        name=name,
        cluster_ips=addresses(vip(number)),
        ports=(ServicePort(port=80, protocol=protocol, node_port=node_port),),
        **more,
    )
    SERVICES[service.key] = service
    SLICES.update(slices_of(name, endpoints, protocol, 8080))
    return service


WEB = _add(1, "web", A1, B1, B2)
DNS = _add(2, "dns", B1, protocol=Protocol.UDP)
ASSOCIATION = _add(3, "association", B1, protocol=Protocol.SCTP)
NOBODY = _add(4, "nobody")
HERE_ONLY = _add(5, "here-only", A1, B1, internal_local=True)
NOBODY_HERE = _add(6, "nobody-here", B1, internal_local=True)
STICKY = _add(7, "sticky", A1, B1, B2, affinity=600)
API = _add(8, "api", NODE_A)
API_THERE = _add(9, "api-there", NODE_B)
ABROAD = _add(10, "abroad", FAR)
ITSELF = _add(11, "itself", A1)
OPEN = _add(12, "open", A1, B1, node_port=30012, external_ips=addresses(EXTERNAL))
KEPT = _add(13, "kept", A1, B1, node_port=30013, external_local=True)
GUARDED = _add(
    14,
    "guarded",
    B1,
    node_port=30014,
    load_balancer_ips=addresses(LOAD_BALANCER),
    source_ranges=networks("198.51.100.0/24", "2001:db8:100::/48", "192.0.2.8/29", "2001:db8::10/124"),
)
KEPT_THERE = _add(15, "kept-there", B1, node_port=30015, external_local=True)
HOME = _add(16, "home", NODE_A, node_port=30016)
STICKY_NODE_PORT = _add(20, "sticky-node-port", A1, B1, affinity=600, node_port=30020)
SHUT = _add(
    21,
    "shut",
    B1,
    load_balancer_ips=addresses(SHUT_LOAD_BALANCER),
    source_ranges=networks("198.51.100.0/24", "2001:db8:100::/48", "10.244.0.0/16", "fd00:1::/64"),
)
"""To pods and some of the outside, but not to nodes."""
STICKY_KEPT = _add(
    22,
    "sticky-kept",
    A1,
    B1,
    affinity=600,
    node_port=30022,
    external_ips=addresses(STICKY_EXTERNAL),
    external_local=True,
)
HOME_UDP = _add(17, "home-udp", NODE_A, protocol=Protocol.UDP, node_port=30017)
ABROAD_UDP = _add(18, "abroad-udp", FAR, protocol=Protocol.UDP, node_port=30018)
ITSELF_UDP = _add(19, "itself-udp", A1, protocol=Protocol.UDP)
ITSELF_NODE_PORT = _add(23, "itself-node-port", A1, node_port=30023)
