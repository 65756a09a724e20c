"""Manifests as Node objects: strict about what it understands, silent about the rest.

Pure. `parse` reads one file's text, `combine` puts files together and settles contradictions
between them. Called by `file`; `ovsnet render` reads pods with it too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
import yaml

from ovsnet.errors import StoreError
from ovsnet.model import Encap, Frozen, IPAddress, IPNetwork, Node

ENCAPSULATION = "ovsnet.io/encapsulation"
"""Annotation of a Node: how it wants to be reached."""

_T = TypeVar("_T")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Metadata(Frozen):
    name: str = ""
    namespace: str = "default"
    annotations: dict[str, str] | None = None


class _NodeSpec(Frozen, rename={"pod_cidr": "podCIDR", "pod_cidrs": "podCIDRs"}):
    pod_cidr: str | None = None
    pod_cidrs: tuple[str, ...] | None = None


class _Address(Frozen):
    type: str
    address: str


class _NodeStatus(Frozen):
    addresses: tuple[_Address, ...] | None = None


class _NodeDocument(Frozen):
    metadata: _Metadata = _Metadata()
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


class _PodSpec(Frozen, rename="camel"):
    node_name: str = ""


class _PodIP(Frozen):
    ip: str


class _PodStatus(Frozen, rename={"pod_ips": "podIPs"}):
    pod_ips: tuple[_PodIP, ...] = ()


class _PodDocument(Frozen):
    metadata: _Metadata = _Metadata()
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class ManifestPod(Frozen):
    """A Pod of a manifest, as far as the network is concerned."""

    namespace: str
    name: str
    node: str
    ips: tuple[IPAddress, ...]


def nodes(text: str, source: str) -> tuple[Node, ...]:
    """The Nodes in a file. Raises StoreError that names file, object and field."""
    found: dict[str, Node] = {}
    for where, document in _documents(text, source):
        if document.get("kind") == "Node":
            node = _node(document, where, source)
            if node.name in found:
                raise StoreError(f"{where}: Node {node.name} stands in this file twice", "remove one")
            found[node.name] = node
    return tuple(found.values())


def pods(text: str, source: str) -> tuple[ManifestPod, ...]:
    """The Pods in a file that have addresses. Raises StoreError."""
    found = []
    for where, document in _documents(text, source):
        if document.get("kind") == "Pod":
            pod = _convert(document, _PodDocument, where)
            ips = tuple(_address(each.ip, f"{where}: Pod {pod.metadata.name}: status.podIPs") for each in pod.status.pod_ips)
            metadata = pod.metadata
            found.append(
                ManifestPod(namespace=metadata.namespace, name=metadata.name, node=pod.spec.node_name, ips=ips)
            )
    return tuple(found)


def combine(files: Mapping[str, tuple[Node, ...]], settled: Mapping[str, Node]) -> tuple[dict[str, Node], dict[str, str]]:
    """The nodes of all files, and what contradicts itself, by file.

    Who was there before (`settled`) keeps name, ranges and addresses against a newcomer; among
    newcomers the first by file name. What loses is left out, or stays as it was, and both are named.
    """
    accepted: dict[str, Node] = {}
    problems: dict[str, str] = {}
    everything = [(name, node) for name in sorted(files) for node in files[name]]
    everything.sort(key=lambda item: settled.get(item[1].name) != item[1])
    claims = _Claims()
    refused: list[Node] = []
    for name, node in everything:
        problem = claims.refuse(node)
        if problem is None:
            claims.add(node)
            accepted[node.name] = node
        else:
            problems[name] = f"{node.source}: {problem}"
            refused.append(node)
    for node in refused:
        before = settled.get(node.name)
        if before is not None and claims.refuse(before) is None:
            claims.add(before)
            accepted[before.name] = before
    return dict(sorted(accepted.items())), problems


class _Claims:
    """Who has which name, address and range. Ranges are kept sorted by their first address."""

    def __init__(self) -> None:
        self._names: dict[str, Node] = {}
        self._addresses: dict[IPAddress, Node] = {}
        self._ranges: dict[int, dict[IPNetwork, Node]] = {4: {}, 6: {}}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}

    def add(self, node: Node) -> None:
        self._names[node.name] = node
        for address in node.addresses:
            self._addresses[address] = node
        for cidr in node.pod_cidrs:
            self._ranges[cidr.version][cidr] = node
            self._lengths[cidr.version].add(cidr.prefixlen)

    def refuse(self, node: Node) -> str | None:
        """Why a node can't be accepted beside those that are; None if it can."""
        other = self._names.get(node.name)
        if other is not None:
            return f"Node {node.name} stands in {other.source} as well; ignored here"
        for address in node.addresses:
            other = self._addresses.get(address)
            if other is not None:
                return f"Node {node.name}: address {address} belongs to Node {other.name} ({other.source}); ignored"
        for cidr in node.pod_cidrs:
            other = self._overlapping(cidr)
            if other is not None:
                return f"Node {node.name}: podCIDR {cidr} overlaps that of Node {other.name} ({other.source}); ignored"
        return None

    def _overlapping(self, cidr: IPNetwork) -> Node | None:
        """Two networks overlap exactly when one holds the other: look up the wider ones, scan if it may be wider."""
        ranges = self._ranges[cidr.version]
        for length in self._lengths[cidr.version]:
            if length <= cidr.prefixlen and (holder := ranges.get(cidr.supernet(new_prefix=length))) is not None:
                return holder
        if any(length > cidr.prefixlen for length in self._lengths[cidr.version]):
            return next((node for each, node in ranges.items() if each.overlaps(cidr)), None)
        return None


