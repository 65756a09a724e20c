"""The kernel's news of what somebody changed on the node's side.

That is: the gateway's link, addresses, routes, settings and the virtual router as its neighbour; the uplink's link;
the host ends of pods' links; rules that lead to our table of routes; our table of nftables. Owns two netlink sockets
that only listen. Says that there is something to look at, never what: a comparison tells. What concerns other
interfaces and tables is no news, and neither are pods that come and go. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable

from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from ovsnet import names
from ovsnet.host import pod
from ovsnet.host.messages import split
from ovsnet.host.types import STEERED_TABLE
from ovsnet.model import IPAddress

log = logging.getLogger("ovsnet.host")

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_LINK, _NEIGHBOUR, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 1, 3, 5, 7, 9, 11
_IPV4_RULE, _IPV6_RULE, _IPV4_SETTINGS, _IPV6_SETTINGS = 8, 19, 24, 25
"""RTNLGRP_* (linux/rtnetlink.h); the last two are RTNLGRP_IPV4_NETCONF and its like"""
_NFTABLES = 7
"""NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h)"""
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_NEWNEIGH, _DELNEIGH, _NEWRULE, _DELRULE, _NEWNETCONF = 28, 29, 32, 33, 80
_INDEX = struct.Struct("=4xi")
"""struct ifinfomsg, struct ifaddrmsg and struct ndmsg have the interface's index behind 4 bytes"""
_FLAGS = struct.Struct("=8xII")
"""struct ifinfomsg: the flags, and which of them have changed"""
_ALL_FLAGS = 0xFFFFFFFF
"""of a link that is new"""
_OF_LINK, _OF_ROUTE, _OF_NEIGHBOUR, _OF_RULE, _OF_SETTINGS = 16, 12, 12, 12, 4
"""Where attributes begin: behind struct ifinfomsg, rtmsg, ndmsg, fib_rule_hdr, netconfmsg"""
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=i")
_NAME, _MTU, _OUTPUT, _TO, _LOOKUP, _SETTINGS_OF = 3, 4, 4, 1, 15, 1
"""IFLA_IFNAME, IFLA_MTU, RTA_OIF, NDA_DST, FRA_TABLE, NETCONFA_IFINDEX"""
_EVERYWHERE = -1
"""NETCONFA_IFINDEX_ALL"""
_SETTLE = 0.05
"""Seconds in which more news of the same is awaited."""


class Notices:
    """News from `start` until `close`.

    changed: called when the host's side is to be compared. pods_changed: when pods' links are to be looked at, too.
    """

    def __init__(
        self,
        interface: str,
        router: IPAddress,
        table: str,
        changed: Callable[[], None],
        pods_changed: Callable[[], None],
    ) -> None:
        self._interface = interface
        self._router = router.packed
        self._table = table.rpartition(" ")[2].encode() + b"\0"
        self._changed = changed
        self._pods_changed = pods_changed
        self.uplink = ""
        """The interface that carries the tunnels."""
        self.mtu = 0
        """What pods' links have, in bytes; 0: not known yet."""
        self._news = False
        self._odd: set[int] = set()
        """Pods' links, by index, that are down or have another MTU."""
        self._sockets: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Without the kernel's news everything is still compared from time to time: a refusal is only told."""
        v4 = (_IPV4_ADDRESS, _IPV4_ROUTE, _IPV4_RULE, _IPV4_SETTINGS)
        v6 = (_IPV6_ADDRESS, _IPV6_ROUTE, _IPV6_RULE, _IPV6_SETTINGS)
        wanted = (
            (_NETLINK_ROUTE, (_LINK, _NEIGHBOUR, *v4, *v6), self._routes),
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
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = listening.recv(1 << 16)
                except BlockingIOError:
                    raise
                except OSError:
                    # The socket's buffer was too small for all that happened: it may have been anything.
                    self._news = True
                    self._odd.add(0)
                    continue
                for kind, body in split(data):
                    self._news = concerns(kind, body) or self._news
        if (self._news or self._odd) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SETTLE, self._tell)

    def _tell(self) -> None:
        self._timer = None
        news, odd, self._news = self._news, bool(self._odd), False
        self._odd.clear()
        if odd:
            self._pods_changed()
        elif news:
            self._changed()

    def _routes(self, kind: int, body: bytes) -> bool:
        if kind in (_NEWLINK, _DELLINK):
            return self._link(kind, body)
        if kind in (_NEWNEIGH, _DELNEIGH) and _attribute(body, _OF_NEIGHBOUR, _TO) != self._router:
            # These come and go with traffic.
            return False
        gateway = pod.index_of(self._interface)
        if kind in (_NEWADDR, _DELADDR, _NEWNEIGH, _DELNEIGH):
            return int(_INDEX.unpack_from(body)[0]) == gateway
        if kind == _NEWNETCONF:
            return _number(body, _OF_SETTINGS, _SETTINGS_OF) in (gateway, _EVERYWHERE)
        if kind in (_NEWRULE, _DELRULE):
            return _number(body, _OF_RULE, _LOOKUP) == STEERED_TABLE
        return kind in (_NEWROUTE, _DELROUTE) and _number(body, _OF_ROUTE, _OUTPUT) == gateway

    def _link(self, kind: int, body: bytes) -> bool:
        index = int(_INDEX.unpack_from(body)[0])
        name = (_attribute(body, _OF_LINK, _NAME) or b"").rstrip(b"\0").decode(errors="replace")
        if not names.is_host_interface(name):
            return name != "" and name in (self._interface, self.uplink)
        flags, changed = _FLAGS.unpack_from(body)
        down = not flags & IFF_UP and changed != _ALL_FLAGS
        if kind == _NEWLINK and (down or self.mtu not in (0, _number(body, _OF_LINK, _MTU))):
            self._odd.add(index)
        else:
            # The kernel sets a link down before it deletes it.
            self._odd.discard(index)
        return False

    def _tables(self, kind: int, body: bytes) -> bool:
        return self._table in body


def _attribute(body: bytes, at: int, wanted: int) -> bytes | None:
    """The content of the first attribute of that kind; None if the message has none. at: where attributes begin."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == wanted:
            return body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return None


def _number(body: bytes, at: int, wanted: int) -> int:
    """The same of 4 bytes; 0 if the message has none."""
    found = _attribute(body, at, wanted)
    return int(_NUMBER.unpack(found)[0]) if found is not None and len(found) == _NUMBER.size else 0
