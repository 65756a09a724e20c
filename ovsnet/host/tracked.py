"""UDP connections of node ports in the node's own conntrack that the nftables table would treat otherwise by now.

The kernel asks the table how to translate a connection at its first packet only, and one of UDP lasts as long as the
client keeps sending: who sent before there was an endpoint would never be served, who sent to a port that is nobody's
any more would be sent to the bridge for ever. TCP ends by itself. External addresses are not translated here, so they
need none of this. Never looks at connections that are none of a node port, or that somebody else translates (a
hostPort), nor at the bridge's own zones. Called by `nft` when the table has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from typing import NamedTuple

from pyroute2.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, rtnl
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_CTNETLINK
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ovsnet.errors import HostFailure
from ovsnet.host.messages import attribute, attributes, encoded, headed, split
from ovsnet.host.netlink import Netlink
from ovsnet.model import Frozen
from ovsnet.nodeports import NodePortAddresses
from ovsnet.pipeline import LOCAL_NODE_PORTS, NODE_PORTS

_NFNETLINK = 12
"""NETLINK_NETFILTER"""
_GET, _DELETE = (NFNL_SUBSYS_CTNETLINK << 8 | kind for kind in (1, 2))
_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE, _FILTER = 1, 2, 3, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO, _SRC, _DST = 1, 2, {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTO, _DPORT = 1, 3
"""IPCTNL_MSG_CT_*, CTA_*, CTA_TUPLE_*, CTA_IP_V4_*, CTA_IP_V6_*, CTA_PROTO_* (linux/netfilter/nfnetlink_conntrack.h)"""
_FILTER_ORIGINAL, _BY_PROTO, _BY_DPORT = 1, 1 << 3, 1 << 5
"""CTA_FILTER_ORIG_FLAGS; which parts of a tuple count (net/netfilter/nf_conntrack_netlink.c)."""
_DST_NAT = 1 << 5
"""IPS_DST_NAT: its destination is translated."""
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_GENERAL, _ERROR = struct.Struct("=BBH"), struct.Struct("=i")
"""struct nfgenmsg, with which the content of every message begins; the error number in the kernel's answers."""
_RECEIVE = 1 << 17
_FEW = 8
"""Ports that the kernel is asked for one by one; of more, for all that is UDP."""
_AT_ONCE = 64
"""Connections that are deleted before other tasks get their turn."""
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
"""Of an address that nothing is sent to: it is not the node's."""

Ports = frozenset[tuple[int, int]]
"""(IP version, port)"""


class NodePorts(Frozen):
    """UDP ports that the table translates. local: those that another address stands for if the client is outside.
    addresses: of the node's those at which it does."""

    ports: Ports = frozenset()
    local: Ports = frozenset()
    addresses: NodePortAddresses = NodePortAddresses()

    @property
    def all(self) -> Ports:
        return self.ports | self.local


class _Entry(NamedTuple):
    """A connection: as the client sent it, and where it went."""

    version: int
    destination: bytes
    port: int
    answered_by: bytes
    translated: bool
    original: bytes
    """The tuple as the kernel writes it; with the number it stands for this connection and no later one."""
    number: bytes


async def forget(now: NodePorts, before: NodePorts | None) -> int:
    """Deletes what `now` would treat otherwise; returns how many. before: what was in force until now, None if nobody
    knows. Raises HostFailure.
    """
    concerned = None
    if before is not None and before.addresses == now.addresses:
        concerned = (now.ports ^ before.ports) | (now.local ^ before.local)
    newly_local = now.local - (now if before is None else before).local
    count = 0
    with _kernel(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NFNETLINK) as asking, Netlink() as nl:
        is_local = functools.cache(functools.partial(_is_local, nl))
        answers = functools.cache(lambda packed: now.addresses.include(ipaddress.ip_address(packed)))
        wrong = [
            entry
            async for entry in _entries(asking, concerned)
            if _wrong(entry, now, newly_local, answers(entry.destination))
            and (entry.translated or is_local(entry.destination))
        ]
        for start in range(0, len(wrong), _AT_ONCE):
            count += _delete(asking, wrong[start : start + _AT_ONCE])
            await asyncio.sleep(0)
    return count


@contextlib.contextmanager
def _kernel() -> Iterator[None]:
    """The socket's own failures as what they are."""
    try:
        yield
    except OSError as error:
        raise _refusal(error.errno or 0) from error


def _wrong(entry: _Entry, now: NodePorts, newly_local: Ports, answers: bool) -> bool:
    """Whether the table would do otherwise with the connection's next packet, if it were its first. answers: whether
    its destination is where node ports answer, if it is the node's."""
    key = entry.version, entry.port
    if not entry.translated:
        return answers and key in now.all
    if entry.answered_by == NODE_PORTS.of(entry.version).packed:
        # Of a client inside the cluster it is not wrong, but the next packet comes to the same end.
        return not answers or key not in now.ports or key in newly_local
    return entry.answered_by == LOCAL_NODE_PORTS.of(entry.version).packed and not (
        answers and key in now.local
    )


