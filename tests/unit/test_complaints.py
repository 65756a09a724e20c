"""Trouble is mentioned once, then at growing intervals, and once when it is over."""

from __future__ import annotations

import logging

import pytest

from ovsnet.agent.complaints import Complaints, Lasting


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def complaints(clock: Clock, caplog: pytest.LogCaptureFixture) -> Complaints:
    caplog.set_level(logging.INFO, "test.complaints")
    return Complaints(logging.getLogger("test.complaints"), clock)


def test_intervals_grow_to_ten_minutes(
    complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    for second in range(3600):
        clock.now = 1000.0 + second
        complaints.about("store", "the store is away")
        said += [second] * len(caplog.records)
        caplog.clear()
    assert said == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]


def test_new_trouble_is_news_at_once(complaints: Complaints, caplog: pytest.LogCaptureFixture) -> None:
    complaints.about("store", "away")
    complaints.about("store", "unreadable")
    complaints.about("switch", "away")
    assert caplog.messages == ["away", "unreadable", "away"]
    assert complaints.current() == ["unreadable", "away"]


def test_the_end_is_said_once_and_only_after_trouble(
    complaints: Complaints, caplog: pytest.LogCaptureFixture
) -> None:
    complaints.over("store", "the store is back")
    complaints.about("store", "away")
    complaints.over("store", "the store is back")
    complaints.over("store", "the store is back")
    assert caplog.messages == ["away", "the store is back"]
    assert complaints.current() == []


def test_after_the_end_it_starts_anew(
    complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        complaints.about("store", "away")
        clock.now += 10
        complaints.about("store", "away")
        complaints.over("store")
    assert caplog.messages == ["away"] * 4


def test_how_long_trouble_lasts_whatever_its_words(complaints: Complaints, clock: Clock) -> None:
    assert complaints.lasting("sync") == 0
    complaints.about("sync", "away")
    clock.now += 40
    complaints.about("sync", "refused")
    clock.now += 25
    assert (complaints.lasting("sync"), complaints.lasting("store")) == (65, 0)
    complaints.over("sync")
    assert complaints.lasting("sync") == 0
    complaints.about("sync", "away")
    assert complaints.lasting("sync") == 0


def test_what_is_no_trouble_any_more_is_not_listed(complaints: Complaints) -> None:
    complaints.about("sync", "not ready")
    complaints.only("port", ["port a is broken", "port b is broken"])
    complaints.only("port", ["port b is broken"])
    assert complaints.current() == ["not ready", "port b is broken"]
    complaints.only("port", [])
    assert complaints.current() == ["not ready"]


def test_what_waits_for_somebody_else_is_said_once(
    complaints: Complaints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    complaints.about("store", "away")
    for _ in range(3600):
        complaints.about("sync", "no ranges yet", waits=True)
        clock.now += 1
    assert caplog.messages == ["away", "no ranges yet"]
    assert (complaints.current(), complaints.waiting()) == (["away", "no ranges yet"], ["no ranges yet"])
    complaints.about("sync", "the switch is away")
    assert complaints.waiting() == []
    complaints.about("sync", "no ranges yet", waits=True)
    complaints.over("sync", "all is well")
    assert caplog.messages[2:] == ["the switch is away", "no ranges yet", "all is well"]
    assert complaints.waiting() == []


def test_what_passes_by_itself_is_kept_back_until_it_lasts(clock: Clock) -> None:
    lasting = Lasting(clock, seconds=10)
    assert (lasting.of([]), lasting.due()) == ([], None)
    assert (lasting.of(["a"]), lasting.due()) == ([], 10)
    clock.now += 4
    assert (lasting.of(["a", "b"]), lasting.due()) == ([], 6)
    clock.now += 6
    assert (lasting.of(["a", "b"]), lasting.due()) == (["a"], 4)
    assert (lasting.of(["a"]), lasting.due()) == (["a"], None)
    clock.now += 4
    # It was gone for a moment: it begins anew.
    assert lasting.of(["a", "b"]) == ["a"]
    clock.now += 10
    assert lasting.of(["b", "a"]) == ["b", "a"]
