"""The bridge, and whether ovs-vswitchd serves it.

Owns the Bridge row and the choice of the datapath, and prepares for ovs-vswitchd's next start (`arming`). Knows
nothing of ports and flows. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from ovsnet import names
from ovsnet.agent.arming import Arming
from ovsnet.agent.hostside import HostSide
from ovsnet.config import Config, Datapath
from ovsnet.errors import NotReady, OvsnetError, SwitchUnavailable
from ovsnet.rows import BridgeRow, BridgeSpec, Confirm, SetBridge
from ovsnet.switch.monitor import Change
from ovsnet.switch.openflow import OpenFlow
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.agent")

_LOOK = 0.05
"""Seconds between looks for vswitchd."""
_PATIENCE = 5.0
"""Seconds that vswitchd has to make the bridge that OVSDB asks for."""


class Bridge:
    """One node's bridge."""

    def __init__(self, config: Config, *, ovsdb: Ovsdb, openflow: OpenFlow, host: HostSide) -> None:
        self._config = config
        self._ovsdb = ovsdb
        self._openflow = openflow
        self._host = host
        self._arming = Arming(ovsdb)
        self.datapath = ""
        """datapath_type; "" until it has been chosen."""
        self.on_datapath: Callable[[str], None] = lambda datapath: None
        """Called when it has."""

    async def ensure(self) -> bool:
        """Makes the row so; whether it had to, which may have cost all flows."""
        row = self._ovsdb.bridge()
        if not self.datapath:
            self.datapath = self._choose_datapath(row)
            self.on_datapath(self.datapath)
        spec = BridgeSpec(
            name=self._config.bridge,
            datapath_type=self.datapath,
            other_config={"disable-in-band": "true"},
            external_ids={names.OWNER: names.ROLE_BRIDGE},
        )
        if row is not None and _is_so(row, spec):
            return False
        await self._ovsdb.apply([SetBridge(spec=spec)])
        log.info("bridge %s: datapath %s", spec.name, spec.datapath_type)
        return True

    def _choose_datapath(self, row: BridgeRow | None) -> str:
        """Once, for it cuts every pod to change it: `auto` stays with what an earlier run chose."""
        if self._config.datapath is Datapath.AUTO and row is not None and names.OWNER in row.external_ids:
            return row.datapath_type
        return self._host.datapath(self._config.datapath, self._ovsdb.datapath_types)

    async def require(self) -> None:
        """Raises SwitchUnavailable when vswitchd does not serve the bridge within a moment, and has it look at its
        configuration again; raises NotReady at once when somebody has removed the bridge."""
        if not await self._openflow.is_up():
            await self._away()
        try:
            async with asyncio.timeout(_PATIENCE):
                while not await self._openflow.is_up():
                    if self._ovsdb.connected and self._ovsdb.bridge() is None:
                        raise NotReady(f"bridge {self._config.bridge} went away", "the agent makes it again")
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            # It may have failed to make the bridge, and tries again only when there is news for it.
            with contextlib.suppress(OvsnetError):
                await self._ovsdb.apply([Confirm()])
            raise SwitchUnavailable(
                f"ovs-vswitchd does not serve bridge {self._config.bridge}", "is ovs-vswitchd running?"
            ) from None

    async def settled(self) -> None:
        """All flows are in: vswitchd may go on, and its next start is prepared."""
        if self.datapath == "system":
            await self._arming.settle()

    async def watch(
        self, up: Callable[[], None], heard: Callable[[Change], None], down: Callable[[], None]
    ) -> None:
        """Follows vswitchd until cancelled: flows do not survive it.

        heard: called with its news of flows and groups.
        """
        while True:
            await self._ovsdb.wait_connected()
            await self._openflow.wait_up()
            up()
            await self._openflow.wait_down(heard)
            down()
            await self._away()
            up()

    async def _away(self) -> None:
        if self.datapath == "system":
            await self._arming.away()


def _is_so(row: BridgeRow, spec: BridgeSpec) -> bool:
    return (
        names.OWNER in row.external_ids
        and row.datapath_type == spec.datapath_type
        and row.fail_mode == spec.fail_mode
        and row.speaks
        and spec.other_config.items() <= row.other_config.items()
    )
