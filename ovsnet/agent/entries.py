"""Has ovs-vswitchd make the entries of its own datapath anew after a change of policies.

In user space alone. Of two entries that overlap Open vSwitch 3.1.0 alters one twice and the other never (it finds the
one to alter by a packet, which both match), and the other goes on doing what flows said before for as long as packets
meet it: letting through what is denied by now, or dropping what is allowed. The kernel's datapath finds entries by
their identifier. Called by `installer` when flows of policies are in; never blocks who asks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.rows import BridgeRow
from ovsnet.switch import control

log = logging.getLogger("ovsnet.policies")

_PAUSE = 0.5
"""Seconds between two times: each costs the next packet of every connection a look at the flows."""


_RETRY = 5.0


class Database(Protocol):
    """What is needed of `switch.ovsdb.Ovsdb`."""

    def bridge(self) -> BridgeRow | None: ...


class Entries:
    """remote: the OVSDB server, beside which vswitchd has its control socket."""

    def __init__(self, database: Database, remote: str) -> None:
        self._database = database
        self._remote = remote
        self._due = False
        self._task: asyncio.Task[None] | None = None

    def renew(self) -> None:
        """Flows are in that may contradict entries."""
        row = self._database.bridge()
        if row is None or row.datapath_type != "netdev":
            return
        self._due = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._due:
            self._due = False
            pause = _PAUSE
            try:
                await control.renew_entries(self._remote)
            except SwitchUnavailable:
                # With it its datapath is away.
                pass
            except OvsnetError as error:
                log.warning("entries of the datapath may be older than policies: %s; trying again", error)
                self._due, pause = True, _RETRY
            await asyncio.sleep(pause)
