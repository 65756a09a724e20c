"""A plain document against the configuration's types: typed values, and every mistake at once.

Pure. Knows no field by name: types, limits and notations come from the annotations in `config`. What no
single field can tell is in `configrules`. Called by `config`, and by what documents it.
"""

from __future__ import annotations

import difflib
import enum
import ipaddress
import re
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from ovsnet.model import AddressRange, IPNetwork
from ovsnet.nodeports import PRIMARY, Configured, PortRange
from ovsnet.strictyaml import Document, Problem, child

BAD: Final = object()
"""What a walk returns for a value that it has reported."""


class Kind(NamedTuple):
    """A type hint taken apart: the type itself, and what its annotations say."""

    base: Any
    form: str = ""
    ge: float | None = None
    le: float | None = None
    pattern: str = ""

    @property
    def members(self) -> list[Kind]:
        """Of a union: its types but for None."""
        if get_origin(self.base) not in (Union, UnionType):
            return []
        return [kind_of(each) for each in get_args(self.base) if each is not type(None)]

    @property
    def section(self) -> type[msgspec.Struct] | None:
        """The keys that are below, where there are any: of a struct, or of one that may be left out."""
        if self.form:
            return None
        bases = [member.base for member in self.members] or [self.base]
        base = bases[0]
        return (
            base if len(bases) == 1 and isinstance(base, type) and issubclass(base, msgspec.Struct) else None
        )

    @property
    def optional(self) -> bool:
        return type(None) in get_args(self.base)

    def expected(self) -> str:
        """What a message asks for."""
        if self.form:
            return NOTATIONS[self.form][0] if self.form in NOTATIONS else self.form
        if self.members:
            return " or ".join(member.expected() for member in self.members)
        if get_origin(self.base) is Literal:
            return " or ".join(map(str, get_args(self.base)))
        if issubclass(self.base, enum.Enum):
            return " or ".join(each.value for each in self.base)
        if self.base in (int, float):
            return f"a {'whole ' if self.base is int else ''}number from {self.ge} to {self.le}"
        return "true or false" if self.base is bool else "text"


def kind_of(hint: Any) -> Kind:
    """Takes a resolved type hint apart."""
    if get_origin(hint) is not Annotated:
        return Kind(hint)
    base, *metas = get_args(hint)
    kind = kind_of(base)
    for meta in metas:
        kind = Kind(
            kind.base,
            (meta.extra or {}).get("form", kind.form),
            kind.ge if meta.ge is None else meta.ge,
            kind.le if meta.le is None else meta.le,
            meta.pattern or kind.pattern,
        )
    return kind


class Walk:
    """Converts values to types; `problems` grows, and conversion goes on past each."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.problems: list[Problem] = []

    def value(self, kind: Kind, value: object, path: str) -> object:
        """`value` as `kind`, or BAD. A struct comes back with the default for each field that is bad."""
        if kind.form in NOTATIONS:
            return self._notation(kind, value, path)
        if kind.members:
            return self._union(kind, value, path)
        if get_origin(kind.base) is tuple:
            return self._sequence(kind, value, path)
        if isinstance(kind.base, type) and issubclass(kind.base, msgspec.Struct):
            return self._struct(kind.base, value, path)
        return self._scalar(kind, value, path)

    def _report(self, path: str, text: str) -> object:
        self.problems.append(self._document.located(path, text))
        return BAD

    def _struct(self, cls: type[msgspec.Struct], value: object, path: str) -> object:
        if not isinstance(value, dict):
            return self._report(path, f"expected keys with values, found {_shown(value)}")
        fields = {each.encode_name: each for each in msgspec.structs.fields(cls)}
        converted: dict[str, object] = {}
        for key, item in value.items():
            here = child(path, key)
            if key not in fields:
                self._report(here, f"unknown key{_nearest(key, list(fields))}")
                continue
            result = self.value(kind_of(fields[key].type), item, here)
            if result is not BAD:
                converted[fields[key].name] = result
        return cls(**converted)

    def _sequence(self, kind: Kind, value: object, path: str) -> object:
        if not isinstance(value, list):
            return self._report(path, f"expected a list, found {_shown(value)}")
        each = kind_of(get_args(kind.base)[0])
        results = [self.value(each, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return tuple(result for result in results if result is not BAD)

    def _union(self, kind: Kind, value: object, path: str) -> object:
        if value is None and kind.section is not None:
            # Whoever writes the key means something by it.
            return self._report(path, "expected keys with values, found nothing; `{}` takes the defaults")
        if value is None and kind.optional:
            return None
        if len(kind.members) == 1:
            return self.value(kind.members[0], value, path)
        for member in kind.members:
            trial = Walk(self._document)
            result = trial.value(member, value, path)
            if not trial.problems:
                return result
        return self._report(path, f"expected {kind.expected()}, found {_shown(value)}")

    def _scalar(self, kind: Kind, value: object, path: str) -> object:
        hint = ""
        if isinstance(kind.base, type) and issubclass(kind.base, enum.Enum):
            choices = {each.value: each for each in kind.base}
            if isinstance(value, str) and value in choices:
                return choices[value]
            hint = _nearest(value, list(choices))
        elif _accepts(kind, value):
            return value
        elif kind.base is str and not isinstance(value, str | list | dict | None):
            hint = "; put it in quotes to make it text"
        return self._report(path, f"expected {kind.expected()}, found {_shown(value)}{hint}")

    def _notation(self, kind: Kind, value: object, path: str) -> object:
        if isinstance(value, str):
            try:
                return NOTATIONS[kind.form][1](value)
            except _Nearly as error:
                return self._report(path, str(error))
            except ValueError:
                # The library's own words repeat the value at length.
                pass
        return self._report(path, f"expected {kind.expected()}, found {_shown(value)}")


def _accepts(kind: Kind, value: object) -> bool:
    """Whether a scalar is of the type and within its limits. YAML's true is no number here."""
    if get_origin(kind.base) is Literal:
        return value in get_args(kind.base)
    if kind.base is bool:
        return isinstance(value, bool)
    if kind.base is str:
        return isinstance(value, str) and re.search(kind.pattern, value) is not None
    if isinstance(value, bool) or not isinstance(value, int if kind.base is int else int | float):
        return False
    low, high = kind.ge, kind.le
    return (low is None or value >= low) and (high is None or value <= high)


