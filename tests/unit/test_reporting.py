"""What becomes an Event: what lasts, whoever's Node it is about."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

from ovsnet.agent.complaints import Complaints, Lasting
from ovsnet.agent.reporting import Wrong
from ovsnet.store import Snapshot


class World:
    """The agent of node a; `problems` is what the store says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.problems: dict[str, str] = {}
        self.unread: frozenset[str] | None = frozenset()
        self.complaints = Complaints(logging.getLogger("test.reporting"), lambda: self.now)
        agent = SimpleNamespace(name="a", complaints=self.complaints, store=self)
        self.wrong = Wrong(cast(Any, agent), Lasting(lambda: self.now, seconds=10))

    def snapshot(self) -> Snapshot:
        return Snapshot(nodes={}, problems=self.problems, version=1, unread_nodes=self.unread)


def test_a_peer_is_told_of_when_its_trouble_lasts() -> None:
    world = World()
    world.problems = {
        "Node b": "spec.podCIDRs: is missing",
        "NetworkPolicy default/x": "is odd",
        "Service x": "is odd",
    }
    assert world.wrong() == ["NetworkPolicy default/x: is odd"]
    world.now += 11
    assert world.wrong() == ["NetworkPolicy default/x: is odd", "Node b: spec.podCIDRs: is missing"]
    world.problems = {}
    assert world.wrong() == []


def test_a_peer_that_gets_its_ranges_within_seconds_is_no_news() -> None:
    world = World()
    for name in "bcdefg":
        world.problems = {f"Node {name}": "spec.podCIDRs: is missing"}
        assert world.wrong() == []
        world.now += 9
        assert world.wrong() == []


def test_what_the_own_node_lacks_is_told_once() -> None:
    """By the agent; the store says the same of it while it never was in order."""
    world = World()
    world.problems, world.unread = {"Node a": "spec.podCIDRs: is missing"}, frozenset({"a"})
    world.complaints.about("sync", "node a has no pod ranges yet", waits=True)
    assert world.wrong() == []
    world.now += 11
    assert world.wrong() == ["node a has no pod ranges yet"]
    world.unread = frozenset()
    world.wrong()
    world.now += 11
    assert "Node a: spec.podCIDRs: is missing" in world.wrong(), "it was in order and is no more"
