"""A child process for work on links, where the kernel keeps its caller waiting.

Deleting a veth takes some 15 ms in which the caller does nothing but wait for RCU. The agent has one loop and no
threads, so that wait belongs to somebody else: a child that carries out the methods of `Links` one at a time in the
order in which they were asked for. Nothing in the agent itself ever enters a pod's namespace. The child ends when the
agent does, however that ends; when it dies itself, what it was doing fails with HostFailure and another does the
rest. It is a program of its own (`linkchild`), not a fork: the agent of a large cluster has much in memory, of which
a fork would soon have a copy. Owns the child and the socket between the two. Called by the agent's wiring,
attachments and upkeep.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
from typing import Any, NamedTuple

from ovsnet.errors import HostFailure
from ovsnet.host import linkchild
from ovsnet.host.linkchild import LARGEST
from ovsnet.host.types import AttachSpec, PodInterface

log = logging.getLogger("ovsnet.host")

_PATIENCE = 30.0
"""Seconds that a request may take, with those before it; it is carried out all the same."""
_AHEAD = 4
"""Requests that lie in the socket: enough to keep the child busy, few enough for the socket's buffer."""


class _Call(NamedTuple):
    data: bytes
    netns: int | None
    """Our own descriptor, kept until there is an answer: a child that dies does not take it along."""
    answer: asyncio.Future[Any]


class LinkWorker:
    """`Links` in a child process, in the network namespace that the agent is in.

    A method that is cancelled is carried out all the same, before whatever is asked for next.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._child = 0
        self._queue: collections.deque[_Call] = collections.deque()
        self._sent: collections.deque[_Call] = collections.deque()
        self._leaving: list[tuple[str, asyncio.Future[None]]] = []
        self._deletion: asyncio.Task[None] | None = None
        self.stuck = False
        """The last request got no answer in time: no pod can be attached or detached."""

    def start(self) -> None:
        """Starts the child ahead of the first request, for which it would take a moment; if it can't be started, that
        will tell."""
        with contextlib.suppress(OSError):
            self._start()

    def close(self) -> None:
        """Lets the child end, as soon as it has done what it is doing; what it had not begun fails."""
        self._end(kill=False)
        while self._queue:
            self._fail(self._queue.popleft(), "ends with the agent")

    async def make(self, spec: AttachSpec) -> None:
        await self._call("make", spec, netns=spec.netns)

    async def set_up(self, spec: AttachSpec, tx_off: bool) -> None:
        await self._call("set_up", spec, tx_off, netns=spec.netns)

    async def inspect(self, namespace: int, ifname: str) -> PodInterface | None:
        found: PodInterface | None = await self._call("inspect", ifname, netns=namespace)
        return found

    async def list_ours(self) -> dict[str, int]:
        mtus: dict[str, int] = await self._call("list_ours")
        return mtus

    async def raise_fallen(self) -> list[str]:
        tokens: list[str] = await self._call("raise_fallen")
        return tokens

    async def set_mtu(self, host: str, ifname: str, mtu: int, namespace: int) -> None:
        await self._call("set_mtu", host, ifname, mtu, netns=namespace)

    async def detach(self, token: str) -> None:
        """Those asked for while the child deletes others go together: the kernel waits as long for one."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.append((token, gone))
        if self._deletion is None:
            self._deletion = asyncio.create_task(self._delete_leaving())
        await gone

    async def _delete_leaving(self) -> None:
        try:
            await asyncio.sleep(0)
            while self._leaving:
                leaving, self._leaving = self._leaving, []
                outcome: object = None
                try:
                    await self._call("detach", [token for token, _ in leaving])
                except Exception as error:
                    outcome = error
                for _, gone in leaving:
                    _resolve(gone, outcome)
        finally:
            self._deletion = None

    # --- the agent's side ------------------------------------------------------------------------

    async def _call(self, method: str, *arguments: object, netns: int | None = None) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            # A copy: the caller may give up, and close its own, before this is sent.
            copy = os.dup(netns) if netns is not None else None
        except OSError as error:
            raise HostFailure(f"no descriptor left: {error.strerror}", "raise the agent's limit") from error
        self._queue.append(_Call(pickle.dumps((method, arguments, netns is not None)), copy, answer))
        self._send()
        try:
            async with asyncio.timeout(_PATIENCE):
                value = await answer
            self.stuck = False
            return value
        except TimeoutError:
            self.stuck = True
            raise HostFailure(
                f"the kernel has not done what it was asked for links within {_PATIENCE:g} s: {method}",
                "its log (dmesg) may tell; repeat the request",
            ) from None

    def _send(self) -> None:
        while self._queue and len(self._sent) < _AHEAD:
            try:
                child = self._socket or self._start()
                call = self._queue[0]
                socket.send_fds(child, [call.data], [] if call.netns is None else [call.netns])
            except OSError as error:
                self._end()
                self._fail(self._queue.popleft(), f"can't be asked: {error.strerror}")
                continue
            self._sent.append(self._queue.popleft())

    def _start(self) -> socket.socket:
        """Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            program = [sys.executable, "-P", "-m", linkchild.__name__, str(theirs.fileno()), str(os.getpid())]
            # It finds modules where we do, whichever way we were started.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
            try:
                # Until the child ignores them: a terminal's and a service manager's signals are for all processes.
                self._child = os.posix_spawn(
                    sys.executable, program, environment, setsigmask=linkchild.IGNORED
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._receive, ours)
        return ours

    def _receive(self, child: socket.socket) -> None:
        try:
            data = child.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            call = self._sent.popleft()
            _resolve(call.answer, pickle.loads(data))  # noqa: S301  # from our own child
            _close(call)
        else:
            status = self._end()
            log.warning("the agent's child process for links ended with status %s", status)
            if self._queue:
                # The first of what it had been sent is what it was doing; the others it had not begun.
                self._fail(self._queue.popleft(), "died")
        self._send()

    def _end(self, *, kill: bool = True) -> int | None:
        """Takes leave of the child; what it was sent is to be sent again. Its exit status, None if it still lives."""
        if self._socket is None:
            return None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._queue.extendleft(reversed(self._sent))
        self._sent.clear()
        if kill:
            os.kill(self._child, signal.SIGKILL)
        pid, status = os.waitpid(self._child, 0 if kill else os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def _fail(self, call: _Call, what: str) -> None:
        _resolve(
            call.answer, HostFailure(f"the agent's child process for links {what}", "repeat the request")
        )
        _close(call)


def _close(call: _Call) -> None:
    if call.netns is not None:
        os.close(call.netns)


def _resolve(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
