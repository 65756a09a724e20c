"""Numbers for groups and for marks of connections: 32 bits, the same at every start and in every program.

Pure. A number is a hash of what it is for; of two that would have the same, the one that sorts first has it, the other
the next one. So numbers follow from what there is alone, whatever came and went before (an ordered hash table: Amble
and Knuth, "Ordered hash tables", 1974). Called by `services`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_LAST = 0xFFFFFEFF
"""Open VSwitch keeps the numbers above for itself (OFPG_MAX, OpenFlow 1.5, section 7.2.4)."""

Name = tuple[str, str]


class Numbers:
    """Who has which number. A name is the owner's key, and what the number is for. last: the largest number."""

    def __init__(self, last: int = _LAST) -> None:
        self._last = last
        self._numbers: dict[Name, int] = {}
        self._names: dict[int, Name] = {}
        self._of: dict[str, set[str]] = {}
        self._moved: set[str] = set()

    def number(self, owner: str, what: str) -> int:
        """The number for that, from now on, or until `moved` tells of the owner."""
        name = owner, what
        if name not in self._numbers:
            self._of.setdefault(owner, set()).add(what)
            self._place(name)
        return self._numbers[name]

    def keep(self, owner: str, used: Iterable[str]) -> None:
        """The owner has given up all others of its numbers."""
        kept = set(used)
        for what in self._of.pop(owner, set()) - kept:
            self._free((owner, what))
        if kept:
            self._of[owner] = kept

    def moved(self) -> set[str]:
        """Owners of numbers that have become others since the last call."""
        moved, self._moved = self._moved, set()
        return moved & self._of.keys()

    def _place(self, name: Name) -> None:
        at = self._hash(name)
        while (other := self._names.get(at)) is not None:
            if name < other:
                self._put(name, at)
                self._moved.add(other[0])
                name = other
            at = self._after(at)
        self._put(name, at)

    def _put(self, name: Name, at: int) -> None:
        self._names[at] = name
        self._numbers[name] = at

    def _free(self, name: Name) -> None:
        """Who stands behind it without a gap may have wanted its place."""
        at = self._numbers.pop(name)
        del self._names[at]
        behind: dict[Name, int] = {}
        while (other := self._names.pop(at := self._after(at), None)) is not None:
            behind[other] = at
        for other in behind:
            self._place(other)
        self._moved |= {other[0] for other, before in behind.items() if self._numbers[other] != before}

    def _after(self, at: int) -> int:
        return at % self._last + 1

    def _hash(self, name: Name) -> int:
        digest = hashlib.blake2b("|".join(name).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % self._last + 1
