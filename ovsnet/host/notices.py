"""The kernel's news of what somebody changed on the node's side: the gateway's link, addresses and routes, our table,
forwarding and rp_filter.

Owns two netlink sockets that only listen. Says that there is something to look at, never what: a comparison tells.
What concerns other interfaces and tables, such as pods that come and go, is no news. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable

from ovsnet.host import pod

log = logging.getLogger("ovsnet.host")

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 1, 5, 7, 9, 11
_IPV4_SETTINGS, _IPV6_SETTINGS = 24, 25
"""RTNLGRP_* (linux/rtnetlink.h)"""
_GROUPS = (
    _LINK,
    _IPV4_ADDRESS,
    _IPV4_ROUTE,
    _IPV6_ADDRESS,
    _IPV6_ROUTE,
    _IPV4_SETTINGS,
    _IPV6_SETTINGS,
)
_NFTABLES = 7
"""NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h)"""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port"""
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_NEWNETCONF = 80
_INDEX = struct.Struct("=4xi")
"""struct ifinfomsg and struct ifaddrmsg have the interface's index behind 4 bytes"""
_ROUTE, _NETCONF = 12, 4
"""Bytes of struct rtmsg and, aligned, of struct netconfmsg"""
_ATTRIBUTE = struct.Struct("=HH")
_OUTPUT, _IFINDEX = 4, 1
"""RTA_OIF, NETCONFA_IFINDEX"""
_ALL = -1
"""NETCONFA_IFINDEX_ALL: net.ipv4.conf.all and its like"""
_SETTLE = 0.05
"""Seconds in which more news of the same is awaited."""


class Notices:
    """News about one interface and one nftables table, from `start` until `close`."""

    def __init__(self, interface: str, table: str, changed: Callable[[], None]) -> None:
        self._interface = interface
        self._table = table.rpartition(" ")[2].encode() + b"\0"
        self._changed = changed
        self._sockets: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Without the kernel's news everything is still compared from time to time: a refusal is only told."""
        wanted = (
            (_NETLINK_ROUTE, _GROUPS, self._routes),
            (_NETLINK_NETFILTER, (_NFTABLES,), self._tables),
        )
        for family, groups, concerns in wanted:
            try:
                listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, family)
                self._sockets.append(listening)
                listening.bind((0, 0))
                for group in groups:
                    listening.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            except OSError as error:
                log.warning("no news from the kernel (netlink family %d): %s", family, error.strerror)
                continue
            asyncio.get_running_loop().add_reader(listening, self._read, listening, concerns)

    def close(self) -> None:
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets = []
        if self._timer is not None:
            self._timer.cancel()

    def _read(self, listening: socket.socket, concerns: Callable[[int, bytes], bool]) -> None:
        news = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = listening.recv(1 << 16)
                except BlockingIOError:
                    raise
                except OSError:
                    # The socket's buffer was too small for all that happened: it may have been anything.
                    news = True
                    continue
                news = news or any(concerns(kind, body) for kind, body in _messages(data))
        if news and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SETTLE, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._changed()

    def _routes(self, kind: int, body: bytes) -> bool:
        if kind in (_NEWLINK, _DELLINK, _NEWADDR, _DELADDR):
            return int(_INDEX.unpack_from(body)[0]) == pod.index_of(self._interface)
        if kind == _NEWNETCONF:
            return _number(body, _NETCONF, _IFINDEX) in (_ALL, pod.index_of(self._interface))
        return kind in (_NEWROUTE, _DELROUTE) and _number(body, _ROUTE, _OUTPUT) == pod.index_of(
            self._interface
        )

    def _tables(self, kind: int, body: bytes) -> bool:
        return self._table in body


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            break
        found.append((kind, data[at + _HEADER.size : at + length]))
        at += (length + 3) & ~3
    return found


def _number(body: bytes, at: int, attribute: int) -> int:
    """An attribute's value, attributes beginning `at` bytes into the body; 0 if the message does not have it."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == attribute:
            return int(struct.unpack_from("=i", body, at + _ATTRIBUTE.size)[0])
        at += (length + 3) & ~3
    return 0
