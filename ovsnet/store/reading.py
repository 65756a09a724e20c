"""What the readers of all kinds share: fields by type, and everything that is wrong in words.

Pure. Strict about the fields that a reader asks for, silent about all others. A *problem* means that the object can't
be used; a *remark* that a part of it was left out, or read in the safest way, and that the rest works. Knows no kind:
`nodes`, `services`, `slices`, `policies`, `clusterpolicies`, `namespaces`, `labelledpods` and `ownpods` do. Called by
`manifest` and by the `kubernetes` store.
"""

from __future__ import annotations

import ipaddress
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from ovsnet import ranges
from ovsnet.model import Frozen, IPAddress, IPNetwork, Node, OwnPod
from ovsnet.policymodel import ClusterNetworkPolicy, LabelledPod, Namespace, NetworkPolicy
from ovsnet.servicemodel import EndpointSlice, Protocol, Service

Readable = (
    Node | Service | EndpointSlice | NetworkPolicy | ClusterNetworkPolicy | Namespace | LabelledPod | OwnPod
)

_Type = TypeVar("_Type")
_Read = TypeVar("_Read", bound=Readable, covariant=True)

SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
"""RFC 1123, as the names of most kinds."""
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
"""RFC 1123, as the names of namespaces and Services."""
PORT_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z")
"""RFC 6335, in lower case."""

PROTOCOLS: dict[object, Protocol] = {each.value: each for each in Protocol}

_WORDS: dict[type, str] = {dict: "a mapping", list: "a list", str: "text", bool: "true or false"}
_SHOWN = 80
"""Characters of a text that a message repeats."""


class Broken(Frozen):
    """Stands for an object that is not there."""

    path: str
    text: str


