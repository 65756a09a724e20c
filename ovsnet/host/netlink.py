"""rtnetlink: messages as bytes, and a socket that sends them in batches.

Owns the encoding of what the rest of `host` says to the kernel, and nothing about why it is said.
The kernel carries out a route or link request inside the very `send` that brings it, so there is
nothing to wait for and no call here is a coroutine; a batch is one system call, however many requests
it holds. A general library spends 0.2 ms to encode a message and 0.3 ms to decode a link, which for a
thousand routes or links is most of a second: hence these few functions over `struct`.

Layouts: linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, neighbour.h; rtnetlink(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from ovsnet.errors import HostFailure
from ovsnet.host import netns

# Message types and flags.
NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ACK_TLVS, _CAPPED = 0x200, 0x100
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400

# Attributes and values, named as in the headers without their prefixes.
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 27, 28, 29
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
EXT_MASK_SKIP_STATS = 8
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_SECONDARY, IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x1, 0x2, 0x8, 0x20, 0x40
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
TABLE_MAIN, TYPE_UNICAST, ONLINK = 254, 1, 4
PROTO_ANY, PROTO_KERNEL, PROTO_STATIC, PROTO_RA = 0, 2, 4, 9
SCOPE_GLOBAL, SCOPE_LINK, SCOPE_ANY = 0, 253, 255
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NUD_PERMANENT = 1, 2, 8, 0x80
IFF_UP, IFF_NOARP = 0x1, 0x80

LINK = struct.Struct("=BxHiII")
"""family, type, index, flags, mask of the flags to change (struct ifinfomsg)"""
ADDRESS = struct.Struct("=BBBBI")
"""family, prefix length, flags, scope, index (struct ifaddrmsg)"""
ROUTE = struct.Struct("=BBBBBBBBI")
"""family, dst length, src length, tos, table, protocol, scope, type, flags (struct rtmsg)"""
NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""family, index, state, flags, type (struct ndmsg)"""
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_BATCH = 64
"""Requests in one send: under 10 KiB, and about 1 ms of the kernel's time when they are routes."""
_RECEIVE = 1 << 17
"""The kernel fills at most 32 KiB at a time when it dumps; errors of one batch fit too."""


class Request(NamedTuple):
    """One change to ask for. `what` completes "cannot ..." should the kernel refuse."""

    kind: int
    flags: int
    payload: bytes
    what: str
    tolerate: tuple[int, ...] = ()
    """Error numbers that mean that it is as it should be already."""


class Failure(NamedTuple):
    """The kernel's refusal of one request."""

    request: Request
    code: int
    reason: str

    @property
    def error(self) -> HostFailure:
        hint = "the agent needs CAP_NET_ADMIN" if self.code == errno.EPERM else ""
        return HostFailure(f"cannot {self.request.what}: {self.reason}", hint)


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute: text ends in a zero byte, an int is 32 bits."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = _INT.pack(value)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """The attributes that start at `offset`, by type."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def first(data: bytes, offset: int, kind: int) -> bytes:
    """The first attribute of that type; empty if there is none. Stops looking there."""
    while offset + 4 <= len(data):
        length, found = _ATTRIBUTE.unpack_from(data, offset)
        if found == kind or length < 4:
            return data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return b""


def integer(value: bytes) -> int:
    """A 32-bit attribute."""
    return int.from_bytes(value[:4], sys.byteorder)


def text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def pack_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def unpack_mac(value: bytes) -> str:
    return value.hex(":")


def link(index: int = 0, *attrs: bytes, flags: int = 0, change: int = 0) -> bytes:
    """The body of a link request. Index 0: an IFLA_IFNAME among the attributes says which."""
    return LINK.pack(socket.AF_UNSPEC, 0, index, flags, change) + b"".join(attrs)


class Netlink:
    """One rtnetlink socket; it stays in the namespace where it was opened."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 0

    @classmethod
    def open(cls, namespace: int | None = None) -> Self:
        """A socket in our namespace, or in that of the descriptor. Raises HostFailure."""
        with netns.entered(namespace) if namespace is not None else contextlib.nullcontext():
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        return cls(sock)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, requests: Sequence[Request]) -> None:
        """Carry out all requests in order; raises HostFailure for the first that was refused.

        The kernel goes on after a refusal, so what follows it has been tried as well.
        """
        for failure in self.attempt(requests):
            raise failure.error

    def attempt(self, requests: Sequence[Request]) -> list[Failure]:
        """Carry out all requests in order and tell which were refused."""
        failures: list[Failure] = []
        for start in range(0, len(requests), _BATCH):
            failures += self._batch(requests[start : start + _BATCH])
        return failures

    def _batch(self, requests: Sequence[Request]) -> list[Failure]:
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        out = []
        for sequence, request in enumerate(requests, first):
            # Refusals are always reported, so an acknowledgement of the last request covers them all.
            flags = request.flags | _REQUEST | (_ACK if sequence == last else 0)
            header = _HEADER.pack(16 + len(request.payload), request.kind, flags, sequence, 0)
            out += [header, request.payload]
        self._socket.send(b"".join(out))
        failures = []
        for sequence, failed, reason in self._verdicts(first, last):
            request = requests[sequence - first]
            if failed and failed not in request.tolerate:
                failures.append(Failure(request, failed, reason))
        return failures

    def _verdicts(self, first: int, last: int) -> Iterator[tuple[int, int, str]]:
        """(sequence, error number or 0, the kernel's words) until the last one's."""
        while True:
            for kind, flags, sequence, body in self._receive():
                if kind == _ERROR and first <= sequence <= last:
                    code, reason = _verdict(flags, body)
                    yield sequence, code, reason
                    if sequence == last:
                        return

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(type, flags, sequence, body) of the messages in one datagram."""
        data = self._socket.recv(_RECEIVE)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += (length + 3) & ~3

    def get(self, kind: int, payload: bytes, what: str, absent: tuple[int, ...] = ()) -> bytes | None:
        """The one object asked for; None when the kernel answers with one of the errors in `absent`."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(payload), kind, _REQUEST, self._sequence, 0) + payload)
        while True:
            for answer, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if answer != _ERROR:
                    return body
                code, reason = _verdict(flags, body)
                if code in absent:
                    return None
                raise Failure(Request(kind, 0, payload, what), code, reason).error

    def dump(self, kind: int, payload: bytes, what: str) -> Iterator[bytes]:
        """The bodies of all objects that the kernel has and that the payload does not filter out."""
        self._sequence += 1
        mine = self._sequence
        self._socket.send(_HEADER.pack(16 + len(payload), kind, _REQUEST | _DUMP, mine, 0) + payload)
        while True:
            for answer, flags, sequence, body in self._receive():
                if sequence != mine:
                    continue
                if answer == _ERROR or (answer == _DONE and integer(body)):
                    code, reason = _verdict(flags, body)
                    raise Failure(Request(kind, 0, payload, what), code, reason).error
                if answer == _DONE:
                    return
                yield body


def _verdict(flags: int, body: bytes) -> tuple[int, str]:
    """Error number and the kernel's words out of an NLMSG_ERROR."""
    code = -_INT.unpack_from(body)[0]
    if not code:
        return 0, ""
    words = os.strerror(code)
    if flags & _ACK_TLVS and len(body) >= 20:
        quoted = 16 if flags & _CAPPED else _HEADER.unpack_from(body, 4)[0]
        said = attributes(body, 4 + ((quoted + 3) & ~3)).get(1)
        words = f"{text(said)} ({words})" if said else words
    return code, words