def _documents(text: str, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, document) of each object, lists opened. Raises StoreError: no YAML, or no object."""
    try:
        loaded = list(yaml.load_all(text, _LOADER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise StoreError(f"{where}: not YAML: {problem}", "what was read from this file before stays in force") from None
    for number, document in enumerate(loaded, 1):
        where = source if len(loaded) == 1 else f"{source} (document {number})"
        if document is None:
            continue
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise StoreError(f"{where}: not a Kubernetes object: it has no kind", "is the file complete?")
        if document["kind"] in ("List", "NodeList"):
            items = document.get("items") or []
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise StoreError(f"{where}: items: not a list of objects")
            yield from ((f"{where} (item {at})", {"kind": "Node", **item}) for at, item in enumerate(items, 1))
        else:
            yield where, document


def _node(document: dict[str, Any], where: str, source: str) -> Node:
    typed = _convert(document, _NodeDocument, where)
    name = typed.metadata.name
    if not _NAME.fullmatch(name):
        raise StoreError(f"{where}: metadata.name: {name!r} is no node name", "lower case letters, digits, '-' and '.'")
    here = f"{where}: Node {name}"
    spec = typed.spec or _NodeSpec()
    texts = spec.pod_cidrs or ((spec.pod_cidr,) if spec.pod_cidr else ())
    if not texts:
        raise StoreError(f"{here}: spec.podCIDRs: missing", "give the node its pod ranges, e.g. [10.244.1.0/24]")
    cidrs = tuple(_network(text, f"{here}: spec.podCIDRs[{at}]") for at, text in enumerate(texts))
    for at, cidr in enumerate(cidrs):
        if any(cidr.version == each.version and cidr.overlaps(each) for each in cidrs[:at]):
            raise StoreError(f"{here}: spec.podCIDRs[{at}]: {cidr} overlaps another of this node's", "remove one")
    addresses = (typed.status.addresses if typed.status else None) or ()
    internal = tuple(
        _address(each.address, f"{here}: status.addresses[{at}]")
        for at, each in enumerate(addresses)
        if each.type == "InternalIP"
    )
    if not internal:
        raise StoreError(f"{here}: status.addresses: no InternalIP", "peers must know where to send tunnel packets")
    annotation = (typed.metadata.annotations or {}).get(ENCAPSULATION)
    return Node(
        name=name,
        pod_cidrs=cidrs,
        addresses=internal,
        encap=_encap(annotation, here) if annotation is not None else None,
        source=source,
    )


def _convert(document: dict[str, Any], kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        field = path.strip("`").removeprefix("$.") or "the object"
        raise StoreError(f"{where}: {field}: {problem}", "see the Kubernetes API reference of this kind") from None


def _network(text: str, where: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise StoreError(f"{where}: {error}", "write the network's own address, e.g. 10.244.1.0/24") from None


def _address(text: str, where: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise StoreError(f"{where}: {text!r} is not an IP address", "e.g. 192.0.2.11 or 2001:db8::11") from None


def _encap(text: str, where: str) -> Encap:
    try:
        return Encap(text)
    except ValueError:
        known = ", ".join(each.value for each in Encap)
        raise StoreError(f"{where}: annotation {ENCAPSULATION}: {text!r} is unknown", f"one of {known}") from None
