"""The node's own port in the pod network: addresses, routes to peers' ranges, neighbours, forwarding.

Owns the gateway interface's addresses, its routes in the main table and in that of steered packets, and permanent
neighbours: the interface is ovsnet's alone, so what is not wanted there goes, but for what the kernel makes by itself.
The interface as such is made by OVS. Routes over other interfaces are never touched: one that is in the way is an error
that names it.
Called by the agent's sync.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Sequence

from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from ovsnet.errors import HostFailure, RouteRefused
from ovsnet.host import inet, pod, rules, sysctl
from ovsnet.host.messages import Change, Failure, Request, link
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import (
    MAIN_TABLE,
    STEERED_TABLE,
    GatewaySpec,
    GatewayState,
    IPInterface,
    RouteSpec,
)
from ovsnet.model import IPNetwork

_AT_ONCE = 64
"""Requests carried out before other tasks get their turn: about 1 ms of the kernel's time."""
_SHOWN = 5
"""Refusals that an error spells out."""
_REPLACE = NLM_F_CREATE | NLM_F_REPLACE
_REMOVALS = (rtnl.RTM_DELROUTE, rtnl.RTM_DELRULE)
_GONE = (errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT)


async def reconcile(spec: GatewaySpec) -> list[str]:
    """Make it so, and say what was changed, one line each; [] when all was well.

    Raises HostFailure for what the kernel refused, after everything else has been done; RouteRefused
    if that was nothing but routes.
    """
    with Netlink() as nl:
        state = _observe(nl, spec)
        done = _settings(nl, spec)
        first = [*_link(spec, state), *_addresses(spec, state)]
        failures = await _carry_out(nl, first)
        if first:
            # With an address and with the link the kernel's routes come, and what depended on them goes.
            state = _observe(nl, spec)
        routes = [*_routes(spec, state)]
        second = [*_neighbours(spec, state)]
        second += rules.changes(spec.rules, state.rules)
        failures += await _carry_out(nl, second)
        refused = await _carry_out(nl, routes)
    if failures:
        raise HostFailure(*_words_of(spec, failures + refused))
    if refused:
        raise RouteRefused(*_words_of(spec, refused))
    return done + [change.done for change in first + second + routes]


def differences(spec: GatewaySpec, *, surplus: bool = True) -> list[str]:
    """What `reconcile` would change, one line each; changes nothing. Raises HostFailure.

    surplus: also routes and rules that are there and not in `spec`.
    """
    with Netlink() as nl:
        state = _observe(nl, spec)
        settings = [
            f"net.{key.replace('/', '.')} is {now}, should be {value}"
            for key, value in _wanted_settings(nl, spec)
            if (now := sysctl.read(key)) not in (None, str(value))
        ]
    plans = (_link, _addresses, _neighbours, _routes)
    planned = [
        *(change for plan in plans for change in plan(spec, state)),
        *rules.changes(spec.rules, state.rules),
    ]
    told = [change for change in planned if surplus or change.request.kind not in _REMOVALS]
    return settings + [f"to be done: {change.done}" for change in told]


async def _carry_out(nl: Netlink, changes: Sequence[Change]) -> list[Failure]:
    failures: list[Failure] = []
    for start in range(0, len(changes), _AT_ONCE):
        failures += nl.attempt([change.request for change in changes[start : start + _AT_ONCE]])
        await asyncio.sleep(0)
    return failures


def _words_of(spec: GatewaySpec, failures: Sequence[Failure]) -> tuple[str, str]:
    """Message and hint for what was refused."""
    shown = "; ".join(failure.error.message for failure in failures[:_SHOWN])
    more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    taken = any(failure.code == errno.EEXIST for failure in failures)
    hint = f"`ip route` shows routes to the same ranges that are not over {spec.interface}: remove them"
    return f"{spec.interface}: {shown}{more}", hint if taken else failures[0].error.hint


