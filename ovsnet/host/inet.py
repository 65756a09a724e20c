"""Addresses, routes and neighbours between `ipaddress` objects and rtnetlink messages.

Owns nothing and sends nothing but dumps. Called by `pod`, `gateway` and `uplink`.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Collection, Iterator
from typing import NamedTuple

import msgspec
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT, ndmsg
from pyroute2.netlink.rtnl.rtmsg import IP6_RT_PRIO_USER, RTNH_F_ONLINK, rtmsg

from ovsnet.host.messages import HEADER, decoded, encoded
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import MAIN_TABLE, IPInterface, NeighbourSpec, RouteSpec
from ovsnet.model import IPAddress

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_UNICAST = rtnl.rt_type["unicast"]
GLOBAL = rtnl.rt_scope["universe"]
BY_KERNEL, BY_ADVERTISEMENT = rtnl.rt_proto["kernel"], rtnl.rt_proto["ra"]
_ZERO = {4: str(ipaddress.IPv4Address(0)), 6: str(ipaddress.IPv6Address(0))}
_CONNECTED_METRIC = 256
"""IP6_RT_PRIO_ADDRCONF (linux/ipv6_route.h)"""
_LAST_IN_HEADER = 255
_RTA_DST = 1
_DST_AT = HEADER + rtmsg.get_size() + 4
"""Where RTA_DST's value is when it is the first attribute, as in our requests."""
_DUMPED_DST_AT = _DST_AT + 8
"""Where it is in the kernel's messages."""


class Address(NamedTuple):
    """An address of an interface; `flags` are IFA_F_*."""

    ifindex: int
    interface: IPInterface
    scope: int
    flags: int


class Route(NamedTuple):
    """A unicast route."""

    ifindex: int
    spec: RouteSpec
    protocol: int


def address_message(index: int, interface: IPInterface) -> bytes:
    """For RTM_NEWADDR and RTM_DELADDR; never with duplicate address detection."""
    return encoded(
        ifaddrmsg,
        [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))],
        family=_FAMILY[interface.version],
        prefixlen=interface.network.prefixlen,
        flags=IFA_F_NODAD if interface.version == 6 else 0,
        scope=GLOBAL,
        index=index,
    )


def route_message(index: int, route: RouteSpec, on_link: bool = False) -> bytes:
    """For RTM_NEWROUTE. on_link: reach the next hop though no address covers it."""
    scope = "link" if route.next_hop is None and route.cidr.version == 4 else "universe"
    return _route_message(index, route, "static", scope, RTNH_F_ONLINK if on_link else 0)


def connected_message(index: int, interface: IPInterface) -> bytes:
    """For RTM_NEWROUTE: the route to an address's own network, as the kernel makes it with the address."""
    v4 = interface.version == 4
    route = RouteSpec(
        cidr=interface.network,
        source=interface.ip if v4 else None,
        metric=0 if v4 else _CONNECTED_METRIC,
    )
    return _route_message(index, route, "kernel", "link" if v4 else "universe", 0)


def route_removal(index: int, route: RouteSpec) -> bytes:
    """For RTM_DELROUTE, whoever made the route."""
    return _route_message(index, route, "unspec", "nowhere", 0)


def _route_message(index: int, route: RouteSpec, protocol: str, scope: str, flags: int) -> bytes:
    """Routes to a thousand peers differ in their destination alone: the rest is encoded once."""
    version, length, destination = route.cidr.version, route.cidr.prefixlen, route.cidr.network_address.packed
    template = _route_template(
        index,
        version,
        length,
        route.next_hop,
        route.source,
        route.metric,
        route.table,
        protocol,
        scope,
        flags,
    )
    return template[:_DST_AT] + destination + template[_DST_AT + len(destination) :]


@functools.lru_cache(maxsize=256)
def _route_template(
    index: int,
    version: int,
    length: int,
    next_hop: IPAddress | None,
    source: IPAddress | None,
    metric: int,
    table: int,
    protocol: str,
    scope: str,
    flags: int,
) -> bytes:
    attributes = [
        ("RTA_DST", _ZERO[version]),
        ("RTA_OIF", index),
        ("RTA_GATEWAY", str(next_hop) if next_hop is not None else None),
        ("RTA_PREFSRC", str(source) if source is not None else None),
        ("RTA_PRIORITY", metric or None),
        # The header has one byte for it.
        ("RTA_TABLE", table if table > _LAST_IN_HEADER else None),
    ]
    return encoded(
        rtmsg,
        attributes,
        family=_FAMILY[version],
        dst_len=length,
        table=table if table <= _LAST_IN_HEADER else 0,
        proto=rtnl.rt_proto[protocol],
        scope=rtnl.rt_scope[scope],
        type=_UNICAST,
        flags=flags,
    )


