"""When the loop is to look at what the store tells, and how long that took; by a clock that stands still."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec.structs import replace

from ovsnet.agent.news import News, Pace
from ovsnet.model import Node, Published
from ovsnet.policymodel import LabelledPod, NetworkPolicy, Selector
from ovsnet.servicemodel import EndpointSlice, Service
from ovsnet.store import Snapshot, Store

NODE = Node(name="n1", pod_cidrs=(ipaddress.ip_network("10.244.1.0/24"),))
WEB = Service(namespace="default", name="web", cluster_ips=(), ports=())
DENY = NetworkPolicy(namespace="default", name="deny", pods=Selector(), ingress=())


class Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The event loop's, which goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        self.timers.append(Timer(when, callback))
        return cast(asyncio.TimerHandle, self.timers[-1])

    def until(self, moment: float) -> None:
        """Rings what is due."""
        while due := [each for each in self.timers if not each.cancelled and each.when <= moment]:
            first = min(due, key=lambda each: each.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.callback()
        self.now = moment


class World:
    """A store that says what it is told to, and an agent that applies it at once when it is woken."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._now = Snapshot(nodes={NODE.name: NODE}, problems={}, version=1)
        self.news = News(cast(Store, self), self.wake, self.clock)
        self.news.on_programmed = lambda kind, seconds: self.took.append((kind, round(seconds, 6)))
        self.woken: list[float] = []
        self.took: list[tuple[str, float]] = []
        self.idle = False
        """It is woken and does nothing."""
        self.news.heard()

    def snapshot(self) -> Snapshot:
        return self._now

    def wake(self) -> None:
        self.woken.append(self.clock.now)
        if not self.idle:
            self.news.applied(self._now)

    def say(self, **said: Any) -> None:
        fields = {
            each: getattr(self._now, each)
            for each in ("nodes", "services", "slices", "policies", "pods", "unread_policies")
        }
        fields["heard"] = {}
        self._now = Snapshot(**(fields | {"problems": {}, "version": self._now.version + 1, **said}))
        self.news.heard()

    def change(self) -> None:
        """An endpoint comes or goes."""
        self.say(slices=slices(), heard={"EndpointSlice": self.clock.now})

    def passed(self, seconds: float) -> None:
        self.clock.until(self.clock.now + seconds)


def slices() -> dict[str, EndpointSlice]:
    return {"default/web-1": EndpointSlice(namespace="default", name="web-1", service="web")}


@pytest.fixture
def world() -> World:
    return World()


def test_a_few_changes_are_taken_in_as_they_come(world: World) -> None:
    for _ in range(10):
        world.passed(2)
        world.woken.clear()
        for _ in range(4):
            world.change()
            world.passed(0.02)
        assert [now - world.woken[0] for now in world.woken] == pytest.approx([0, 0.02, 0.04, 0.06])


def test_changes_that_keep_coming_share_and_none_waits_long(world: World) -> None:
    world.passed(10)
    world.woken.clear()
    for _ in range(1000):
        world.change()
        world.passed(0.1)
    world.passed(1)
    assert 300 < len(world.woken) < 345
    assert [kind for kind, _ in world.took] == ["EndpointSlice"] * 1000
    assert max(seconds for _, seconds in world.took) <= 0.3


def test_what_agents_publish_in_a_rollout_shares_too(world: World) -> None:
    world.passed(10)
    world.woken.clear()
    for number in range(1000):
        world.say(nodes={NODE.name: replace(NODE, published=Published(mtu=1400 + number % 2))})
        world.passed(0.1)
    world.passed(1)
    assert 300 < len(world.woken) < 345
    world.woken.clear()
    world.say(nodes={NODE.name: replace(NODE, published=Published(mtu=1500), zone="b")})
    assert world.woken == [world.clock.now]


@pytest.mark.parametrize(
    "other",
    [
        {"services": {"default/web": WEB}, "nodes": {}},
        {"policies": {DENY.key: DENY}},
        {"pods": {"default/a": LabelledPod(namespace="default", name="a")}},
        {"services": {"default/web": WEB}, "unread_policies": frozenset({"policies.yaml"})},
    ],
    ids=["a node", "a policy", "a pod", "what can not be read"],
)
def test_whatever_else_changes_waits_for_nothing_and_takes_along_what_does(
    world: World, other: dict[str, Any]
) -> None:
    """A pod's ADD may wait for it."""
    for _ in range(5):
        world.change()
        world.passed(0.001)
    world.woken.clear()
    world.passed(0.1)
    assert not world.woken
    world.say(**other)
    assert world.woken == [world.clock.now]
    world.passed(10)
    assert len(world.woken) == 1, "nothing is left to look at"


def test_what_somebody_else_has_taken_along_waits_no_more(world: World) -> None:
    for _ in range(5):
        world.change()
        world.passed(0.001)
    world.woken.clear()
    world.news.applied(world.snapshot())
    world.passed(10)
    assert not world.woken


def test_an_agent_that_could_not_apply_a_change_hears_of_the_next_one(world: World) -> None:
    world.idle = True
    for _ in range(3):
        world.change()
        world.passed(2)
    assert len(world.woken) == 1 + 3, "the first snapshot, and these"


def test_it_is_told_how_long_each_change_took_since_it_came(world: World) -> None:
    world.idle = True
    world.say(slices=slices(), heard={"EndpointSlice": world.clock.now})
    applied = world.snapshot()
    world.passed(2)
    world.say(slices=slices(), heard={"EndpointSlice": world.clock.now, "Service": world.clock.now - 1})
    world.passed(3)
    world.news.applied(applied)
    assert world.took == [("EndpointSlice", 5)]
    world.took.clear()
    world.news.applied(world.snapshot())
    assert world.took == [("EndpointSlice", 3), ("Service", 4)]
    world.took.clear()
    world.news.applied(world.snapshot())
    assert world.took == []


def test_a_switch_that_is_away_for_long_is_no_reason_to_remember_ever_more(world: World) -> None:
    world.idle = True
    for _ in range(5000):
        world.change()
        world.passed(0.1)
    world.news.applied(world.snapshot())
    assert len(world.took) == 1000


def test_while_there_is_no_store_nothing_is_told(world: World) -> None:
    world.news.applied(None)
    assert world.took == []
    assert world.news.programmed is None


def test_nobody_waits_while_there_is_room() -> None:
    pace = Pace()
    assert [pace.next(now) for now in [5.0] * 5 + [5.3, 5.6]] == pytest.approx([5.0] * 4 + [5.3, 5.6, 5.9])
    assert pace.next(60.0) == 60.0


def test_what_was_taken_and_not_used_is_not_owed(world: World) -> None:
    """Endpoints and a pod in turn, twenty times a second: each pod takes along the endpoints before it."""
    for _ in range(200):
        world.change()
        world.passed(0.05)
        world.say(pods={"default/a": LabelledPod(namespace="default", name="a")})
        world.passed(0.05)
    begun = world.clock.now
    world.change()
    world.passed(60)
    assert world.woken[-1] - begun <= 0.3 + 1e-6