def _observe(nl: Netlink, spec: GatewaySpec) -> GatewayState:
    message = pod.find(nl, spec.interface)
    if message is None:
        raise HostFailure(f"there is no interface {spec.interface}", "ovs-vswitchd makes it: is it running?")
    index = message["index"]
    addresses = [address.interface for address in inet.addresses(nl, index)]
    routes = [*inet.routes(nl, index, (MAIN_TABLE, STEERED_TABLE))]
    connected = {r.spec.cidr for r in routes if r.protocol == inet.BY_KERNEL and r.spec.next_hop is None}
    return GatewayState(
        index=index,
        up=bool(message["flags"] & IFF_UP),
        mac=message.get_attr("IFLA_ADDRESS"),
        mtu=message.get_attr("IFLA_MTU"),
        addresses=frozenset(a for a in addresses if a.version == 4 or not a.is_link_local),
        unconnected=frozenset(a for a in addresses if _is_range(a) and a.network not in connected),
        routes=frozenset(r.spec for r in routes if r.protocol != inet.BY_KERNEL),
        neighbours=frozenset(inet.neighbours(nl, index)),
        rules=rules.found(nl, {rule.version for rule in spec.rules}),
    )


def _is_range(address: IPInterface) -> bool:
    return address.network.prefixlen < address.max_prefixlen


def _link(spec: GatewaySpec, state: GatewayState) -> Iterator[Change]:
    changed: list[tuple[str, object]] = []
    words = []
    if spec.mac is not None and spec.mac != state.mac:
        changed.append(("IFLA_ADDRESS", spec.mac))
        words.append(f"MAC {spec.mac}")
    if spec.mtu is not None and spec.mtu != state.mtu:
        changed.append(("IFLA_MTU", spec.mtu))
        words.append(f"MTU {spec.mtu}")
    if not state.up:
        words.append("up")
    if words:
        message = link(*changed, index=state.index, flags=IFF_UP, change=IFF_UP)
        what = f"{spec.interface} set to {', '.join(words)}"
        yield Change(Request(rtnl.RTM_SETLINK, 0, message, f"have {what}"), what)


def _addresses(spec: GatewaySpec, state: GatewayState) -> Iterator[Change]:
    # Removals come first: the kernel removes an IPv4 address together with earlier ones of its range.
    for address in sorted(state.addresses - set(spec.addresses), key=str):
        message = inet.address_message(state.index, address)
        request = Request(rtnl.RTM_DELADDR, 0, message, f"remove the address {address}", _GONE)
        yield Change(request, f"address {address} removed")
    for address in spec.addresses:
        if address not in state.addresses:
            message = inet.address_message(state.index, address)
            request = Request(rtnl.RTM_NEWADDR, _REPLACE, message, f"add the address {address}")
            yield Change(request, f"address {address} added")


def _neighbours(spec: GatewaySpec, state: GatewayState) -> Iterator[Change]:
    wanted = {neighbour.address for neighbour in spec.neighbours}
    for neighbour in state.neighbours.difference(spec.neighbours):
        if neighbour.address not in wanted:
            message = inet.neighbour_message(state.index, neighbour)
            request = Request(
                rtnl.RTM_DELNEIGH, 0, message, f"remove the neighbour {neighbour.address}", _GONE
            )
            yield Change(request, f"neighbour {neighbour.address} removed")
    for neighbour in spec.neighbours:
        if neighbour not in state.neighbours:
            message = inet.neighbour_message(state.index, neighbour)
            what = f"neighbour {neighbour.address} at {neighbour.mac}"
            yield Change(Request(rtnl.RTM_NEWNEIGH, _REPLACE, message, f"add the {what}"), f"{what} added")