def _is_local(nl: Netlink, packed: bytes) -> bool:
    """Whether the table takes the address for the node's (fib daddr type local)."""
    address = ipaddress.ip_address(packed)
    message = encoded(
        rtmsg,
        [("RTA_DST", str(address))],
        family=_FAMILY[address.version],
        dst_len=address.max_prefixlen,
    )
    answer = nl.get(rtnl.RTM_GETROUTE, message, f"look up the route to {address}", absent=_NO_ROUTE)
    return answer is not None and bool(answer["type"] == rtnl.rt_type["local"])


async def _entries(asking: socket.socket, ports: Collection[tuple[int, int]] | None) -> AsyncIterator[_Entry]:
    """UDP connections to these ports, or to all (None), that are in the node's own zone."""
    wanted = [(4, 0), (6, 0)] if ports is None or len(ports) > _FEW else sorted(ports)
    for version, port in wanted:
        asking.send(headed(_GET, NLM_F_REQUEST | NLM_F_DUMP, _request(version, port)))
        ended = False
        while not ended:
            for kind, content in split(asking.recv(_RECEIVE)):
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    _check(content)
                    ended = True
                    break
                if (entry := _entry(version, content)) is not None:
                    yield entry
            # The kernel fills 32 KiB at a time, some 200 connections.
            await asyncio.sleep(0)


def _request(version: int, port: int) -> bytes:
    """For a dump of UDP connections; before Linux 5.8 the kernel leaves nothing out. port: 0 is every one."""
    flags, protocol = _BY_PROTO, attribute(_PROTO, bytes([socket.IPPROTO_UDP]))
    if port:
        flags |= _BY_DPORT
        protocol += attribute(_DPORT, port.to_bytes(2, "big"))
    return (
        _GENERAL.pack(_FAMILY[version], 0, 0)
        + attribute(_ORIGINAL | NLA_F_NESTED, attribute(_TUPLE_PROTO | NLA_F_NESTED, protocol))
        + attribute(_FILTER | NLA_F_NESTED, attribute(_FILTER_ORIGINAL, flags.to_bytes(4, sys.byteorder)))
    )


def _entry(version: int, content: bytes) -> _Entry | None:
    """What concerns us of a connection: with all its attributes one takes pyroute2 a millisecond, and there may be
    thousands."""
    found = attributes(content[_GENERAL.size :])
    original, reply = found.get(_ORIGINAL, b""), found.get(_REPLY, b"")
    parts = attributes(original)
    protocol = attributes(parts.get(_TUPLE_PROTO, b""))
    if any(found.get(_ZONE, b"")) or protocol.get(_PROTO) != bytes([socket.IPPROTO_UDP]):
        return None
    destination = attributes(parts.get(_TUPLE_IP, b"")).get(_DST[version])
    source = attributes(attributes(reply).get(_TUPLE_IP, b"")).get(_SRC[version])
    if destination is None or source is None:
        return None
    return _Entry(
        version=version,
        destination=destination,
        port=int.from_bytes(protocol.get(_DPORT, b""), "big"),
        answered_by=source,
        translated=bool(int.from_bytes(found.get(_STATUS, b""), "big") & _DST_NAT),
        original=original,
        number=found.get(_ID, b""),
    )


def _delete(asking: socket.socket, entries: Collection[_Entry]) -> int:
    """How many of them were still there."""
    found = 0
    for entry in entries:
        body = _GENERAL.pack(_FAMILY[entry.version], 0, 0)
        body += attribute(_ORIGINAL | NLA_F_NESTED, entry.original)
        body += attribute(_ID, entry.number)
        asking.send(headed(_DELETE, NLM_F_REQUEST | NLM_F_ACK, body))
        ((_, content),) = split(asking.recv(_RECEIVE))
        found += _check(content, tolerated=errno.ENOENT)
    return found


def _check(content: bytes, tolerated: int = 0) -> bool:
    """Whether the kernel says that it is done; False for the error that is tolerated. Raises HostFailure for others."""
    code: int = -_ERROR.unpack_from(content)[0]
    if code not in (0, tolerated):
        raise _refusal(code)
    return code == 0


def _refusal(code: int) -> HostFailure:
    hint = "the agent needs CAP_NET_ADMIN" if code == errno.EPERM else "the kernel needs nf_conntrack_netlink"
    return HostFailure(f"cannot ask conntrack for UDP connections to node ports: {os.strerror(code)}", hint)
