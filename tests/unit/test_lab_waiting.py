"""Who waits in the lab asks seldom enough to leave the processor to what it waits for."""

from __future__ import annotations

import pytest

from ovsnet.lab import state


class Clock:
    """Stands in for the module `time`: it passes while somebody sleeps, and while `condition` is asked."""

    def __init__(self, takes: float, true_at: float) -> None:
        self.now = 0.0
        self.takes, self.true_at = takes, true_at
        self.asked = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def condition(self) -> bool:
        self.asked += 1
        self.now += self.takes
        return self.now >= self.true_at


def clock(monkeypatch: pytest.MonkeyPatch, **options: float) -> Clock:
    made = Clock(**options)
    monkeypatch.setattr(state, "time", made)
    return made


def test_what_comes_soon_is_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    at = clock(monkeypatch, takes=0.0, true_at=0.05)
    assert state.wait_for(at.condition, 10, 0.01)
    assert at.now < 0.07


def test_asking_takes_no_more_than_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at = clock(monkeypatch, takes=0.2, true_at=8.0)
    assert state.wait_for(at.condition, 10, 0.01)
    assert at.asked * at.takes <= at.now / 2 + at.takes


def test_it_is_known_a_tenth_of_the_time_too_late_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    at = clock(monkeypatch, takes=0.0, true_at=60.0)
    assert state.wait_for(at.condition, 90, 0.01)
    assert at.now <= 66.1
    assert at.asked < 100  # 6,000 at that interval


def test_what_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    at = clock(monkeypatch, takes=0.5, true_at=1e9)
    assert not state.wait_for(at.condition, 10, 0.01)
    assert 10 < at.now < 13
