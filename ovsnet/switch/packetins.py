"""Packets that flows send to the controller: one OpenFlow connection that asks for them, made again when it ends.

Owns that connection, and reading what comes on it (OpenFlow 1.5, sections 7.4.1 and 7.3.2). Understands no packet. A
connection is told of packets only if it asks (`miss_send_len`), so no other of the agent's is. ovs-vswitchd keeps some
hundred messages for who does not read, and drops the others: there is nothing here that grows. Anything but OpenFlow
ends the connection, and another is made. Called by the agent's log of what policies deny, where that is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ovsnet.switch.messages import ECHO_REPLY, ECHO_REQUEST, HELLO, Framer, Message, NotOpenFlow, message

log = logging.getLogger("ovsnet.denied")

_SET_CONFIG, _PACKET_IN = 9, 10
_SETTINGS = struct.Struct(">HH")
"""flags, miss_send_len"""
_BYTES = 128
"""Of a packet; those of flows say themselves how many, and any number asks for them."""
_FIXED = struct.Struct(">IHBBQHH")
"""buffer, length, reason, table, cookie; type and length of the match, which includes these two"""
_MATCH = 4
_FIRST, _LONGEST = 0.1, 5.0
"""Seconds until the next connection after one that ended; doubles while none lasts."""
_AT_ONCE = 65536


class PacketIn(NamedTuple):
    """cookie: of the flow that sent the packet. frame: its first bytes."""

    cookie: int
    table: int
    frame: bytes


def read(body: bytes) -> PacketIn | None:
    """What the body of a message of type PACKET_IN tells; None if it is none."""
    if len(body) < _FIXED.size:
        return None
    _, _, _, table, cookie, _, length = _FIXED.unpack_from(body)
    # The match is filled up to a multiple of 8 bytes, and two more put the packet's addresses behind a multiple of 4.
    at = _FIXED.size - _MATCH + (length + 7) // 8 * 8 + 2
    if length < _MATCH or at > len(body):
        return None
    return PacketIn(cookie, table, body[at:])


class PacketIns:
    """path: of the bridge's management socket."""

    def __init__(self, path: str, came: Callable[[PacketIn], None]) -> None:
        self._path = path
        self._came = came
        self._warned = False

    async def run(self) -> None:
        """Hands packets on until cancelled."""
        wait = _FIRST
        while True:
            heard = await self._follow()
            wait = _FIRST if heard else min(2 * wait, _LONGEST)
            await asyncio.sleep(wait)

    async def _follow(self) -> bool:
        """One connection, until it ends; whether vswitchd spoke on it."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        loop = asyncio.get_running_loop()
        heard = False
        try:
            await loop.sock_connect(connection, self._path)
            await loop.sock_sendall(
                connection, message(HELLO, 1) + message(_SET_CONFIG, 2, _SETTINGS.pack(0, _BYTES))
            )
            framer = Framer()
            while data := await loop.sock_recv(connection, _AT_ONCE):
                heard = True
                if answers := self._take(framer.feed(data)):
                    await loop.sock_sendall(connection, answers)
        except OSError as error:
            log.debug("no packets from %s for now: %s", self._path, error)
        except NotOpenFlow as error:
            # It may stay so, however often it is asked: once is enough.
            log.log(
                logging.DEBUG if self._warned else logging.WARNING,
                "what comes from %s is no OpenFlow (%s), and meanwhile no packet that policies deny is logged; asking "
                "again, every %.0f s in the end: is it ovs-vswitchd that listens there?",
                self._path,
                error,
                _LONGEST,
            )
            self._warned, heard = True, False
        finally:
            connection.close()
        return heard

    def _take(self, messages: Iterable[Message]) -> bytes:
        """Hands packets on; what to answer."""
        answers = b""
        for each in messages:
            if each.kind == ECHO_REQUEST:
                answers += message(ECHO_REPLY, each.transaction, each.body)
            elif each.kind == _PACKET_IN and (packet := read(each.body)) is not None:
                self._came(packet)
        return answers
