"""The interfaces behind the node's internal ports: the gateway's, and the bridge's own.

In user space these are taps, which `ip link del` deletes: ovs-vswitchd keeps a descriptor that leads nowhere, and never
makes another one for the same row. So the row goes and, when ovs-vswitchd has seen that, comes back. Owns nothing but
since when an interface is missing. Called by the agent's loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ovsnet import names
from ovsnet.errors import HostFailure, LimitedConnectivity, OvsnetError, SwitchUnavailable
from ovsnet.host.pod import index_of
from ovsnet.rows import AddPort, Change, Confirm, DeletePort, PortRow, PortSpec

_MOMENT = 2.0
"""Seconds for which an interface may be missing: ovs-vswitchd makes it, or ends and takes it along."""
_PATIENCE = 10.0
"""Seconds that ovs-vswitchd has to take up a port, or to look at its configuration."""


class Database(Protocol):
    """What is needed of `switch.ovsdb.Ovsdb`."""

    def ports(self) -> Mapping[str, PortRow]: ...

    async def apply(self, changes: Sequence[Change]) -> None: ...

    async def wait_ofports(self, names: list[str], patience: float) -> dict[str, int]: ...

    async def wait_configured(self, patience: float) -> None: ...


class Devices:
    """Of one bridge."""

    def __init__(
        self,
        database: Database,
        *,
        there: Callable[[str], object] = index_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """there: whether the kernel has an interface of that name."""
        self._database = database
        self._there = there
        self._clock = clock
        self._missing = ""
        """Names of interfaces that are not there, in words; "" if all are."""
        self._since = 0.0

    def trouble(self) -> LimitedConnectivity | None:
        """Why pods can't be added, and the node and its pods don't reach one another."""
        if not self._missing:
            return None
        return LimitedConnectivity(*self._words())

    async def ensure(self) -> list[str]:
        """Returns when ovs-vswitchd has the ports and the kernel their interfaces; of those that are new a line each.
        Has ovs-vswitchd try once more where it could not open the gateway's.

        Raises HostFailure while it is not known yet that one which is missing will not come by itself,
        SwitchUnavailable when ovs-vswitchd does not answer, and what else `Database` raises.
        """
        await self._opened(names.GATEWAY)
        now, missed, self._missing = self._clock(), self._missing, ", ".join(self._lost())
        if not self._missing:
            return []
        if not missed:
            self._since = now
        if now - self._since < _MOMENT:
            raise HostFailure(*self._words())
        # It may just be at work on what it was told before.
        await self._seen(Confirm())
        told = [await self._renew(row) for row in self._lost().values()]
        self._missing = ""
        return told

    def _words(self) -> tuple[str, str]:
        return (
            f"there is no interface {self._missing}, although ovs-vswitchd has the port",
            "somebody deleted it, or gave it another name; the agent makes it again if it does not come back",
        )

    def _lost(self) -> dict[str, PortRow]:
        """Rows of ports that ovs-vswitchd has and the kernel has not."""
        return {
            name: row
            for name, row in self._database.ports().items()
            if row.role in (names.ROLE_GATEWAY, names.ROLE_BRIDGE)
            and (row.ofport or 0) > 0
            and not self._there(name)
        }

    async def _renew(self, row: PortRow) -> str:
        await self._seen(DeletePort(name=row.name), Confirm())
        spec = PortSpec(
            name=row.name,
            type=row.type,
            options=row.options,
            external_ids=row.external_ids,
            # The bridge's own port has a number that nobody can ask for.
            ofport_request=row.number if row.role == names.ROLE_GATEWAY else row.ofport_request,
            mac=row.mac,
            mtu_request=row.mtu_request,
        )
        await self._database.apply([AddPort(spec=spec)])
        await self._database.wait_ofports([row.name], _PATIENCE)
        return (
            f"interface {row.name} deleted by someone else, or given another name; made again with its port"
        )

    async def _opened(self, port: str) -> None:
        """Returns when ovs-vswitchd has the port. What it could not open it tries again only when there is news."""
        try:
            await self._database.wait_ofports([port], _PATIENCE)
        except SwitchUnavailable:
            raise
        except OvsnetError:
            if port not in self._database.ports():
                raise
            await self._seen(Confirm())
            await self._database.wait_ofports([port], _PATIENCE)

    async def _seen(self, *changes: Change) -> None:
        """Returns when ovs-vswitchd has seen these."""
        await self._database.apply(changes)
        await self._database.wait_configured(_PATIENCE)
