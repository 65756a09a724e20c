"""Fields that NetworkPolicies and ClusterNetworkPolicies have in common.

Pure. Each is read whole or not at all: what becomes of a rule with one that can't be read, its reader decides. Called
by `policies` and `clusterpolicies`.
"""

from __future__ import annotations

import ipaddress
import re

from ovsnet.model import IPNetwork
from ovsnet.policymodel import Selector
from ovsnet.store import selectors
from ovsnet.store.reading import shown

_CIDR = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}\Z")
"""ipaddress would take netmasks as well."""


class Unreadable(Exception):
    """What can't be understood: where, and why."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path


def only(entry: dict[str, object], known: frozenset[str], path: str) -> None:
    """Raises Unreadable where it has other fields."""
    for fault in selectors.unknown_fields(entry, known, path):
        raise Unreadable(fault.path, fault.text)


def selector(value: object, path: str) -> Selector:
    """Raises Unreadable."""
    found, faults = selectors.read(value, path)
    for fault in faults:
        raise Unreadable(fault.path, fault.text)
    return found


def network(text: object, path: str) -> IPNetwork:
    """Host bits are ignored, as the API does with NetworkPolicies; not every CRD of the other kind refuses them. Raises
    Unreadable."""
    if isinstance(text, str) and _CIDR.match(text):
        try:
            return ipaddress.ip_network(text, strict=False)
        except ValueError:
            pass
    raise Unreadable(path, f"{shown(text)} is not a range of addresses such as 192.0.2.0/24 or 2001:db8::/32")


def port_number(value: object, path: str) -> int:
    """Raises Unreadable."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable(path, f"must be a whole number from 1 to 65535, is {shown(value)}")
    if not 1 <= value <= 65535:
        number = value if value.bit_length() <= 64 else "the number"
        raise Unreadable(path, f"{number} is out of range: 1 to 65535")
    return value
