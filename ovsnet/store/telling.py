"""What a store says in the log: each problem once, and that it is away once and at growing intervals.

Owns the memory of that, and nothing else. Called by the stores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping

from ovsnet.store import Snapshot

_REMIND = 10.0
"""Seconds after which a store that is away is mentioned again; doubles up to _REMIND_LONGEST."""
_REMIND_LONGEST = 600.0
_MANY = 20
"""More lines than this at once are counted, not written."""


class Absence:
    """A store that is there, or away for a reason."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason = ""
        self._log = log
        self._clock = clock
        self._said: set[str] = set()
        self._remind_at = 0.0
        self._remind_after = _REMIND

    def away(self, reason: str, kept: str) -> bool:
        """kept: what becomes of what was known. True if the reason is new."""
        new, first = reason != self.reason, not self.reason
        now = self._clock()
        self.reason = reason
        if first:
            self._said.clear()
            self._remind_after = _REMIND
        elif reason in self._said and now < self._remind_at:
            return new
        elif now >= self._remind_at:
            self._remind_after = min(2 * self._remind_after, _REMIND_LONGEST)
        self._said.add(reason)
        self._remind_at = now + self._remind_after
        self._log.warning("%s; %s", reason, kept)
        return new

    def back(self, words: str) -> bool:
        """True if it was away."""
        if not self.reason:
            return False
        self.reason = ""
        self._log.info("%s", words)
        return True


def counted(snapshot: Snapshot) -> str:
    """How much there is, in words; of policies only where there are any."""
    text = f"{len(snapshot.nodes)} nodes and {len(snapshot.services)} Services"
    if not snapshot.has_policies:
        return text
    pods, namespaces = len(snapshot.pods), len(snapshot.namespaces)
    if snapshot.cluster_policies:
        text += f", {len(snapshot.cluster_policies)} ClusterNetworkPolicies"
    return f"{text}, {len(snapshot.policies)} NetworkPolicies over {pods} pods in {namespaces} namespaces"


def tell(
    log: logging.Logger, now: Mapping[str, str], before: Mapping[str, str], there: Container[str], many: str
) -> None:
    """What is wrong that was not before, and what is in order again.

    there: whose problems are over and not gone with it. many: what it is a problem of, in the plural.
    """
    new = [f"{subject}: {text}" for subject, text in now.items() if before.get(subject) != text]
    for line in new[:_MANY]:
        log.warning("%s", line)
    if len(new) > _MANY:
        log.warning("and %d more %s with problems; `ovsnet show` lists them", len(new) - _MANY, many)
    over = [subject for subject in before if subject not in now and subject in there]
    for subject in over[:_MANY]:
        log.info("%s: in order again", subject)
    if len(over) > _MANY:
        log.info("and %d more in order again", len(over) - _MANY)
