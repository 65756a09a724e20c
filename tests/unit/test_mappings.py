"""What is told of two mappings, whatever the order of their keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovsnet.mappings import different

VALUES = [object() for _ in range(3)]
MAPPINGS = st.dictionaries(st.text("abc", max_size=2), st.sampled_from(VALUES))


@given(before=MAPPINGS, after=MAPPINGS)
def test_exactly_the_keys_that_differ_are_told(before: dict[str, object], after: dict[str, object]) -> None:
    wanted = {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}
    assert sorted(different(before, after)) == sorted(wanted)


@given(before=MAPPINGS, changes=MAPPINGS)
def test_a_copy_with_other_values(before: dict[str, object], changes: dict[str, object]) -> None:
    after = before | {key: value for key, value in changes.items() if key in before}
    wanted = [key for key in before if before[key] is not after[key]]
    assert different(before, after) == wanted


def test_equal_is_not_the_same() -> None:
    assert different({"a": [1]}, {"a": [1]}) == ["a"]
