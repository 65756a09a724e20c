"""Allocation of addresses: order, refusals, counts, and a model that any sequence of calls must follow."""

from __future__ import annotations

import math
import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ovsnet import ipam
from ovsnet.errors import AddressUnavailable, RangeExhausted
from ovsnet.model import AddressRange, IPAddress

TINY = ip_network("10.0.0.0/29")
SECOND = ip_network("10.9.0.0/29")
WIDE = ip_network("fd00::/64")


def allocator(
    *ranges: str,
    excluded: tuple[tuple[str, str], ...] = (),
    taken: dict[str, str] | None = None,
    released: dict[str, float] | None = None,
    cool_down: float = 60,
) -> ipam.Allocator:
    return ipam.Allocator(
        [ip_network(text) for text in ranges],
        [AddressRange(first=ip_address(first), last=ip_address(last)) for first, last in excluded],
        cool_down,
        taken={ip_address(text): owner for text, owner in (taken or {}).items()},
        released={ip_address(text): when for text, when in (released or {}).items()},
    )


def texts(addresses: tuple[IPAddress, ...]) -> list[str]:
    return [str(address) for address in addresses]


def drain(subject: ipam.Allocator, now: float = 0) -> list[str]:
    """Everything that the allocator gives, in its order."""
    found: list[str] = []
    while True:
        try:
            found += texts(subject.allocate("drain", now))
        except RangeExhausted:
            return found


def test_ipv4_never_gives_network_gateway_or_broadcast() -> None:
    assert drain(allocator("10.0.0.0/29")) == [f"10.0.0.{last}" for last in range(2, 7)]


def test_ipv6_never_gives_the_routers_anycast_address_or_the_gateway() -> None:
    assert drain(allocator("fd00::/125")) == [f"fd00::{last}" for last in range(2, 8)]


@pytest.mark.parametrize("text", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128", "10.0.0.0/30"])
def test_ranges_too_small_for_anything_just_run_out(text: str) -> None:
    assert len(drain(allocator(text))) == (1 if text.endswith("/30") else 0)


def test_without_ranges_there_is_nothing_to_give() -> None:
    with pytest.raises(RangeExhausted, match="no ranges"):
        allocator().allocate("a", 0)


def test_one_address_of_each_family_in_the_order_of_the_ranges() -> None:
    assert texts(allocator("fd00::/64", "10.0.0.0/29").allocate("a", 0)) == ["fd00::2", "10.0.0.2"]


def test_the_next_range_of_a_family_serves_when_the_first_is_full() -> None:
    assert drain(allocator("10.0.0.0/30", "10.9.0.0/30")) == ["10.0.0.2", "10.9.0.2"]


def test_excluded_addresses_are_skipped() -> None:
    subject = allocator(
        "10.0.0.0/28",
        excluded=(("10.0.0.3", "10.0.0.9"), ("10.0.0.9", "10.0.0.12"), ("10.0.0.14", "10.0.9.9")),
    )
    assert drain(subject) == ["10.0.0.2", "10.0.0.13"]


def test_never_used_ones_come_before_freed_ones_and_those_oldest_first() -> None:
    subject = allocator("10.0.0.0/29", cool_down=10)
    first = [subject.allocate(f"pod-{index}", 0) for index in range(4)]
    subject.release(first[2], 1)
    subject.release(first[0], 2)
    assert texts(subject.allocate("x", 20)) == ["10.0.0.6"]
    assert texts(subject.allocate("y", 20)) == ["10.0.0.4"]
    assert texts(subject.allocate("z", 20)) == ["10.0.0.2"]


def test_nothing_is_given_before_its_cool_down_and_the_error_says_when() -> None:
    subject = allocator("10.0.0.0/29", excluded=(("10.0.0.5", "10.0.0.6"),))
    owners = [subject.allocate(f"pod-{index}", 0) for index in range(3)]
    subject.release(owners[1], 100)
    assert [(each.usable, each.free) for each in subject.counts(130.5)] == [(3, 0)]
    with pytest.raises(RangeExhausted) as caught:
        subject.allocate("x", 130.5)
    assert caught.value.cni_code == 11
    assert caught.value.message == (
        "no free IPv4 address: 10.0.0.0/29: 5 addresses, 2 in use, 2 excluded, 1 cooling down, the next is free in 30 s"
    )
    assert "10.0.0.0/29" in caught.value.lasting
    assert "in use" not in caught.value.lasting, "it changes with every pod"
    assert (subject.has_room(159), subject.has_room(160)) == (False, True)
    assert [each.free for each in subject.counts(160)] == [1]
    assert subject.allocate("x", 160) == owners[1]


def test_an_exhausted_family_leaves_the_other_as_it_was() -> None:
    subject = allocator("fd00::/64", "10.0.0.0/30")
    subject.allocate("a", 0)
    with pytest.raises(RangeExhausted, match="IPv4"):
        subject.allocate("b", 0)
    assert not subject.has_room(0)
    subject.release([ip_address("10.0.0.2")], 0)
    assert texts(subject.allocate("c", 60)) == ["fd00::3", "10.0.0.2"]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("10.0.0.2", "in use by first"),
        ("10.0.0.0", "network address"),
        ("10.0.0.1", "gateway"),
        ("10.0.0.7", "broadcast address"),
        ("10.0.0.5", "excluded"),
        ("10.1.0.2", r"none of this node's ranges \(10.0.0.0/29, fd00::/64\)"),
        ("fd00::", "subnet-router anycast"),
        ("fd01::5", "none of this node's ranges"),
    ],
)
def test_wanted_address_that_can_not_be_had(wanted: str, reason: str) -> None:
    subject = allocator("10.0.0.0/29", "fd00::/64", excluded=(("10.0.0.5", "10.0.0.5"),))
    subject.allocate("first", 0)
    before = dict(subject.taken)
    with pytest.raises(AddressUnavailable, match=reason) as caught:
        subject.allocate("second", 0, [ip_address("fd00::77"), ip_address(wanted)])
    assert caught.value.cni_code == 101
    assert subject.taken == before


