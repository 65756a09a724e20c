"""Ends session affinities of Services whose timeout is longer than a flow's can be.

The switch learns which endpoint a client had, and forgets it by the flow's idle timeout, where that can say so many
seconds. For a longer affinity the flow has none, and is ended here: when the switch has said for long enough that it
has been idle for as long as the switch can tell. So such an affinity lasts up to a minute longer; what is beyond the
switch's numbers counts from the agent's start at the earliest, and nothing ends while no agent runs. Owns the memory
of those flows. Runs beside the agent's loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from typing import Protocol

from ovsnet import flowdump, names
from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.frontends import LONGEST_TIMEOUT, ServiceObject

log = logging.getLogger("ovsnet.services")

TABLE = "learned"
_PERIOD = 60.0
"""Seconds between two looks."""
_AT_ONCE = 1000
"""Flows that one bundle removes: other changes need not wait for all."""
_AGE = re.compile(r"\bduration=([\d.]+)s.*\bidle_age=(\d+)")
"""Seconds since the flow was learned and since it was met, the latter never more than LONGEST_TIMEOUT."""
_ENDS = re.compile(r"\bidle_timeout=")
"""The switch ends it by itself."""


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
        self._any = True
        """Flows without a timeout may be there: nobody knows after a start, and a Service may have changed."""
        self._beyond: dict[tuple[str, int], float] = {}
        """Flows, with their packets, that have been idle for as long as the switch can say, and how old they were when
        that was first seen."""

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
                log.warning("clients may stay with an endpoint for longer than their Service says: %s", error)

    async def look(self) -> None:
        """Ends what is over. Raises SwitchUnavailable or OvsnetError."""
        services = self._services()
        self._any = self._any or any(each.affinity and not each.idle_timeout for each in services)
        if not self._any or not services:
            return
        lines = await self._switch.counted(names.AFFINITY, self._table)
        lasting = [line for line in lines if _AGE.search(line) and not _ENDS.search(line)]
        self._any = bool(lasting)
        over = self._over(lasting, _seconds(services))
        for at in range(0, len(over), _AT_ONCE):
            await self._installer.forget(over[at : at + _AT_ONCE])

    def _over(self, lines: Collection[str], seconds: dict[int, int]) -> list[str]:
        """Those of these flows that are to go, as a bundle names them. Whose Service is unknown goes when that does."""
        over: list[str] = []
        before, self._beyond = self._beyond, {}
        for line in lines:
            ages, flow = _AGE.search(line), flowdump.flow(line)
            if ages is None or flow is None or flow.cookie not in seconds:
                continue
            name = f"cookie={flow.cookie:#x}/-1,table={flow.table},priority={flow.priority},{flow.match}"
            age, idle = float(ages[1]), float(ages[2])
            if idle >= LONGEST_TIMEOUT:
                known = name, flow.packets
                self._beyond[known] = before.get(known, age)
                idle += age - self._beyond[known]
            if idle >= seconds[flow.cookie]:
                over.append(name)
        return over


def _seconds(services: Collection[ServiceObject]) -> dict[int, int]:
    """How long clients stay, by the cookie of what is learned of them."""
    found: dict[int, int] = {}
    for each in services:
        if each.affinity:
            cookies = (each.learned, *map(each.learned_outside, each.frontends))
            found |= dict.fromkeys(cookies, each.affinity)
    return found
