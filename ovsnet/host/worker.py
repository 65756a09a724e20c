"""A child process for work on links, where the kernel keeps its caller waiting.

Deleting a veth takes some 15 ms in which the caller does nothing but wait for RCU. The agent has one loop and no
threads, so that wait belongs to somebody else: a child, forked from the agent, that carries out the methods of
`Links` one at a time in the order in which they were asked for. Nothing in the agent itself ever enters a pod's
namespace. The child ends when the agent does, however that ends, and does nothing more that a dead agent had
asked for; when it dies itself, what was under way fails and the next request starts another. Owns the
child and the socket between the two. Called by the agent's wiring and attachments.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import os
import pickle
import signal
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ovsnet.errors import HostFailure, OvsnetError
from ovsnet.host.links import Links
from ovsnet.host.types import AttachSpec, PodInterface

_LARGEST = 1 << 20
"""Bytes of a request or an answer."""
_AHEAD = 4
"""Requests that lie in the socket: enough to keep the child busy, few enough for the socket's buffer."""


class _Call(NamedTuple):
    data: bytes
    netns: int | None
    """Our own descriptor, closed when it has been sent."""
    answer: asyncio.Future[Any]


class LinkWorker:
    """`Links` in a child process, in the network namespace where `open` was called.

    A method that is cancelled is carried out all the same, before whatever is asked for next.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._child = 0
        self._queue: collections.deque[_Call] = collections.deque()
        self._sent: collections.deque[_Call] = collections.deque()
        self._leaving: list[tuple[str, asyncio.Future[None]]] = []
        self._deletion: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Ends the child, as soon as it has done what it is doing."""
        self._end("the agent is stopping")

    async def make(self, spec: AttachSpec) -> None:
        await self._call("make", spec, netns=spec.netns)

    async def set_up(self, spec: AttachSpec, tx_off: bool) -> None:
        await self._call("set_up", spec, tx_off, netns=spec.netns)

    async def inspect(self, namespace: int, ifname: str) -> PodInterface | None:
        found: PodInterface | None = await self._call("inspect", ifname, netns=namespace)
        return found

    async def list_ours(self) -> frozenset[str]:
        tokens: frozenset[str] = await self._call("list_ours")
        return tokens

    async def set_mtu(self, name: str, mtu: int, namespace: int | None = None) -> None:
        await self._call("set_mtu", name, mtu, netns=namespace)

    async def detach(self, token: str) -> None:
        """Those asked for while the child deletes others go together: the kernel waits as long for one."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.append((token, gone))
        if self._deletion is None:
            self._deletion = asyncio.create_task(self._delete_leaving())
        await gone

    async def _delete_leaving(self) -> None:
        await asyncio.sleep(0)
        while self._leaving:
            leaving, self._leaving = self._leaving, []
            outcome: object = None
            try:
                await self._call("detach", [token for token, _ in leaving])
            except OvsnetError as error:
                outcome = error
            for _, gone in leaving:
                _resolve(gone, outcome)
        self._deletion = None

    # --- the agent's side ------------------------------------------------------------------------

    async def _call(self, method: str, *arguments: object, netns: int | None = None) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # A copy: the caller may give up, and close its own, before this is sent.
        copy = os.dup(netns) if netns is not None else None
        self._queue.append(_Call(pickle.dumps((method, arguments)), copy, answer))
        self._send()
        return await answer

    def _send(self) -> None:
        while self._queue and len(self._sent) < _AHEAD:
            child = self._socket or self._start()
            call = self._queue.popleft()
            self._sent.append(call)
            try:
                socket.send_fds(child, [call.data], [] if call.netns is None else [call.netns])
            except OSError as error:
                self._end(f"cannot be asked: {error.strerror}")
            finally:
                if call.netns is not None:
                    os.close(call.netns)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agent = os.getpid()
        gc.freeze()  # what the child has from us is neither its to collect nor to copy
        self._child = os.fork()
        if self._child == 0:
            _live(theirs, agent)
        gc.unfreeze()
        theirs.close()
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._receive, ours)
        return ours

    def _receive(self, child: socket.socket) -> None:
        try:
            data = child.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end("died")
            self._send()
            return
        call = self._sent.popleft()
        _resolve(call.answer, pickle.loads(data))  # noqa: S301  # from our own child
        self._send()

    def _end(self, what: str) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        os.waitpid(self._child, 0)
        sent, self._sent = self._sent, collections.deque()
        for call in sent:
            _resolve(
                call.answer, HostFailure(f"the agent's child process for links {what}", "repeat the request")
            )


def _resolve(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


# --- the child's side ----------------------------------------------------------------------------


def _live(requests: socket.socket, agent: int) -> None:
    """The child's whole life; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        # The agent ends when it has answered what is under way, and needs this process until then.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(3, requests.fileno())
        os.closerange(requests.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        links = Links()
        while os.getppid() == agent and _serve(requests, links):
            pass
    finally:
        os._exit(0)


def _serve(requests: socket.socket, links: Links) -> bool:
    """One request; False when there will be no more."""
    data, fds, _, _ = socket.recv_fds(requests, _LARGEST, 1)
    try:
        if not data:
            return False
        answer: object
        try:
            method, arguments = pickle.loads(data)  # noqa: S301  # from the agent that forked us
            answer = getattr(links, method)(*_placed(arguments, fds))
        except Exception as error:
            answer = error
        requests.send(pickle.dumps(answer))
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


def _placed(arguments: Sequence[object], fds: Sequence[int]) -> list[object]:
    """The arguments with the namespace's descriptor as it is called here: in the spec, or as the last one."""
    if not fds:
        return list(arguments)
    if isinstance(arguments[0], AttachSpec):
        return [msgspec.structs.replace(arguments[0], netns=fds[0]), *arguments[1:]]
    return [*arguments, fds[0]]
