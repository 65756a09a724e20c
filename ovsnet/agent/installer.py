"""What is installed on the switch, and the only way to change it.

Callers say what each object's flows shall be and wait until that is so; one bundle is under way at
a time and whatever is asked for meanwhile shares the next. Owns no desired state: the agent's loop
does. A full replacement makes the switch equal, whatever it held; `audit` looks whether it still is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from ovsnet import flowplan, names
from ovsnet.agent import memory
from ovsnet.agent.drift import Drift, Echo, cookie_in, group_in, remedy
from ovsnet.errors import MeterRefused, OvsnetError, SwitchUnavailable
from ovsnet.render import Lines, Rendered

log = logging.getLogger("ovsnet.flows")

_TOGETHER = ("pod", *names.POLICIES)


class Switch(Protocol):
    """What the installer needs of `switch.openflow.OpenFlow`."""

    async def bundle(self, lines: Iterable[str]) -> None: ...

    async def replace(self, lines: Iterable[str]) -> None: ...

    async def differences(self, lines: Iterable[str]) -> list[str]: ...


class Installer:
    """Applies changes in the order in which they were asked for, batched."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self.installed: dict[int, Lines] = {}
        self._losses = 1
        self._replaced = self._audited = 0
        """How often the switch lost what it held, which of those losses was made good, and how many there had been when
        the last audit began."""
        self.on_loss: Callable[[], None] = lambda: None
        """Called when everything is to be written again."""
        self.on_policies: Callable[[], None] = lambda: None
        """Called when flows of policies are others than before."""
        self.on_meter_refused: Callable[[MeterRefused], None] = lambda error: None
        """Called when flows find no meter although it has just been made, or was to be: they had better need none. Then
        everything is to be written again."""
        self.refused: dict[int, OvsnetError] = {}
        """Objects whose flows the switch refused when they were last sent, with its words."""
        self.modifications = 0
        """Flow modifications sent since the start."""
        self.meters_lost = 0
        """How often a bundle found a meter away, and brought it back without the flows that went with it."""
        self._wanted: dict[int, Lines] = {}
        self._waiters: list[tuple[frozenset[int], asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None
        self._applying = asyncio.Lock()
        """Held while a bundle is under way, whosever."""
        self.echo = Echo()
        self._current: frozenset[int] = frozenset()
        self._touched: set[int] = set()
        """Objects whose flows are being changed, and those whose flows were since the last audit began."""
        self._current_groups: frozenset[int] = frozenset()
        self._touched_groups: set[int] = set()
        """The same of groups, which the switch prints without a cookie."""
        self._held: list[tuple[Mapping[int, Lines], asyncio.Future[None]]] | None = None
        """What is asked for while everything is replaced, and so must follow the replacement."""

    @property
    def stale(self) -> bool:
        """The switch may hold anything: only a full replacement helps (start, vswitchd restarted)."""
        return self._replaced != self._losses

    @property
    def size(self) -> int:
        """How many flows are installed, groups and meters among them."""
        return sum(map(len, self.installed.values()))

    def invalidate(self) -> None:
        """The switch lost its flows, perhaps while they are being written."""
        self._losses += 1
        self.on_loss()

    async def change(self, changed: Mapping[int, Lines]) -> None:
        """Gives objects new flows; no lines remove an object. Returns when that is installed.

        Raises SwitchUnavailable, or OvsnetError with ovs-ofctl's words if a flow is refused.
        """
        await self.begin(changed)

    def begin(self, changed: Mapping[int, Lines]) -> asyncio.Future[None]:
        """Like `change`, but under way with the loop's next turn."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._held is not None:
            self._held.append((changed, waiter))
        elif self.stale:
            waiter.set_exception(_lost())
        else:
            self._queue(changed, waiter)
        return waiter

    def _queue(self, changed: Mapping[int, Lines], waiter: asyncio.Future[None]) -> None:
        self._wanted.update(changed)
        self._waiters.append((frozenset(changed), waiter))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def settle(self, desired: Rendered) -> None:
        """Makes the switch hold exactly `desired`, by difference where it is known what it holds.

        Raises like `change`, but not for Services: see `refused`.
        """
        if self.stale:
            try:
                await self._replace(desired)
            except (SwitchUnavailable, MeterRefused):
                raise
            except OvsnetError:
                # Whatever is wrong with a Service, pods get their flows.
                rest = {key: each for key, each in desired.items() if names.kind_of(key) not in names.SERVED}
                await self._replace(rest)
        keys = self.installed.keys() | desired.keys()
        changed = {
            key: lines
            for key in keys
            # Most are the very same: looking at each line of a large cluster would take longer than all else.
            if (lines := desired.get(key, ())) is not (before := self.installed.get(key, ()))
            and lines != before
        }
        for key in self.refused.keys() - desired.keys():
            del self.refused[key]
        if changed:
            await self.serve(changed)

    async def serve(self, changed: Mapping[int, Lines]) -> None:
        """Like `change`, but that Services' flows are refused is only noted, see `refused`."""
        try:
            await self.change(changed)
        except SwitchUnavailable:
            raise
        except OvsnetError:
            for cookie in changed.keys() & self.refused.keys():
                if names.kind_of(cookie) not in names.SERVED:
                    raise

    async def once(self, lines: Iterable[str]) -> None:
        """Adds flows that end by themselves and belong to no state. Raises like `change`."""
        async with self._applying:
            await self._bundle([f"flow add {line}" for line in lines])
        self.on_policies()

    async def end(self, cookies: Iterable[int]) -> None:
        """Removes flows that were added with `once`. Raises like `change`."""
        async with self._applying:
            await self._bundle([f"flow delete cookie=0x{each:x}/-1" for each in cookies])
        self.on_policies()

    async def renew(self, read: Callable[[], Awaitable[list[str]]]) -> None:
        """Makes the changes that `read` asks for, of flows that the switch has learned and that end by themselves; the
        agent changes nothing in between. Raises like `change`, and what `read` raises."""
        async with self._applying:
            if self.stale:
                raise _lost()
            if changes := await read():
                await self._bundle(changes)

    async def audit(self) -> list[str] | None:
        """How the switch differs from what was installed, as `ovs-ofctl diff-flows` says it: - has, + lacks.

        None while everything is to be written again. Lines about objects that change meanwhile mean nothing, see
        `settled`: pods come and go all the time on a busy node, and an audit of a large one takes a while. One at a
        time.
        """
        self._touched, self._touched_groups = set(self._current), set(self._current_groups)
        if self.stale:
            return None
        installed, self._audited = [*self.installed.values()], self._losses
        found = await self._switch.differences(line for lines in installed for line in lines)
        memory.give_back()
        return found if self._audited == self._losses else None

    def settled(self, drift: Drift) -> bool:
        """Whether a difference that the last audit found concerns nothing that was changed since it began."""
        groups = {flowplan.group_of(line[1:]) for line in drift.lines}
        cookies = {cookie_in(line) for line in drift.lines}
        return self._touched_groups.isdisjoint(groups) and self._touched.isdisjoint(cookies)

    async def repair(self, drifts: Iterable[Drift]) -> list[Drift]:
        """Undoes what the last audit found, but for what is not `settled`; what was undone."""
        async with self._applying:
            todo = [each for each in drifts if self.settled(each)]
            if self._audited != self._losses or not todo:
                # Everything was written since, or will be.
                return []
            await self._bundle(remedy(todo))
            return todo

    async def _bundle(self, lines: list[str]) -> None:
        self.echo.sent(lines)
        self._current_groups = frozenset(filter(None, map(group_in, lines)))
        self._touched_groups |= self._current_groups
        try:
            await self._switch.bundle(lines)
        except MeterRefused:
            await self._bundle_with_meters(lines)
        finally:
            self._current_groups = frozenset()
            self.echo.answered()

    async def _bundle_with_meters(self, lines: list[str]) -> None:
        """Once more, since somebody has deleted a meter, and flows with it: an audit brings back those, later.

        Raises SwitchUnavailable if that does not help."""
        lost = flowplan.meter_changes(
            {}, flowplan.meters(line for each in self.installed.values() for line in each)
        )
        self.meters_lost += 1
        self.echo.sent(lost)
        try:
            await self._switch.bundle([*lost, *lines])
        except MeterRefused as error:
            self.on_meter_refused(error)
            self.invalidate()
            raise _lost() from error

    async def _replace(self, desired: Rendered) -> None:
        """Writes everything. What is asked for meanwhile is newer than `desired` and comes after it."""
        self._held = []
        try:
            while self._worker is not None:
                await asyncio.wait([self._worker])
            losses = self._losses
            async with self._applying:
                self.echo.replacing()
                try:
                    await self._replace_all([*desired.values()])
                finally:
                    self.echo.answered()
            self.installed, self.refused = dict(desired), {}
            self._replaced = losses
            memory.give_back()
            self.on_policies()
        finally:
            held, self._held = self._held, None
            for changed, waiter in held:
                if self.stale:
                    waiter.set_exception(_lost())
                else:
                    self._queue(changed, waiter)

    async def _replace_all(self, desired: list[Lines]) -> None:
        try:
            await self._switch.replace(line for lines in desired for line in lines)
        except MeterRefused:
            try:
                await self._switch.replace(line for lines in desired for line in lines)
            except MeterRefused as error:
                self.on_meter_refused(error)
                raise

    async def _work(self) -> None:
        waiters: list[tuple[frozenset[int], asyncio.Future[None]]] = []
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                waiters, self._waiters = self._waiters, []
                async with self._applying:
                    self._current = frozenset(wanted)
                    self._touched |= self._current
                    await self._apply(wanted, waiters)
                self._current = frozenset()
        except BaseException as error:
            # Nobody may wait for ever, whatever it was.
            for _, waiter in (*waiters, *self._waiters):
                if not waiter.done():
                    waiter.set_exception(error)
            raise
        finally:
            self._worker, self._current = None, frozenset()

    async def _apply(
        self, wanted: dict[int, Lines], waiters: list[tuple[frozenset[int], asyncio.Future[None]]]
    ) -> None:
        blame = await self._blame(wanted)
        for keys, waiter in waiters:
            error = next((blame[key] for key in keys if key in blame), None)
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    async def _blame(self, wanted: dict[int, Lines]) -> dict[int, OvsnetError]:
        """Applies what can be, and tells who is refused: a bundle is all or nothing, and halved until that shows."""
        failed = await self._try(wanted)
        if failed is None:
            return {}
        units = _units(wanted)
        if len(units) == 1 or isinstance(failed, SwitchUnavailable):
            return dict.fromkeys(wanted, failed)
        half = len(units) // 2
        parts = ([key for unit in part for key in unit] for part in (units[:half], units[half:]))
        blame: dict[int, OvsnetError] = {}
        for keys in parts:
            blame |= await self._blame({key: wanted[key] for key in keys})
        return blame

    async def _try(self, wanted: Mapping[int, Lines]) -> OvsnetError | None:
        before = {key: self.installed[key] for key in wanted if key in self.installed}
        lines = flowplan.bundle(before, wanted)
        if lines:
            try:
                await self._bundle(lines)
            except OvsnetError as error:
                if isinstance(error, SwitchUnavailable):
                    self.invalidate()
                self.refused |= dict.fromkeys(wanted, error)
                return error
            self.modifications += len(lines)
            if any(names.kind_of(key) in names.POLICIES for key in wanted):
                self.on_policies()
        for key, value in wanted.items():
            self.refused.pop(key, None)
            if value:
                self.installed[key] = value
            else:
                self.installed.pop(key, None)
        return None


def _units(wanted: Iterable[int]) -> list[list[int]]:
    """What goes in together or not at all: policies, with the pods that come with them."""
    found = [[key] for key in wanted if names.kind_of(key) not in _TOGETHER]
    together = [key for key in wanted if names.kind_of(key) in _TOGETHER]
    if any(names.kind_of(key) in names.POLICIES for key in together):
        return [together, *found]
    return [*found, *([key] for key in together)]


def _lost() -> SwitchUnavailable:
    return SwitchUnavailable("the switch's flows are not in place yet", "repeat when the agent is ready")
