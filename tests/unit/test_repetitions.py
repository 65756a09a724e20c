"""What keeps happening is told seldom, completely, and never faster than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovsnet.repetitions import WINDOW, Repetitions, Told


class World:
    def __init__(self, per_second: int = 5, most: int = 10) -> None:
        self.now = 100.0
        self.repetitions: Repetitions[str, str] = Repetitions(per_second, most, lambda: self.now)

    def meet(self, subject: str, times: int = 1) -> list[Told[str]]:
        found = [self.repetitions.meet(subject, f"{subject} at {self.now:g}") for _ in range(times)]
        return [each for each in found if each is not None]

    def later(self, seconds: float) -> list[Told[str]]:
        self.now += seconds
        return self.repetitions.due()


def test_the_first_at_once_and_the_others_by_their_number() -> None:
    world = World()
    assert world.meet("a", 5) == [Told("a at 100", 1)]
    assert world.later(5) == []
    assert world.meet("a") == []
    assert world.later(4.9) == []
    assert world.later(0.2) == [Told("a at 105", 5)]
    # Then a new window begins, and when nothing comes in it all is forgotten.
    assert world.later(WINDOW + 1) == []
    assert world.meet("a") == [Told("a at 121.1", 1)]
    assert (world.repetitions.told, world.repetitions.suppressed) == (3, 5)


def test_who_comes_after_the_window_is_told_with_those_before() -> None:
    world = World()
    world.meet("a", 3)
    world.now += WINDOW + 0.5
    assert world.meet("a") == [Told("a at 110.5", 3)]


def test_no_more_than_so_many_a_second_and_the_rest_later() -> None:
    world = World(per_second=2)
    told = [each for subject in "abcdef" for each in world.meet(subject, 2)]
    assert [each.example[0] for each in told] == ["a", "b"]
    assert [each.example[0] for each in world.later(1.0)] == ["c", "d"]
    assert [(each.example[0], each.times) for each in world.later(1.0)] == [("e", 2), ("f", 2)]
    assert world.later(1.0) == []


def test_memory_is_bounded() -> None:
    world = World(per_second=100, most=10)
    told = [each for number in range(50) for each in world.meet(f"{number}")]
    assert len(told) == 10
    assert world.repetitions.suppressed == 40
    world.later(WINDOW + 1)
    assert len(world.meet("new")) == 1


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 3)), max_size=200), st.integers(1, 5))
def test_each_time_is_in_one_line_and_lines_are_bounded(steps: list[tuple[str, float]], rate: int) -> None:
    world = World(rate)
    begun, told = world.now, []
    for subject, pause in steps:
        told += world.meet(subject)
        told += world.later(pause)
        assert len(told) <= rate * (world.now - begun) + rate + 1e-6
    for _ in range(40):
        told += world.later(1.0)
    assert sum(each.times for each in told) == len(steps)
