"""What ovs-vswitchd does at its next start: keep the kernel's flows until ours are back.

A vswitchd that starts throws away the flows that the kernel's datapath has, and with them every connection until its
own are written again. With `other_config:flow-restore-wait` in the database it keeps them, and handles nothing new
until the key goes. It looks at the key until it first finds it gone, and not again in its lifetime; so the agent
takes it away when all flows are in, waits until vswitchd has seen that, and sets it again for the next crash.
Owns that key. Called by the agent's loop, on the kernel's datapath only: in user space nothing outlives vswitchd.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from ovsnet.rows import Change, SetRestoreWait

log = logging.getLogger("ovsnet.agent")

_PATIENCE = 10.0
"""Seconds that vswitchd has to notice."""


class Database(Protocol):
    """What is needed of `switch.ovsdb.Ovsdb`."""

    @property
    def restore_wait(self) -> bool: ...

    async def apply(self, changes: Sequence[Change]) -> None: ...

    async def wait_configured(self, patience: float) -> None: ...


class Arming:
    """The key, for as long as an agent runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._released = False
        """This vswitchd has been told to go on since it came up, and has seen it."""
        self._taken_away = False
        """The key was taken away, and it is not known yet that vswitchd has seen that."""

    def restarted(self) -> None:
        """vswitchd went away: the one that comes waits for us."""
        self._released = False

    async def settle(self) -> None:
        """All flows are in: lets vswitchd go on if it waits, and has the next one wait.

        Raises SwitchUnavailable when the database or vswitchd does not answer; then it is to be called again.
        """
        if not self._released:
            if self._database.restore_wait:
                await self._database.apply([SetRestoreWait(wait=False)])
                self._taken_away = True
            if self._taken_away:
                await self._database.wait_configured(_PATIENCE)
                log.info("ovs-vswitchd may handle new connections: all flows are in place")
                self._taken_away = False
            self._released = True
        if not self._database.restore_wait:
            await self._database.apply([SetRestoreWait(wait=True)])
