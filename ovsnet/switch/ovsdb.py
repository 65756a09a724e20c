"""One connection to ovsdb-server: rows out of it, changes into it, nothing in between.

Owns the IDL and drives it on the asyncio loop, without threads and without polling. Knows rows and
changes as plain data (`ovsnet.rows`); what they are for is the callers' business. Never waits for
ovs-vswitchd except in `wait_ofports` and `wait_configured`, and touches the counter that tells vswitchd to answer
(next_cfg) only where that is wanted (SetRestoreWait, Confirm). Called by the agent and by the inspection commands.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ovs.db import idl

from ovsnet.errors import OvsnetError, SwitchUnavailable, TryAgain
from ovsnet.rows import BridgeRow, Change, KeepDevices, PortRow, SetReleased
from ovsnet.switch import operations, schema
from ovsnet.switch.cache import Cache
from ovsnet.switch.replica import Change as RowChange
from ovsnet.switch.replica import Replica
from ovsnet.switch.wire import Session, Waits

log = logging.getLogger("ovsnet.switch")

_TIMEOUT = 10.0
_CONFLICT_PAUSE = 0.1
"""Seconds to wait for the rows that made a transaction fail, if they have not come yet."""
_FIRST_WORDS, _MOST_SILENCE = 0.5, 600.0
"""Seconds until a server that is away is mentioned; the silence after it doubles from 10 up to the other."""


class _Idl(idl.Idl):  # type: ignore[misc]  # `ovs` has no types
    """The library's IDL over our session."""

    def __init__(self, remote: str, receive: Callable[[dict[str, Any], bool], None]) -> None:
        helper = idl.SchemaHelper(schema_json=schema.document())
        for table, columns in schema.TABLES.items():
            helper.register_columns(table, list(columns))
        super().__init__(remote, helper)
        self.session = self._session = Session(remote, schema.DATABASE, receive)

    @property
    def synchronised(self) -> bool:
        return bool(self.state == self.IDL_S_MONITORING and self.session.is_connected())


class _Contended(SwitchUnavailable):
    """Rows that a change depends on keep changing: it concerns that change, not the server."""


