"""Which address next: first those never used, then those free the longest.

Pure. Remembers what OVSDB rows say (`taken`, `released`) and never lists a range: a /64 costs what a
/24 does. Called by the agent's attachments, whose single loop makes each call atomic.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence

from ovsnet.config import AddressRange
from ovsnet.errors import AddressUnavailable, RangeExhausted
from ovsnet.model import IPAddress, IPNetwork

_MOST_RELEASED = 1024
"""Addresses in cool-down that are remembered across restarts; OVSDB is no place for more."""


class Range:
    """One range: a cursor over what was never used, and a queue of what was given back."""

    def __init__(self, cidr: IPNetwork, excluded: Sequence[AddressRange]) -> None:
        self.cidr = cidr
        self.gateway: IPAddress = cidr.network_address + 1
        self.first = int(cidr.network_address) + 2
        self.last = int(cidr.broadcast_address) - (1 if cidr.version == 4 else 0)
        self.excluded = _merged(
            (max(int(each.first), self.first), min(int(each.last), self.last))
            for each in excluded
            if each.first.version == cidr.version
        )
        self.freed: dict[IPAddress, float] = {}
        """When each was given back, oldest first."""
        self._cursor = self.first

    def __contains__(self, address: IPAddress) -> bool:
        return address.version == self.cidr.version and address in self.cidr

    @property
    def usable(self) -> int:
        """Addresses that pods can have."""
        return self.last - self.first + 1 - self.excluded_count

    @property
    def excluded_count(self) -> int:
        return sum(last - first + 1 for first, last in self.excluded)

    def forbidden(self, address: IPAddress) -> str | None:
        """Why no pod can have the address; None if one can."""
        number = int(address)
        if address == self.gateway:
            return "it is the gateway"
        if number < self.first:
            return "it is the network's own"
        if number > self.last:
            return "it is the broadcast address"
        if any(first <= number <= last for first, last in self.excluded):
            return "it is excluded by the configuration"
        return None

    def take(self, taken: Mapping[IPAddress, str], now: float, cool_down: float) -> IPAddress | None:
        """The next address, off the lists; None if there is none."""
        kind = type(self.cidr.network_address)
        while self._cursor <= self.last:
            skip = next((last for first, last in self.excluded if first <= self._cursor <= last), None)
            if skip is not None:
                self._cursor = skip + 1
                continue
            address = kind(self._cursor)
            self._cursor += 1
            if address not in taken and address not in self.freed:
                return address
        oldest = next(iter(self.freed), None)
        if oldest is None or self.freed[oldest] + cool_down > now:
            return None
        del self.freed[oldest]
        return oldest

    def counts(self, taken: Iterable[IPAddress], now: float, cool_down: float) -> str:
        """The range's state in words, for RangeExhausted."""
        used = sum(address in self for address in taken)
        cooling = [when for when in self.freed.values() if when + cool_down > now]
        words = f"{self.cidr}: {self.usable} usable, {used} in use, {self.excluded_count} excluded"
        if cooling:
            wait = math.ceil(cooling[0] + cool_down - now)
            words += f", {len(cooling)} cooling down (the next is free in {wait} s)"
        return words


