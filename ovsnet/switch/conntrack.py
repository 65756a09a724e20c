"""What the datapath's connection tracking holds, through ovs-vswitchd: the same for that of the kernel and its own.

Called by the agent and by `ovsnet conntrack`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ovsnet import conntrack
from ovsnet.conntrack import Connection, End, Known, Way
from ovsnet.model import IPAddress
from ovsnet.pipeline import POLICY_ZONE, SERVICE_ZONE
from ovsnet.servicemodel import Protocol
from ovsnet.switch.control import appctl

_NUMBER = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_TURN = 500
"""Lines that are read without a break."""


async def connections(remote: str, datapath: str) -> list[Connection]:
    """All that are followed for Services. datapath: the bridge's datapath_type; a node may have others' bridges on the
    other one. Raises SwitchUnavailable, or OvsnetError with vswitchd's words."""
    lines = _lines(remote, datapath, SERVICE_ZONE)
    return [found async for line in lines if (found := conntrack.connection(line)) is not None]


async def ways(remote: str, datapath: str) -> set[Way]:
    """Those that UDP connections take through Services to their endpoints; the rest as `connections`."""
    lines = _lines(remote, datapath, SERVICE_ZONE)
    return set(map(conntrack.way, {found async for line in lines if (found := conntrack.taken(line))}))


async def policed(remote: str, datapath: str) -> list[Known]:
    """Connections that policies have allowed; the rest as `connections`."""
    lines = _lines(remote, datapath, POLICY_ZONE)
    return [each async for line in lines if (each := conntrack.known(line)) is not None]


async def ends(remote: str, datapath: str) -> tuple[set[End], set[Known]]:
    """Who is an end of a connection that policies have allowed, of whatever protocol, and pings; the rest as
    `connections`."""
    found: set[End] = set()
    pings: set[Known] = set()
    async for line in _lines(remote, datapath, POLICY_ZONE):
        found.update(conntrack.ends(line))
        if (each := conntrack.known(line)) is not None and each.protocol is None:
            pings.add(each.key)
    return found, pings


async def _lines(remote: str, datapath: str, zone: int) -> AsyncIterator[str]:
    """One for each connection of a zone; requests do not wait for all of a large table."""
    text = await appctl(remote, "dpctl/dump-conntrack", _name(datapath), f"zone={zone}")
    for number, line in enumerate(text.splitlines()):
        if number % _TURN == 0:
            await asyncio.sleep(0)
        yield line


def of_end(end: End) -> str:
    """What `OpenFlow.forget` takes: all connections of this protocol in which the address is this end."""
    side = "src" if end.began else "dst"
    return f"{_family(end.address)}_{side}={end.address},ct_nw_proto={end.protocol}"


def exactly(known: Known) -> str:
    """What `OpenFlow.forget` takes for this connection and no other, which is no ping."""
    family = _family(known.source)
    number = 0 if known.protocol is None else _NUMBER[known.protocol]
    return (
        f"{family}_src={known.source},{family}_dst={known.target},ct_nw_proto={number},"
        f"ct_tp_src={known.source_port},ct_tp_dst={known.port}"
    )


def tuples(way: Way) -> tuple[str, str]:
    """What `OpenFlow.forget` takes: packets of clients, and answers, that went this way."""
    number = _NUMBER[way.protocol]
    family = _family(way.address)
    began = f"{family}_dst={way.address},ct_nw_proto={number},ct_tp_dst={way.port}"
    answers = f"{family}_src={way.endpoint},ct_nw_proto={number},ct_tp_src={way.endpoint_port}"
    return began, answers


def _family(address: IPAddress) -> str:
    return "ct_nw" if address.version == 4 else "ct_ipv6"


def _name(datapath: str) -> str:
    """What vswitchd calls the datapath that all bridges of this type share (dpctl in ovs-dpctl(8))."""
    return f"{datapath}@ovs-{datapath}"
