"""The node's own address and the interface that carries the tunnels.

Owns nothing and changes nothing. Called by the agent at its start and when it looks again.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from ovsnet.errors import HostFailure
from ovsnet.host import inet, netlink, pod
from ovsnet.host.netlink import Netlink, attribute, attributes, integer
from ovsnet.host.types import Uplink, UplinkChoice
from ovsnet.model import IPAddress

_UNFIT = (
    netlink.IFA_F_SECONDARY  # of an IPv6 address: a temporary one (RFC 8981)
    | netlink.IFA_F_DADFAILED
    | netlink.IFA_F_DEPRECATED
    | netlink.IFA_F_TENTATIVE
)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOENT, errno.ESRCH)


async def resolve(choice: UplinkChoice) -> Uplink:
    """Find it as configured. Raises HostFailure that lists what there is when nothing fits."""
    with Netlink.open() as nl:
        held = _held(nl)
        if choice.address is not None:
            index, first = _by_address(nl, held, choice.address), choice.address
            return _uplink(nl, index, [first])
        if choice.interface is not None:
            message = pod.find(nl, choice.interface)
            if message is None:
                raise _failure(nl, held, f"there is no interface {choice.interface!r}")
            return _of_interface(nl, held, pod.index_of(message), None)
        if choice.route_to is not None:
            return _of_interface(nl, held, *_route_to(nl, held, choice.route_to))
        return _of_interface(nl, held, *_default_route(nl, held))


def _held(nl: Netlink) -> dict[int, list[IPAddress]]:
    """Addresses fit for a node, by interface index, in the kernel's order: primary ones first."""
    held: dict[int, list[IPAddress]] = {}
    for address in inet.addresses(nl):
        ip = address.interface.ip
        unfit = ip.version == 6 and address.flags & _UNFIT
        if address.scope == netlink.SCOPE_GLOBAL and not unfit and not ip.is_loopback:
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
    payload = netlink.ROUTE.pack(family, bits, 0, 0, 0, 0, 0, 0, 0) + attribute(
        netlink.RTA_DST, target.packed
    )
    answer = nl.get(netlink.GETROUTE, payload, f"look up the route to {target}", absent=_NO_ROUTE)
    if answer is None:
        raise _failure(nl, held, f"there is no route to {target}")
    found = attributes(answer, netlink.ROUTE.size)
    index = integer(found[netlink.RTA_OIF])
    if index == pod.LOOPBACK:
        raise _failure(nl, held, f"{target} is an address of this node; a route to another node is needed")
    source = found.get(netlink.RTA_PREFSRC)
    return index, inet.address(source) if source else None


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
    message = nl.get(netlink.GETLINK, netlink.link(index), f"look up interface {index}")
    found = attributes(message or b"", netlink.LINK.size)
    name = netlink.text(found[netlink.IFLA_IFNAME])
    return Uplink(interface=name, addresses=tuple(addresses), mtu=integer(found[netlink.IFLA_MTU]))


def _names(nl: Netlink) -> dict[int, str]:
    skip = attribute(netlink.IFLA_EXT_MASK, netlink.EXT_MASK_SKIP_STATS)
    links = nl.dump(netlink.GETLINK, netlink.link(0, skip), "list links")
    return {
        pod.index_of(body): netlink.text(netlink.first(body, netlink.LINK.size, netlink.IFLA_IFNAME))
        for body in links
    }


def _failure(nl: Netlink, held: dict[int, list[IPAddress]], problem: str) -> HostFailure:
    known = _names(nl)
    listing = "; ".join(f"{known.get(i, i)}: {', '.join(map(str, ips))}" for i, ips in held.items())
    return HostFailure(
        f"cannot tell the node's address: {problem}; this node has {listing or 'no global addresses'}",
        "choose the uplink by address, interface or a route in the agent's configuration",
    )
