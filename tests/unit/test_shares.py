"""How a group's buckets are weighted so that Open vSwitch gives endpoints equal shares."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest

from ovsnet.endpoints import Backend
from ovsnet.frontends import BUCKETS, Group


def backends(count: int) -> tuple[Backend, ...]:
    base = ipaddress.IPv4Address("10.244.0.0")
    return tuple(Backend(address=base + number, port=80) for number in range(1, count + 1))


@pytest.mark.parametrize("count", [2, 3, 5, 9, 16, 17, 100, 128])
def test_all_have_the_same_weight_in_sum_and_one_bucket_the_least(count: int) -> None:
    shares = Group(number=1, mark=1, backends=backends(count)).shares
    sums: Counter[Backend] = Counter()
    for backend, weight in shares:
        sums[backend] += weight
    assert sums.keys() == set(backends(count))
    assert len(set(sums.values())) == 1
    assert min(weight for _, weight in shares) == 1
    # With more in sum Open vSwitch would not use the datapath's hash, and each connection would take an upcall.
    assert sum(sums.values()) <= BUCKETS


@pytest.mark.parametrize("count", [0, 1, 129, BUCKETS])
def test_none_one_and_too_many_to_weigh(count: int) -> None:
    """A group of groups has no backends itself."""
    group = Group(number=1, mark=1, backends=backends(count))
    assert group.shares == tuple((backend, 1) for backend in backends(count))


@pytest.mark.parametrize(("sticky", "level"), [(True, 0), (False, 1), (True, 1)])
def test_where_open_vswitch_hashes_by_itself_weights_are_plain(sticky: bool, level: int) -> None:
    group = Group(number=1, mark=1, backends=backends(3), sticky=sticky, level=level)
    assert group.shares == tuple((backend, 1) for backend in backends(3))


@pytest.mark.parametrize(
    ("count", "slots"), [(1, 16), (2, 32), (3, 64), (4, 64), (5, 128), (9, 256), (256, 256)]
)
def test_slots_are_a_power_of_two(count: int, slots: int) -> None:
    assert Group(number=1, mark=1, backends=backends(count)).slots == slots


def test_slots_are_of_the_datapaths_hash_alone() -> None:
    assert Group(number=1, mark=1, members=(2, 3, 4, 5)).slots == 16
    assert Group(number=1, mark=1, members=tuple(range(2, 258))).slots == 256
    assert Group(number=1, mark=1, backends=backends(3), sticky=True).slots == 0
    assert Group(number=1, mark=1, backends=backends(3), level=1).slots == 0
