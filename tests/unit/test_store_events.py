"""When the Event of something that goes on is written again."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

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


SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""What the API server takes for a name, of at most 253 characters."""


@pytest.mark.parametrize("cut", ["", "-", "--", "."])
@pytest.mark.parametrize("whose", ["node", "other", "policy"])
async def test_names_and_notes_at_their_limits(whose: str, cut: str) -> None:
    """cut: what stands where 200 characters end."""
    long = ("n" * (200 - len(cut)) + cut).ljust(253, "x")
    node = long if whose == "node" else "node-a"
    about = {"node": "", "other": f"Node {long}: ", "policy": f"NetworkPolicy {'s' * 63}/{long}: "}[whose]
    for wrong in (about + "é" * 600, about + "x" + "é" * 600):
        server = Server()
        events = Events(cast(Any, server), node, lambda: [wrong], clock=lambda: server.now)  # noqa: B023
        events.look()
        await events.write()
        (made,) = server.made
        assert SUBDOMAIN.fullmatch(made["metadata"]["name"]), made["metadata"]["name"]
        assert len(made["metadata"]["name"]) <= 253
        assert made["metadata"]["namespace"] == ("s" * 63 if whose == "policy" else "default")
        assert made["regarding"]["name"] == long
        assert 1022 < len(made["note"].encode()) <= 1024
        assert wrong.startswith(made["note"])
        assert len(made["reportingInstance"]) <= 128
