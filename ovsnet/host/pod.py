"""Inside a pod's namespace: bringing its interface up with addresses and routes, and reading it back.

Owns no socket: works on one that `links` opened in the namespace. Never deletes anything.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg

from ovsnet.errors import HostFailure
from ovsnet.host import inet, sysctl
from ovsnet.host.messages import Request, link
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import AttachSpec, PodInterface, RouteSpec
from ovsnet.model import IPNetwork

_ANYWHERE: dict[int, IPNetwork] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
_NEW = NLM_F_CREATE | NLM_F_EXCL
LOOPBACK = 1
"""The index of `lo` in every namespace (LOOPBACK_IFINDEX in net/flow.h)."""


def find(inside: Netlink, ifname: str) -> ifinfmsg | None:
    """The link message of an interface; None when there is none of that name."""
    message = link(("IFLA_IFNAME", ifname))
    return inside.get(rtnl.RTM_GETLINK, message, f"look up {ifname}", absent=(errno.ENODEV,))


def index_of(ifname: str) -> int:
    """Of an interface in the namespace that the thread is in; 0 if there is none of that name."""
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0


def configure(inside: Netlink, spec: AttachSpec) -> None:
    """Bring up loopback and the interface, which is there already, and give it addresses and routes.

    The caller has entered the namespace: sysctls are those of the thread's.
    """
    index = index_of(spec.ifname)
    if not index:
        raise HostFailure(
            f"interface {spec.ifname} vanished while it was set up", "did something delete the pod?"
        )
    _settings(spec)
    inside.apply(list(_requests(spec, index)))


def _settings(spec: AttachSpec) -> None:
    """Addresses are handed out, not discovered: neither router advertisements nor duplicate detection."""
    folder = f"ipv6/conf/{spec.ifname}"
    sysctl.ensure(f"{folder}/accept_ra", 0)
    sysctl.ensure(f"{folder}/accept_dad", 0)
    if any(address.version == 6 for address in spec.addresses):
        # Some runtimes turn IPv6 off in every new namespace.
        sysctl.ensure(f"{folder}/disable_ipv6", 0)
        # The spoof guard knows the link-local address that follows from the MAC, and no other.
        sysctl.ensure(f"{folder}/addr_gen_mode", 0)


def _requests(spec: AttachSpec, index: int) -> Iterator[Request]:
    for name, number in (("lo", LOOPBACK), (spec.ifname, index)):
        up = link(index=number, flags=IFF_UP, change=IFF_UP)
        yield Request(rtnl.RTM_SETLINK, 0, up, f"bring up {name} in the pod")
    for address in spec.addresses:
        message = inet.address_message(index, address)
        yield Request(rtnl.RTM_NEWADDR, _NEW, message, f"give {address} to {spec.ifname} in the pod")
    for gateway in spec.gateways:
        route = RouteSpec(cidr=_ANYWHERE[gateway.version], next_hop=gateway)
        # A pod's second interface leaves the default route to the first.
        yield _route(spec, index, route, tolerate=(errno.EEXIST,))
    for route in spec.routes:
        yield _route(spec, index, route)


def _route(spec: AttachSpec, index: int, route: RouteSpec, tolerate: tuple[int, ...] = ()) -> Request:
    hop = route.next_hop
    on_link = hop is not None and not any(hop in address.network for address in spec.addresses)
    message = inet.route_message(index, route, on_link=on_link)
    via = f" via {hop}" if hop is not None else ""
    what = f"add the route {route.cidr}{via} over {spec.ifname} in the pod"
    return Request(rtnl.RTM_NEWROUTE, _NEW, message, what, tolerate)


def inspect(inside: Netlink, ifname: str) -> PodInterface | None:
    """The interface as it is; None when there is none of that name."""
    message = find(inside, ifname)
    if message is None:
        return None
    index = message["index"]
    return PodInterface(
        mac=message.get_attr("IFLA_ADDRESS", ""),
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & IFF_UP),
        addresses=tuple(a.interface for a in inet.addresses(inside, index) if not a.interface.is_link_local),
        routes=tuple(r.spec for r in inet.routes(inside, index) if r.protocol != inet.BY_KERNEL),
        peer=message.get_attr("IFLA_LINK", 0),
    )