def test_wanted_addresses_are_honoured_and_other_families_filled_up() -> None:
    subject = allocator("10.0.0.0/29", "fd00::/64")
    assert texts(subject.allocate("a", 0, [ip_address("fd00::77")])) == ["10.0.0.2", "fd00::77"]
    with pytest.raises(AddressUnavailable, match="twice"):
        subject.allocate("b", 0, [ip_address("fd00::78")] * 2)


def test_a_wanted_address_needs_no_cool_down() -> None:
    subject = allocator("10.0.0.0/29")
    mine = subject.allocate("web-0", 0)
    subject.release(mine, 5)
    assert subject.allocate("web-0 again", 5, mine) == mine


def test_withdrawing_restores_what_was_before() -> None:
    subject = allocator("10.0.0.0/29", cool_down=0)
    given = [subject.allocate(f"pod-{index}", 0) for index in range(3)]
    subject.withdraw(given[1])
    assert subject.allocate("x", 0) == given[1]
    subject.release(given[0], 1)
    subject.release(given[2], 2)
    rest = [subject.allocate("y", 3), subject.allocate("y", 3)]
    assert texts(rest[0] + rest[1]) == ["10.0.0.5", "10.0.0.6"]
    oldest = subject.allocate("z", 3)
    assert oldest == given[0]
    subject.withdraw(oldest)
    assert subject.allocate("z", 3) == given[0]


def test_state_survives_as_text() -> None:
    subject = allocator("10.0.0.0/29", "fd00::/64")
    given = subject.allocate("a", 0)
    subject.allocate("b", 0)
    subject.release(given, 1000.2)
    text = subject.released_text(1001)
    assert text == "10.0.0.2=1001 fd00::2=1001"
    assert ipam.parse_released(text) == {ip_address("10.0.0.2"): 1001, ip_address("fd00::2"): 1001}
    assert subject.released_text(1000.2 + 60) == ""


def test_released_text_is_bounded_and_keeps_the_newest() -> None:
    subject = allocator("10.0.0.0/16")
    given = [subject.allocate("a", 0) for _ in range(ipam.MAX_RELEASED + 5)]
    for index, addresses in enumerate(given):
        subject.release(addresses, index / 1000)
    words = subject.released_text(2).split()
    assert len(words) == ipam.MAX_RELEASED
    assert words[-1].startswith(f"{given[-1][0]}=")


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0.2", "10.0.0.2=x", "10.0.0.2=nan", "10.0.0.2=inf", "=5", "10.0.0.300=5"]
)
def test_released_text_of_others_is_passed_over(text: str) -> None:
    assert ipam.parse_released(f"{text} 10.0.0.3=7") == {ip_address("10.0.0.3"): 7}


def test_rows_of_an_earlier_run_count() -> None:
    subject = allocator(
        "10.0.0.0/29", taken={"10.0.0.2": "a"}, released={"10.0.0.4": 90, "10.0.0.3": 80, "10.0.0.2": 1}
    )
    assert drain(subject, 100) == ["10.0.0.5", "10.0.0.6"]
    assert drain(subject, 150) == ["10.0.0.3", "10.0.0.4"]


def test_a_clock_that_is_set_back_locks_nothing_for_longer_than_a_cool_down() -> None:
    subject = allocator("10.0.0.0/30", released={"10.0.0.2": 1e9})
    with pytest.raises(RangeExhausted, match="free in 60 s"):
        subject.allocate("a", 1000)
    given = subject.allocate("a", 1060)
    subject.release(given, 2000)
    with pytest.raises(RangeExhausted, match="free in 60 s"):
        subject.allocate("a", 10)
    assert subject.allocate("a", 70) == given


def test_other_ranges_keep_what_is_in_use_and_what_cools_down() -> None:
    before = allocator("10.0.0.0/29")
    kept, freed = before.allocate("a", 0), before.allocate("b", 0)
    before.release(freed, 10)
    outside = before.with_ranges([SECOND])
    assert texts(outside.allocate("c", 20)) == ["10.9.0.2"]
    with pytest.raises(AddressUnavailable, match="in use by a"):
        outside.allocate("d", 20, kept)
    assert outside.released_text(20) == "10.0.0.3=10"
    back = outside.with_ranges([TINY])
    assert drain(back, 30) == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert drain(back, 70) == ["10.0.0.3"]


