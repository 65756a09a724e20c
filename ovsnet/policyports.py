"""Ports by name: which numbers a name stands for, over many pods that come and go.

Pure. Called by `policygroups`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ovsnet.policymodel import NamedPort
from ovsnet.servicemodel import Protocol


class Tally:
    """How many of a group's pods have which number for a port's name."""

    def __init__(self, name: str, protocol: Protocol) -> None:
        self.name = name
        self.protocol = protocol
        self.numbers: Counter[NamedPort] = Counter()
        self._known: frozenset[NamedPort] = frozenset()

    def count(self, ports: Iterable[NamedPort], by: int) -> bool:
        """A pod with these ports joins (1) or leaves (-1). Whether any of them has the name."""
        found = of_name(ports, self.name, self.protocol)
        for each in found:
            self.numbers[each] += by
            if not self.numbers[each]:
                del self.numbers[each]
        return bool(found)

    def is_other(self) -> bool:
        """Whether there are other numbers than when this was asked last."""
        before, self._known = self._known, frozenset(self.numbers)
        return self._known != before


def of_name(ports: Iterable[NamedPort], name: str, protocol: Protocol) -> list[NamedPort]:
    return [each for each in ports if (each.name, each.protocol) == (name, protocol)]
