"""How the IDL's bytes travel: JSON-RPC messages out of a stream, and waiting on the asyncio loop.

Owns framing, decoding and when to wake up; knows nothing of tables. The `ovs` library reads 4 KiB at
a time and parses JSON in Python unless its C extension was built, which takes seconds for a node
with many ports. Here messages are found by one regular expression and decoded by msgspec; the
library's `Connection` and `Session` keep everything else: states, probes, reconnection.
Called by `ovsdb`.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import re
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
    """The library's session over the Connection above."""

    rpc: Any

    @classmethod
    def to(cls, remote: str) -> Session:
        session = cls.open_multiple([remote])
        return cls(session.reconnect, session.rpc, session.remotes)

    def __init__(self, reconnect: Any, rpc: Any, remotes: list[str]) -> None:
        super().__init__(reconnect, rpc, remotes)
        reconnect.min_backoff, reconnect.max_backoff = RETRY_FIRST, RETRY_LONGEST

    def run(self) -> None:
        super().run()
        if type(self.rpc) is jsonrpc.Connection:
            # Just made: nothing has been read from it or written to it.
            self.rpc = Connection(self.rpc.stream)


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
