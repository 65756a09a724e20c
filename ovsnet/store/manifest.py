"""One manifest file to Node objects, with everything that is wrong with it in words.

Pure. Takes kind Node and kind List (what `kubectl get nodes -o yaml` prints); other kinds are none of
ours and are passed over. Strict about the fields it understands, silent about all others. Never compares files
with one another: `cluster` does. Called by `file`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import TypeVar

from ovsnet import ranges
from ovsnet.errors import StoreError
from ovsnet.model import Encap, Frozen, IPAddress, IPNetwork, Node
from ovsnet.store import documents

ENCAPSULATION = "ovsnet.io/encapsulation"
"""Annotation: how this node is reached."""

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_EXAMPLE = "10.244.1.0/24 or fd00:10:244:1::/64"

_Type = TypeVar("_Type")
_WORDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "text"}


class Contents(Frozen):
    """What a file says. problems: one line each, naming document, object and field. empty: it says nothing at all."""

    nodes: tuple[Node, ...] = ()
    problems: tuple[str, ...] = ()
    empty: bool = False


def read(text: str, source: str) -> Contents:
    """The Nodes in the text of a file. source: its name, for messages about these nodes later on."""
    try:
        parsed = documents.read(text)
    except documents.Mistake as mistake:
        return Contents(problems=(f"{mistake}; correct it",))
    nodes: dict[str, Node] = {}
    problems: list[str] = []
    for document in parsed:
        where = f"document {document.number} (line {document.line})" if len(parsed) > 1 else ""
        for reader in _readers(document, where, source):
            node = reader.node()
            problems += reader.problems
            if node is not None and node.name in nodes:
                problems.append(f"{reader.where}: a second Node of this name in one file; keep one")
            elif node is not None:
                nodes[node.name] = node
    return Contents(nodes=tuple(nodes.values()), problems=tuple(problems), empty=not parsed)


def nodes(text: str, source: str) -> tuple[Node, ...]:
    """As `read`, for who wants all or nothing. Raises StoreError with every problem."""
    contents = read(text, source)
    if contents.problems:
        raise StoreError(
            "; ".join(f"{source}: {problem}" for problem in contents.problems), "correct the manifest"
        )
    return contents.nodes


def objects(document: documents.Document, where: str) -> Iterator[tuple[str, object]]:
    """(where, object) of each object in the document, lists opened. An item of a NodeList is a Node."""
    value = document.value
    if not isinstance(value, dict) or value.get("kind") not in ("List", "NodeList"):
        yield where, value
        return
    items = value.get("items")
    if not isinstance(items, list):
        yield where, _Broken(path="items", text="must be a list of objects")
        return
    for index, item in enumerate(items):
        if isinstance(item, dict) and value["kind"] == "NodeList":
            item = {"kind": "Node", **item}
        yield ", ".join(filter(None, (where, f"items[{index}]"))), item


def _readers(document: documents.Document, where: str, source: str) -> Iterator[_Reader]:
    """A reader for each object of the document that is a Node, or that can't be told what it is."""
    for at, item in objects(document, where):
        if not isinstance(item, dict) or item.get("kind") == "Node":
            yield _Reader(item, at, source, document.faults)
        elif not isinstance(item.get("kind"), str):
            yield _Reader(_Broken(path="kind", text="is missing; a Node has `kind: Node`"), at, source, ())


class _Broken(Frozen):
    """Stands for an object that is not there."""

    path: str
    text: str


