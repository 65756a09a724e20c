"""Which address the next pod gets.

Pure and in memory: the OVSDB rows of the pods are the truth, an Allocator is built from them at start. It never
reads a clock (callers pass the time) and never lists a range: a /64 costs what a /24 does. Called by
`agent.attachments`, from one loop, so that an allocation is atomic.

Order in which a range gives its addresses: first those never used, lowest first; then freed ones, oldest first,
and none before its cool-down is over, so that nobody takes a newcomer for its predecessor. An address that is asked
for by name is given during its cool-down too: who asks for it wants to be taken for its predecessor.
"""

from __future__ import annotations

import bisect
import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ovsnet.errors import AddressUnavailable, RangeExhausted
from ovsnet.model import AddressRange, Frozen, IPAddress, IPNetwork

MAX_RELEASED = 1000
"""Addresses in cool-down that `released_text` keeps: an OVSDB value of at most 50 KB."""


def gateway(network: IPNetwork) -> IPAddress:
    """The first address of a range: the node's own, on the gateway port."""
    return network.network_address + 1


def parse_released(text: str) -> dict[IPAddress, float]:
    """The inverse of `Allocator.released_text`; leaves out what it can't read: others can write rows too."""
    released: dict[IPAddress, float] = {}
    for word in text.split():
        address, _, seconds = word.partition("=")
        try:
            when = float(seconds)
            if math.isfinite(when):
                released[ipaddress.ip_address(address)] = when
        except ValueError:
            continue
    return released


class Counts(Frozen):
    """The addresses of one range. size: excluded ones too; next_free: seconds until the first cooled down."""

    network: IPNetwork
    size: int
    in_use: int
    excluded: int
    cooling: int
    next_free: float | None

    @property
    def usable(self) -> int:
        """Those that pods can have at all, or have."""
        return self.size - self.excluded

    @property
    def free(self) -> int:
        """Those that a pod can have now."""
        return self.usable - self.in_use - self.cooling

    def __str__(self) -> str:
        text = f"{self.network}: {self.size} addresses, {self.in_use} in use, {self.excluded} excluded"
        if self.next_free is not None:
            text += f", {self.cooling} cooling down, the next is free in {math.ceil(self.next_free)} s"
        return text


class _Range:
    """One range of addresses as integers. Knows what was never used and what was freed, not who has what."""

    def __init__(self, network: IPNetwork, excluded: Iterable[AddressRange]) -> None:
        self.network = network
        self.reserved = _reserved(network)
        self.first = int(network.network_address) + 2
        self.last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
        self.excluded = _merged(excluded, network.version, self.first, self.last)
        self.cursor = self.first
        """Everything below is in use, freed, excluded, or in `unused`."""
        self.unused: list[int] = []
        """Below the cursor and never used all the same, ascending: given and taken back."""
        self.freed: dict[int, float] = {}
        """When each was freed, oldest first."""

    @property
    def size(self) -> int:
        return max(0, self.last - self.first + 1)

    def excluded_until(self, number: int) -> int | None:
        """The end of the excluded stretch that the address is in."""
        index = bisect.bisect_right(self.excluded, number, key=lambda stretch: stretch[0]) - 1
        if index >= 0 and number <= self.excluded[index][1]:
            return self.excluded[index][1]
        return None

    def candidate(self, taken: Mapping[IPAddress, str], before: float) -> IPAddress | None:
        """The next address to give; freed ones only if that was at `before` or earlier."""
        if self.unused:
            return self.address(self.unused[0])
        while self.cursor <= self.last:
            if (end := self.excluded_until(self.cursor)) is not None:
                self.cursor = end + 1
            elif self.cursor in self.freed or self.address(self.cursor) in taken:
                self.cursor += 1
            else:
                return self.address(self.cursor)
        number = next(iter(self.freed), None)
        return self.address(number) if number is not None and self.freed[number] <= before else None

    def address(self, number: int) -> IPAddress:
        return ipaddress.IPv4Address(number) if self.network.version == 4 else ipaddress.IPv6Address(number)

    def gives(self, number: int) -> bool:
        """Whether it could ever be given to a pod that does not ask for it."""
        return self.first <= number <= self.last and self.excluded_until(number) is None

    def take(self, number: int) -> float | None:
        """Somebody has the address now. Returns when it had been freed, None if it was never used."""
        if number in self.unused:
            self.unused.remove(number)
        return self.freed.pop(number, None)

    def put_back(self, number: int, when: float | None) -> None:
        """The inverse of `take`."""
        if when is not None:
            self.freed = dict(sorted({**self.freed, number: when}.items(), key=lambda item: item[1]))
        elif number < self.cursor:
            bisect.insort(self.unused, number)


