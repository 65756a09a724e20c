"""Numbers follow from what there is, whatever came and went before."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ovsnet.numbers import Numbers

OWNERS = ("a", "b", "c")
WHAT = ("x", "y", "z")
FEW = 13
"""So many numbers for nine names: most of them collide."""


def numbers_of(numbers: Numbers, held: dict[str, set[str]]) -> dict[tuple[str, str], int]:
    return {(owner, what): numbers.number(owner, what) for owner in held for what in held[owner]}


CHANGES = st.lists(st.tuples(st.sampled_from(OWNERS), st.frozensets(st.sampled_from(WHAT))))


@given(CHANGES)
def test_history_does_not_matter(changes: list[tuple[str, frozenset[str]]]) -> None:
    numbers, held = Numbers(FEW), dict[str, set[str]]()
    known: dict[tuple[str, str], int] = {}
    for owner, wanted in changes:
        for what in sorted(wanted):
            numbers.number(owner, what)
        numbers.keep(owner, wanted)
        held[owner] = set(wanted)
        now = numbers_of(numbers, held)
        moved = numbers.moved()
        others = {name for name in known.keys() & now.keys() if known[name] != now[name]}
        assert {name[0] for name in others} <= moved, "whoever's numbers changed is told of"
        known = now
    fresh = Numbers(FEW)
    names = sorted(known, reverse=True)
    for owner, what in names:
        fresh.number(owner, what)
    assert numbers_of(fresh, held) == known
    assert len(set(known.values())) == len(known)
    assert set(known.values()) <= set(range(1, FEW + 1))


def test_any_order_gives_the_same_numbers() -> None:
    names = [("a", "x"), ("b", "x"), ("c", "x"), ("d", "x")]
    found = set()
    for order in itertools.permutations(names):
        numbers = Numbers(5)
        for name in order:
            numbers.number(*name)
        found.add(tuple(numbers.number(*name) for name in names))
    assert len(found) == 1


def test_numbers_are_the_same_at_every_start_and_for_open_vswitch() -> None:
    found = [Numbers().number("default/web", f"tcp/{port}/4") for port in range(2000)]
    assert found == [Numbers().number("default/web", f"tcp/{port}/4") for port in range(2000)]
    assert all(1 <= number <= 0xFFFFFEFF for number in found)
    assert Numbers().number("default/web", "tcp/80/4") == Numbers().number("default/web", "tcp/80/4")
