"""How the IDL's bytes travel: JSON-RPC messages out of a stream, and waiting on the asyncio loop.

Owns framing, decoding and when to wake up; knows nothing of tables. The `ovs` library reads 4 KiB at
a time and parses JSON in Python unless its C extension was built, which takes seconds for a node
with many ports. Here messages are found by one regular expression and decoded by msgspec, and rows
never reach the IDL: the session takes them out of its monitor's messages. The library's classes keep
everything else: states, versions of the protocol, probes, reconnection. Called by `ovsdb`.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import re
from collections.abc import Callable
from typing import Any

import msgspec
from ovs import jsonrpc, poller, timeval

_READ = 1 << 18
"""Bytes asked of the socket at once; the default buffer of a unix socket holds fewer."""

_UP_TO_BRACE = re.compile(rb'(?:[^"{}]++|"(?:[^"\\]++|\\.)*+")*+[{}]', re.DOTALL)
"""Everything up to the next brace outside a string. Possessive: no backtracking, linear time."""

RETRY_FIRST, RETRY_LONGEST = 100, 2000
"""Milliseconds between attempts to reach ovsdb-server. The library's least is a second, which a CNI
request would feel; connecting to a unix socket in vain costs some 50 microseconds."""


_MONITORS, _UPDATES = ("monitor_cond_since", "monitor_cond"), ("update3", "update2")
"""Both give rows in the same form; servers before OVS 2.12 know the second of each."""


class Framer:
    """Cuts a stream into JSON objects, which ovsdb-server sends without anything between them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0
        self._depth = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now. Raises ValueError where no object starts."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        while match := _UP_TO_BRACE.match(buffer, self._seen):
            self._seen = match.end()
            self._depth += 1 if buffer[self._seen - 1] == 0x7B else -1
            if self._depth == 0:
                messages.append(bytes(memoryview(buffer)[start : self._seen]))
                start = self._seen
            elif self._depth < 0:
                raise ValueError("a JSON object that ends before it starts")
        del match
        del buffer[:start]
        self._seen -= start
        return messages


class Connection(jsonrpc.Connection):  # type: ignore[misc]  # `ovs` has no types
    """The library's connection with another way in: `recv` and `recv_wait`."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._framer = Framer()
        self._messages: collections.deque[bytes] = collections.deque()

    def recv(self) -> tuple[int, Any]:
        """(0, message), or (errno, None); EAGAIN when there is none yet."""
        while not self.status:
            if self._messages:
                return self._decode(self._messages.popleft())
            error, data = self.stream.recv(_READ)
            if error == errno.EAGAIN:
                return errno.EAGAIN, None
            if error or not data:
                self.error(error or jsonrpc.EOF)
                break
            self.received_bytes += len(data)
            try:
                self._messages.extend(self._framer.feed(data))
            except ValueError:
                self.error(errno.EPROTO)
        return self.status, None

    def recv_wait(self, waits: Any) -> None:
        if self.status or self._messages:
            waits.immediate_wake()
        else:
            self.stream.recv_wait(waits)

    def _decode(self, text: bytes) -> tuple[int, Any]:
        try:
            message = jsonrpc.Message.from_json(msgspec.json.decode(text))
        except msgspec.DecodeError:
            message = None
        if isinstance(message, jsonrpc.Message):
            return 0, message
        self.error(errno.EPROTO)
        return errno.EPROTO, None


class Session(jsonrpc.Session):  # type: ignore[misc]  # `ovs` has no types
    """The library's session over the Connection above.

    The rows of `database` go to `receive(updates, complete)` instead of the IDL, which sees its
    monitor answered and updated with no rows. complete: these are all rows, forget the others.
    """

    rpc: Any

    def __init__(self, remote: str, database: str, receive: Callable[[dict[str, Any], bool], None]) -> None:
        made = jsonrpc.Session.open_multiple([remote])
        super().__init__(made.reconnect, None, made.remotes)
        made.reconnect.min_backoff, made.reconnect.max_backoff = RETRY_FIRST, RETRY_LONGEST
        self._database = database
        self._receive = receive
        self._request: int | None = None
        self._monitor: str | None = None

    def run(self) -> None:
        super().run()
        if type(self.rpc) is jsonrpc.Connection:
            # Just made: nothing has been read from it or written to it.
            self.rpc = Connection(self.rpc.stream)

    def send(self, message: Any) -> Any:
        if message.method in _MONITORS and message.params[0] == self._database:
            self._request, self._monitor = message.id, message.params[1]
        return super().send(message)

    def recv(self) -> Any:
        message = super().recv()
        if message is None:
            return None
        if message.type == message.T_REPLY and message.id == self._request:
            self._request = None
            message.result = self._take_initial(message.result)
        elif (
            message.type == message.T_NOTIFY
            and message.method in _UPDATES
            and message.params[0] == self._monitor
        ):
            *others, updates = message.params
            self._receive(updates, False)
            message.params = [*others, {}]
        return message

    def _take_initial(self, result: Any) -> Any:
        if isinstance(result, dict):
            self._receive(result, True)
            return {}
        found, last, updates = result
        self._receive(updates, not found)
        return [found, last, {}]


class Waits:
    """What the library wants to wait for, collected; then waited for on the asyncio loop.

    Has the methods of `ovs.poller.Poller` that the library calls.
    """

    def __init__(self) -> None:
        self._timeout: float | None = None
        self._fds: dict[int, int] = {}

    def fd_wait(self, fd: Any, events: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        self._fds[number] = self._fds.get(number, 0) | events

    def timer_wait(self, milliseconds: float) -> None:
        seconds = max(0.0, milliseconds / 1000)
        self._timeout = seconds if self._timeout is None else min(self._timeout, seconds)

    def timer_wait_until(self, when: float) -> None:
        self.timer_wait(when - timeval.msec())

    def immediate_wake(self) -> None:
        self._timeout = 0.0

    async def wait(self, kick: asyncio.Event) -> None:
        """Returns when something that was collected happens, or when `kick` is set."""
        if self._timeout == 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._timeout, kick.set) if self._timeout is not None else None
        for fd, events in self._fds.items():
            if events & poller.POLLIN:
                loop.add_reader(fd, kick.set)
            if events & poller.POLLOUT:
                loop.add_writer(fd, kick.set)
        try:
            await kick.wait()
        finally:
            if timer is not None:
                timer.cancel()
            for fd in self._fds:
                loop.remove_reader(fd)
                loop.remove_writer(fd)
            kick.clear()
