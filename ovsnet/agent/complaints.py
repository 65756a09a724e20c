"""Says what is wrong once, then at growing intervals, and once when it is over.

A thing that is away stays away for minutes; a line a second about it hides everything else. What every change brings
for a moment is kept back (`Lasting`).
Called by the agent's loop; owns nothing but the memory of what was said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

_FIRST = 10.0
_LONGEST = 600.0
_LASTING = 10.0
"""Seconds after which what passes by itself is taken for something that does not."""


class Lasting:
    """Keeps back what passes by itself, as it does in every change, until it has lasted for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds: float = _LASTING) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: dict[str, float] = {}

    def of(self, troubles: Iterable[str]) -> list[str]:
        """troubles: all that there are now. Those that there have been at every look for long enough."""
        now = self._clock()
        self._since = {trouble: self._since.get(trouble, now) for trouble in troubles}
        return [trouble for trouble, since in self._since.items() if now - since >= self._seconds]

    def due(self) -> float | None:
        """Seconds after which a look may find more; None if the last one kept nothing back."""
        now = self._clock()
        young = [since for since in self._since.values() if now - since < self._seconds]
        return min(young) + self._seconds - now if young else None


class _Said(NamedTuple):
    trouble: str
    at: float
    interval: float
    waits: bool


class Complaints:
    """By subject ("store", "sync", ...): the trouble it has, and when it was last mentioned."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, _Said] = {}
        self._since: dict[str, float] = {}
        """When the subject's trouble, of whatever words, began."""

    def about(self, subject: str, trouble: str, *, waits: bool = False) -> None:
        """Mentions the trouble if it is new or was last mentioned long enough ago. waits: if it is new, as somebody
        else has to do something, and will."""
        now = self._clock()
        self._since.setdefault(subject, now)
        known = self._said.get(subject)
        interval = _FIRST
        if known is not None and known.trouble == trouble:
            if waits or now - known.at < known.interval:
                return
            interval = min(2 * known.interval, _LONGEST)
        self._said[subject] = _Said(trouble, now, interval, waits)
        self._log.warning("%s", trouble)

    def only(self, kind: str, troubles: Iterable[str], *, waits: bool = False) -> None:
        """These are all the troubles of one kind that there are now: others of that kind are over. waits: as of
        `about`."""
        now = {f"{kind}: {trouble}": trouble for trouble in troubles}
        for subject in [each for each in self._said if each.startswith(f"{kind}: ") and each not in now]:
            self.over(subject)
        for subject, trouble in now.items():
            self.about(subject, trouble, waits=waits)

    def over(self, subject: str, words: str = "") -> None:
        """The subject's trouble is over; says so if there was one."""
        self._since.pop(subject, None)
        if self._said.pop(subject, None) is not None and words:
            self._log.info("%s", words)

    def lasting(self, subject: str) -> float:
        """Seconds that the subject has had trouble without a break; 0 if it has none."""
        since = self._since.get(subject)
        return self._clock() - since if since is not None else 0.0

    def current(self) -> list[str]:
        """What is wrong now, for `ovsnet show`."""
        return [said.trouble for said in self._said.values()]

    def waiting(self) -> list[str]:
        """What of that waits for somebody else."""
        return [said.trouble for said in self._said.values() if said.waits]
