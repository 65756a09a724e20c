"""Says what is wrong once, then at growing intervals, and once when it is over.

A thing that is away stays away for minutes; a line a second about it hides everything else.
Called by the agent's loop; owns nothing but the memory of what was said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

_FIRST = 10.0
_LONGEST = 600.0


class Complaints:
    """By subject ("store", "sync", ...): the trouble it has, and when it was last mentioned."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[str, float, float]] = {}
        self._since: dict[str, float] = {}
        """When the subject's trouble, of whatever words, began."""

    def about(self, subject: str, trouble: str) -> None:
        """Mentions the trouble if it is new or was last mentioned long enough ago."""
        now = self._clock()
        self._since.setdefault(subject, now)
        known = self._said.get(subject)
        if known is not None and known[0] == trouble:
            _, last, interval = known
            if now - last < interval:
                return
            interval = min(2 * interval, _LONGEST)
        else:
            interval = _FIRST
        self._said[subject] = (trouble, now, interval)
        self._log.warning("%s", trouble)

    def only(self, kind: str, troubles: Iterable[str]) -> None:
        """These are all the troubles of one kind that there are now: others of that kind are over."""
        now = {f"{kind}: {trouble}": trouble for trouble in troubles}
        for subject in [each for each in self._said if each.startswith(f"{kind}: ") and each not in now]:
            self.over(subject)
        for subject, trouble in now.items():
            self.about(subject, trouble)

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
        return [trouble for trouble, _, _ in self._said.values()]
