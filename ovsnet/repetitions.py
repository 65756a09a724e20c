"""What keeps happening, told once and then by the number of times: so many lines a second at most, and bounded memory.

Pure but for a clock that it is given. A subject is told of when it is first met, and again `WINDOW` seconds later if it
was met meanwhile, with how often; then so again. Where more is to be told than may be, it waits; where more subjects
wait than are kept, those that come then are only counted. Called by `agent.deniallog`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Subject = TypeVar("Subject", bound=Hashable)
Example = TypeVar("Example")

WINDOW = 10.0
"""Seconds in which a subject is told of once."""


class _Met(Generic[Example]):
    __slots__ = ("due", "example", "untold")

    def __init__(self, example: Example, due: float) -> None:
        self.example = example
        self.due = due
        self.untold = 0


class Told(NamedTuple, Generic[Example]):
    """times: how often the subject was met since it was told of last, this one included."""

    example: Example
    times: int


class Repetitions(Generic[Subject, Example]):
    """per_second: how many may be told, as many at once. most: subjects that are kept."""

    def __init__(
        self, per_second: int, most: int = 2000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = per_second
        self._most = most
        self._clock = clock
        self._met: dict[Subject, _Met[Example]] = {}
        self._tokens, self._filled = float(per_second), clock()
        self.told = 0
        """Times that something was told, since the start."""
        self.suppressed = 0
        """Times that a subject was met and nothing was told at once: that time counts in a later line, or in none."""

    def meet(self, subject: Subject, example: Example) -> Told[Example] | None:
        """What is to be told at once; None: nothing now."""
        now = self._clock()
        met = self._met.get(subject)
        if met is None:
            if len(self._met) >= self._most:
                self.suppressed += 1
                return None
            met = self._met[subject] = _Met(example, now)
        met.example = example
        met.untold += 1
        found = self._tell(met, now)
        if found is None:
            self.suppressed += 1
        return found

    def due(self) -> list[Told[Example]]:
        """What is to be told by now, though nothing happens; to be called every second or so."""
        now = self._clock()
        waiting = [subject for subject, each in self._met.items() if each.due <= now]
        found = []
        for subject in sorted(waiting, key=lambda each: self._met[each].due):
            met = self._met[subject]
            if not met.untold:
                del self._met[subject]
            elif (told := self._tell(met, now)) is not None:
                found.append(told)
        return found

    def _tell(self, met: _Met[Example], now: float) -> Told[Example] | None:
        if now < met.due or not self._may(now):
            return None
        told = Told(met.example, met.untold)
        met.due, met.untold = now + WINDOW, 0
        self.told += 1
        return told

    def _may(self, now: float) -> bool:
        self._tokens = min(float(self._rate), self._tokens + self._rate * (now - self._filled))
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
