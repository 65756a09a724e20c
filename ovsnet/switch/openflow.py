"""The bridge's OpenFlow side, through ovs-ofctl: bundles, whole replacements, dumps, its death.

Owns the way to vswitchd's management socket. Knows nothing of what flows mean. Called by the
agent's installer and loop, and by the inspection commands.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath

from ovsnet import flowplan, names
from ovsnet.errors import MeterRefused, OvsnetError, SwitchUnavailable
from ovsnet.rows import PROTOCOL
from ovsnet.switch import command, monitor
from ovsnet.switch.messages import ECHO_REPLY, ECHO_REQUEST, HELLO, Framer, Message, NotOpenFlow, message
from ovsnet.switch.monitor import Change

log = logging.getLogger("ovsnet.flows")

_PATIENCE = 30
"""Seconds after which ovs-ofctl gives up on a vswitchd that lives and does not answer."""
_AWAY = re.compile(
    r"failed to connect|connecting to|refused|is not a bridge or a socket|no such file|reset by peer|broken pipe"
    r"|end of file",
    re.IGNORECASE,
)
_LINE = re.compile(r"(?:-|/dev/fd/\d+):(\d+):")
_SET_METER, _NO_SUCH_METER = "meter set ", "OFPMMFC_UNKNOWN_METER"
_ABOUT_METERS = re.compile(r"OFPMMFC_\w+")
"""A meter is refused, or a flow for want of one (OFPMMFC_INVALID_METER)."""
_PART = 10_000
"""Flows that vswitchd is asked for at once."""
_DIFFERENT = 2
"""The exit code of diff-flows that is no failure."""
_PROBE = 3.0
"""Seconds without a word from vswitchd after which it is asked for one; twice that is silence."""
_AGAIN = 3.0
"""Seconds until the next connection after one on which something else than OpenFlow came."""
_LOOK = 0.1
"""Seconds between looks for a management socket that is away."""


def management_socket(remote: str, bridge: str) -> str:
    """The path of the socket where vswitchd speaks OpenFlow for the bridge: beside that of OVSDB."""
    folder = (
        PurePath(remote.removeprefix("unix:")).parent if remote.startswith("unix:") else "/run/openvswitch"
    )
    return f"{folder}/{bridge}.mgmt"


class OpenFlow:
    """One bridge. path: of its management socket. patience: seconds that vswitchd may take to answer."""

    def __init__(self, path: str, patience: int = _PATIENCE) -> None:
        self._path = path
        self._target = f"unix:{path}"
        self._patience = patience
        self.silent = False
        """vswitchd keeps the connection of `wait_down` open and says nothing: it hangs."""
        self._warned = False
        # To take names, ovs-ofctl would ask vswitchd for the features of all tables first: 15 ms a call.
        self._ofctl = ("ovs-ofctl", "-O", PROTOCOL, "--no-names", f"--timeout={patience}")

    @property
    def path(self) -> str:
        """Of the management socket."""
        return self._path

    async def bundle(self, lines: Iterable[str]) -> None:
        """Applies changes (`flow add ...`, `flow delete_strict ...`) all or none, but for meters (`meter set ...`,
        `meter delete ...`): these are made before and removed after all else.

        Raises SwitchUnavailable, MeterRefused if a meter can't be made or is missing, or OvsnetError with ovs-ofctl's
        words and the line that was refused.
        """
        meters: list[str] = []
        rest: list[str] = []
        for line in lines:
            (meters if line.startswith("meter ") else rest).append(line)
        await self._change_meters(line for line in meters if line.startswith(_SET_METER))
        if rest:
            await self._send(rest, "bundle", self._target, "-")
        await self._change_meters(line for line in meters if not line.startswith(_SET_METER))

    async def replace(self, lines: Iterable[str]) -> None:
        """Makes the bridge hold these flows, groups and meters and no others, but for what ends by itself.

        Raises like `bundle`.

        Flows change in one bundle, groups and meters before and after it: none is missed meanwhile.
        """
        groups: dict[int, str] = {}
        meters: dict[int, str] = {}
        # ovs-ofctl reads what there is on another processor meanwhile.
        reading = asyncio.create_task(self.groups()), asyncio.create_task(self.meters())
        with command.file() as wanted:
            try:
                await command.write(wanted, _flows(lines, groups, meters))
                installed, meters_before = await reading[0], await reading[1]
            finally:
                for each in reading:
                    each.cancel()
                await asyncio.gather(*reading, return_exceptions=True)
            await self._change_meters(flowplan.meter_changes(meters_before, meters))
            for kind in names.UNRENDERED:
                await command.write(wanted, await self.flows_of(kind))
            if changes := flowplan.group_changes(installed, groups):
                await self.bundle(changes)
            argv = [*self._ofctl, "--bundle", "replace-flows", self._target, f"/dev/fd/{wanted}"]
            finished = await command.run(argv, keep=[wanted])
            self._check(finished, command.read(wanted).splitlines() if finished.code else [])
        if deletions := flowplan.group_deletions(installed, groups):
            await self.bundle(deletions)
        await self._change_meters(flowplan.meter_deletions(meters_before, meters))

    async def differences(self, lines: Iterable[str]) -> list[str]:
        """How the bridge's flows, groups and meters differ from these, as of `ovs-ofctl diff-flows`: - has, + lacks.

        While vswitchd answers a dump it does nothing else, 15 ms for 10,000 flows: of many it is asked in parts, by
        the cookies' last bits. Lines are taken one by one meanwhile, with other work of the loop in between.
        """
        groups: dict[int, str] = {}
        meters: dict[int, str] = {}
        with command.file() as wanted, command.file() as installed:
            count = await command.write(wanted, _flows(lines, groups, meters))
            parts = 1 << max(0, (count - 1) // _PART).bit_length()
            for number in range(parts if parts > 1 else 0):
                match = f"cookie={number:#x}/{parts - 1:#x}"
                argv = [*self._ofctl, "--no-stats", "dump-flows", self._target, match]
                self._check(await command.run(argv, append=installed), [])
            source = f"/dev/fd/{installed}" if parts > 1 else self._target
            argv = [*self._ofctl, "diff-flows", source, f"/dev/fd/{wanted}"]
            finished = await command.run(argv, keep=[wanted, installed])
        if finished.code != _DIFFERENT:
            self._check(finished, [])
        return [
            *finished.out.splitlines(),
            *flowplan.group_differences(await self.groups(), groups),
            *flowplan.group_differences(await self.meters(), meters),
        ]

    async def groups(self) -> dict[int, str]:
        """All groups by number, as ovs-ofctl prints them."""
        finished = await command.run([*self._ofctl, "dump-groups", self._target])
        self._check(finished, [])
        found = map(str.strip, finished.out.splitlines())
        return flowplan.split(line for line in found if line.startswith("group_id="))[1]

    async def meters(self) -> dict[int, str]:
        """All meters by number, each in one line as ovs-ofctl prints it in several. Raises SwitchUnavailable."""
        finished = await command.run([*self._ofctl, "dump-meters", self._target])
        try:
            self._check(finished, [])
        except SwitchUnavailable:
            raise
        except OvsnetError:
            # Who refuses to speak of meters has none, and gets its flows all the same.
            return {}
        found = (f"meter={' '.join(each.split())}" for each in finished.out.split("meter=")[1:])
        return flowplan.meters(each.replace("bands= ", "bands=") for each in found)

    async def flows_of(self, kind: str) -> list[str]:
        """Flows of all objects of a kind, as ovs-ofctl reads them. Raises SwitchUnavailable."""
        cookie, mask = names.cookies_of(kind)
        argv = [*self._ofctl, "--no-stats", "dump-flows", self._target, f"cookie={cookie:#x}/{mask:#x}"]
        finished = await command.run(argv)
        self._check(finished, [])
        lines = map(str.strip, finished.out.splitlines())
        return [line for line in lines if line.startswith("cookie=")]

    async def counted(self, kind: str, table: int) -> list[str]:
        """Flows of all objects of a kind in one table, with their counters. Raises SwitchUnavailable."""
        cookie, mask = names.cookies_of(kind)
        match = f"table={table},cookie={cookie:#x}/{mask:#x}"
        finished = await command.run([*self._ofctl, "dump-flows", self._target, match])
        self._check(finished, [])
        return finished.out.splitlines()

    async def forget(self, zone: int, began: str, answers: str = "") -> None:
        """Has the bridge's datapath forget connections of a conntrack zone; both texts as in `ovs-ofctl ct-flush`.

        Both must name a protocol other than ICMPv6: ovs-vswitchd 3.1.0 ends with a failed assertion when it forgets a
        ping in user space.

        Not by dpctl, which in Open vSwitch 3.1 takes no name of a datapath together with these.
        """
        finished = await command.run(
            [*self._ofctl, "ct-flush", self._target, f"zone={zone}", *filter(None, (began, answers))]
        )
        self._check(finished, [])

    async def dump(self) -> list[str]:
        """All flows with their counters, as ovs-ofctl prints them, ports by number."""
        finished = await command.run([*self._ofctl, "dump-flows", self._target])
        self._check(finished, [])
        return finished.out.splitlines()

    async def is_up(self) -> bool:
        """Whether vswitchd answers for the bridge."""
        connection = await self._connect()
        if connection is None:
            return False
        connection.close()
        return True

    async def wait_up(self) -> None:
        """Returns when vswitchd answers for the bridge."""
        while True:
            if await self.is_up():
                return
            await asyncio.sleep(_LOOK)

    async def wait_down(self, changed: Callable[[Change], None] = lambda change: None) -> None:
        """Returns when vswitchd, or the bridge in it, has gone: flows do not survive that.

        Holds one connection that says hello, answers probes, asks for a sign of life now and then, and hands
        on what vswitchd tells of changes of flows; its end is the news. `silent` tells meanwhile whether vswitchd
        answers. Anything but OpenFlow ends the connection.
        """
        connection = await self._connect()
        if connection is None:
            return
        garbage = ""
        try:
            await self._follow(connection, changed)
        except OSError:
            pass
        except NotOpenFlow as error:
            garbage = str(error)
        finally:
            self.silent = False
            connection.close()
        if garbage:
            await self._is_garbled(garbage)

    async def _follow(self, connection: socket.socket, changed: Callable[[Change], None]) -> None:
        """Until vswitchd ends the connection. Raises OSError, or NotOpenFlow."""
        loop = asyncio.get_running_loop()
        opening = (
            message(HELLO, 1)
            + message(monitor.SET_ASYNC, 3, monitor.forward_requests())
            + message(monitor.MULTIPART_REQUEST, 4, monitor.request())
        )
        await loop.sock_sendall(connection, opening)
        framer, asked = Framer(), False
        while True:
            receiving = loop.create_task(loop.sock_recv(connection, 65536))
            # Looked at even where sending fails first.
            receiving.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                # Not cancelled for a question: what has just been read would be lost, and the frame with it.
                while not (await asyncio.wait([receiving], timeout=_PROBE))[0]:
                    self._is_silent(asked)
                    asked = True
                    await loop.sock_sendall(connection, message(ECHO_REQUEST, 2))
                data = await receiving
            finally:
                receiving.cancel()
            if not data:
                return
            asked = False
            self._is_silent(asked)
            if answers := _take(framer.feed(data), changed):
                await loop.sock_sendall(connection, answers)

    async def _is_garbled(self, garbage: str) -> None:
        # It may stay so, however often it is asked: once is enough.
        log.log(
            logging.DEBUG if self._warned else logging.WARNING,
            "what comes from %s is no OpenFlow (%s), and nobody tells when flows are lost; asking again, every %.0f s: "
            "is it ovs-vswitchd that listens there?",
            self._path,
            garbage,
            _AGAIN,
        )
        self._warned = True
        await asyncio.sleep(_AGAIN)

    def _is_silent(self, silent: bool) -> None:
        if silent and not self.silent:
            log.warning(
                "ovs-vswitchd has said nothing on %s for %.0f s: it hangs, and no pod can be added until it answers; "
                "see its log, and what it does (top, dmesg)",
                self._path,
                2 * _PROBE,
            )
        elif self.silent and not silent:
            log.warning("ovs-vswitchd answers again on %s", self._path)
        self.silent = silent

    async def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._path)
        except OSError:
            connection.close()
            return None
        return connection

    async def _change_meters(self, changes: Iterable[str]) -> None:
        for line in changes:
            meter = line.partition(" meter=")[2]
            if line.startswith(_SET_METER):
                finished = await command.run([*self._ofctl, "mod-meter", self._target, f"meter={meter}"])
                if _NO_SUCH_METER in finished.err:
                    finished = await command.run([*self._ofctl, "add-meter", self._target, f"meter={meter}"])
            else:
                finished = await command.run([*self._ofctl, "del-meter", self._target, f"meter={meter}"])
            self._check(finished, [line])

    async def _send(self, lines: list[str], *arguments: str) -> None:
        finished = await command.run([*self._ofctl, *arguments], lines)
        self._check(finished, lines)

    def _check(self, finished: command.Finished, lines: list[str]) -> None:
        if finished.code == 0:
            return
        words = " ".join(line for line in finished.err.splitlines() if "|INFO|" not in line).strip()
        if finished.code == -signal.SIGALRM:
            raise SwitchUnavailable(
                f"ovs-vswitchd did not answer on {self._path} within {self._patience} s",
                "see its log; is it overloaded?",
            )
        if _AWAY.search(words) and not _LINE.search(words):
            raise SwitchUnavailable(
                f"ovs-vswitchd does not answer on {self._path}: {words}", "is it running?"
            )
        refused = _ABOUT_METERS.search(words)
        if refused is not None or (lines and lines[0].startswith("meter ")):
            raise MeterRefused(
                f"ovs-vswitchd refuses a meter, or flows for want of one: {refused[0] if refused else words}",
                "see the log of ovs-vswitchd",
            )
        number = _LINE.search(words)
        line = f": {lines[int(number[1]) - 1]}" if number and 0 < int(number[1]) <= len(lines) else ""
        raise OvsnetError(
            f"ovs-ofctl refused the flows: {words}{line}", "a template in flows/ does not fit this OVS"
        )


def _take(messages: Iterable[Message], changed: Callable[[Change], None]) -> bytes:
    """Hands on news; what to answer."""
    answers = b""
    for each in messages:
        if each.kind == ECHO_REQUEST:
            answers += message(ECHO_REPLY, each.transaction, each.body)
        elif each.kind == monitor.MULTIPART_REPLY:
            for change in monitor.changes(each.body):
                changed(change)
        elif each.kind == monitor.REQUEST_FORWARD:
            for forwarded in monitor.forwarded(each.body):
                changed(forwarded)
    return answers


def _flows(lines: Iterable[str], groups: dict[int, str], meters: dict[int, str]) -> Iterator[str]:
    """The flows among the lines, one by one; the others come to `groups` and `meters`."""
    for line in lines:
        if (number := flowplan.group_of(line)) is not None:
            groups[number] = line
        elif (number := flowplan.meter_of(line)) is not None:
            meters[number] = line
        else:
            yield line
