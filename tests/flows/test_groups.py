"""Groups on a real switch: exactly the endpoints are reached, evenly, after every kind of change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from balance_world import Balance, writes
from ovs_sandbox import Sandbox

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
Make = Callable[..., Balance]


@pytest.fixture
def balance(ovs: Sandbox) -> Iterator[Make]:
    made: list[str] = []

    def make(family: int, affinity: int = 0) -> Balance:
        made.append(f"br-balance-{len(made)}")
        return Balance(ovs, made[-1], family=family, affinity=affinity)

    yield make
    for name in made:
        ovs.vsctl("del-br", name)


@pytest.mark.slow
def test_every_endpoint_and_no_other_after_every_change(balance: Make) -> None:
    """Of 256 hashes each endpoint gets its share, or up to twice as much as another: Open vSwitch uses a power of two
    of slots, at least 16 and no more than it must."""
    switch = balance(0)
    for endpoints in (
        {1},
        {1, 2},
        {1, 3},
        {3},
        {4, 5, 6},
        set(range(100)),
        set(range(50, 150)),
        set(range(256)),
        {9},
    ):
        switch.serve(endpoints)
        assert switch.differences() == []
        shares = switch.by_hash()
        assert shares.keys() == endpoints
        assert max(shares.values()) <= 2 * min(shares.values()), shares


@pytest.mark.parametrize("count", [1, 4, 256])
def test_a_power_of_two_is_served_evenly(balance: Make, count: int) -> None:
    switch = balance(0)
    switch.serve(range(count))
    assert set(switch.by_hash().values()) == {256 // count}


@FAMILIES
def test_none_at_all_and_again(balance: Make, family: int) -> None:
    switch = balance(family)
    for endpoints in ({1, 2}, set(), {2}):
        switch.serve(endpoints)
        assert switch.differences() == []
    assert switch.by_hash().keys() == {2}


@pytest.mark.slow
def test_more_endpoints_than_fit_into_a_group(balance: Make) -> None:
    """It grows past 256 and shrinks again; each of 257 is reached, within 4,000 connections."""
    switch = balance(0)
    for count in (256, 257, 256, 300, 257):
        switch.serve(range(count))
        assert switch.differences() == []
    shares = switch.by_connection(4000)
    assert shares.keys() == set(range(257))
    assert max(shares.values()) < 4 * 4000 / 257
    switch.serve(range(3))
    assert switch.differences() == []
    assert switch.by_hash().keys() == {0, 1, 2}


@pytest.mark.parametrize("affinity", [0, 60])
def test_five_thousand(balance: Make, affinity: int) -> None:
    """Each is in one of the groups, and a connection gets to one of them."""
    switch = balance(0, affinity)
    endpoint = r"nat\(dst=[\d.]+:8080\)" if not affinity else r"set_field:0x\w+->reg8"
    bundle = switch.serve(range(5000))
    assert switch.differences() == []
    addresses = re.findall(endpoint, "\n".join(writes(bundle)))
    assert len(addresses) == len(set(addresses)) == 5000
    assert switch.by_connection(100).keys() <= set(range(5000))
    for endpoints in (set(range(4999)), {*range(4999), 6000}, {*range(1, 4999), 6000}):
        written = writes(switch.serve(endpoints))
        assert switch.differences() == []
        assert len([line for line in written if re.search(endpoint, line)]) == 1, "one group of endpoints"
        assert len(written) <= 2, "and the group of groups"
