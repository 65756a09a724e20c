"""How long to wait before the next attempt: twice as long each time, never quite the same on two nodes.

Owns the count of failures. Called by `reflector`, `writer` and `events`.
"""

from __future__ import annotations

import random

_FIRST = 0.5
_LONGEST = 30.0
_LONGEST_ASKED = 300.0
"""Seconds that a server may ask for."""


class Backoff:
    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self, asked: float = 0) -> float:
        """Seconds to wait now. asked: what the server wants at least (Retry-After)."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        # Nodes that lost the server at one moment don't come back at one moment.
        return min(asked, _LONGEST_ASKED) + pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    def reset(self) -> None:
        self._next = self._first
