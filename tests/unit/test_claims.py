"""Of all who name a thing, the one that sorts first has it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovsnet.claims import Claims

CHANGES = st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.integers(1, 4))))


@given(CHANGES)
def test_each_thing_is_the_first_ones_who_name_it(changes: list[tuple[str, list[int]]]) -> None:
    claims: Claims[int] = Claims()
    named: dict[str, tuple[int, ...]] = {}
    held: dict[str, tuple[int, ...]] = {}
    for who, things in changes:
        touched = claims.name(who, things)
        named[who] = tuple(dict.fromkeys(things))
        now = {each: claims.held(each) for each in named}
        changed = {each for each in now if now[each] != held.get(each, ())}
        assert changed <= touched, "whoever has others than before is told of"
        held = now
        for each, mine in named.items():
            first = [
                thing for thing in mine if not any(thing in named[other] for other in named if other < each)
            ]
            assert held[each] == tuple(first)


def test_who_names_nothing_has_nothing() -> None:
    claims: Claims[int] = Claims()
    assert claims.name("b", [1, 2]) == {"b"}
    assert claims.name("a", [2, 3]) == {"a", "b"}
    assert (claims.held("a"), claims.held("b"), claims.held("c")) == ((2, 3), (1,), ())
    assert claims.name("a", []) == {"a", "b"}
    assert (claims.held("a"), claims.held("b")) == ((), (1, 2))
