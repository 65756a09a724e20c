"""The node's own address and the interface that carries the tunnels.

Owns nothing and changes nothing. Called by the agent at its start and when it looks again.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import socket
from collections.abc import Iterable

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
)
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ovsnet.errors import HostFailure
from ovsnet.host import inet, pod
from ovsnet.host.messages import all_links, decoded, encoded, link
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import Uplink, UplinkChoice
from ovsnet.model import IPAddress

_UNFIT = IFA_F_SECONDARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE
"""IFA_F_SECONDARY of an IPv6 address: a temporary one (RFC 8981)."""
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOENT, errno.ESRCH)


async def resolve(choice: UplinkChoice) -> Uplink:
    """Find it as configured. Raises HostFailure that lists what there is when nothing fits."""
    with Netlink() as nl:
        held = _held(nl)
        if choice.address is not None:
            index, first = _by_address(nl, held, choice.address), choice.address
            return _uplink(nl, index, [first])
        if choice.interface is not None:
            message = pod.find(nl, choice.interface)
            if message is None:
                raise _failure(nl, held, f"there is no interface {choice.interface!r}")
            return _of_interface(nl, held, message["index"], None)
        if choice.route_to is not None:
            return _of_interface(nl, held, *_route_to(nl, held, choice.route_to))
        return _of_interface(nl, held, *_default_route(nl, held))


def _held(nl: Netlink) -> dict[int, list[IPAddress]]:
    """Addresses fit for a node, by interface index, in the kernel's order: primary ones first."""
    held: dict[int, list[IPAddress]] = {}
    for address in inet.addresses(nl):
        ip = address.interface.ip
        unfit = ip.version == 6 and address.flags & _UNFIT
        if address.scope == inet.GLOBAL and not unfit and not ip.is_loopback:
            held.setdefault(address.ifindex, []).append(ip)
    return held


def _by_address(nl: Netlink, held: dict[int, list[IPAddress]], address: IPAddress) -> int:
    for index, ips in held.items():
        if address in ips:
            return index
    raise _failure(nl, held, f"no interface has the address {address}")


def _route_to(
    nl: Netlink, held: dict[int, list[IPAddress]], target: IPAddress
) -> tuple[int, IPAddress | None]:
    """Interface and source address of packets to the target (RTM_GETROUTE)."""
    family, bits = (socket.AF_INET, 32) if target.version == 4 else (socket.AF_INET6, 128)
    message = encoded(rtmsg, [("RTA_DST", str(target))], family=family, dst_len=bits)
    answer = nl.get(rtnl.RTM_GETROUTE, message, f"look up the route to {target}", absent=_NO_ROUTE)
    if answer is None:
        raise _failure(nl, held, f"there is no route to {target}")
    index = answer.get_attr("RTA_OIF")
    if index == pod.LOOPBACK:
        raise _failure(nl, held, f"{target} is an address of this node; a route to another node is needed")
    source = answer.get_attr("RTA_PREFSRC")
    return index, ipaddress.ip_address(source) if source else None


def _default_route(nl: Netlink, held: dict[int, list[IPAddress]]) -> tuple[int, IPAddress | None]:
    """The default route of IPv4, else that of IPv6; the one with the lowest metric."""
    defaults = [route for route in inet.routes(nl) if route.spec.cidr.prefixlen == 0]
    if not defaults:
        raise _failure(nl, held, "there is no default route that would tell the uplink")
    best = min(defaults, key=lambda route: (route.spec.cidr.version, route.spec.metric))
    return best.ifindex, best.spec.source


def _of_interface(
    nl: Netlink, held: dict[int, list[IPAddress]], index: int, preferred: IPAddress | None
) -> Uplink:
    """The first address of each family, the preferred one before all."""
    candidates = held.get(index, [])
    if preferred is not None and preferred in candidates:
        candidates = [preferred, *candidates]
    first: dict[int, IPAddress] = {}
    for address in candidates:
        first.setdefault(address.version, address)
    if not first:
        raise _failure(nl, held, f"interface {_names(nl).get(index, index)} has no global address")
    return _uplink(nl, index, first.values())


def _uplink(nl: Netlink, index: int, addresses: Iterable[IPAddress]) -> Uplink:
    message = nl.get(rtnl.RTM_GETLINK, link(index=index), f"look up interface {index}")
    return Uplink(
        interface=message.get_attr("IFLA_IFNAME"),
        addresses=tuple(addresses),
        mtu=message.get_attr("IFLA_MTU"),
    )


def _names(nl: Netlink) -> dict[int, str]:
    links = nl.dump(rtnl.RTM_GETLINK, all_links(), "list links", functools.partial(decoded, ifinfmsg))
    return {message["index"]: message.get_attr("IFLA_IFNAME") for message in links}


def _failure(nl: Netlink, held: dict[int, list[IPAddress]], problem: str) -> HostFailure:
    known = _names(nl)
    listing = "; ".join(f"{known.get(i, i)}: {', '.join(map(str, ips))}" for i, ips in held.items())
    return HostFailure(
        f"cannot tell the node's address: {problem}; this node has {listing or 'no global addresses'}",
        "choose the uplink by address, interface or a route in the agent's configuration",
    )
