"""OpenFlow messages: made, and cut out of the stream that they come on.

Pure. Owns the header that all of them have (OpenFlow 1.5, section 7.1.1), and what is none: who reads a stream that has
lost its frame must end the connection, since nothing in it tells where the next message starts. Knows nothing of
bodies. Called by `openflow` and `packetins`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HELLO, ECHO_REQUEST, ECHO_REPLY = 0, 2, 3
"""Message types."""
_HEADER = struct.Struct(">BBHI")
"""version, type, length, transaction"""
_VERSION = 6


class Message(NamedTuple):
    kind: int
    transaction: int
    body: bytes


class NotOpenFlow(Exception):
    """A message's header that makes no sense; its bytes in words."""


class Framer:
    """Cuts a stream into messages. Keeps less than one of them, 64 KiB at most."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now; all are to be taken. Raises NotOpenFlow, after those before it."""
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= _HEADER.size:
            version, kind, length, transaction = _HEADER.unpack_from(buffer, at)
            # A hello has the highest version that its sender speaks.
            if length < _HEADER.size or (version != _VERSION and kind != HELLO):
                raise NotOpenFlow(buffer[at : at + _HEADER.size].hex(" "))
            if len(buffer) - at < length:
                break
            yield Message(kind, transaction, buffer[at + _HEADER.size : at + length])
            at += length
        self._buffer = buffer[at:]


def message(kind: int, transaction: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(_VERSION, kind, _HEADER.size + len(body), transaction) + body
