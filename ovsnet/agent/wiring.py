"""A pod's port and interface: a veth pair made in the pod's namespace, and the row that puts it into the bridge.

Owns the order of these steps, so that a crash between any two leaves an attachment that DEL finds, or a link
that the next start removes; and the OpenFlow port numbers of ports whose rows are under way. Knows nothing of
flows, addresses or requests. Called by `attachments`, and by the loop for what could not be removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterator, Mapping
from typing import Protocol

from ovsnet import names, plan
from ovsnet.errors import OvsnetError
from ovsnet.host.types import AttachSpec
from ovsnet.rows import AddPort, Change, DeletePort, PortRow, PortSpec

log = logging.getLogger("ovsnet.wiring")

_PATIENCE = 10.0
"""Seconds that vswitchd has to take up a port."""


class Database(Protocol):
    """What is needed of `switch.ovsdb.Ovsdb`."""

    def ports(self) -> Mapping[str, PortRow]: ...

    async def apply(self, changes: list[Change]) -> None: ...

    async def wait_ofports(self, names: list[str], patience: float) -> dict[str, int]: ...


class Links(Protocol):
    """What is needed of `host.worker.LinkWorker`."""

    async def make(self, spec: AttachSpec) -> None: ...

    async def set_up(self, spec: AttachSpec, tx_off: bool) -> None: ...

    async def detach(self, token: str) -> None: ...

    @property
    def stuck(self) -> bool: ...


class Wiring:
    """Ports for pods."""

    def __init__(self, database: Database, links: Links) -> None:
        self._database = database
        self._links = links
        self._claimed: dict[str, int] = {}
        """Token and OpenFlow port number of ADDs under way."""
        self._leftover: set[str] = set()
        """Tokens of which something may still be there."""
        self.tx_off = False
        """Whether pods compute checksums themselves, as OVS's userspace datapath needs. Set by the agent."""

    @property
    def stuck(self) -> bool:
        """Work on links does not come to an end."""
        return self._links.stuck

    @contextlib.contextmanager
    def slot(self) -> Iterator[tuple[str, int]]:
        """A token and an OpenFlow port number that nobody else has, while a pod is attached by them."""
        taken = self._claimed.values()
        number = next(plan.free_numbers(self._database.ports().values(), plan.POD_NUMBERS, taken))
        token = secrets.token_hex(4)
        self._claimed[token] = number
        try:
            yield token, number
        finally:
            del self._claimed[token]

    def ports(self) -> set[str]:
        """Names of the ports of ADDs under way."""
        return set(map(names.host_interface, self._claimed))

    async def connect(self, spec: AttachSpec, ofport: int, identity: Mapping[str, str]) -> int:
        """Gives the pod its interface and a port with that identity; the OpenFlow number that it got.

        ofport: the number to ask for. identity: external_ids of the Port row. Raises AlreadyAttached when the
        pod has an interface of that name, and what `Links` and `Database` raise. After a failure `disconnect` has
        to be called.
        """
        name = names.host_interface(spec.token)
        # A row without a link would make vswitchd complain; a link without a row is removed by the next start.
        await self._links.make(spec)
        port = PortSpec(name=name, external_ids=dict(identity), ofport_request=ofport)
        await self._database.apply([AddPort(spec=port)])
        number = (await self._database.wait_ofports([name], _PATIENCE))[name]
        # The pod's end comes up when there is somebody at the other; its link's news would also make vswitchd look
        # at all ports once more before it takes this one up.
        await self._links.set_up(spec, self.tx_off)
        return number

    async def disconnect(self, token: str) -> None:
        """Removes a port and its pair, as far as they are there. What can't be removed now goes with `clear_up`.

        A row that was asked for and not confirmed may come yet: `upkeep` sweeps rows that belong to nobody.
        """
        self._leftover.add(token)
        name = names.host_interface(token)
        try:
            if name in self._database.ports():
                await self._database.apply([DeletePort(name=name)])
            await self._links.detach(token)
        except OvsnetError as error:
            log.warning("port %s can't be removed now: %s", name, error)
            return
        self._leftover.discard(token)

    def later(self, token: str) -> None:
        """Leaves it to `clear_up` to remove a port and its pair."""
        self._leftover.add(token)

    async def clear_up(self) -> None:
        """Tries again to remove what could not be removed."""
        await asyncio.gather(*map(self.disconnect, list(self._leftover)))
