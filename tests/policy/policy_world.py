"""A cluster as plain manifests, and connections that somebody in it or outside might open: what the oracle judges.

Owns no rule of policies. Imports nothing of ovsnet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

Object = dict[str, Any]
"""A manifest."""
PROTOCOLS = ("TCP", "UDP", "SCTP")
FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Node:
    """addresses: its own, those that other nodes know it by; gateways: what its pods have as their gateway."""

    name: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cluster:
    namespaces: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    policies: tuple[Object, ...] = ()
    nodes: tuple[Node, ...] = ()
    cluster_policies: tuple[Object, ...] = ()


@dataclass(frozen=True)
class End:
    """Who sends or receives, and the address that the packet has there. None: somebody outside of the cluster."""

    who: Object | Node | None
    address: str

    def __str__(self) -> str:
        if self.who is None:
            return f"outside ({self.address})"
        name = f"node {self.who.name}" if isinstance(self.who, Node) else f"pod {key(self.who)}"
        return f"{name} ({self.address})"


@dataclass(frozen=True)
class Connection:
    """What is asked about. protocol: TCP, UDP, SCTP, None for what has no ports (ICMP); port: the destination's."""

    source: End
    destination: End
    protocol: str | None = "TCP"
    port: int = 80

    def __str__(self) -> str:
        what = f"{self.protocol} {self.port}" if self.protocol else "a protocol without ports"
        return f"{self.source} to {self.destination}, {what}"


def key(manifest: Object) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


def pod_addresses(pod: Object) -> tuple[str, ...]:
    return tuple(each["ip"] for each in pod.get("status", {}).get("podIPs") or ())


def finished(pod: Object) -> bool:
    """Its addresses are free for others, and it is nobody any more."""
    return pod.get("status", {}).get("phase") in FINISHED


def on_host_network(pod: Object) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


@cache
def parsed(address: str) -> IPv4Address | IPv6Address:
    """Kept, since tests ask about the same few a hundred thousand times."""
    return ip_address(address)


def same_address(address: str, among: Iterable[str]) -> bool:
    """However they are written."""
    return parsed(address) in {parsed(each) for each in among}


def ends(cluster: Cluster, outside: Iterable[str] = ()) -> tuple[End, ...]:
    """Everybody with each address. Pods that have finished have none, those on the host's network their node's."""
    return (
        *(
            End(pod, address)
            for pod in cluster.pods
            if not finished(pod) and not on_host_network(pod)
            for address in pod_addresses(pod)
        ),
        *(End(node, address) for node in cluster.nodes for address in (*node.addresses, *node.gateways)),
        *(End(None, address) for address in outside),
    )


def connections(cluster: Cluster, ports: Sequence[int], outside: Iterable[str] = ()) -> Iterator[Connection]:
    """From each end to each, on all these ports of all protocols, where at least one is a pod."""
    everybody = ends(cluster, outside)
    kinds = [(None, 0), *((protocol, port) for protocol in PROTOCOLS for port in ports)]
    for source in everybody:
        for destination in everybody:
            pods = isinstance(source.who, dict) or isinstance(destination.who, dict)
            if pods and parsed(source.address).version == parsed(destination.address).version:
                yield from (Connection(source, destination, *kind) for kind in kinds)
