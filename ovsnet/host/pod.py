"""Inside a pod's namespace: bringing its interface up with addresses and routes, and reading it back.

Owns no socket: works on one that `links` opened in the namespace. Never deletes anything.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator

from ovsnet.errors import HostFailure
from ovsnet.host import inet, netlink, sysctl
from ovsnet.host.netlink import Netlink, Request, attribute, attributes, integer
from ovsnet.host.types import AttachSpec, PodInterface, RouteSpec
from ovsnet.model import IPNetwork

_ANYWHERE: dict[int, IPNetwork] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
LOOPBACK = 1
"""The index of `lo` in every namespace (LOOPBACK_IFINDEX in net/flow.h)."""


def find(inside: Netlink, ifname: str) -> bytes | None:
    """The link message of an interface; None when there is none of that name."""
    payload = netlink.link(0, attribute(netlink.IFLA_IFNAME, ifname))
    return inside.get(netlink.GETLINK, payload, f"look up {ifname}", absent=(errno.ENODEV,))


def index_of(message: bytes) -> int:
    index: int = netlink.LINK.unpack_from(message)[2]
    return index


def configure(inside: Netlink, spec: AttachSpec) -> None:
    """Bring up loopback and the interface, which is there already, and give it addresses and routes.

    The caller has entered the namespace: sysctls are those of the thread's.
    """
    found = find(inside, spec.ifname)
    if found is None:
        raise HostFailure(
            f"interface {spec.ifname} vanished while it was set up", "did something delete the pod?"
        )
    _settings(spec)
    inside.apply(list(_requests(spec, index_of(found))))


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
        up = netlink.link(number, flags=netlink.IFF_UP, change=netlink.IFF_UP)
        yield Request(netlink.SETLINK, 0, up, f"bring up {name} in the pod")
    create = netlink.CREATE | netlink.EXCLUSIVE
    for address in spec.addresses:
        payload = inet.address_message(index, address)
        yield Request(netlink.NEWADDR, create, payload, f"give {address} to {spec.ifname} in the pod")
    for gateway in spec.gateways:
        route = RouteSpec(cidr=_ANYWHERE[gateway.version], next_hop=gateway)
        # A pod's second interface leaves the default route to the first.
        yield _route(spec, index, route, tolerate=(errno.EEXIST,))
    for route in spec.routes:
        yield _route(spec, index, route)


def _route(spec: AttachSpec, index: int, route: RouteSpec, tolerate: tuple[int, ...] = ()) -> Request:
    hop = route.next_hop
    on_link = hop is not None and not any(hop in address.network for address in spec.addresses)
    payload = inet.route_message(index, route, on_link=on_link)
    via = f" via {hop}" if hop is not None else ""
    what = f"add the route {route.cidr}{via} over {spec.ifname} in the pod"
    return Request(netlink.NEWROUTE, netlink.CREATE | netlink.EXCLUSIVE, payload, what, tolerate)


def inspect(inside: Netlink, ifname: str) -> PodInterface | None:
    """The interface as it is; None when there is none of that name."""
    message = find(inside, ifname)
    if message is None:
        return None
    _, _, index, flags, _ = netlink.LINK.unpack_from(message)
    found = attributes(message, netlink.LINK.size)
    return PodInterface(
        mac=netlink.unpack_mac(found.get(netlink.IFLA_ADDRESS, b"")),
        mtu=integer(found[netlink.IFLA_MTU]),
        up=bool(flags & netlink.IFF_UP),
        addresses=tuple(a.interface for a in inet.addresses(inside, index) if not a.interface.is_link_local),
        routes=tuple(r.spec for r in inet.routes(inside, index) if r.protocol != netlink.PROTO_KERNEL),
        peer=integer(found.get(netlink.IFLA_LINK, bytes(4))),
    )
