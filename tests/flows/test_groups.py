"""Groups on a real switch: exactly the endpoints are reached, evenly, after every kind of change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from balance_steps import steps
from balance_world import FIRST, HASHES, Balance, connections, writes
from flow_world import lines_of
from openflow_tap import GROUP_MOD, Tap
from ovs_sandbox import Sandbox

from ovsnet import flowplan
from ovsnet.endpoints import Backend
from ovsnet.frontends import BUCKETS, Group, ServiceObject

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
STICKY = pytest.mark.parametrize("affinity", [0, 60], ids=["each", "stays"])
Make = Callable[..., Balance]


@pytest.fixture
def balance(ovs: Sandbox) -> Iterator[Make]:
    made: list[Balance] = []

    def make(family: int, affinity: int = 0) -> Balance:
        made.append(Balance(ovs, f"br-balance-{len(made)}", family=family, affinity=affinity))
        return made[-1]

    yield make
    for each in made:
        each.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "count"), [(0, 1), (0, 2), (0, 100), (0, 256), (0, 257), (0, 5000), (1, 2), (1, 257)]
)
def test_every_endpoint_and_no_other_after_every_change(balance: Make, family: int, count: int) -> None:
    """A change of one endpoint writes one group, but between 256 and 257."""
    switch = balance(family)
    for step in steps(count):
        written = writes(switch.serve(step.endpoints, port=step.port, **step.said))
        assert max([line.count("bucket=") for line in written], default=0) <= BUCKETS, step.shows
        if step.one and count != BUCKETS:
            assert len(written) == 1, step.shows
        assert switch.differences() == [], step.shows
        assert switch.reached() == step.pods, step.shows
        if step.outside is not None:
            assert switch.reached(outside=True) == step.outside, step.shows


@pytest.mark.slow
@STICKY
def test_more_endpoints_than_fit_into_a_group(balance: Make, affinity: int) -> None:
    """It grows past 256 and shrinks again."""
    switch = balance(0, affinity)
    for count in (256, 257, 256, 300, 257, 3):
        switch.serve(range(count))
        assert switch.differences() == []
        assert switch.reached() == set(range(count))


def test_shares(balance: Make) -> None:
    """Of 256 hashes each endpoint gets its share, or up to twice as much as another: Open vSwitch uses a power of two
    of slots, at least 16 and no more than it must."""
    switch = balance(0)
    for count in (1, 2, 3, 4, 5, 9, 100, 129, 256):
        switch.serve(range(count))
        shares = Counter(way.endpoint for way in switch.choose(HASHES))
        assert shares.keys() == set(range(count))
        assert max(shares.values()) <= 2 * min(shares.values()), shares
        if 256 % count == 0:
            assert set(shares.values()) == {256 // count}


@pytest.mark.slow
@STICKY
def test_shares_of_more_endpoints_than_fit_into_a_group(balance: Make, affinity: int) -> None:
    """Each of 257 is met in 4,000 connections, and each of the groups of a group gets as much as any other."""
    switch = balance(0, affinity)
    switch.serve(range(257))
    shares = Counter(way.endpoint for way in switch.choose(connections(4000)))
    assert shares.keys() == set(range(257))
    assert max(shares.values()) < 4 * 4000 / 257
    switch.serve(range(5000))
    members = Counter(way.groups[1] for way in switch.choose(connections(2000)))
    assert len(members) == 64
    assert max(members.values()) < 3 * 2000 / 64


@FAMILIES
def test_none_at_all_and_again(balance: Make, family: int) -> None:
    switch = balance(family)
    for endpoints in ({1, 2}, set(), {2}):
        switch.serve(endpoints)
        assert switch.differences() == []
    assert switch.reached() == {2}


@FAMILIES
@pytest.mark.parametrize("count", [1, 2, 100, 256])
def test_up_to_256_endpoints_no_connection_needs_an_upcall(balance: Make, family: int, count: int) -> None:
    """Entries of the datapath that lead to an endpoint look at its own hash, and at nothing else that would differ from
    one connection to the next."""
    switch = balance(family)
    switch.serve(range(count))
    (unasked,) = switch.trace([(0, 40000)])
    assert re.search(r"^Datapath actions: hash\(l4\(0\)\),recirc", unasked, re.MULTILINE), unasked
    for text in (unasked, *switch.trace(HASHES)):
        entries = re.findall(r"^Megaflow: (.*)$", text, re.MULTILINE)
        chooses = [entry for entry in entries if "dp_hash=" in entry]
        assert len(chooses) == (text != unasked), text
        for entry in entries:
            assert not re.search(r"tp_src|tcp_src", entry), text
        for entry in chooses:
            assert not re.search(r"nw_src|ipv6_src", entry), text


@STICKY
def test_groups_of_groups_of_groups(balance: Make, affinity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with tens of thousands of endpoints: each level has a hash of its own, so that connections get to all."""
    monkeypatch.setattr("ovsnet.frontends.BUCKETS", 8)
    monkeypatch.setattr("ovsnet.frontends.FILL", 4)
    switch = balance(0, affinity)
    for endpoints in (range(150), range(1, 150), range(70)):
        switch.serve(endpoints)
        assert switch.differences() == []
        assert max(line.count("bucket=") for line in switch.groups().values()) == 8
        assert switch.reached() == set(endpoints)
    ways = switch.choose(connections(4000))
    assert max(len(way.groups) for way in ways) == 3
    assert {way.endpoint for way in ways} == set(range(70))


def test_no_group_comes_near_the_longest_message(ovs: Sandbox, balance: Make) -> None:
    """That has 65,535 bytes. No group has more buckets than these, and no bucket longer actions."""
    there = tuple(Backend(address=FIRST[1] + each, port=65535) for each in range(BUCKETS))
    kinds: list[dict[str, Any]] = [
        {"backends": there},
        {"backends": there, "level": 1},
        {"backends": there, "sticky": True},
        {"backends": there, "sticky": True, "level": 2},
        {"members": tuple(range(0xFFFFFE00, 0xFFFFFE00 - BUCKETS, -1))},
    ]
    groups = [Group(number=1 + at, mark=0xFFFFFEFF, version=6, **kind) for at, kind in enumerate(kinds)]
    lines = lines_of([ServiceObject(namespace="default", name="long", frontends=(), groups=tuple(groups))])
    switch = balance(1)
    with Tap(ovs, switch.bridge.name) as tap:
        bundle = flowplan.group_changes({}, flowplan.split(lines)[1])
        ovs.ofctl("bundle", tap.target, "-", stdin="\n".join(bundle))
    lengths = tap.lengths(GROUP_MOD)
    assert len(lengths) == len(switch.groups()) == len(kinds)
    assert max(lengths) < 32768
