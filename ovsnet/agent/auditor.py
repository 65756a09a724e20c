"""Keeps flows as they were installed: hears of changes, compares, names what drifted, puts it right.

Owns the suspicion that somebody else changed flows, and the count of what drifted. vswitchd tells of every change
at once; those that are not our own lead to a comparison within a moment, and one is made from time to time without
any news. Called by the agent's loop, which it wakes.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence

from ovsnet.agent.complaints import Complaints
from ovsnet.agent.drift import Drift, Patience, describe, is_passing, of_own_meter
from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError
from ovsnet.render import Renderer, kind_of
from ovsnet.switch.monitor import Change, FlowChange

log = logging.getLogger("ovsnet.drift")

_GATHER = 0.02
"""Seconds between a change and the comparison: whoever deletes one flow mostly deletes some more."""
_BETWEEN = 0.25
"""Seconds between two comparisons, however much happens."""
_PAUSE = 2
"""Times that a comparison took until the next one begins, whatever is heard."""
_TRIES = 3
"""Comparisons in a row to find one with nothing under way that it is about: where objects change all the time there is
none, and the next one without news has to do."""
_REST = 50
"""Times that a comparison took until one is made without news: of many flows it is a good deal of work."""
_NAMED = 10
"""Lines about one comparison, each about one object in one table."""


class Auditor:
    """`wake` is called when the loop should call `audit`."""

    def __init__(
        self, installer: Installer, renderer: Renderer, complaints: Complaints, wake: Callable[[], None]
    ) -> None:
        self._installer = installer
        self._renderer = renderer
        self._complaints = complaints
        self._wake = wake
        self._patience = Patience()
        self._tables: Mapping[int, str] = {table.number: table.name for table in renderer.tables}
        self._timer: asyncio.TimerHandle | None = None
        self._heard: float | None = None
        """When the first change was heard of that no comparison has answered yet."""
        self._last = self._took = 0.0
        self._unsure = self._meters_lost = 0
        self.due = False
        self.counts: collections.Counter[str] = collections.Counter()
        """What drifted since the start, by kind."""
        self.on_written: Callable[[Change], None] = lambda change: None
        """Called with news of what changes while everything is written."""

    def heard(self, change: Change) -> None:
        """vswitchd tells of a change."""
        news = change.cookie if isinstance(change, FlowChange) else change
        if self._installer.echo.is_of_all(news):
            self.on_written(change)
        if self._installer.echo.is_ours(news) or is_passing(change):
            return
        if self._heard is None:
            self._heard = time.monotonic()
        self._expect(_GATHER)

    def look(self) -> None:
        """A comparison is due although there is no news, unless the last one took long and was not long ago."""
        self.due |= asyncio.get_running_loop().time() >= self._last + _REST * self._took

    def suspect(self) -> None:
        """A comparison is due, news or not."""
        self.due = True
        self._wake()

    def _expect(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = max(loop.time() + seconds, self._last + max(_BETWEEN, _PAUSE * self._took))
        if self._timer is not None and self._timer.when() <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.suspect()

    async def audit(self) -> None:
        """Compares and puts right. A switch that can't be asked is a complaint, not an error."""
        self.due, self._last = False, asyncio.get_running_loop().time()
        begun = self._heard if self._heard is not None else time.monotonic()
        try:
            await self._compare(begun)
        except OvsnetError as error:
            self._complaints.about("audit", str(error))
        else:
            self._complaints.over("audit")
        self._took = asyncio.get_running_loop().time() - self._last

    async def _compare(self, begun: float) -> None:
        if self._installer.stale:
            # What is written next is everything.
            self._heard = None
            return
        lost_before = self._installer.meters_lost
        found = await self._installer.audit()
        if found is None:
            self._expect(_BETWEEN)
            return
        everything = describe(found, self._renderer.objects, self._tables)
        drifts = [drift for drift in everything if self._installer.settled(drift)]
        spared = of_own_meter(drifts, lost=self._installer.meters_lost != self._meters_lost)
        todo = [drift for drift in drifts if drift.subject in spared or self._patience.allows(drift.subject)]
        done = await self._installer.repair(todo)
        self._tell(done, time.monotonic() - begun, spared)
        unsure = len(done) < len(todo) or (self._heard is not None and len(drifts) < len(everything))
        self._unsure = self._unsure + 1 if unsure else 0
        if 0 < self._unsure <= _TRIES:
            # Others changed something, and it may have been what we changed, too.
            self._expect(_BETWEEN)
            return
        self._heard, self._unsure, self._meters_lost = None, 0, lost_before
        wait = self._patience.wait()
        if wait is not None and len(todo) < len(drifts):
            self._expect(wait)

    def tell(self, kind: str, words: Sequence[str]) -> None:
        """Something else than flows had drifted and was put right."""
        self.counts[kind] += len(words)
        for each in words[:_NAMED]:
            log.warning("%s", each)
        if len(words) > _NAMED:
            log.warning("and %d more like that", len(words) - _NAMED)

    def _tell(self, drifts: Sequence[Drift], seconds: float, spared: Container[str]) -> None:
        self.counts["flow"] += len(drifts)
        kinds = collections.Counter((str(drift), drift.what) for drift in drifts)
        for (words, what), count in kinds.most_common(_NAMED):
            done = "removed" if what == "added" else "restored"
            log.warning(
                "%s%s by someone else; %s after %.0f ms",
                f"{count} times: " if count > 1 else "",
                words,
                done,
                1000 * seconds,
            )
        if len(kinds) > _NAMED:
            log.warning("and so for %d other objects and tables", len(kinds) - _NAMED)
        for subject in dict.fromkeys(drift.subject for drift in drifts if drift.subject not in spared):
            pause = self._patience.repaired(subject)
            if pause:
                log.warning(
                    "somebody keeps changing it: %s; it is left alone for %.0f s now. `ovs-ofctl monitor` and "
                    "the log of ovs-vswitchd tell who is connected",
                    subject,
                    pause,
                )

    def refusals(self) -> list[str]:
        """Objects that the switch refuses, in words."""
        if not self._installer.refused:
            return []
        objects = self._renderer.objects
        return [
            f"{kind_of(obj)} {obj.title} has no flows: {error}"
            for cookie, error in self._installer.refused.items()
            if (obj := objects.get(cookie)) is not None
        ]