def _shown(value: object) -> str:
    """A value as a message shows it: short, and telling text from what only looks like it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "keys with values"
        case list():
            return "a list"
        case str():
            return repr(value if len(value) <= 60 else value[:57] + "...")
        case int() if value.bit_length() > 128:
            return "a very large number"
    return str(value)


def _nearest(word: object, choices: Sequence[str]) -> str:
    found = (
        difflib.get_close_matches(word.lower(), [c.lower() for c in choices], 1)
        if isinstance(word, str)
        else []
    )
    return next((f"; did you mean {choice}?" for choice in choices if [choice.lower()] == found), "")


class _Nearly(ValueError):
    """A text that can be read, but doesn't hold; says why in full."""


def _network(text: str) -> IPNetwork:
    if "/" not in text:
        raise _Nearly(f"{ipaddress.ip_address(text)} lacks its prefix length; write {text}/NN")
    network = ipaddress.ip_network(text, strict=False)
    if network.network_address != ipaddress.ip_interface(text).ip:
        raise _Nearly(f"{text} has host bits set; did you mean {network}?")
    return network


def _node_network(text: str) -> Configured:
    if text == PRIMARY:
        return PRIMARY
    network = _network(text)
    if network.is_loopback:
        raise _Nearly(f"{network} is loopback, where node ports never answer; remove it")
    if network.is_multicast or network.is_unspecified:
        every = "0.0.0.0/0" if network.version == 4 else "::/0"
        raise _Nearly(f"no node has an address in {network}; remove it, or write {every} for all")
    return network


def _addresses(text: str) -> AddressRange:
    if "/" in text:
        network = _network(text)
        return AddressRange(first=network[0], last=network[-1])
    first, dash, last = (part.strip() for part in text.partition("-"))
    start = ipaddress.ip_address(first)
    end = ipaddress.ip_address(last) if dash else start
    if start.version != end.version:
        raise _Nearly(f"{start} and {end} are of different families")
    if int(start) > int(end):
        raise _Nearly(f"{start} is behind {end}; did you mean {end}-{start}?")
    return AddressRange(first=start, last=end)


def _ports(text: str) -> PortRange:
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text, re.ASCII)
    if found is None:
        raise ValueError(text)
    first, last = map(int, found.groups())
    if first > last:
        raise _Nearly(f"{first} is behind {last}; did you mean {last}-{first}?")
    if not first or last > 65535:
        raise _Nearly(f"{text} has numbers that no port has; from 1 to 65535")
    return PortRange(first=first, last=last)


NOTATIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "address": ("an IPv4 or IPv6 address", ipaddress.ip_address),
    "network": ("a network such as 10.244.1.0/24", _network),
    "node network": (f"a network such as 192.0.2.0/24, or {PRIMARY}", _node_network),
    "ports": ("a range of ports such as 30000-32767", _ports),
    "addresses": ("an address, a network, or FIRST-LAST", _addresses),
}
"""Texts that become something better: what to call them, and the parser (raises ValueError)."""