def _routes(spec: GatewaySpec, state: GatewayState) -> Iterator[Change]:
    wanted = {_place(route) for route in spec.routes}
    ours = {_place(route) for route in state.routes}
    # Pods of this node are reached by it. The kernel makes it with the address, and never again.
    for address in sorted(state.unconnected if state.up else (), key=str):
        message = inet.connected_message(state.index, address)
        words = f"route {address.network}"
        # As the kernel does: other links have one to fe80::/64 as well.
        flags = NLM_F_CREATE | NLM_F_APPEND
        request = Request(rtnl.RTM_NEWROUTE, flags, message, f"add the {words}", (errno.EEXIST,))
        yield Change(request, f"{words} added")
    for route in spec.routes:
        if route not in state.routes:
            # Only a route that is ours may be replaced: somebody else's would be replaced just as well.
            replace = _place(route) in ours
            message = inet.route_message(state.index, route, on_link=route.next_hop is not None)
            flags = _REPLACE if replace else NLM_F_CREATE | NLM_F_EXCL
            use = f", for {spec.uses[route.cidr]}" if route.cidr in spec.uses else ""
            request = Request(rtnl.RTM_NEWROUTE, flags, message, f"add the {_words(route)}{use}")
            yield Change(request, f"{_words(route)} {'replaced' if replace else 'added'}")
    # Last: another route may have taken over what one led to.
    for route in state.routes.difference(spec.routes):
        if _place(route) not in wanted:
            message = inet.route_removal(state.index, route)
            request = Request(rtnl.RTM_DELROUTE, 0, message, f"remove the {_words(route)}", _GONE)
            yield Change(request, f"{_words(route)} removed")


def _place(route: RouteSpec) -> tuple[IPNetwork, int, int]:
    """Of which the kernel has one route only."""
    return route.cidr, route.metric, route.table


def _words(route: RouteSpec) -> str:
    via = f" via {route.next_hop}" if route.next_hop is not None else ""
    source = f" from {route.source}" if route.source is not None else ""
    table = f" in table {route.table}" if route.table != MAIN_TABLE else ""
    return f"route {route.cidr}{via}{source}{table}"


def _settings(nl: Netlink, spec: GatewaySpec) -> list[str]:
    return [
        f"net.{key.replace('/', '.')} set to {value}"
        for key, value in _wanted_settings(nl, spec)
        if sysctl.ensure(key, value)
    ]


def _wanted_settings(nl: Netlink, spec: GatewaySpec) -> list[tuple[str, int]]:
    """What lets the kernel forward between pods and the rest of the world."""
    name = spec.interface
    wanted = [
        ("ipv4/ip_forward", 1),
        (f"ipv4/conf/{name}/rp_filter", 2),
        # A pod that reaches a pod of this node through the node must not be told a shorter way.
        # The kernel takes "all" or the interface's own, so that other interfaces keep what they have.
        ("ipv4/conf/all/send_redirects", 0),
        (f"ipv4/conf/{name}/send_redirects", 0),
        (f"ipv6/conf/{name}/accept_dad", 0),
        (f"ipv6/conf/{name}/accept_ra", 0),
    ]
    if any(address.version == 6 for address in spec.addresses):
        wanted.append((f"ipv6/conf/{name}/disable_ipv6", 0))
        if sysctl.read("ipv6/conf/all/forwarding") == "0":
            wanted += [(f"ipv6/conf/{learner}/accept_ra", 2) for learner in _learners(nl)]
        wanted.append(("ipv6/conf/all/forwarding", 1))
    return wanted


def _learners(nl: Netlink) -> list[str]:
    """Interfaces with routes from router advertisements, which a forwarding node ignores unless told to."""
    learners = set()
    for index in {route.ifindex for route in inet.routes(nl) if route.protocol == inet.BY_ADVERTISEMENT}:
        message = nl.get(rtnl.RTM_GETLINK, link(index=index), f"look up interface {index}")
        name = message.get_attr("IFLA_IFNAME")
        if sysctl.read(f"ipv6/conf/{name}/accept_ra") == "1":
            learners.add(name)
    return sorted(learners)
