"""Has conntrack forget what policies have allowed to pods that are gone: their addresses will be others'.

Whatever a pod's way out: a DEL, an interface that went by itself, or something that happened while no agent ran. What
conntrack knows is compared with who is there, at the start and whenever a pod has gone; addresses rest long enough in
between. ovs-vswitchd does nothing else while it lists connections: where no pod has been isolated since the start, and
conntrack knew nothing then, it is not asked again. Pings are dropped until they are forgotten by themselves:
`OpenFlow.forget` may not be asked for those. Runs beside the agent's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable

from ovsnet.agent.installer import Installer
from ovsnet.conntrack import End
from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.model import IPAddress, IPNetwork
from ovsnet.pipeline import POLICY_ZONE
from ovsnet.policycuts import cut
from ovsnet.render import Renderer
from ovsnet.state import Topology
from ovsnet.switch import conntrack
from ovsnet.switch.openflow import OpenFlow

log = logging.getLogger("ovsnet.policies")

_PAUSE, _RETRY = 1.0, 5.0
"""Seconds between two looks, and after one that failed: both much shorter than addresses rest."""
_SIDE_BY_SIDE = 4
"""Calls of ovs-ofctl at the same time, each for all connections of one end."""
_PORTS = frozenset((6, 17, 132))
"""Protocols that any datapath can be asked to forget; of others it is tried once."""


class Departed:
    """addresses: those of this node's pods, and of requests under way. remote: the OVSDB server, beside which vswitchd
    has its control socket. policed: whether pods of this node have been isolated since the start."""

    def __init__(
        self,
        openflow: OpenFlow,
        installer: Installer,
        renderer: Renderer,
        remote: str,
        addresses: Callable[[], Iterable[IPAddress]],
        policed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._openflow = openflow
        self._installer = installer
        self._renderer = renderer
        self._remote = remote
        self._addresses = addresses
        self._policed = policed
        self._known = True
        """Conntrack may know connections that were allowed before the start."""
        self._cidrs: tuple[IPNetwork, ...] = ()
        self._gateways: frozenset[IPAddress] = frozenset()
        self._datapath = ""
        self._due = asyncio.Event()

    def tell(self, topo: Topology, datapath: str) -> None:
        """Flows are in. datapath: the bridge's datapath_type."""
        if datapath != self._datapath:
            self._known = True
            self._due.set()
        self._datapath = datapath
        self._cidrs, self._gateways = topo.cidrs, frozenset(topo.gateways)

    def gone(self) -> None:
        """Some pod is."""
        if self._known or self._policed():
            self._due.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            pause = _PAUSE
            try:
                if self._datapath:
                    await self.look()
            except OvsnetError as error:
                pause = _RETRY
                self._due.set()
                if not isinstance(error, SwitchUnavailable):
                    log.warning("connections of pods that are gone may stay known: %s; trying again", error)
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Has all forgotten that nobody can go on with. Raises SwitchUnavailable or OvsnetError."""
        found, pings = await conntrack.ends(self._remote, self._datapath)
        self._known = bool(found or pings)
        # As they are by now: an address may have got its pod meanwhile.
        there = frozenset(self._addresses())
        left = [each for each in found if self._is_left(each.address, there)]

        async def forget() -> None:
            while left:
                await self._forget(left.pop())

        await asyncio.gather(*(forget() for _ in range(_SIDE_BY_SIDE)))
        over = [
            each for each in pings if any(self._is_left(end, there) for end in (each.source, each.target))
        ]
        if over:
            await self._installer.once(line for each in over for line in self._renderer.lines(cut(each)))

    async def _forget(self, end: End) -> None:
        try:
            await self._openflow.forget(POLICY_ZONE, conntrack.of_end(end))
        except SwitchUnavailable:
            raise
        except OvsnetError as error:
            if end.protocol in _PORTS:
                raise
            log.info("connections of %s over protocol %d stay known: %s", end.address, end.protocol, error)

    def _is_left(self, address: IPAddress, there: Container[IPAddress]) -> bool:
        """Whether this node gives the address to pods, and none has it."""
        own = any(address.version == each.version and address in each for each in self._cidrs)
        return own and address not in self._gateways and address not in there
