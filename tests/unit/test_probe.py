"""What the probe of the kernel tier takes for working again, and what the table of restarts says of it."""

from __future__ import annotations

import time

import probe
import pytest
import reliability
from restart_world import Seen, back_within


def tries(*outcomes: tuple[float, bool]) -> probe.Tries:
    """When each was tried, and whether it failed."""
    made = probe.Tries()
    for begun, failed in outcomes:
        made.ended(begun, failed=failed)
    return made


@pytest.mark.parametrize(
    ("outcomes", "seconds"),
    [
        ([], 0),
        ([(10.0, False)], 0),
        ([(10.0, False), (11.5, False)], 1.5),
        ([(10.0, False), (11.5, False), (11.6, True)], 0),
        ([(10.0, True), (10.5, False), (12.0, False)], 1.5),
        # What failed is known a second later than what succeeded after it.
        ([(10.1, False), (10.0, True), (11.1, False)], 1),
        ([(10.1, False), (10.2, True), (11.1, False)], 0),
    ],
)
def test_steady_from_the_first_success_after_the_last_failure(
    outcomes: list[tuple[float, bool]], seconds: float
) -> None:
    assert tries(*outcomes).steady() == pytest.approx(seconds)


def test_what_is_under_way_may_fail_yet() -> None:
    assert tries((10.0, False), (12.0, False)).steady([10.5, 12.1]) == pytest.approx(0.5)


def test_ends_when_told_to_and_all_is_steady_or_the_limit_is_over() -> None:
    now = time.monotonic()
    assert not probe.enough([], 0, [5.0])
    assert probe.enough([now], 60, [5.0, probe.STEADY])
    assert not probe.enough([now], 60, [5.0, 0.9])
    assert probe.enough([now - 61], 60, [5.0, 0.0])


@pytest.mark.parametrize(("steady", "last_failure"), [(0.9, 101.0), (1.0, 10_000.0)])
def test_not_back_what_fails_in_the_end_or_failed_too_late(steady: float, last_failure: float) -> None:
    seen = Seen()
    seen.since = 100.0
    well = {"failed": 1, "steady": 1.0, "last_failure": 101.0}
    seen.take({"one": dict(well), "two": dict(well)})
    back_within(seen, 10)
    seen.take({"one": dict(well), "two": well | {"steady": steady, "last_failure": last_failure}})
    with pytest.raises(AssertionError):
        back_within(seen, 10)


def test_the_table_has_the_longest_time() -> None:
    assert reliability.back([{"failed": 1, "back": 8.1}, {"failed": 0, "back": 16.4}]) == "16.4 s"
    assert reliability.back([{"failed": 0, "back": 0.0}]) == ""
    assert reliability.back([{"failed": 1}]) == "-"
