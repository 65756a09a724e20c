"""A large cluster as manifests: nodes, Services, and slices of their endpoints, the same ones each time.

Pure but for the files that it writes. Called by `bench_services`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovsnet.lab.state import write_atomically

NODES = 1_000
PORT = 8080
_FILE = 2_000
"""Objects in each file: below the store's limit for one."""
_BASE = {4: int(ipaddress.ip_address("10.128.0.0")), 6: int(ipaddress.ip_address("fd00:10:128::"))}
_NODE = {4: 1 << 8, 6: 1 << 64}
"""Addresses of a node's range."""
_CLUSTER_IPS = {4: int(ipaddress.ip_address("10.96.0.0")), 6: int(ipaddress.ip_address("fd00:10:96::"))}


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


def record(target: Path, size: Size) -> None:
    """Writes it into a store's folder, in place of what was recorded there before."""
    for old in target.glob("recorded-*.json"):
        old.unlink()
    _write(target, "nodes", [node(number, size.families) for number in range(NODES)])
    numbers = range(size.services)
    _write(target, "services", [service(number, size.families) for number in numbers])
    for family in size.families:
        _write(target, f"slices{family}", [slice_of(number, size.each, family) for number in numbers])


def _write(target: Path, name: str, items: Sequence[Any]) -> None:
    for start in range(0, len(items), _FILE):
        text = json.dumps({"kind": "List", "items": items[start : start + _FILE]})
        write_atomically(target / f"recorded-{name}-{start:05}.json", text)


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


def service(number: int, families: Sequence[int] = (4,)) -> dict[str, Any]:
    addresses = [cluster_ip(number, family) for family in families]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"service-{number}", "namespace": "bench"},
        "spec": {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }


def cluster_ip(number: int, family: int = 4) -> str:
    return str(ipaddress.ip_address(_CLUSTER_IPS[family] + 1 + number))


def endpoint(number: int, family: int = 4) -> str:
    """An address of the node that has this and every thousandth."""
    host, place = divmod(number, NODES)
    return str(ipaddress.ip_address(_BASE[family] + place * _NODE[family] + 2 + host))


def slice_of(number: int, count: int, family: int = 4, name: str = "", first: str = "") -> dict[str, Any]:
    """The endpoints of a Service; `first` instead of the first of them. name: the slice's, if not the usual one."""
    numbers = range(number * count, (number + 1) * count)
    addresses = [endpoint(each, family) for each in numbers]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"service-{number}-{family}",
            "namespace": "bench",
            "labels": {"kubernetes.io/service-name": f"service-{number}"},
        },
        "addressType": f"IPv{family}",
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [address], "nodeName": f"n-{each % NODES}"}
            for each, address in zip(numbers, [first or addresses[0], *addresses[1:]], strict=True)
        ],
    }
