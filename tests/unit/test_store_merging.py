"""All files' objects as one, kept up as files change: what it says is what it would say of the same files at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from ovsnet.policymodel import Namespace
from ovsnet.store.merging import Merged

Objects = Mapping[str, Namespace]
ITEMS = [[Namespace(name=name, labels={"number": str(number)}) for number in range(3)] for name in "abcd"]
FILES = st.dictionaries(
    st.sampled_from(["1.yaml", "2.yaml", "3.yaml"]),
    st.lists(st.sampled_from(ITEMS).flatmap(st.sampled_from), max_size=3).map(
        lambda items: {each.name: each for each in items}
    ),
)


def settle(
    files: Mapping[str, Iterable[Namespace]], before: Objects
) -> tuple[dict[str, Namespace], dict[str, list[str]]]:
    """The first file by name has it."""
    found: dict[str, Namespace] = {}
    problems: dict[str, list[str]] = {}
    for path in sorted(files):
        for item in files[path]:
            if item.key in found:
                problems.setdefault(path, []).append(item.key)
            else:
                found[item.key] = item
    return found, problems


@given(states=st.lists(FILES, max_size=8))
def test_step_by_step_is_the_same_as_at_once(states: list[Mapping[str, Objects]]) -> None:
    merged = Merged(settle)
    for files in states:
        before = merged.objects
        merged.update(files)
        wanted, problems = settle({path: each.values() for path, each in files.items()}, {})
        assert merged.problems == problems
        assert merged.objects.keys() == wanted.keys()
        assert all(merged.objects[key] is each for key, each in wanted.items())
        same = before.keys() == wanted.keys() and all(before[key] is each for key, each in wanted.items())
        assert (merged.objects is before) == same


def test_who_counts_is_asked_only_where_several_have_one() -> None:
    asked: list[Objects] = []

    def note(
        files: Mapping[str, Iterable[Namespace]], before: Objects
    ) -> tuple[dict[str, Namespace], dict[str, list[str]]]:
        asked.append(before)
        return settle(files, before)

    merged, (a, b) = Merged(note), (ITEMS[0][0], ITEMS[1][0])
    merged.update({"1.yaml": {"a": a}})
    merged.update({"1.yaml": {"a": a}, "2.yaml": {"b": b}})
    assert not asked
    alone = merged.objects
    merged.update({"1.yaml": {"a": a}, "2.yaml": {"b": b, "a": ITEMS[0][1]}})
    assert asked == [alone]
    assert merged.objects is alone
    merged.update({"1.yaml": {"a": a}, "2.yaml": {"b": b}})
    assert asked == [alone, alone]
    merged.update({"2.yaml": {"b": b}})
    assert (len(asked), merged.objects) == (2, {"b": b})
