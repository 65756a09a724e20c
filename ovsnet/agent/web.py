"""Short answers over HTTP/1.1: one question, one answer, and the connection ends.

Owns the reading of a request's head and nothing of what is answered. Called by `healthchecks` and `metrics`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

_PATIENCE = 5.0
"""Seconds that a client has for its question, and to take the answer."""


class Reply(NamedTuple):
    """status: "200 OK". type: of the body."""

    status: str
    type: str
    body: bytes
    headers: Mapping[str, str] = {}


async def listen(
    address: str | None, port: int, answer: Callable[[str, int], Reply | Awaitable[Reply] | None]
) -> asyncio.Server:
    """Answers on that address, or with None on all. Raises OSError when the port can't be had.

    answer: the reply to a path that was asked for at a port; None: the connection just ends.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                reply = answer(_path(head), writer.get_extra_info("sockname")[1])
                if isinstance(reply, Awaitable):
                    reply = await reply
                if reply is not None:
                    writer.write(_message(reply))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.start_server(serve, address, port, reuse_address=True)


def _path(head: bytes) -> str:
    """What a request asks for; "" if it is none."""
    words = head.partition(b"\r\n")[0].split(b" ")
    return words[1].partition(b"?")[0].decode(errors="replace") if len(words) == 3 else ""


def _message(reply: Reply) -> bytes:
    fields = {
        "Content-Type": reply.type,
        "X-Content-Type-Options": "nosniff",
        **reply.headers,
        "Content-Length": str(len(reply.body)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {reply.status}\r\n{head}\r\n".encode() + reply.body
