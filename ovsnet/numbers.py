"""Numbers for groups and for marks of connections: 32 bits, the same at every start.

Pure. A number is a hash of what it is for; of two that would have the same, the later takes the next that is free.
Called by `services`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_LAST = 0xFFFFFEFF
"""Open VSwitch keeps the numbers above for itself (OFPG_MAX, OpenFlow 1.5, section 7.2.4)."""


class Numbers:
    """Who has which number. A name is the owner's key, and what the number is for."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._names: dict[int, tuple[str, str]] = {}
        self._of: dict[str, set[str]] = {}

    def number(self, owner: str, what: str) -> int:
        """The number for that, from now on."""
        name = owner, what
        if name not in self._numbers:
            number = _hash(f"{owner}|{what}")
            while number in self._names:
                number = number % _LAST + 1
            self._numbers[name] = number
            self._names[number] = name
            self._of.setdefault(owner, set()).add(what)
        return self._numbers[name]

    def keep(self, owner: str, used: Iterable[str]) -> None:
        """The owner has given up all others of its numbers."""
        kept = set(used)
        for what in self._of.pop(owner, set()) - kept:
            del self._names[self._numbers.pop((owner, what))]
        if kept:
            self._of[owner] = kept


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") % _LAST + 1
