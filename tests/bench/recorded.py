"""A large cluster as manifests: nodes, Services, and slices of their endpoints, the same ones each time.

Pure. Called by `recorded_stores`, which has them served, and `services_many`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

NODES = 1_000
NAMESPACE = "bench"
PORT = 8080
PER_SLICE = 100
"""Endpoints: --max-endpoints-per-slice of kube-controller-manager, if nobody says otherwise."""
ABROAD = ipaddress.IPv4Network("198.19.0.0/16")
_BASE = {4: int(ipaddress.ip_address("10.128.0.0")), 6: int(ipaddress.ip_address("fd00:10:128::"))}
_NODE = {4: 1 << 8, 6: 1 << 64}
"""Addresses of a node's range."""
_CLUSTER_IPS = {4: int(ipaddress.ip_address("10.96.1.0")), 6: int(ipaddress.ip_address("fd00:10:96::100"))}
"""Below are those that a cluster takes for itself."""


class Size(NamedTuple):
    services: int
    endpoints: int
    """Of all Services together and of each family."""
    families: Sequence[int] = (4,)

    @property
    def each(self) -> int:
        """Endpoints of one Service."""
        return self.endpoints // self.services

    def __str__(self) -> str:
        both = ", both families" if len(self.families) > 1 else ""
        return f"{self.services} Services, {self.endpoints} endpoints{both}"


class Endpoint(NamedTuple):
    address: str
    node: str = ""


def objects(size: Size) -> Iterator[list[dict[str, Any]]]:
    """All, a kind after the other."""
    yield [node(number, size.families) for number in range(NODES)]
    yield [service(f"service-{number}", number, size.families) for number in range(size.services)]
    for family in size.families:
        yield [
            piece
            for number in range(size.services)
            for piece in slices(f"service-{number}", pods(members(number, size), family), family)
        ]


def members(number: int, size: Size) -> range:
    """The numbers of a Service's endpoints."""
    return range(number * size.each, (number + 1) * size.each)


def node(number: int, families: Sequence[int] = (4,)) -> dict[str, Any]:
    ranges = [_network(family, number) for family in families]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n-{number}"},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": f"198.18.{number >> 8}.{number & 255}"}]},
    }


def _network(family: int, number: int) -> str:
    return f"{ipaddress.ip_address(_BASE[family] + number * _NODE[family])}/{24 if family == 4 else 64}"


def service(name: str, number: int, families: Sequence[int] = (4,)) -> dict[str, Any]:
    """number: of its ClusterIPs."""
    addresses = [cluster_ip(number, family) for family in families]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": [f"IPv{family}" for family in families],
            "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "RequireDualStack",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }


def cluster_ip(number: int, family: int = 4) -> str:
    return str(ipaddress.ip_address(_CLUSTER_IPS[family] + number))


def endpoint(number: int, family: int = 4) -> str:
    """An address of the node that has this and every thousandth."""
    host, place = divmod(number, NODES)
    return str(ipaddress.ip_address(_BASE[family] + place * _NODE[family] + 2 + host))


def pods(numbers: Iterable[int], family: int = 4) -> list[Endpoint]:
    return [Endpoint(endpoint(number, family), f"n-{number % NODES}") for number in numbers]


def hosts(count: int) -> list[Endpoint]:
    """Outside of the cluster, all of ABROAD."""
    return [Endpoint(str(ABROAD[1 + number])) for number in range(count)]


def slices(service: str, endpoints: Sequence[Endpoint], family: int = 4) -> list[dict[str, Any]]:
    """As many as Kubernetes' own controller would make."""
    starts = range(0, len(endpoints), PER_SLICE)
    return [
        slice_of(service, f"{family}-{at}", endpoints[start : start + PER_SLICE], family)
        for at, start in enumerate(starts)
    ]


def slice_of(service: str, suffix: str, endpoints: Iterable[Endpoint], family: int = 4) -> dict[str, Any]:
    """suffix: of its name, after that of the Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{suffix}",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": f"IPv{family}",
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], **({"nodeName": node} if node else {})} for address, node in endpoints
        ],
    }
