"""Spare ports: veth pairs whose one end is in the bridge already, waiting for a pod.

ovs-vswitchd looks at every port whenever the set of ports changes, so adding one takes longer the
more there are. A spare takes that off the path of a CNI ADD. Spares are OVSDB rows of their own
role and survive a restart; the far end is in the node's namespace, down, until a pod takes it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from ovsnet import names, plan
from ovsnet.errors import OvsnetError
from ovsnet.model import Frozen
from ovsnet.rows import AddPort, Change, DeletePort, PortRow, PortSpec

log = logging.getLogger("ovsnet.pool")

_QUIET = 0.3
"""Seconds without an ADD before the pool is filled up: refilling keeps vswitchd busy."""


class Spare(Frozen):
    """A port that is ready for a pod. mtu: that of the bridge's end in bytes, 0 if it is not known."""

    token: str
    ofport: int
    mtu: int


class Database(Protocol):
    """What the pool needs of `switch.ovsdb.Ovsdb`."""

    def ports(self) -> Mapping[str, PortRow]: ...

    async def apply(self, changes: list[Change]) -> None: ...

    async def wait_ofports(self, names: list[str], patience: float) -> dict[str, int]: ...


class Links(Protocol):
    """What the pool needs of `host.links.Links`."""

    async def create_spares(self, tokens: list[str], mtu: int, tx_off: bool) -> None: ...

    async def detach(self, token: str) -> None: ...


class Pool:
    """Keeps `size` spares ready. size 0: a port is made for each pod when it comes."""

    def __init__(self, database: Database, links: Links, size: int) -> None:
        self._database = database
        self._links = links
        self._size = size
        self._ready: collections.deque[Spare] = collections.deque()
        self._waiting: collections.deque[asyncio.Future[Spare]] = collections.deque()
        self._refiller: asyncio.Task[None] | None = None
        self._leftover: set[str] = set()
        """Tokens whose row could not be deleted yet."""
        self._last_taken = 0.0
        self._hurry = asyncio.Event()
        self.mtu = 0
        self.tx_off = False
        """Of the pairs that will be made from now on: MTU, and whether pods compute checksums. Set by the agent."""

    def __len__(self) -> int:
        return len(self._ready)

    async def adopt(self, intact: Collection[str]) -> None:
        """Takes over an earlier run's spares, and removes those of which a pod has the far end.

        intact: tokens of the pairs that have both ends in this namespace.
        """
        broken: list[str] = []
        found: collections.deque[Spare] = collections.deque()
        for row in self._database.ports().values():
            token = names.token_of(row.name)
            if row.role != names.ROLE_SPARE:
                continue
            if token in intact and row.ofport is not None and row.ofport > 0:
                found.append(Spare(token=token, ofport=row.ofport, mtu=0))
            else:
                broken.append(token)
        self._ready = found
        if broken:
            log.info("removing %d spare ports that an interrupted run left", len(broken))
            await self._remove(broken)
        self.top_up()

    async def take(self) -> Spare:
        """A spare for one pod; waits while one is made.

        Raises SwitchUnavailable when vswitchd does not make the port in time.
        """
        loop = asyncio.get_running_loop()
        self._last_taken = loop.time()
        if self._ready:
            spare = self._ready.popleft()
            self.top_up()
            return spare
        waiter: asyncio.Future[Spare] = loop.create_future()
        self._waiting.append(waiter)
        self._hurry.set()
        self.top_up()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was handed over in the very moment in which nobody wanted it any more.
                self._ready.append(waiter.result())
            raise

    def robbed(self) -> bool:
        """Whether someone deleted the row of a spare: `reconcile` then makes another."""
        rows = self._database.ports()
        return any(names.host_interface(spare.token) not in rows for spare in self._ready)

    async def reconcile(self) -> None:
        """Forgets spares whose row someone deleted, follows port numbers, retries what could not be removed."""
        rows = self._database.ports()
        present = [spare for spare in self._ready if names.host_interface(spare.token) in rows]
        lost = {spare.token for spare in self._ready} - {spare.token for spare in present}
        if lost:
            log.warning("%d spare ports were deleted by someone else", len(lost))
        self._ready = collections.deque(
            Spare(
                token=each.token,
                ofport=rows[names.host_interface(each.token)].number or each.ofport,
                mtu=each.mtu,
            )
            for each in present
        )
        if lost or self._leftover:
            await self._remove([*lost, *self._leftover])
            self.top_up()

    async def discard(self, token: str) -> None:
        """Removes a spare that was taken and can't be used again."""
        await self._remove([token])

    def top_up(self) -> None:
        """Starts making what is missing, unless that is under way."""
        if self._refiller is None and (self._waiting or len(self._ready) < self._size):
            self._refiller = asyncio.create_task(self._refill())

    async def close(self) -> None:
        if self._refiller is not None:
            self._refiller.cancel()
            await asyncio.gather(self._refiller, return_exceptions=True)

    async def _refill(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                while self._waiting and self._ready:
                    self._hand_over(self._ready.popleft())
                if (
                    not self._waiting
                    and self._ready
                    and await self._disturbed(loop.time() - self._last_taken)
                ):
                    continue
                missing = len(self._waiting) + max(0, self._size - len(self._ready))
                if missing <= 0:
                    return
                # Those who wait come first: making the whole pool would make them wait longer.
                await self._make(len(self._waiting) or missing)
        except OvsnetError as error:
            log.warning("no spare port could be made: %s", error)
            self._refuse(error)
        except BaseException as error:
            # Nobody may wait for ever, whatever it was.
            self._refuse(error)
            raise
        finally:
            self._refiller = None

    def _refuse(self, error: BaseException) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    async def _disturbed(self, quiet: float) -> bool:
        """Waits until no pod has come for a while; True if it had to."""
        if quiet >= _QUIET:
            return False
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), _QUIET - quiet)
        return True

    def _hand_over(self, spare: Spare) -> None:
        waiter = self._waiting.popleft()
        if waiter.done():
            self._ready.append(spare)
        else:
            waiter.set_result(spare)

    async def _make(self, count: int) -> None:
        rows = self._database.ports()
        tokens = [secrets.token_hex(4) for _ in range(count)]
        numbers = plan.free_numbers(rows.values(), plan.POD_NUMBERS)
        mtu = self.mtu
        specs = [
            PortSpec(
                name=names.host_interface(token),
                external_ids={names.OWNER: names.ROLE_SPARE},
                ofport_request=next(numbers),
            )
            for token in tokens
        ]
        try:
            await self._links.create_spares(tokens, mtu, self.tx_off)
            await self._database.apply([AddPort(spec=spec) for spec in specs])
            made = await self._database.wait_ofports([spec.name for spec in specs], 10.0)
        except BaseException:
            await self._remove(tokens)
            raise
        for token in tokens:
            spare = Spare(token=token, ofport=made[names.host_interface(token)], mtu=mtu)
            self._ready.append(spare)

    async def _remove(self, tokens: Iterable[str]) -> None:
        tokens = set(tokens)
        present = self._database.ports()
        rows = [names.host_interface(token) for token in tokens]
        try:
            await self._database.apply([DeletePort(name=name) for name in rows if name in present])
            self._leftover -= tokens
        except OvsnetError as error:
            self._leftover |= tokens
            log.warning("%d spare ports can't be removed now: %s", len(tokens), error)
        # All at once: the kernel waits as long for one as for many.
        await asyncio.gather(*(self._links.detach(token) for token in tokens))
