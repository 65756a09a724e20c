"""What passes between a store and an API server, as it is, taken down; it can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ovsnet.lab.kubernetes import plan

HOST, PORT = "127.0.0.1", plan.API_PORT


class Asked(msgspec.Struct, kw_only=True):
    """A request, and what was answered to it so far. at: by `time.monotonic`."""

    path: str
    params: dict[str, str]
    token: str
    at: float
    status: int = 0
    retry_after: float = 0
    """Seconds."""
    events: list[dict[str, Any]] = []
    """Of a watch, all of them."""

    @property
    def kind(self) -> str:
        """The plural in the path."""
        return self.path.rpartition("/")[2]

    @property
    def verb(self) -> str:
        """`check` asks for the version alone."""
        return "watch" if "watch" in self.params else "check" if self.params.get("limit") == "1" else "list"

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The objects of the events of that type."""
        return [each["object"] for each in self.events if each["type"] == kind]


class Wire:
    """Listens in this network namespace, and connects to the API server in it.

    upstream: how; then the store speaks plain HTTP. None passes the store's TLS through, and shows nothing.
    """

    def __init__(self, upstream: ssl.SSLContext | None) -> None:
        self.asked: list[Asked] = []
        self.before: Callable[[Asked], Awaitable[None]] | None = None
        """Is awaited before a request goes on."""
        self._place = socket.socket()
        """Bound and never listening: nobody else gets the port while the wire is closed."""
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind((HOST, 0))
        self.port: int = self._place.getsockname()[1]
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self, verb: str, kind: str = "") -> int:
        """Of those that were answered well."""
        some = [each for each in self.asked if (each.verb, each.status) == (verb, 200)]
        return sum(kind in ("", each.kind) for each in some)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def cut(self) -> None:
        """End all connections; new ones are as welcome as before."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """The same, and nobody is let in before the next `open`."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def leave(self) -> None:
        """For good."""
        await self.close()
        self._place.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # That of `cut` too, which asyncio would tell of.
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                if self._upstream is None:
                    await self._through(reader, writer)
                while self._upstream is not None:
                    await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, which has no body, over a connection of its own (RFC 9112)."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, headers = _parsed(head)
        target = urlsplit(line.split()[1])
        token = headers.get("authorization", "").removeprefix("Bearer ")
        params = dict(parse_qsl(target.query))
        asked = Asked(path=target.path, params=params, token=token, at=time.monotonic())
        self.asked.append(asked)
        if self.before is not None:
            await self.before(asked)
        answers, other = await asyncio.open_connection(HOST, PORT, ssl=self._upstream)
        try:
            other.write(head)
            head = await answers.readuntil(b"\r\n\r\n")
            line, headers = _parsed(head)
            asked.status, asked.retry_after = int(line.split()[1]), float(headers.get("retry-after", 0))
            writer.write(head)
            if "content-length" in headers:
                writer.write(await answers.readexactly(int(headers["content-length"])))
            else:
                await _chunks(answers, writer, asked)
        finally:
            other.transport.abort()

    async def _through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends."""
        answers, other = await asyncio.open_connection(HOST, PORT)
        both = [asyncio.create_task(_copy(reader, other)), asyncio.create_task(_copy(answers, writer))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            other.transport.abort()
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the headers by their names in small letters."""
    line, *fields = head.decode("ascii").strip().split("\r\n")
    return line, {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}


async def _chunks(answers: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked) -> None:
    """To the last one; what a watch tells is taken down."""
    rest, size = b"", 1
    while size:
        line = await answers.readuntil(b"\r\n")
        size = int(line, 16)
        chunk = await answers.readexactly(size + 2)
        if asked.verb == "watch":
            *lines, rest = (rest + chunk[:-2]).split(b"\n")
            asked.events += map(json.loads, filter(bytes.strip, lines))
        writer.write(line + chunk)
        await writer.drain()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
