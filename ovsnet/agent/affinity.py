"""Has clients stay with their endpoint for longer than a flow's idle timeout can say, where their Service wants that.

The switch learns which endpoint a client had, in a flow that ends by its idle timeout, of 65,535 seconds at most.
Shortly before that the flow gets what is left of the Service's own, and when its client is back meanwhile the whole
again: all that there is to know is in the switch, whichever agent looks, and a flow that nobody looks at ends by
itself. Owns no state. Runs beside the agent's loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from ovsnet import flowdump, flowplan
from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.frontends import LONGEST_TIMEOUT, ServiceObject

log = logging.getLogger("ovsnet.services")

TABLE = "learned"
_PERIOD = 300.0
"""Seconds between two looks."""
_BEFORE = 1200
"""Seconds before its timeout is over from which on a flow is prolonged, and by which at least: some looks may fail."""
_TURN = 200
"""Flows that are looked at without a break."""
_EXACTLY = (1 << 64) - 1
"""As a cookie's mask."""
_TIMES = re.compile(r"\bidle_timeout=(\d+).*\bidle_age=(\d+)")


class Switch(Protocol):
    """What is needed of `switch.openflow.OpenFlow`."""

    async def counted(self, cookie: int, mask: int, table: int) -> list[str]: ...


class LongAffinity:
    """table: the number of TABLE. services: those that this node serves, none while the store has not said."""

    def __init__(
        self,
        switch: Switch,
        installer: Installer,
        table: int,
        services: Callable[[], Collection[ServiceObject]],
    ) -> None:
        self._switch = switch
        self._installer = installer
        self._table = table
        self._services = services

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD)
            try:
                await self.look()
            except SwitchUnavailable:
                # What it had learned is lost as well, or is looked at the next time.
                continue
            except OvsnetError as error:
                log.warning(
                    "clients may not stay with an endpoint for as long as their Service says: %s", error
                )

    async def look(self) -> None:
        """Prolongs what has to be. Raises SwitchUnavailable or OvsnetError."""
        for each in [each for each in self._services() if each.affinity > LONGEST_TIMEOUT]:
            outside = [frontend for frontend in each.frontends if frontend.group_outside]
            for cookie in (each.learned, *map(each.learned_outside, outside)):
                await self._installer.renew(functools.partial(self._read, cookie, each.affinity))

    async def _read(self, cookie: int, affinity: int) -> list[str]:
        # What a client does between this answer and the new flow is not seen: its next connection is.
        lines = await self._switch.counted(cookie, _EXACTLY, self._table)
        found: list[str] = []
        for at in range(0, len(lines), _TURN):
            found += _renewed(lines[at : at + _TURN], affinity)
            await asyncio.sleep(0)
        return found


def _renewed(lines: Collection[str], affinity: int) -> Iterator[str]:
    """How a bundle gives those of these flows another timeout that are to have one. affinity: seconds."""
    for line in lines:
        times, flow = _TIMES.search(line), flowdump.flow(line)
        if times is None or flow is None:
            continue
        timeout, idle = int(times[1]), int(times[2])
        if timeout == LONGEST_TIMEOUT and idle > LONGEST_TIMEOUT - _BEFORE:
            timeout = max(affinity - idle, _BEFORE)
        elif timeout < LONGEST_TIMEOUT and flow.packets:
            timeout = LONGEST_TIMEOUT
        else:
            continue
        # One that is added over another has been idle for as long as that.
        name = f"table={flow.table},priority={flow.priority},{flow.match}"
        yield f"flow delete_strict cookie={flow.cookie:#x}/{flowplan.OWN},{name}"
        yield f"flow add cookie={flow.cookie:#x},idle_timeout={timeout},{name} actions={flow.actions}"