def neighbour_message(index: int, neighbour: NeighbourSpec) -> bytes:
    """For RTM_NEWNEIGH and RTM_DELNEIGH, of a permanent entry."""
    return encoded(
        ndmsg,
        [("NDA_DST", str(neighbour.address)), ("NDA_LLADDR", neighbour.mac)],
        family=_FAMILY[neighbour.address.version],
        ifindex=index,
        state=NUD_PERMANENT,
    )


def addresses(nl: Netlink, index: int = 0) -> Iterator[Address]:
    """Addresses of the interface, or of all, in the kernel's order."""
    for family in _FAMILIES:
        message = encoded(ifaddrmsg, family=family, index=index)
        for found in nl.dump(rtnl.RTM_GETADDR, message, "list addresses", _address):
            if found.ifindex == index or not index:
                yield found


def _address(data: bytes) -> Address:
    message = decoded(ifaddrmsg, data)
    ip = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    interface = ipaddress.ip_interface((ip, message["prefixlen"]))
    flags = message.get_attr("IFA_FLAGS", message["flags"])
    return Address(message["index"], interface, message["scope"], flags)


def routes(nl: Netlink, index: int = 0, tables: Collection[int] = (MAIN_TABLE,)) -> Iterator[Route]:
    """Unicast routes of these tables over the interface, or over all, in the kernel's order."""
    for family in _FAMILIES:
        message = encoded(rtmsg, [("RTA_OIF", index or None)], family=family, type=_UNICAST)
        for found in nl.dump(rtnl.RTM_GETROUTE, message, "list routes", _route):
            if found is None or found.spec.table not in tables:
                continue
            if found.ifindex == index or not index:
                yield found


def _route(data: bytes) -> Route | None:
    """Routes to a thousand peers differ in their destination alone, so the rest is decoded once.

    The kernel puts RTA_DST behind RTA_TABLE; a message in which it is elsewhere is decoded as a whole. That
    takes pyroute2 0.14 ms, which for a thousand routes would be more of the agent's start than it can spare.
    """
    # Without the sequence and port numbers, which are those of the request that the message answers.
    data = data[: HEADER - 8] + bytes(8) + data[HEADER:]
    destination = rtmsg.cdata(data, offset=_DUMPED_DST_AT - 4)
    destination.decode()
    if destination["header"]["type"] != _RTA_DST:
        return _decoded_route(data)
    packed: bytes = destination["value"]
    like = _decoded_route(data[:_DUMPED_DST_AT] + bytes(len(packed)) + data[_DUMPED_DST_AT + len(packed) :])
    if like is None:
        return None
    network = type(like.spec.cidr)((packed, like.spec.cidr.prefixlen))
    return like._replace(spec=msgspec.structs.replace(like.spec, cidr=network))


@functools.lru_cache(maxsize=256)
def _decoded_route(data: bytes) -> Route | None:
    message = decoded(rtmsg, data)
    index = message.get_attr("RTA_OIF")
    if message["type"] != _UNICAST or index is None:
        return None
    v6 = message["family"] == socket.AF_INET6
    via, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
    metric = message.get_attr("RTA_PRIORITY", 0)
    spec = RouteSpec(
        cidr=ipaddress.ip_network((message.get_attr("RTA_DST") or _ZERO[6 if v6 else 4], message["dst_len"])),
        next_hop=ipaddress.ip_address(via) if via else None,
        source=ipaddress.ip_address(source) if source else None,
        metric=0 if v6 and metric == IP6_RT_PRIO_USER else metric,
        table=message.get_attr("RTA_TABLE", message["table"]),
    )
    return Route(index, spec, message["proto"])


def neighbours(nl: Netlink, index: int) -> Iterator[NeighbourSpec]:
    """The permanent neighbour entries of an interface."""
    for family in _FAMILIES:
        message = encoded(ndmsg, [("NDA_IFINDEX", index)], family=family)
        decode = functools.partial(decoded, ndmsg)
        for found in nl.dump(rtnl.RTM_GETNEIGH, message, "list neighbours", decode):
            if found["ifindex"] == index and found["state"] & NUD_PERMANENT:
                mac, ip = found.get_attr("NDA_LLADDR"), ipaddress.ip_address(found.get_attr("NDA_DST"))
                if mac and not ip.is_multicast:
                    yield NeighbourSpec(address=ip, mac=mac)