class _Reader:
    """Reads one object; collects every problem instead of stopping at the first."""

    def __init__(self, value: object, where: str, source: str, faults: tuple[str, ...]) -> None:
        self.where = where
        self.problems: list[str] = []
        self._value = value
        self._source = ", ".join(filter(None, (source, where)))
        self._faults = faults

    def node(self) -> Node | None:
        """The Node; None with `problems` if there is anything wrong with it."""
        value = self._value
        if isinstance(value, _Broken):
            self._complain(value.path, value.text)
            return None
        if not isinstance(value, dict):
            self._complain(
                "", "must be a mapping with kind, metadata, spec and status, as a Kubernetes object has"
            )
            return None
        for fault in self._faults:
            self._complain("", fault)
        metadata = self._get(value, "metadata", dict, {})
        name = self._name(metadata)
        encap = self._encap(metadata)
        cidrs = self._cidrs(self._get(value, "spec", dict, {}))
        addresses = self._addresses(self._get(value, "status", dict, {}))
        if self.problems:
            return None
        return Node(name=name, pod_cidrs=cidrs, addresses=addresses, encap=encap, source=self._source)

    def _name(self, metadata: dict[str, object]) -> str:
        name = self._get(metadata, "metadata.name", str, "")
        if _NAME.match(name):
            self.where = ", ".join(filter(None, (self.where, f"Node {name}")))
        elif not name and not self.problems:
            self._complain("metadata.name", "is missing; every Node has a name")
        elif name:
            self._complain(
                "metadata.name",
                f"{name!r} is not a node name: lower case letters, digits, '-' and '.' (RFC 1123)",
            )
        return name

    def _encap(self, metadata: dict[str, object]) -> Encap | None:
        annotations = self._get(metadata, "metadata.annotations", dict, {})
        text = self._get(annotations, f"metadata.annotations.{ENCAPSULATION}", str, "", ENCAPSULATION)
        try:
            return Encap(text) if text else None
        except ValueError:
            known = ", ".join(encap.value for encap in Encap)
            self._complain(f"metadata.annotations.{ENCAPSULATION}", f"{text!r} is unknown; one of {known}")
            return None

    def _cidrs(self, spec: dict[str, object]) -> tuple[IPNetwork, ...]:
        before = len(self.problems)
        single = self._get(spec, "spec.podCIDR", str, "")
        texts = self._get(spec, "spec.podCIDRs", list, [])
        cidrs = tuple(
            found
            for index, text in enumerate(texts)
            if (found := self._cidr(f"spec.podCIDRs[{index}]", text)) is not None
        )
        if len(self.problems) > before:
            return ()
        if single and texts and single != texts[0]:
            self._complain(
                "spec.podCIDR", f"{single} is not the first of podCIDRs ({texts[0]}); leave one of both out"
            )
        elif single and not texts:
            found = self._cidr("spec.podCIDR", single)
            return (found,) if found is not None else ()
        elif not texts:
            self._complain("spec.podCIDRs", f"is missing; give the node's ranges, for example {_EXAMPLE}")
        for index, cidr in enumerate(cidrs):
            for other in cidrs[:index]:
                if cidr.version == other.version and cidr.overlaps(other):
                    self._complain(
                        f"spec.podCIDRs[{index}]", f"{cidr} overlaps {other} of the same node; keep one"
                    )
        return cidrs

    def _cidr(self, path: str, text: object) -> IPNetwork | None:
        if not isinstance(text, str) or "/" not in text:
            self._complain(path, f"{_shown(text)} is not a range of addresses such as {_EXAMPLE}")
            return None
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            whole = _without_host_bits(text)
            what = (
                f"{text} has host bits set; write {whole}"
                if whole
                else f"{error}; give a range such as {_EXAMPLE}"
            )
            self._complain(path, what)
            return None
        if (why := ranges.unusable_range(network)) is not None:
            self._complain(path, f"{text} {why}, which no pod can have; give a range such as {_EXAMPLE}")
            return None
        if (why := ranges.too_small(network)) is not None:
            self._complain(path, f"{text} {why}")
            return None
        return network

    def _addresses(self, status: dict[str, object]) -> tuple[IPAddress, ...]:
        found: dict[IPAddress, None] = {}
        for index, entry in enumerate(self._get(status, "status.addresses", list, [])):
            path = f"status.addresses[{index}]"
            if not isinstance(entry, dict):
                self._complain(path, "must be a mapping with type and address")
                continue
            if self._get(entry, f"{path}.type", str, "") != "InternalIP":
                continue
            text = self._get(entry, f"{path}.address", str, "")
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                self._complain(f"{path}.address", f"{text!r} is not an IP address, as an InternalIP must be")
                continue
            if (kind := ranges.unusable_address(address)) is not None:
                self._complain(f"{path}.address", f"{text} is {kind}; other nodes can't reach it")
                continue
            found[address] = None
        return tuple(found)

    def _get(
        self, mapping: dict[str, object], path: str, kind: type[_Type], default: _Type, key: str = ""
    ) -> _Type:
        """A field of the mapping if it has the right type; the default without complaint if it has none."""
        value = mapping.get(key or path.rpartition(".")[2])
        if isinstance(value, kind):
            return value
        if value is not None:
            self._complain(path, f"must be {_WORDS[kind]}, is {_shown(value)}")
        return default

    def _complain(self, path: str, text: str) -> None:
        self.problems.append(": ".join(filter(None, (self.where, path, text))))


def _without_host_bits(text: str) -> IPNetwork | None:
    """The range that the text means in spite of host bits; None if it means none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _shown(value: object) -> str:
    """A value of any type in a message. Numbers were not kept as they were written."""
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    return "true or false" if isinstance(value, bool) else "a number; put it in quotes if it is text"
