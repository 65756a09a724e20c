"""Has clients stay with their endpoint for longer than a flow's idle timeout can say, where their Service wants that.

The switch learns which endpoint a client had, in a flow that ends by its idle timeout, of 65,535 seconds at most.
Shortly before that the flow gets what is left of the Service's own, and when its client is back meanwhile the whole
again: all that there is to know is in the switch, whichever agent looks, and a flow that nobody looks at ends by
itself. Owns no state. Runs beside the agent's loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from typing import Protocol

from ovsnet import flowdump, flowplan, names
from ovsnet.agent.drift import cookie_in
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
_TIMES = re.compile(r"\bidle_timeout=(\d+).*\bidle_age=(\d+)")


class Switch(Protocol):
    """What is needed of `switch.openflow.OpenFlow`."""

    async def counted(self, kind: str, table: int) -> list[str]: ...


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
        if any(map(_is_long, self._services())):
            await self._installer.renew(self._read)

    async def _read(self) -> list[str]:
        # What a client does between this answer and the new flow is not seen: its next connection is.
        lines = await self._switch.counted(names.AFFINITY, self._table)
        seconds: dict[int, int] = {}
        for each in filter(_is_long, self._services()):
            outside = map(each.learned_outside, each.frontends)
            seconds |= dict.fromkeys((each.learned, *outside), each.affinity)
        found: list[str] = []
        for at in range(0, len(lines), _TURN):
            for line in lines[at : at + _TURN]:
                if affinity := seconds.get(cookie_in(line)):
                    found += _renewed(line, affinity)
            await asyncio.sleep(0)
        return found


def _is_long(service: ServiceObject) -> bool:
    return service.affinity > LONGEST_TIMEOUT


def _renewed(line: str, affinity: int) -> list[str]:
    """How a bundle gives this flow another timeout; nothing if it has the right one. affinity: seconds."""
    times, flow = _TIMES.search(line), flowdump.flow(line)
    if times is None or flow is None:
        return []
    timeout, idle = int(times[1]), int(times[2])
    if timeout == LONGEST_TIMEOUT and idle > LONGEST_TIMEOUT - _BEFORE:
        timeout = max(affinity - idle, _BEFORE)
    elif timeout < LONGEST_TIMEOUT and flow.packets:
        timeout = LONGEST_TIMEOUT
    else:
        return []
    # One that is added over another has been idle for as long as that.
    cookie, rest = f"cookie={flow.cookie:#x}", f"table={flow.table},priority={flow.priority},{flow.match}"
    return [
        f"flow delete_strict {cookie}/{flowplan.OWN},{rest}",
        f"flow add {cookie},idle_timeout={timeout},{rest} actions={flow.actions}",
    ]
