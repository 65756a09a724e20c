"""What ovs-vswitchd does at its next start: keep the kernel's flows until ours are back.

A vswitchd that starts throws away the flows that the kernel's datapath has, and with them every connection until its
own are written again. With `other_config:flow-restore-wait` in the database it keeps them, and handles nothing new
until the key goes. It looks at the key until it first finds it gone, and not again in its lifetime; so the agent
takes it away when all flows are in, waits until vswitchd has seen that, and sets it again for the next crash.

It also removes from the datapath whatever is not an Interface by name, and so the device behind the tunnels, which no
Interface is, and makes it anew with the first tunnel; nothing passes between nodes meanwhile. So while vswitchd is
away the device's name stands in the database too, until all flows are in again. (What follows a while later, it
removes and makes the device in one go, is vswitchd's own way.)

Owns that key and that row. Called by the agent's loop, on the kernel's datapath only: in user space nothing outlives
vswitchd.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from ovsnet import encap
from ovsnet.errors import OvsnetError
from ovsnet.rows import Change, KeepDevices, PortRow, SetRestoreWait

log = logging.getLogger("ovsnet.agent")

_PATIENCE = 10.0
"""Seconds that vswitchd has to notice."""


class Database(Protocol):
    """What is needed of `switch.ovsdb.Ovsdb`."""

    @property
    def restore_wait(self) -> bool: ...

    @property
    def keeps_devices(self) -> bool: ...

    def ports(self) -> Mapping[str, PortRow]: ...

    async def apply(self, changes: Sequence[Change]) -> None: ...

    async def wait_configured(self, patience: float) -> None: ...


class Arming:
    """The key and the row, for as long as an agent runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._released = False
        """This vswitchd has been told to go on since it came up, and has seen it."""
        self._times_away = 0
        """How often vswitchd was found away: what was true before need not be true of the next one."""
        self._taken_away = False
        """The key was taken away, and it is not known yet that vswitchd has seen that."""

    async def away(self) -> None:
        """vswitchd is not there: the one that comes waits for us, and keeps the tunnels' devices."""
        self._released = self._taken_away = False
        self._times_away += 1
        changes: list[Change] = [] if self._database.restore_wait else [SetRestoreWait(wait=True)]
        made = [row for row in self._database.ports().values() if row.ofport is not None and row.ofport > 0]
        devices = frozenset(filter(None, (encap.device(row.type, row.options) for row in made)))
        if devices and not self._database.keeps_devices:
            changes.append(KeepDevices(devices=devices))
        if changes:
            # Without it nothing breaks that would not break anyway.
            with contextlib.suppress(OvsnetError):
                await self._database.apply(changes)

    async def settle(self) -> None:
        """All flows are in: lets vswitchd go on if it waits, and has the next one wait.

        Raises SwitchUnavailable when the database or vswitchd does not answer; then it is to be called again. Does no
        more once vswitchd goes away again.
        """
        times = self._times_away
        if not self._released:
            if self._database.restore_wait:
                self._taken_away = True
                await self._database.apply([SetRestoreWait(wait=False)])
            if self._taken_away:
                await self._database.wait_configured(_PATIENCE)
                if times != self._times_away:
                    return
                log.info("ovs-vswitchd may handle new connections: all flows are in place")
                self._taken_away = False
            self._released = True
        changes: list[Change] = []
        if not self._database.restore_wait:
            changes.append(SetRestoreWait(wait=True))
        if self._database.keeps_devices:
            changes.append(KeepDevices(devices=frozenset()))
        if changes:
            await self._database.apply(changes)