class Allocator:
    """All ranges of a node. Every address is free, in use by one owner, or freed and cooling down."""

    def __init__(
        self,
        ranges: Sequence[IPNetwork],
        excluded: Sequence[AddressRange],
        cool_down: float,
        *,
        taken: Mapping[IPAddress, str],
        released: Mapping[IPAddress, float],
    ) -> None:
        """cool_down: seconds. taken: owner of each address in use. released: unix seconds at which it was freed.

        Addresses outside the ranges are kept in mind: ranges may change while pods run.
        """
        self._excluded = tuple(excluded)
        self._cool_down = cool_down
        self._ranges = [_Range(network, excluded) for network in ranges]
        self._taken = dict(taken)
        self._elsewhere: dict[IPAddress, float] = {}
        self._freed_before: dict[IPAddress, float] = {}
        """Of addresses in use: when their last owner had freed them."""
        self._latest = math.inf
        for address, when in sorted(released.items(), key=lambda item: item[1]):
            if address not in self._taken:
                self._free(address, when)

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """The gateway of each range, in the order of the ranges."""
        return tuple(gateway(range_.network) for range_ in self._ranges)

    @property
    def taken(self) -> Mapping[IPAddress, str]:
        """The owner of each address in use."""
        return self._taken

    def with_ranges(self, ranges: Sequence[IPNetwork]) -> Allocator:
        """The same allocations over other ranges; what is in use or cooling down outside of them stays so."""
        released = self._elsewhere | dict(self._all_freed())
        return Allocator(ranges, self._excluded, self._cool_down, taken=self._taken, released=released)

    def allocate(self, owner: str, now: float, wanted: Sequence[IPAddress] = ()) -> tuple[IPAddress, ...]:
        """An address of every family that the node has ranges for; all of them or none.

        wanted: these and no others of their families. Raises AddressUnavailable for one of those,
        RangeExhausted with the counts when a family has none left.
        """
        self._notice_clock(now)
        if not self._ranges:
            raise RangeExhausted("this node has no ranges to give addresses from", "give it podCIDRs")
        for index, address in enumerate(wanted):
            self._require_available(address)
            if address in wanted[:index]:
                raise AddressUnavailable(f"address {address} is asked for twice", "ask for it once")
        chosen: list[IPAddress] = []
        for version in dict.fromkeys(range_.network.version for range_ in self._ranges):
            asked = [address for address in wanted if address.version == version]
            chosen += asked or [self._next(version, now)]
        self.claim(chosen, owner)
        return tuple(chosen)

    def has_room(self, now: float) -> bool:
        """Whether a pod that asks for none in particular would get its addresses."""
        versions = {range_.network.version for range_ in self._ranges}
        return versions == {
            range_.network.version
            for range_ in self._ranges
            if range_.candidate(self._taken, now - self._cool_down) is not None
        }

    def claim(self, addresses: Iterable[IPAddress], owner: str) -> None:
        """Notes that the owner has these, whatever they are: somebody's row says so."""
        for address in addresses:
            self._taken[address] = owner
            self._elsewhere.pop(address, None)
            if (range_ := self._range_of(address)) is not None:
                freed = range_.take(int(address))
                if freed is not None:
                    self._freed_before[address] = freed

    def release(self, addresses: Iterable[IPAddress], now: float, owner: str | None = None) -> None:
        """Frees addresses that were in use; their cool-down begins. Others are left as they are.

        owner: only those that it has.
        """
        self._notice_clock(now)
        for address in addresses:
            if owner is not None and self._taken.get(address) != owner:
                continue
            if self._taken.pop(address, None) is not None:
                self._freed_before.pop(address, None)
                self._free(address, now)

    def withdraw(self, addresses: Iterable[IPAddress]) -> None:
        """Takes back addresses that nobody came to use: they are as free as they were before, without a cool-down."""
        for address in addresses:
            freed = self._freed_before.pop(address, None)
            range_ = self._range_of(address)
            if self._taken.pop(address, None) is None or range_ is None:
                continue
            if range_.gives(int(address)):
                range_.put_back(int(address), None if freed is None else min(freed, self._latest))

    def counts(self, now: float) -> list[Counts]:
        """How full each range is."""
        return [self._counts(range_, now) for range_ in self._ranges]

    def released_text(self, now: float, leaving: Iterable[IPAddress] = ()) -> str:
        """Addresses in their cool-down as "ADDRESS=UNIX_SECONDS ...", oldest first, for the Bridge row.

        leaving: addresses in use that will be released when the row is written.
        """
        self._notice_clock(now)
        self._elsewhere = {a: when for a, when in self._elsewhere.items() if when > now - self._cool_down}
        cooling = [
            *self._elsewhere.items(),
            *((a, when) for a, when in self._all_freed(now - self._cool_down)),
            *((a, now) for a in leaving if self._cool_down),
        ]
        newest = sorted(cooling, key=lambda item: item[1])[-MAX_RELEASED:]
        return " ".join(f"{address}={math.ceil(when)}" for address, when in newest)

    def _next(self, version: int, now: float) -> IPAddress:
        ranges = [range_ for range_ in self._ranges if range_.network.version == version]
        for range_ in ranges:
            if (address := range_.candidate(self._taken, now - self._cool_down)) is not None:
                return address
        hint = "remove pods, wait for the cool-down (reuseAfter), or give the node another range (podCIDRs)"
        networks = ", ".join(str(range_.network) for range_ in ranges)
        raise RangeExhausted(
            f"no free IPv{version} address: {'; '.join(str(self._counts(range_, now)) for range_ in ranges)}",
            hint,
            f"no IPv{version} address is free for another pod on this node, range exhausted: {networks} ({hint})",
        )

    def _require_available(self, address: IPAddress) -> None:
        """Raises AddressUnavailable with the reason if no pod can have the address."""
        range_ = self._range_of(address)
        if (owner := self._taken.get(address)) is not None:
            problem, hint = f"is in use by {owner}", "ask for another, or remove that pod"
        elif range_ is None:
            here = ", ".join(str(each.network) for each in self._ranges) or "none"
            problem, hint = f"is in none of this node's ranges ({here})", "ask for one that is"
        elif (role := range_.reserved.get(int(address))) is not None:
            problem, hint = f"is the {role} of {range_.network}", "ask for another"
        elif range_.excluded_until(int(address)) is not None:
            problem, hint = (
                "is excluded by the agent's configuration",
                "ask for another, or change excludedAddresses",
            )
        else:
            return
        raise AddressUnavailable(f"address {address} {problem}", hint)

    def _range_of(self, address: IPAddress) -> _Range | None:
        return next((range_ for range_ in self._ranges if address in range_.network), None)

    def _free(self, address: IPAddress, when: float) -> None:
        range_ = self._range_of(address)
        if range_ is not None and range_.gives(int(address)):
            range_.freed[int(address)] = when
        else:
            self._elsewhere[address] = when

    def _all_freed(self, after: float = -math.inf) -> Iterator[tuple[IPAddress, float]]:
        for range_ in self._ranges:
            yield from ((range_.address(n), when) for n, when in range_.freed.items() if when > after)

    def _notice_clock(self, now: float) -> None:
        """A clock that was set back must not lock addresses: nothing was freed later than now."""
        if now < self._latest:
            self._elsewhere = {address: min(when, now) for address, when in self._elsewhere.items()}
            for range_ in self._ranges:
                range_.freed = {number: min(when, now) for number, when in range_.freed.items()}
        self._latest = now

    def _counts(self, range_: _Range, now: float) -> Counts:
        in_use = [address for address in self._taken if address in range_.network]
        used_anyway = sum(1 for address in in_use if range_.excluded_until(int(address)) is not None)
        cooling = [when for when in range_.freed.values() if when > now - self._cool_down]
        return Counts(
            network=range_.network,
            size=range_.size,
            in_use=len(in_use),
            excluded=sum(last - first + 1 for first, last in range_.excluded) - used_anyway,
            cooling=len(cooling),
            next_free=cooling[0] + self._cool_down - now if cooling else None,
        )


def _reserved(network: IPNetwork) -> dict[int, str]:
    """Addresses that no pod can have, with what they are."""
    first = "network address" if network.version == 4 else "subnet-router anycast address"
    reserved = {int(network.broadcast_address): "broadcast address"} if network.version == 4 else {}
    return reserved | {int(gateway(network)): "gateway"} | {int(network.network_address): first}


def _merged(excluded: Iterable[AddressRange], version: int, first: int, last: int) -> list[tuple[int, int]]:
    """The excluded stretches between first and last: sorted, none touching another."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((int(e.first), int(e.last)) for e in excluded if e.first.version == version):
        start, end = max(start, first), min(end, last)
        if start > end:
            continue
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