class Reader(ABC, Generic[_Read]):
    """Reads one object; collects every problem instead of stopping at the first."""

    kind: ClassVar[str]
    fields: ClassVar[str]
    """What an object of this kind has, for whoever wrote something else."""
    shape: ClassVar[Any] = Any
    """A TypedDict of the fields that are read, where there are so many objects that it pays to decode no others."""

    def __init__(self, value: object, where: str, source: str, faults: tuple[str, ...] = ()) -> None:
        self.where = where
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self._value = value
        self._source = ", ".join(filter(None, (source, where)))
        self._faults = faults

    @property
    def is_object(self) -> bool:
        """Whether it is an object at all, so that one knows of which kind."""
        return isinstance(self._value, dict)

    def read(self) -> _Read | None:
        """The object; None with `problems` if there is anything wrong with it, without any if it is none of ours."""
        value = self._value
        if isinstance(value, Broken):
            self._complain(value.path, value.text)
            return None
        if not isinstance(value, dict):
            self._complain("", f"must be a mapping with {self.fields}, as a Kubernetes object has")
            return None
        for fault in self._faults:
            self._complain("", fault)
        found = self._object(value)
        return None if self.problems else found

    @abstractmethod
    def _object(self, value: dict[str, object]) -> _Read | None:
        """The object, whatever there may be in `problems`."""

    # --- names ---

    def _own_name(self, metadata: dict[str, object], form: re.Pattern[str], what: str) -> str:
        """metadata.name, which messages have from here on."""
        name = self._get(metadata, "metadata.name", str, "")
        if form.match(name):
            self._called(name)
        elif not name and not self.problems:
            self._complain("metadata.name", f"is missing; every {self.kind} has a name")
        elif name:
            self._complain("metadata.name", f"{shown(name)} is not a {what}")
        return name

    def _own_key(self, metadata: dict[str, object], form: re.Pattern[str], what: str) -> tuple[str, str]:
        """metadata.namespace ("default" if it is left out, as kubectl does) and metadata.name."""
        namespace = self._get(metadata, "metadata.namespace", str, "") or "default"
        if not LABEL.match(namespace):
            self._complain(
                "metadata.namespace",
                f"{shown(namespace)} is not a namespace: lower case letters, digits and '-', 63 at most",
            )
        before = self.where
        name = self._own_name(metadata, form, what)
        if self.where != before:
            self.where = before
            self._called(f"{namespace}/{name}")
        return namespace, name

    def _called(self, name: str) -> None:
        self.where = ", ".join(filter(None, (self.where, f"{self.kind} {name}")))

    # --- fields ---

    def _get(
        self, mapping: dict[str, object], path: str, kind: type[_Type], default: _Type, key: str = ""
    ) -> _Type:
        """A field of the mapping if it has the right type; the default without complaint if it has none."""
        value = mapping.get(key or path.rpartition(".")[2])
        if isinstance(value, kind):
            return value
        if value is not None:
            quotes = "; put it in quotes if it is text" if kind is str and shown(value) == "a number" else ""
            self._complain(path, f"must be {_WORDS[kind]}, is {shown(value)}{quotes}")
        return default

    def _labels(self, metadata: dict[str, object]) -> dict[str, str]:
        """metadata.labels; one that is no text is a problem, since selectors ask for labels that are not there too."""
        labels = self._get(metadata, "metadata.labels", dict, {})
        return {key: self._get(labels, f"metadata.labels.{key}", str, "", key) for key in labels}

    def _mappings(self, mapping: dict[str, object], path: str) -> list[tuple[str, dict[str, object]]]:
        """(path, mapping) of each entry of a list of mappings."""
        found = []
        for index, entry in enumerate(self._get(mapping, path, list, [])):
            if isinstance(entry, dict):
                found.append((f"{path}[{index}]", entry))
            else:
                self._complain(f"{path}[{index}]", f"must be a mapping, is {shown(entry)}")
        return found

    def _number(self, mapping: dict[str, object], path: str, low: int, high: int) -> int:
        """A whole number between the limits; 0 if there is none."""
        value = mapping.get(path.rpartition(".")[2])
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            self._complain(path, f"must be a whole number from {low} to {high}, is {shown(value)}")
        elif value and not low <= value <= high:
            number = value if value.bit_length() <= 64 else "the number"
            self._complain(path, f"{number} is out of range: {low} to {high}")
        else:
            return value
        return 0

    def _choice(self, mapping: dict[str, object], path: str, known: tuple[str, ...], otherwise: str) -> str:
        """A word out of `known`, of which the first is the default; one that is unknown is read as that, and told of.

        otherwise: what happens then, for the remark.
        """
        word = self._get(mapping, path, str, "")
        if word in known:
            return word
        if word:
            self._remark(path, f"{shown(word)} is unknown here ({', '.join(known)}); {otherwise}")
        return known[0]

    def _protocol(self, mapping: dict[str, object], path: str) -> Protocol | None:
        """The field `protocol` of a port; None, and told of, if it is none of those that are known."""
        word = mapping.get("protocol")
        if word is None or word == "":
            return Protocol.TCP
        found = PROTOCOLS.get(word) if isinstance(word, str) else None
        if found is None:
            self._remark(f"{path}.protocol", f"{shown(word)} is unknown here; the port is left out")
        return found

    def _complain(self, path: str, text: str) -> None:
        self.problems.append(": ".join(filter(None, (self.where, path, text))))

    def _remark(self, path: str, text: str) -> None:
        self.remarks.append(": ".join(filter(None, (self.where, path, text))))


def key_of(item: Readable) -> str:
    """Unique among the objects of its kind."""
    return item.name if isinstance(item, Node) else item.key


def kind_of(item: Readable) -> str:
    """As it stands in manifests."""
    return "Pod" if isinstance(item, LabelledPod | OwnPod) else type(item).__name__


def address_of(text: object) -> IPAddress | str:
    """An address that packets can have, or why it is none, in words."""
    if not isinstance(text, str):
        return f"{shown(text)} is not an IP address"
    try:
        # A dotted text can be nothing else; what is found in vain costs more than what is found.
        found: IPAddress = ipaddress.IPv6Address(text) if ":" in text else ipaddress.IPv4Address(text)
    except ValueError:
        return f"{shown(text)} is not an IP address"
    if "%" in text:
        return f"{shown(text)} has a zone, which means something on one node only"
    if (why := ranges.unusable_address(found)) is not None:
        return f"{text} is {why}"
    return found


def range_of(text: object) -> IPNetwork | None:
    """A range of addresses, host bits ignored as the API does; None if it is none."""
    try:
        return (
            ipaddress.ip_network(text.strip(), strict=False)
            if isinstance(text, str) and "/" in text
            else None
        )
    except ValueError:
        return None


def shown(value: object) -> str:
    """A value of any type in a message."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "...")
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    return "true or false" if isinstance(value, bool) else "a number"