class Ovsdb:
    """The rows of one bridge. remote: as `ovs-vsctl --db` takes it, "unix:/run/openvswitch/db.sock"."""

    def __init__(self, remote: str, bridge: str, patience: float = _TIMEOUT) -> None:
        """patience: seconds that the server may take for a transaction."""
        self._remote = remote
        self._name = bridge
        self._patience = patience
        self._idl = _Idl(remote, self._receive)
        self._replica = Replica()
        self._cache = Cache(self._replica, bridge)
        self._news: list[RowChange] = []
        self._kick = asyncio.Event()
        self._up = asyncio.Event()
        self._asked: list[tuple[list[operations.Operation], asyncio.Future[Any]]] = []
        self._pending: dict[Any, asyncio.Future[Any]] = {}
        """Transactions to begin, and those under way."""
        self._changed: list[asyncio.Future[None]] = []
        self._queue: list[tuple[Sequence[Change], asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._complaint: asyncio.TimerHandle | None = None
        self._complained = False

    @property
    def connected(self) -> bool:
        """Whether the rows are the server's of now. When not, they are those of before it went."""
        return self._up.is_set()

    @property
    def datapath_types(self) -> frozenset[str]:
        """What this ovs-vswitchd offers ("netdev", "system"); empty until one has started."""
        row = self._cache.system()
        return row["datapath_types"] if row else frozenset()

    @property
    def restore_wait(self) -> bool:
        """Whether a vswitchd that starts now would wait for flows."""
        row = self._cache.system()
        return row is not None and row["other_config"].get(operations.RESTORE_WAIT) == "true"

    @property
    def keeps_devices(self) -> bool:
        """Whether a vswitchd that starts now would keep devices that are not its ports'."""
        return self._cache.keeper() is not None

    async def wait_configured(self, patience: float) -> None:
        """Waits until vswitchd has seen everything that asked it to say so. Raises SwitchUnavailable."""
        try:
            async with asyncio.timeout(patience):
                while (row := self._cache.system()) is None or row["cur_cfg"] < row["next_cfg"]:
                    await self._next_batch()
        except TimeoutError:
            raise SwitchUnavailable(
                f"ovs-vswitchd has not looked at its configuration within {patience:g} s", "is it running?"
            ) from None

    def bridge(self) -> BridgeRow | None:
        """Our bridge; None when there is none."""
        return self._cache.bridge

    def ports(self) -> dict[str, PortRow]:
        """All ports of our bridge by name, foreign ones too. Not to be altered; a change makes a new one."""
        return self._cache.ports

    def port(self, name: str) -> PortRow | None:
        return self._cache.ports.get(name)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Calls back after every batch of changes, and when the connection comes or goes."""
        self._callbacks.append(callback)

    async def wait_connected(self) -> None:
        """Returns when the rows have been read."""
        await self._up.wait()

    async def run(self) -> None:
        """Drives the connection until cancelled; reconnects by itself."""
        self._complain_in(_FIRST_WORDS, 10.0)
        try:
            while True:
                self._turn()
                waits = Waits()
                self._idl.wait(waits)
                await waits.wait(self._kick)
        finally:
            self._lost()
            self._begin()
            if self._complaint is not None:
                self._complaint.cancel()
            self._idl.close()

    async def apply(self, changes: Sequence[Change]) -> None:
        """Carries out the changes in one transaction; returns when the server has them and the rows show them.

        Adding a port that is there already and is ours brings it in line; deleting one that is not
        there does nothing. One transaction is under way at a time, and what is asked for meanwhile shares the
        next: vswitchd looks at its ports once for all of it. Raises SwitchUnavailable without a server, and
        OvsnetError for a row that is not ours or with the server's words when it refuses.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((changes, waiter))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        await waiter

    async def _work(self) -> None:
        batch: list[tuple[Sequence[Change], asyncio.Future[None]]] = []
        try:
            while self._queue:
                batch = [(changes, waiter) for changes, waiter in self._queue if not waiter.done()]
                self._queue = []
                failed = await self._settle(batch)
                away = isinstance(failed, SwitchUnavailable) and not isinstance(failed, _Contended)
                if failed is not None and not away and len(batch) > 1:
                    # A transaction is all or nothing: whoever is to blame, the others are served.
                    for each in batch:
                        _answer([each], await self._settle([each]))
                else:
                    _answer(batch, failed)
        except BaseException as error:
            # Nobody may wait for ever, whatever it was.
            _answer([*batch, *self._queue], error)
            self._queue = []
            raise
        finally:
            self._worker = None

    async def _settle(self, batch: Sequence[tuple[Sequence[Change], object]]) -> OvsnetError | None:
        """The changes of all in one transaction; why that failed."""
        try:
            await self._commit(_merged(changes for changes, _ in batch))
        except OvsnetError as error:
            return error
        return None

    async def _commit(self, changes: Sequence[Change]) -> None:
        conflicts = 0
        try:
            async with asyncio.timeout(self._patience):
                while await self._try(changes) == idl.Transaction.TRY_AGAIN:
                    conflicts += 1
                    await self._next_batch(_CONFLICT_PAUSE)
        except TimeoutError:
            if conflicts:
                raise _Contended(
                    f"rows that a change depends on were not what they seemed, in {conflicts} attempts within "
                    f"{self._patience:g} s",
                    f"does another program keep changing the ports of {self._name}? "
                    f"See: ovsdb-client monitor {self._remote} Open_vSwitch ALL",
                ) from None
            raise SwitchUnavailable(
                f"ovsdb-server at {self._remote} did not answer within {self._patience:g} s",
                "is it overloaded?",
            ) from None

    async def wait_ofports(self, names: Iterable[str], patience: float) -> dict[str, int]:
        """Waits until ovs-vswitchd has given each port its OpenFlow number.

        Raises SwitchUnavailable when it has not within `patience` seconds, and OvsnetError with its
        words when it can't, or when a port is not there.
        """
        numbers: dict[str, int] = {}
        waiting = list(names)
        try:
            async with asyncio.timeout(patience):
                while True:
                    for name in waiting:
                        if (number := self._ofport(name)) is not None:
                            numbers[name] = number
                    waiting = [name for name in waiting if name not in numbers]
                    if not waiting:
                        return numbers
                    await self._next_batch()
        except TimeoutError:
            others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            raise SwitchUnavailable(
                f"ovs-vswitchd did not take up port {waiting[0]}{others} within {patience:g} s",
                "is it running, and does ovsdb-server have room on its disk for the answer?",
            ) from None

    def _ofport(self, name: str) -> int | None:
        row = self._cache.ports.get(name)
        if row is None:
            raise OvsnetError(f"bridge {self._name} has no port {name}", "it was removed by somebody else")
        if row.ofport == -1 or (row.error and row.ofport is None):
            raise OvsnetError(
                f"ovs-vswitchd can't open port {name}: {row.error or 'it does not say why'}",
                "see ovs-vswitchd's log",
            )
        return row.ofport

    async def _try(self, changes: Sequence[Change]) -> str:
        """One attempt; the transaction's final status."""
        if not self.connected:
            raise SwitchUnavailable(*self._away())
        wanted = operations.build(changes, self._cache, self._name)
        if not wanted:
            return str(idl.Transaction.UNCHANGED)
        transaction = await self._finished(wanted)
        status: str = transaction.commit()
        if status not in (transaction.SUCCESS, transaction.TRY_AGAIN):
            words = _words(transaction.get_error())
            # A full disk, above all: that passes when somebody makes room.
            kind = TryAgain if words.startswith("I/O error") else OvsnetError
            raise kind(f"ovsdb-server refused the change: {words}", "see its log, and ovs-vsctl show")
        return status

    def _away(self) -> tuple[str, str]:
        return f"ovsdb-server at {self._remote} does not answer", "start Open vSwitch on this node"

    async def _finished(self, wanted: list[operations.Operation]) -> Any:
        """The transaction, ended.

        `_turn` begins it: a connection that breaks as it is sent closes its socket, and nobody may be waiting for
        that just then, as another file would soon have its number.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append((wanted, future))
        self._kick.set()
        return await future

    async def _next_batch(self, seconds: float | None = None) -> None:
        """Waits for rows to change, or for so many seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(future)
        await asyncio.wait([future], timeout=seconds)

    def _turn(self) -> None:
        """Lets the IDL read and write what it can, and tells everybody what came of it."""
        self._idl.run()
        news, self._news = self._news, []
        changed = bool(news)
        if self.connected and not self._idl.synchronised:
            self._lost()
            log.warning("ovsdb-server at %s went away; waiting for it", self._remote)
            self._complained = True
            self._complain_in(10.0, 20.0)
            changed = True
        elif not self.connected and self._idl.synchronised:
            self._cache.rebuild()
            self._found()
            changed = True
        elif news and self.connected:
            self._cache.settle(news)
        self._begin()
        for transaction, future in list(self._pending.items()):
            if transaction.commit() != transaction.INCOMPLETE:
                del self._pending[transaction]
                if not future.done():
                    future.set_result(transaction)
        if changed:
            self._tell()

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        for wanted, future in asked:
            if not self.connected and not future.done():
                # The library would take it for sent.
                future.set_exception(SwitchUnavailable(*self._away()))
            elif not future.done():
                transaction = idl.Transaction(self._idl)
                for operation in wanted:
                    transaction.add_op(operation)
                transaction.commit()
                self._pending[transaction] = future

    def _receive(self, updates: dict[str, Any], complete: bool) -> None:
        if complete:
            self._replica.clear()
        self._news += self._replica.update(updates)

    def _tell(self) -> None:
        waiters, self._changed = self._changed, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for callback in self._callbacks:
            callback()

    def _found(self) -> None:
        self._up.set()
        if self._complaint is not None:
            self._complaint.cancel()
            self._complaint = None
        if self._complained:
            log.info("ovsdb-server at %s is back: %d ports", self._remote, len(self._cache.ports))
            self._complained = False

    def _lost(self) -> None:
        self._up.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(
                    SwitchUnavailable(
                        f"the connection to ovsdb-server at {self._remote} was lost during a change",
                        "it may or may not have been made; the rows will tell when the server is back",
                    )
                )

    def _complain_in(self, seconds: float, silence: float) -> None:
        self._complaint = asyncio.get_running_loop().call_later(seconds, self._complain, silence)

    def _complain(self, silence: float) -> None:
        log.warning("ovsdb-server at %s does not answer; waiting for it", self._remote)
        self._complained = True
        self._complain_in(silence, min(2 * silence, _MOST_SILENCE))


def _answer(batch: Iterable[tuple[object, asyncio.Future[None]]], error: BaseException | None) -> None:
    for _, waiter in batch:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def _merged(all_changes: Iterable[Sequence[Change]]) -> list[Change]:
    """Of what replaces a whole value, such as SetReleased, the last: nobody will see the others."""
    changes = [change for changes in all_changes for change in changes]
    last = {type(change): i for i, change in enumerate(changes)}
    return [
        change
        for i, change in enumerate(changes)
        if i == last[type(change)] or not isinstance(change, SetReleased | KeepDevices)
    ]


def _words(error: str) -> str:
    """The library hands over the server's reply as JSON text: its "details", else all of it."""
    try:
        reply = json.loads(error)
    except ValueError:
        return error
    if not isinstance(reply, dict):
        return error
    return ": ".join(str(reply[key]) for key in ("error", "details") if reply.get(key))
