"""When the Event of something that goes on is written again."""

from __future__ import annotations

from typing import Any, cast

from ovsnet.store.kubernetes.client import Refused
from ovsnet.store.kubernetes.events import Events


class Server:
    """Keeps an Event for an hour after it was written."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._written: dict[str, float] = {}
        self.methods: list[str] = []
        self.made: list[dict[str, Any]] = []

    async def send(self, verb: str, method: str, path: str, body: dict[str, Any], kind: str = "") -> bytes:
        name = body["metadata"]["name"] if method == "POST" else path.rpartition("/")[2]
        self.methods.append(method)
        if (method == "POST") == self.has(name):
            raise Refused("no", 409 if method == "POST" else 404)
        self._written[name] = self.now
        self.made += [body] * (method == "POST")
        return b""

    def has(self, name: str) -> bool:
        return self.now - self._written.get(name, -3600) < 3600

    @property
    def count(self) -> int:
        return sum(map(self.has, self._written))


async def test_what_goes_on_for_hours_stays_an_event() -> None:
    server = Server()
    events = Events(cast(Any, server), "node-a", lambda: ["it is wrong"], clock=lambda: server.now)
    for _ in range(24 * 60):
        events.look()
        await events.write()
        assert server.count == 1
        server.now += 60
    assert server.methods[0] == "POST"
    assert len(server.methods) < 40


async def test_what_is_wrong_with_a_node_is_one_event_of_it_whoever_says_so() -> None:
    server = Server()
    said = "Node node-x: spec.podCIDRs: is missing"
    for name in ("node-a", "node-b"):
        events = Events(cast(Any, server), name, lambda: [said], clock=lambda: server.now)
        events.look()
        await events.write()
        assert server.count == 1
    (made,) = server.made
    assert (made["regarding"]["kind"], made["regarding"]["name"]) == ("Node", "node-x")
    assert made["note"] == said
    assert "series" not in made


async def test_what_others_do_wrong_takes_nothing_from_what_is_wrong_here() -> None:
    """However much it is, and whatever a node writes into its own annotations."""
    server = Server()
    wrong = [f"Node node-{number}: spec.podCIDRs: is missing" for number in range(100)]
    events = Events(cast(Any, server), "node-a", lambda: wrong, clock=lambda: server.now)
    events.look()
    await events.write()
    assert server.count == 10
    wrong.append("no IPv4 address is free")
    events.look()
    await events.write()
    assert server.made[-1]["note"] == "no IPv4 address is free"
    assert server.made[-1]["regarding"]["name"] == "node-a"
