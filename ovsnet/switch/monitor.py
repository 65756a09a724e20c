"""vswitchd's own news of flows (a flow monitor), groups and meters (forwarded requests) that came, went or changed.

Pure: bytes to ask with, and what the answers say. Of a flow only the table and the cookie are read, of a group or meter
its number: which flow it was, and what it should be, a comparison tells. Called by `openflow`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MULTIPART_REQUEST, MULTIPART_REPLY = 18, 19
SET_ASYNC, REQUEST_FORWARD = 28, 32
"""Message types (OpenFlow 1.5, section 7.1.1)."""
_FLOW_MONITOR = 16
_MULTIPART = struct.Struct(">HH4x")
"""type, flags (section 7.3.5)"""
_REQUEST = struct.Struct(">IIIHBB")
"""monitor, output port, group, flags, table, command (section 7.3.5.19)"""
_UPDATE = struct.Struct(">HHB11xQ")
"""length, event, table; cookie (section 7.3.5.19.2, struct ofp_flow_update_full)"""
_ANY, _ALL_TABLES, _ADD = 0xFFFFFFFF, 0xFF, 0
_ADDED, _REMOVED, _MODIFIED = 1, 2, 3
_ON_ADD, _ON_REMOVAL, _ON_MODIFICATION = 2, 4, 8
_FORWARD_TO_MASTER, _GROUPS, _METERS = 11, 1 << 0, 1 << 1
_PROPERTY = struct.Struct(">HHI")
"""type, length, mask of reasons (section 7.3.10)"""
_FORWARDED = struct.Struct(">xB6xHxxI")
"""The header of another's request, of which its type; command, and group or meter (section 7.4.6)"""
_METER_MOD = 29
_EVERYTHING = struct.pack(">HH4x", 1, 4)
"""A match without a field."""


class FlowChange(NamedTuple):
    """Somebody added, removed or changed a flow. cookie 0 in table -1: vswitchd has lost count of what."""

    table: int
    cookie: int


class GroupChange(NamedTuple):
    """Somebody else changed a group, or asked to."""

    group: int


class MeterChange(NamedTuple):
    """The same of a meter."""

    meter: int


Change = FlowChange | GroupChange | MeterChange


def forward_requests() -> bytes:
    """The body of a message of type SET_ASYNC that asks to be told of others' changes of groups and meters."""
    return _PROPERTY.pack(_FORWARD_TO_MASTER, _PROPERTY.size, _GROUPS | _METERS)


def forwarded(body: bytes) -> Iterator[GroupChange | MeterChange]:
    """What the body of a message of type REQUEST_FORWARD tells."""
    if len(body) >= _FORWARDED.size:
        kind, _, number = _FORWARDED.unpack_from(body)
        yield MeterChange(number) if kind == _METER_MOD else GroupChange(number)


def request() -> bytes:
    """The body of a message of type MULTIPART_REQUEST that asks for all changes from now on."""
    flags = _ON_ADD | _ON_REMOVAL | _ON_MODIFICATION
    asked = _REQUEST.pack(1, _ANY, _ANY, flags, _ALL_TABLES, _ADD)
    return _MULTIPART.pack(_FLOW_MONITOR, 0) + asked + _EVERYTHING


def changes(body: bytes) -> Iterator[FlowChange]:
    """What the body of a message of type MULTIPART_REPLY tells."""
    if len(body) < _MULTIPART.size or _MULTIPART.unpack_from(body)[0] != _FLOW_MONITOR:
        return
    at = _MULTIPART.size
    while at + 4 <= len(body):
        length, event = struct.unpack_from(">HH", body, at)
        if length < 4 or at + length > len(body):
            return
        if event in (_ADDED, _REMOVED, _MODIFIED) and length >= _UPDATE.size:
            _, _, table, cookie = _UPDATE.unpack_from(body, at)
            yield FlowChange(table, cookie)
        else:
            # Our own connection changes nothing, so this is a pause for want of room, or its end.
            yield FlowChange(-1, 0)
        at += length
