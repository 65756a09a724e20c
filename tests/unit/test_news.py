"""How long it took until what the store tells was in force; by a clock that stands still."""

from __future__ import annotations

from typing import cast

from ovsnet.agent.news import News
from ovsnet.store import Snapshot, Store


class World:
    """A store that says what it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._now = Snapshot(nodes={}, problems={}, version=1)
        self.news = News(cast(Store, self), lambda: None, lambda: self.now)
        self.news.on_programmed = lambda kind, seconds: self.took.append((kind, seconds))
        self.took: list[tuple[str, float]] = []

    def snapshot(self) -> Snapshot:
        return self._now

    def say(self, **heard: float) -> None:
        self._now = Snapshot(nodes={}, problems={}, version=self._now.version + 1, heard=heard)
        self.news.heard()


def test_it_is_told_how_long_each_change_took_since_it_came() -> None:
    world = World()
    world.say(EndpointSlice=world.now)
    applied = world.snapshot()
    world.now += 2
    world.say(EndpointSlice=world.now, Service=world.now - 1)
    world.now += 3
    world.news.applied(applied)
    assert world.took == [("EndpointSlice", 5)]
    world.took.clear()
    world.news.applied(world.snapshot())
    assert world.took == [("EndpointSlice", 3), ("Service", 4)]
    world.took.clear()
    world.news.applied(world.snapshot())
    assert world.took == []


def test_a_switch_that_is_away_for_long_is_no_reason_to_remember_ever_more() -> None:
    world = World()
    for _ in range(5000):
        world.say(EndpointSlice=world.now)
    world.news.applied(world.snapshot())
    assert len(world.took) == 1000


def test_while_there_is_no_store_nothing_is_told() -> None:
    world = World()
    world.news.applied(None)
    assert world.took == []
    assert world.news.programmed is None
