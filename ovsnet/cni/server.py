"""Answers CNI requests: the socket on one side, the backend on the other.

Owns the order of things for one request (receive, parse, call, answer, log) and what an error
looks like to the runtime. Never touches a pod or the switch: that is the backend, which `agent`
supplies. Each connection is a task; none can hold up another.

What goes wrong:
    bytes that are no request, a client that is too slow    closed, one log line now and then
    a user other than root and the agent's own              closed, likewise
    OvsnetError                                             its code, message and hint
    the server stops before a call is done                  11, "try again later"
    any other exception                                     999, with a traceback in the log
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from ovsnet.cni import framing, netconf, protocol, result
from ovsnet.cni.listener import Listener, Received, netns_problem, peer_uid, receive
from ovsnet.cni.protocol import Command, Request
from ovsnet.cni.result import AddResult
from ovsnet.errors import BadEnvironment, OvsnetError, TryAgain

log = logging.getLogger("ovsnet.cni")

_DELIVERY = 10.0
"""Seconds that a client has to deliver its request, and to take the answer."""
_GRACE = 5.0
"""Seconds that calls under way have to end when the server stops."""


class Backend(Protocol):
    """What does the work. Every call raises ovsnet.errors.OvsnetError where it fails on purpose.

    A client that goes away does not cancel a call: it runs to its end. Only the server's own stop does,
    and then after a grace period. Calls for different attachments run at the same time; so may an ADD
    and a DEL of the same one, when a runtime gave up waiting for the first.
    """

    async def add(self, request: Request) -> AddResult: ...

    async def delete(self, request: Request) -> None: ...

    async def check(self, request: Request) -> None: ...

    async def gc(self, request: Request) -> None: ...

    async def status(self, request: Request) -> None: ...

    async def audit(self) -> None:
        """Compares everything now, and repairs."""
        ...

    def health(self) -> Mapping[str, object]:
        """For the command line; anything that msgspec can write as JSON."""
        ...


class CniServer:
    """Serves `socket_path` from start() to close()."""

    def __init__(self, socket_path: Path, backend: Backend, delivery: float = _DELIVERY) -> None:
        self._listener = Listener(socket_path)
        self._backend = backend
        self._delivery = delivery
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], Received] = {}
        self._strangers = _Sparing(log)

    async def start(self) -> None:
        """Raises HostFailure: the socket can't be made, or another agent has it."""
        listening = self._listener.open()
        self._accepting = asyncio.create_task(self._accept(listening), name="cni-accept")

    async def close(self, grace: float = _GRACE) -> None:
        """Takes no more requests; calls under way have `grace` seconds, then they are cancelled."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        self._listener.close()
        for task, received in self._connections.items():
            if not received.body:
                task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # Out of descriptors, above all: it passes.
                self._strangers.warning("cannot accept a CNI client: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            connection.setblocking(False)
            received = Received()
            task = loop.create_task(self._serve(connection, received), name="cni-request")
            self._connections[task] = received
            task.add_done_callback(self._connections.pop)

    async def _serve(self, connection: socket.socket, received: Received) -> None:
        """One connection from its first byte to its last; every descriptor of it is closed at the end."""
        with connection, received:
            try:
                if (uid := peer_uid(connection)) not in (0, os.geteuid()):
                    raise framing.Malformed(f"comes from user {uid}")
                async with asyncio.timeout(self._delivery):
                    await receive(connection, received)
                variables, stdin = framing.unpack(received.body)
            except TimeoutError:
                self._strangers.warning("a CNI client sent no whole request in %g s; closed", self._delivery)
                return
            except framing.Malformed as error:
                self._strangers.warning("a request on the CNI socket %s; closed", error)
                return
            except OSError as error:
                self._strangers.warning("lost a CNI client before its request was whole: %s", error.strerror)
                return
            code, stdout = await self._answer(variables, stdin, received.netns)
            await self._reply(connection, framing.frame_reply(code, stdout), variables)

    async def _reply(self, connection: socket.socket, reply: bytes, variables: Mapping[str, str]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._delivery):
                await loop.sock_sendall(connection, reply)
        except OSError:  # TimeoutError is one.
            command = variables.get("CNI_COMMAND") or variables.get("OVSNET_COMMAND", "a request")
            container = variables.get("CNI_CONTAINERID", "")[:12]
            who = f"{command[:64]} of {container}" if container else command[:64]
            log.info("the client of %s is gone; the work is done all the same", who)

    async def _answer(
        self, variables: Mapping[str, str], stdin: bytes, netns: int | None
    ) -> tuple[int, bytes]:
        """Exit code and standard output. Raises nothing."""
        started = time.monotonic()
        request: Request | None = None
        try:
            if variables.get("OVSNET_COMMAND") == "audit":
                await self._backend.audit()
            if variables.get("OVSNET_COMMAND") in ("audit", "health"):
                return 0, msgspec.json.encode(self._backend.health())
            request = protocol.parse(variables, stdin, _usable(variables, netns))
            return 0, await self._call(request, started)
        except OvsnetError as error:
            failure = error
        except asyncio.CancelledError:
            failure = TryAgain("the agent is stopping", "the runtime repeats the call")
        except Exception as error:
            log.exception("%s failed on a defect in ovsnet", _subject(request, variables))
            failure = OvsnetError(
                f"internal error: {error!r}", "the agent's log has the traceback; please report it"
            )
        _log_failure(failure, request, variables, started)
        version = request.config.cni_version if request else netconf.version_of(stdin)
        return 1, result.render_error(failure, version)

    async def _call(self, request: Request, started: float) -> bytes:
        """Hands the request to the backend; the standard output of its success."""
        backend = self._backend
        match request.command:
            case Command.ADD:
                made = await backend.add(request)
                addresses = " ".join(str(ip.address.ip) for ip in made.ips)
                log.info("added %s %s in %d ms", request.title, addresses, _milliseconds(started))
                return result.render(made, request.config.cni_version, request.previous, request.config.dns)
            case Command.DEL:
                await backend.delete(request)
                log.info("deleted %s in %d ms", request.title, _milliseconds(started))
            case Command.CHECK:
                await backend.check(request)
            case Command.GC:
                await backend.gc(request)
                kept, took = len(request.valid), _milliseconds(started)
                log.info(
                    "collected garbage of %s in %d ms, %d attachments valid", request.network, took, kept
                )
            case Command.STATUS:
                await backend.status(request)
        return b""


class _Sparing:
    """Warnings about strangers: anybody can cause them, so one in ten seconds, with a count of the rest."""

    _INTERVAL = 10.0

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._next = 0.0
        self._unsaid = 0

    def warning(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if now < self._next:
            self._unsaid += 1
            return
        if self._unsaid:
            message, values = f"{message} (and %d like it before)", (*values, self._unsaid)
        self._next, self._unsaid = now + self._INTERVAL, 0
        self._log.warning(message, *values)


def _usable(variables: Mapping[str, str], netns: int | None) -> int | None:
    """The descriptor if it is a pod's namespace. Raises BadEnvironment; a DEL does without it."""
    problem = netns_problem(netns) if netns is not None else ""
    if not problem:
        return netns
    if variables.get("CNI_COMMAND") not in (Command.ADD.value, Command.CHECK.value):
        return None
    raise BadEnvironment(
        f"CNI_NETNS: {netconf.quoted(variables.get('CNI_NETNS', ''))} {problem}",
        "the runtime makes one for each pod",
    )


def _subject(request: Request | None, variables: Mapping[str, str]) -> str:
    if request is not None:
        return f"{request.command.value} of {request.title}"
    command, container = (
        variables.get("CNI_COMMAND", "a request")[:64],
        variables.get("CNI_CONTAINERID", "")[:64],
    )
    return f"{command!a} of container {container!a}"


def _log_failure(
    failure: OvsnetError, request: Request | None, variables: Mapping[str, str], started: float
) -> None:
    """A STATUS is asked for every few seconds, and whoever made it fail has said so in the log."""
    level = logging.DEBUG if variables.get("CNI_COMMAND") == Command.STATUS.value else logging.WARNING
    subject, took = _subject(request, variables), _milliseconds(started)
    log.log(level, "%s failed with code %d in %d ms: %s", subject, failure.cni_code, took, failure)


def _milliseconds(started: float) -> int:
    """Whole milliseconds since `started`, a time.monotonic()."""
    return round((time.monotonic() - started) * 1000)
