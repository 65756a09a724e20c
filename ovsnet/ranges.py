"""Which ranges of addresses pods can have, and which addresses nobody can.

Pure. Called for the configuration and for manifests, so that both are held to the same rules, and for routes.
"""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from ovsnet.model import IPAddress, IPNetwork

MIN_ADDRESSES = 8
"""A range smaller than this has next to no room once network, gateway and broadcast are gone."""

_UNUSABLE = [
    (version, int(network[0]), int(network[-1]), kind)
    for version, text, kind in (
        (4, "0.0.0.0/8", "unspecified"),
        (4, "127.0.0.0/8", "loopback"),
        (4, "169.254.0.0/16", "link-local"),
        (4, "224.0.0.0/3", "multicast or reserved"),
        (6, "::/128", "unspecified"),
        (6, "::1/128", "loopback"),
        (6, "fe80::/10", "link-local"),
        # `pipeline`'s addresses, which are on no port; those of IPv4 are link-local.
        (6, "fd6f:7673:6e65::/64", "ovsnet's own"),
        (6, "ff00::/8", "multicast"),
    )
    for network in (ipaddress.ip_network(text),)
]
"""Addresses that no node or pod can have. As numbers: asking ipaddress took longer than reading the file."""


def unusable_address(address: IPAddress) -> str | None:
    """Why nobody can have the address, in a word; None if someone can."""
    number = int(address)
    return _touched(address.version, number, number)


def unusable_range(network: IPNetwork) -> str | None:
    """What the range has that nobody can have, in words; None if it is fit for pods."""
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = _touched(network.version, first, last)
    return f"has {kind} addresses" if kind else None


def too_small(network: IPNetwork) -> str | None:
    """Why the range has no room for pods, and the smallest that has; None if it has."""
    if network.num_addresses >= MIN_ADDRESSES:
        return None
    longest = network.max_prefixlen - (MIN_ADDRESSES - 1).bit_length()
    return f"is too small for pods; /{longest} is the smallest range"


def without(networks: Iterable[IPNetwork], addresses: Iterable[IPAddress]) -> Iterator[IPNetwork]:
    """The networks, those that have some of these addresses as the largest parts that have none."""
    numbers: dict[int, list[int]] = {4: [], 6: []}
    for address in addresses:
        numbers[address.version].append(int(address))
    for found in numbers.values():
        found.sort()
    for network in networks:
        yield from _parts(network, numbers[network.version])


def _parts(network: IPNetwork, numbers: Sequence[int]) -> Iterator[IPNetwork]:
    first, last = int(network.network_address), int(network.broadcast_address)
    index = bisect.bisect_left(numbers, first)
    if index == len(numbers) or numbers[index] > last:
        yield network
    elif first < last:
        for half in network.subnets():
            yield from _parts(half, numbers)


def _touched(version: int, first: int, last: int) -> str | None:
    for family, low, high, kind in _UNUSABLE:
        if family == version and first <= high and low <= last:
            return kind
    return None