def test_releasing_what_nobody_has_changes_nothing() -> None:
    subject = allocator("10.0.0.0/29")
    subject.release([ip_address("10.0.0.4"), ip_address("192.0.2.1")], 5)
    subject.withdraw([ip_address("10.0.0.4"), ip_address("192.0.2.1")])
    assert subject.released_text(5) == ""
    assert len(drain(subject)) == 5


def test_gateways_are_the_first_addresses() -> None:
    assert texts(allocator("10.0.0.0/29", "fd00::/64").gateways) == ["10.0.0.1", "fd00::1"]


def test_large_ranges_cost_no_more_than_small_ones() -> None:
    subject = allocator("10.0.0.0/16", "fd00::/64", excluded=(("fd00::", "fd00::ffff:ffff:ffff"),))
    started = time.process_time()
    for _ in range(5000):
        subject.allocate("a", 0)
    assert time.process_time() - started < 2
    assert texts(subject.allocate("a", 0))[1] == "fd00::1:0:0:1388"


class AllocatorMachine(RuleBasedStateMachine):
    """A /29 against a model: what is never used, freed (in order) and in use is always one whole."""

    COOL_DOWN = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.excluded = ip_address("10.0.0.4")
        self.subject = allocator(
            "10.0.0.0/29", excluded=(("10.0.0.4", "10.0.0.4"),), cool_down=self.COOL_DOWN
        )
        self.now = 1000.0
        self.unused = [ip_address(f"10.0.0.{last}") for last in (2, 3, 5, 6)]
        self.freed: list[tuple[float, IPAddress]] = []
        self.used: dict[IPAddress, float | None] = {}
        """When the address had been freed before, for withdrawing."""

    def expected(self) -> IPAddress | None:
        if self.unused:
            return self.unused[0]
        ready = [address for when, address in self.freed if when + self.COOL_DOWN <= self.now]
        return ready[0] if ready else None

    def note_used(self, address: IPAddress) -> None:
        self.used[address] = next((when for when, each in self.freed if each == address), None)
        self.freed = [item for item in self.freed if item[1] != address]
        self.unused = [each for each in self.unused if each != address]

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def allocate(self) -> None:
        expected = self.expected()
        try:
            (given,) = self.subject.allocate("pod", self.now)
        except RangeExhausted:
            assert expected is None
        else:
            assert given == expected
            self.note_used(given)

    @rule(last=st.integers(0, 8))
    def allocate_wanted(self, last: int) -> None:
        address = ip_address(f"10.0.0.{last}")
        free = address in self.unused or any(address == each for _, each in self.freed)
        try:
            given = self.subject.allocate("pod", self.now, [address])
        except AddressUnavailable:
            assert not free
        else:
            assert free
            assert given == (address,)
            self.note_used(address)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.used)))
        self.subject.release([address], self.now)
        del self.used[address]
        self.freed.append((self.now, address))

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.used)))
        self.subject.withdraw([address])
        when = self.used.pop(address)
        if when is None:
            self.unused = sorted([*self.unused, address])
        else:
            self.freed = sorted([*self.freed, (when, address)], key=lambda item: item[0])

    @rule()
    def restart(self) -> None:
        """From rows and text, as the agent does: what has cooled down counts as never used then."""
        cooling = [item for item in self.freed if item[0] + self.COOL_DOWN > self.now]
        cooled = [address for when, address in self.freed if when + self.COOL_DOWN <= self.now]
        released = ipam.parse_released(self.subject.released_text(self.now))
        assert list(released) == [address for _, address in cooling]
        self.subject = ipam.Allocator(
            [TINY],
            [AddressRange(first=self.excluded, last=self.excluded)],
            self.COOL_DOWN,
            taken=self.subject.taken,
            released=released,
        )
        self.freed = cooling
        self.unused = sorted([*self.unused, *cooled])
        self.used = dict.fromkeys(self.used)
        # Nobody knows any more when an address in use had been freed: withdrawn, it counts as never used.

    @rule(flip=st.booleans())
    def other_ranges_and_back(self, flip: bool) -> None:
        other = self.subject.with_ranges([SECOND] if flip else [])
        other.released_text(self.now)
        if not any(when + self.COOL_DOWN <= self.now for when, _ in self.freed):
            self.subject = other.with_ranges([TINY])
            self.used = dict.fromkeys(self.used)

    @invariant()
    def counts_are_right(self) -> None:
        (counts,) = self.subject.counts(self.now)
        cooling = [when for when, _ in self.freed if when + self.COOL_DOWN > self.now]
        assert (counts.size, counts.in_use, counts.excluded, counts.cooling) == (
            5,
            len(self.used),
            1,
            len(cooling),
        )
        assert (counts.next_free is None) == (not cooling)
        assert counts.next_free is None or math.isclose(
            counts.next_free, cooling[0] + self.COOL_DOWN - self.now
        )
        assert set(self.subject.taken) == set(self.used)


TestAllocator = AllocatorMachine.TestCase
