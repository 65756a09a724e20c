"""Addresses, routes and neighbours between `ipaddress` objects and rtnetlink messages.

Owns nothing and sends nothing but dumps. Called by `pod`, `gateway` and `uplink`.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Iterator
from typing import NamedTuple

from ovsnet.host import netlink
from ovsnet.host.netlink import Netlink, attribute, attributes, integer
from ovsnet.host.types import IPInterface, NeighbourSpec, RouteSpec
from ovsnet.model import IPAddress, IPNetwork

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_METRIC6 = 1024
"""What the kernel makes of "no metric" in IPv6; in IPv4 it stays 0."""


class Address(NamedTuple):
    """An address of an interface; `flags` are IFA_F_*."""

    ifindex: int
    interface: IPInterface
    scope: int
    flags: int


class Route(NamedTuple):
    """A unicast route of the main table."""

    ifindex: int
    spec: RouteSpec
    protocol: int


@functools.lru_cache(maxsize=8192)
def address(packed: bytes) -> IPAddress:
    return ipaddress.ip_address(packed)


@functools.lru_cache(maxsize=8192)
def _network(packed: bytes, length: int) -> IPNetwork:
    if len(packed) == 4:
        return ipaddress.IPv4Network((packed, length))
    return ipaddress.IPv6Network((packed, length))


def address_message(index: int, interface: IPInterface) -> bytes:
    """Body of RTM_NEWADDR and RTM_DELADDR; never with duplicate address detection."""
    packed = interface.ip.packed
    nodad = netlink.IFA_F_NODAD if interface.version == 6 else 0
    body = netlink.ADDRESS.pack(
        _FAMILY[interface.version], interface.network.prefixlen, nodad, netlink.SCOPE_GLOBAL, index
    )
    return body + attribute(netlink.IFA_LOCAL, packed) + attribute(netlink.IFA_ADDRESS, packed)


def route_message(index: int, route: RouteSpec, on_link: bool = False) -> bytes:
    """Body of RTM_NEWROUTE. on_link: reach the next hop though no address covers it."""
    scope = netlink.SCOPE_LINK if route.next_hop is None and route.cidr.version == 4 else netlink.SCOPE_GLOBAL
    flags = netlink.ONLINK if on_link else 0
    return _route_message(index, route, netlink.PROTO_STATIC, scope, flags)


def route_removal(index: int, route: RouteSpec) -> bytes:
    """Body of RTM_DELROUTE, whoever made the route."""
    return _route_message(index, route, netlink.PROTO_ANY, netlink.SCOPE_ANY, 0)


def _route_message(index: int, route: RouteSpec, protocol: int, scope: int, flags: int) -> bytes:
    family, length = _FAMILY[route.cidr.version], route.cidr.prefixlen
    table, kind = netlink.TABLE_MAIN, netlink.TYPE_UNICAST
    parts = [
        netlink.ROUTE.pack(family, length, 0, 0, table, protocol, scope, kind, flags),
        attribute(netlink.RTA_OIF, index),
    ]
    if length:
        parts.append(attribute(netlink.RTA_DST, route.cidr.network_address.packed))
    if route.next_hop is not None:
        parts.append(attribute(netlink.RTA_GATEWAY, route.next_hop.packed))
    if route.source is not None:
        parts.append(attribute(netlink.RTA_PREFSRC, route.source.packed))
    if route.metric:
        parts.append(attribute(netlink.RTA_PRIORITY, route.metric))
    return b"".join(parts)


def neighbour_message(index: int, neighbour: NeighbourSpec) -> bytes:
    """Body of RTM_NEWNEIGH and RTM_DELNEIGH for a permanent entry."""
    family = _FAMILY[neighbour.address.version]
    body = netlink.NEIGHBOUR.pack(family, index, netlink.NUD_PERMANENT, 0, 0)
    address = attribute(netlink.NDA_DST, neighbour.address.packed)
    return body + address + attribute(netlink.NDA_LLADDR, netlink.pack_mac(neighbour.mac))


def addresses(nl: Netlink, index: int = 0) -> Iterator[Address]:
    """Addresses of the interface, or of all, in the kernel's order."""
    for family in _FAMILIES:
        payload = netlink.ADDRESS.pack(family, 0, 0, 0, index)
        for body in nl.dump(netlink.GETADDR, payload, "list addresses"):
            _, length, flags, scope, owner = netlink.ADDRESS.unpack_from(body)
            found = attributes(body, netlink.ADDRESS.size)
            packed = found.get(netlink.IFA_LOCAL) or found[netlink.IFA_ADDRESS]
            if netlink.IFA_FLAGS in found:
                flags = integer(found[netlink.IFA_FLAGS])
            if owner == index or not index:
                yield Address(owner, ipaddress.ip_interface((packed, length)), scope, flags)


def routes(nl: Netlink, index: int = 0) -> Iterator[Route]:
    """Unicast routes of the main table over the interface, or over all, in the kernel's order."""
    for family in _FAMILIES:
        payload = netlink.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        if index:
            payload += attribute(netlink.RTA_OIF, index)
        for body in nl.dump(netlink.GETROUTE, payload, "list routes"):
            route = _route(family, body)
            if route is not None and (route.ifindex == index or not index):
                yield route


def _route(family: int, body: bytes) -> Route | None:
    _, length, _, _, table, protocol, _, kind, _ = netlink.ROUTE.unpack_from(body)
    found = attributes(body, netlink.ROUTE.size)
    if table != netlink.TABLE_MAIN or kind != netlink.TYPE_UNICAST or netlink.RTA_OIF not in found:
        return None
    via, source = found.get(netlink.RTA_GATEWAY), found.get(netlink.RTA_PREFSRC)
    metric = integer(found.get(netlink.RTA_PRIORITY, bytes(4)))
    spec = RouteSpec(
        cidr=_network(found.get(netlink.RTA_DST, bytes(4 if family == socket.AF_INET else 16)), length),
        next_hop=address(via) if via else None,
        source=address(source) if source else None,
        metric=0 if family == socket.AF_INET6 and metric == _METRIC6 else metric,
    )
    return Route(integer(found[netlink.RTA_OIF]), spec, protocol)


def neighbours(nl: Netlink, index: int) -> Iterator[NeighbourSpec]:
    """The permanent neighbour entries of an interface."""
    for family in _FAMILIES:
        payload = netlink.NEIGHBOUR.pack(family, 0, 0, 0, 0) + attribute(netlink.NDA_IFINDEX, index)
        for body in nl.dump(netlink.GETNEIGH, payload, "list neighbours"):
            _, owner, state, _, _ = netlink.NEIGHBOUR.unpack_from(body)
            found = attributes(body, netlink.NEIGHBOUR.size)
            if owner == index and state & netlink.NUD_PERMANENT and netlink.NDA_LLADDR in found:
                ip = address(found[netlink.NDA_DST])
                if not ip.is_multicast:
                    yield NeighbourSpec(address=ip, mac=netlink.unpack_mac(found[netlink.NDA_LLADDR]))
