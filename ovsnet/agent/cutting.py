"""Ends connections that were allowed and that policies deny by now, where the configuration asks for it.

Looks when policies may deny more than before, never oftener than once a second: conntrack is asked which connections
policies have allowed, and each that a pod of this node is in is judged by the policies of today. A connection that is
denied gets flows that drop its packets, which end by themselves, and conntrack forgets it: a packet of either end would
else begin it anew, where that end may begin connections. If policies allow it again meanwhile the flows go at once.
Owns these flows. Runs beside the agent's loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from ovsnet.agent.installer import Installer
from ovsnet.conntrack import Known
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.host import sockets
from ovsnet.model import IPAddress
from ovsnet.pipeline import POLICY_ZONE
from ovsnet.policycuts import CutJudge, cut
from ovsnet.policymodel import Direction
from ovsnet.render import Renderer, cookie_of
from ovsnet.state import Topology
from ovsnet.switch import conntrack
from ovsnet.switch.openflow import OpenFlow

log = logging.getLogger("ovsnet.policies")

_PAUSE = 1.0
"""Seconds between looks."""
_RETRY = 5.0
"""Seconds after a look that failed."""
_LASTING = 1200.0
"""Seconds after which no flow is left, see `CutConnection.timeouts`."""
_AT_ONCE = 500
"""Connections whose flows are one bundle."""
_SIDE_BY_SIDE = 4
"""Connections that conntrack forgets at the same time: each is a call of ovs-ofctl."""
_NAMED = 5
_TURN = 50
"""Connections that are judged without a break."""


class Policies(Protocol):
    """What is needed of `policing.Policing`."""

    def judge(self, own: Iterable[IPAddress], senders: Iterable[IPAddress]) -> CutJudge | None: ...

    def stricter(self) -> bool: ...


class Cutting:
    """remote: the OVSDB server, beside which vswitchd has its control socket."""

    def __init__(
        self, openflow: OpenFlow, installer: Installer, renderer: Renderer, policies: Policies, remote: str
    ) -> None:
        self._openflow = openflow
        self._installer = installer
        self._renderer = renderer
        self._policies = policies
        self._remote = remote
        self._due = asyncio.Event()
        self._due.set()
        self._own: tuple[IPAddress, ...] = ()
        self._datapath = ""
        self._suspect = True
        """Policies may deny connections that go on."""
        self._held: dict[Known, float] = {}
        """Connections that were cut, and when."""
        self._unforgotten: list[Known] = []
        """Those of them that conntrack is still to forget."""
        self.count = 0
        """Of connections, since the start."""

    def tell(self, topo: Topology, datapath: str) -> None:
        """Policies are in as they are known. datapath: the bridge's datapath_type."""
        self._own, self._datapath = (*topo.gateways, *topo.addresses), datapath
        self._suspect = self._policies.stricter() or self._suspect
        if self._suspect or self._held:
            self._due.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self._due.wait()
            pause = _PAUSE
            try:
                if self._datapath:
                    self._due.clear()
                    await self.look()
            except SwitchUnavailable:
                pause = _RETRY
                self._due.set()
            except OvsnetError as error:
                pause = _RETRY
                log.warning("connections that policies deny by now may go on: %s", error)
                self._due.set()
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Cuts what is denied. Raises SwitchUnavailable or OvsnetError."""
        # The node's kernel may send from an address that the store does not know as its own.
        judge = self._policies.judge(self._own, {*self._own, *sockets.own()})
        if judge is None:
            return
        if self._installer.stale:
            raise SwitchUnavailable("the switch has lost its flows", "they come back by themselves")
        await self._let_go(judge)
        await self._forget()
        if not self._suspect:
            return
        self._suspect = False
        try:
            found = await self._denied(judge)
            connections = list(found)
            for at in range(0, len(connections), _AT_ONCE):
                await self._cut({each: found[each] for each in connections[at : at + _AT_ONCE]})
        except BaseException:
            self._suspect = True
            raise

    async def _denied(self, judge: CutJudge) -> dict[Known, tuple[str, Direction]]:
        """Connections that go on and are denied, with whose policies deny them."""
        found: dict[Known, tuple[str, Direction]] = {}
        for number, each in enumerate(await conntrack.policed(self._remote, self._datapath)):
            if number % _TURN == 0:
                # Requests do not wait for all of a large table.
                await asyncio.sleep(0)
            denied = None if each.key in self._held else judge.denied(each)
            if denied is not None:
                found[each] = denied
        return found

    async def _let_go(self, judge: CutJudge) -> None:
        """Of those that were cut, what is allowed again."""
        now = time.monotonic()
        self._held = {each: since for each, since in self._held.items() if now - since < _LASTING}
        allowed = [each for each in self._held if judge.denied(each) is None]
        if allowed:
            await self._installer.end(cookie_of(cut(each)) for each in allowed)
            for each in allowed:
                del self._held[each]

    async def _cut(self, found: dict[Known, tuple[str, Direction]]) -> None:
        lines = [line for each in found for line in self._renderer.lines(cut(each))]
        await self._installer.once(lines)
        self._held |= dict.fromkeys((each.key for each in found), time.monotonic())
        self._unforgotten += [each for each in found if each.protocol is not None]
        self.count += len(found)
        _tell(found)
        await self._forget()

    async def _forget(self) -> None:
        """Whom it fails for is tried again with the next look: dropping packets alone is for a time."""

        async def forget() -> None:
            while self._unforgotten:
                each = self._unforgotten.pop()
                try:
                    await self._openflow.forget(POLICY_ZONE, conntrack.exactly(each))
                except BaseException:
                    self._unforgotten.append(each)
                    raise

        await asyncio.gather(*(forget() for _ in range(_SIDE_BY_SIDE)))


def _tell(found: dict[Known, tuple[str, Direction]]) -> None:
    counts = Counter(found.values())
    some = ", ".join(
        f"{number} in {direction.value.lower()} of pod {pod}"
        for (pod, direction), number in counts.most_common(_NAMED)
    )
    more = ", and others" if len(counts) > _NAMED else ""
    log.info("%d connections that policies deny by now are cut: %s%s", len(found), some, more)