class Allocator:
    """The addresses of this node's ranges. cool_down: seconds between two owners of an address."""

    def __init__(
        self,
        cidrs: Sequence[IPNetwork],
        excluded: Sequence[AddressRange] = (),
        cool_down: float = 60,
        *,
        taken: Mapping[IPAddress, str] | None = None,
        released: Mapping[IPAddress, float] | None = None,
    ) -> None:
        self._excluded = tuple(excluded)
        self._cool_down = cool_down
        self.taken: dict[IPAddress, str] = dict(taken or {})
        """Who has which address."""
        self._ranges = [Range(cidr, self._excluded) for cidr in cidrs]
        for address, when in sorted((released or {}).items(), key=lambda item: item[1]):
            self._give_back(address, when)

    def with_ranges(self, cidrs: Sequence[IPNetwork]) -> Allocator:
        """The same owners and cool-downs with other ranges; who has an address keeps it."""
        released = {address: when for each in self._ranges for address, when in each.freed.items()}
        return Allocator(cidrs, self._excluded, self._cool_down, taken=self.taken, released=released)

    def allocate(self, owner: str, now: float, wanted: Sequence[IPAddress] = ()) -> tuple[IPAddress, ...]:
        """An address of every family that there are ranges for, IPv4 first; all or none.

        wanted: these instead, for their families. Raises AddressUnavailable for one that can't be
        had, RangeExhausted with the counts of every range of the family.
        """
        self._settle_clock(now)
        chosen: list[IPAddress] = []
        try:
            for address in wanted:
                self._take_wanted(address, owner)
                chosen.append(address)
            given = {address.version for address in wanted}
            for version in sorted({each.cidr.version for each in self._ranges} - given):
                address = self._next(version, now)
                self.taken[address] = owner
                chosen.append(address)
        except (AddressUnavailable, RangeExhausted):
            self.withdraw(chosen)
            raise
        return tuple(sorted(chosen, key=lambda address: address.version))

    def release(self, addresses: Iterable[IPAddress], now: float) -> None:
        """The owner is gone: the addresses rest for the cool-down."""
        self._settle_clock(now)
        for address in addresses:
            if self.taken.pop(address, None) is not None:
                self._give_back(address, now)

    def withdraw(self, addresses: Iterable[IPAddress]) -> None:
        """An allocation that came to nothing: nobody has seen the addresses, they are next."""
        for address in addresses:
            if self.taken.pop(address, None) is not None:
                for each in self._ranges:
                    if address in each:
                        each.freed = {address: -math.inf, **each.freed}

    def claim(self, addresses: Iterable[IPAddress], owner: str) -> None:
        """Undoes a release."""
        for address in addresses:
            self.taken[address] = owner
            for each in self._ranges:
                each.freed.pop(address, None)

    def released_text(self, now: float) -> str:
        """What must survive a restart: "ADDRESS=UNIX_SECONDS ...", the latest last."""
        cooling = sorted(
            (when, str(address))
            for each in self._ranges
            for address, when in each.freed.items()
            if when + self._cool_down > now
        )
        return " ".join(f"{address}={when:.0f}" for when, address in cooling[-_MOST_RELEASED:])

    def _take_wanted(self, address: IPAddress, owner: str) -> None:
        home = next((each for each in self._ranges if address in each), None)
        if home is None:
            ranges = ", ".join(str(each.cidr) for each in self._ranges)
            raise AddressUnavailable(f"{address} is in none of this node's ranges", f"they are {ranges}")
        if address in self.taken:
            raise AddressUnavailable(f"{address} belongs to {self.taken[address]}", "ask for another address")
        reason = home.forbidden(address)
        if reason is not None:
            raise AddressUnavailable(f"{address} can't be given to a pod: {reason}", "ask for another address")
        home.freed.pop(address, None)
        self.taken[address] = owner

    def _next(self, version: int, now: float) -> IPAddress:
        ranges = [each for each in self._ranges if each.cidr.version == version]
        for each in ranges:
            address = each.take(self.taken, now, self._cool_down)
            if address is not None:
                return address
        counts = "; ".join(each.counts(self.taken, now, self._cool_down) for each in ranges)
        raise RangeExhausted(f"no free IPv{version} address: {counts}", "delete pods, or give the node a larger range")

    def _give_back(self, address: IPAddress, when: float) -> None:
        for each in self._ranges:
            if address in each and each.forbidden(address) is None and address not in self.taken:
                each.freed[address] = when

    def _settle_clock(self, now: float) -> None:
        """A clock that was set back must not lock addresses: what was freed in the future was freed now."""
        for each in self._ranges:
            newest = next(reversed(each.freed.values()), now)
            if newest > now:
                each.freed = {address: min(when, now) for address, when in each.freed.items()}


def parse_released(text: str) -> dict[IPAddress, float]:
    """Reads `released_text`; what is not well formed is left out: at worst an address rests less."""
    found: dict[IPAddress, float] = {}
    for item in text.split():
        address, _, when = item.partition("=")
        try:
            found[ipaddress.ip_address(address)] = float(when)
        except ValueError:
            continue
    return found


def _merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(interval for interval in intervals if interval[0] <= interval[1]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
