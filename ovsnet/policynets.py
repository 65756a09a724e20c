"""Networks that rules name: blocks as networks, and which addresses these can't tell apart.

Pure. Networks are nested or apart, so that an address is told by the narrowest one that has it. Called by
`policygroups` and `policyends`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

from ovsnet.model import Frozen, IPAddress, IPNetwork
from ovsnet.policymodel import Block

WHOLE: tuple[IPNetwork, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


class Region(Frozen):
    """A network without those within it. address: one that it has and nobody of the cluster."""

    network: IPNetwork
    without: tuple[IPNetwork, ...]
    address: IPAddress


class Networks:
    """Networks, looked up by address."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._starts: dict[tuple[int, int], dict[int, IPNetwork]] = {}
        for each in networks:
            found = self._starts.setdefault((each.version, each.prefixlen), {})
            found[int(each.network_address)] = each
        self._narrowest = sorted(self._starts, reverse=True)

    def narrowest(self, address: IPAddress) -> IPNetwork | None:
        """That has the address; None if none has."""
        value, bits = int(address), address.max_prefixlen
        for version, length in self._narrowest:
            if version == address.version:
                shift = bits - length
                found = self._starts[version, length].get(value >> shift << shift)
                if found is not None:
                    return found
        return None


def regions(
    networks: Iterable[IPNetwork], inside: Iterable[IPNetwork], taken: Collection[IPAddress]
) -> Iterator[Region]:
    """Those that anybody outside can be in, of all addresses there are.

    inside: networks that are the cluster's. taken: further addresses of the cluster.
    """
    closed = set(inside)
    within = _children({*networks, *WHOLE, *closed})
    shut: set[IPNetwork] = set()
    for network, children in within.items():
        # Wider ones come before those within them.
        if network in closed or network in shut:
            shut.update(children)
            continue
        address = _free(network, children, taken)
        if address is not None:
            without = tuple(each for each in children if each not in closed)
            yield Region(network=network, without=without, address=address)


def _children(networks: Iterable[IPNetwork]) -> dict[IPNetwork, list[IPNetwork]]:
    """Of each network those right within it, in order."""
    found: dict[IPNetwork, list[IPNetwork]] = {}
    around: list[IPNetwork] = []
    for each in sorted(networks, key=lambda one: (one.version, int(one.network_address), one.prefixlen)):
        while around and not _has(around[-1], each):
            around.pop()
        if around:
            found[around[-1]].append(each)
        found[each] = []
        around.append(each)
    return found


def _has(outer: IPNetwork, inner: IPNetwork) -> bool:
    return outer.version == inner.version and inner.network_address in outer


def _free(network: IPNetwork, children: list[IPNetwork], taken: Collection[IPAddress]) -> IPAddress | None:
    """The first address that none of its children has, and nobody of the cluster."""
    address = network.network_address
    at, last = int(address), int(network.broadcast_address)
    following = iter(children)
    child = next(following, None)
    while at <= last:
        address = ipaddress.IPv4Address(at) if network.version == 4 else ipaddress.IPv6Address(at)
        if child is not None and address in child:
            at = int(child.broadcast_address) + 1
            child = next(following, None)
        elif address in taken:
            at += 1
        else:
            return address
    return None


def of_length(address: IPAddress, length: int) -> IPNetwork:
    """The network of that prefix's length that has the address."""
    shift = address.max_prefixlen - length
    first = int(address) >> shift << shift
    return (
        ipaddress.IPv4Network((first, length))
        if address.version == 4
        else ipaddress.IPv6Network((first, length))
    )


def parts(block: Block) -> Iterator[IPNetwork]:
    """The block without its excepts, as networks."""
    last = int(block.cidr.broadcast_address)
    at = int(block.cidr.network_address)
    for part in sorted(block.excepts, key=lambda each: int(each.network_address)):
        if int(part.network_address) > at:
            yield from _summed(block.cidr.version, at, int(part.network_address) - 1)
        at = max(at, int(part.broadcast_address) + 1)
    if at <= last:
        yield from _summed(block.cidr.version, at, last)


def _summed(version: int, first: int, last: int) -> Iterator[IPNetwork]:
    """As few as make up the addresses from `first` to `last`."""
    if version == 4:
        yield from ipaddress.summarize_address_range(
            ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
        )
    else:
        yield from ipaddress.summarize_address_range(
            ipaddress.IPv6Address(first), ipaddress.IPv6Address(last)
        )
