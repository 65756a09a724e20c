"""The table of what restarts cost: a run of some tests leaves what others have measured."""

from __future__ import annotations

from pathlib import Path

from reliability import Collector, older


def saw(failed: int) -> dict[str, dict[str, int]]:
    path = {"lost": failed, "sent": 10, "failed": failed, "tries": 5, "back": 1}
    return {"one node, IPv4": path, "two nodes, IPv4": path}


class Report:
    when = "teardown"

    def __init__(self, event: str, failed: int) -> None:
        self.user_properties = [("event", event), ("reliability", saw(failed))]


def run(path: Path, **events: int) -> dict[str, str]:
    collector = Collector(path)
    for event, failed in events.items():
        collector.pytest_runtest_logreport(Report(event, failed))  # type: ignore[arg-type]
    collector.pytest_sessionfinish()
    return older(path.read_text())


def test_a_run_of_some_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    whole = run(path, agent=0, bridge=3)
    assert list(whole) == ["agent", "bridge"]
    assert "; the rest as before" not in path.read_text()
    part = run(path, bridge=4)
    assert part["agent"] == whole["agent"]
    assert "4 of 10" in part["bridge"]
    assert ": bridge; the rest as before: " in path.read_text()
    run(path, agent=0, bridge=3)
    assert "; the rest as before" not in path.read_text()


def test_without_events_nothing_is_written(tmp_path: Path) -> None:
    Collector(tmp_path / "table.md").pytest_sessionfinish()
    assert list(tmp_path.iterdir()) == []
