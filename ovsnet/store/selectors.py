"""A LabelSelector, as far as it can be read.

Pure. Held to the API's own validation (apimachinery, ValidateLabelSelector), and to its fields: a word that is unknown
here may be one that narrows the selection. Never decides what becomes of a selector that can't be read in full: who has
one of those who are allowed leaves them out, who has one of those who are isolated takes the rest of it. Called by
`policies`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ovsnet.policymodel import Operator, Requirement, Selector
from ovsnet.store.reading import SUBDOMAIN, shown

_FIELDS = frozenset({"matchLabels", "matchExpressions"})
_EXPRESSION = frozenset({"key", "operator", "values"})
_OPERATORS: dict[object, Operator] = {each.value: each for each in Operator}
_WITH_VALUES = (Operator.IN, Operator.NOT_IN)

_NAME = re.compile(r"(?=.{1,63}\Z)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
"""What follows a key's prefix, and a value that is not empty (API reference of labels)."""


class Fault(NamedTuple):
    """What can't be read, and why."""

    path: str
    text: str


def read(value: object, path: str) -> tuple[Selector, list[Fault]]:
    """What the readable requirements say together, and what is wrong with the others."""
    if not isinstance(value, dict):
        return Selector(), [Fault(path, f"must be a mapping, is {shown(value)}")]
    found: set[Requirement] = set()
    faults = list(unknown_fields(value, _FIELDS, path))
    for each in (*_labels(value, path), *_expressions(value, path)):
        if isinstance(each, Fault):
            faults.append(each)
        else:
            found.add(each)
    return Selector(requirements=tuple(sorted(found, key=_order))), faults


def unknown_fields(value: dict[str, object], known: frozenset[str], path: str) -> Iterator[Fault]:
    """Fields that are there and not known."""
    for field in value:
        if field not in known:
            yield Fault(path, f"the field {shown(field)} is unknown here ({', '.join(sorted(known))})")


def _labels(selector: dict[str, object], path: str) -> Iterator[Requirement | Fault]:
    path = f"{path}.matchLabels"
    labels = selector.get("matchLabels")
    if labels is None:
        return
    if not isinstance(labels, dict):
        yield Fault(path, f"must be a mapping, is {shown(labels)}")
        return
    for key, value in labels.items():
        if not _is_key(key):
            yield Fault(path, f"{shown(key)} is not a label's key")
        elif not _is_value(value):
            yield Fault(f"{path}.{key}", f"{shown(value)} is not a label's value")
        else:
            yield Requirement(key=key, operator=Operator.IN, values=frozenset((value,)))


def _expressions(selector: dict[str, object], path: str) -> Iterator[Requirement | Fault]:
    path = f"{path}.matchExpressions"
    entries = selector.get("matchExpressions")
    if entries is None:
        return
    if not isinstance(entries, list):
        yield Fault(path, f"must be a list, is {shown(entries)}")
        return
    for index, entry in enumerate(entries):
        yield _expression(entry, f"{path}[{index}]")


def _expression(entry: object, path: str) -> Requirement | Fault:
    if not isinstance(entry, dict):
        return Fault(path, f"must be a mapping, is {shown(entry)}")
    for fault in unknown_fields(entry, _EXPRESSION, path):
        return fault
    key, word, values = entry.get("key"), entry.get("operator"), entry.get("values")
    if not isinstance(key, str) or not _is_key(key):
        return Fault(f"{path}.key", f"{shown(key)} is not a label's key")
    operator = _OPERATORS.get(word) if isinstance(word, str) else None
    if operator is None:
        return Fault(f"{path}.operator", f"{shown(word)} is unknown here ({', '.join(map(str, _OPERATORS))})")
    values = [] if values is None else values
    if not isinstance(values, list):
        return Fault(f"{path}.values", f"must be a list, is {shown(values)}")
    if bool(values) is not (operator in _WITH_VALUES):
        needs = "needs at least one value" if operator in _WITH_VALUES else "has no values"
        return Fault(f"{path}.values", f"{operator.value} {needs}")
    for index, value in enumerate(values):
        if not _is_value(value):
            return Fault(f"{path}.values[{index}]", f"{shown(value)} is not a label's value")
    return Requirement(key=key, operator=operator, values=frozenset(values))


def _is_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return _NAME.match(name) is not None and (not slash or SUBDOMAIN.match(prefix) is not None)


def _is_value(value: object) -> bool:
    return isinstance(value, str) and (not value or _NAME.match(value) is not None)


def _order(requirement: Requirement) -> tuple[str, str, list[str]]:
    return requirement.key, requirement.operator.value, sorted(requirement.values)
