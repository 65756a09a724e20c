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

    async def send(self, verb: str, method: str, path: str, body: dict[str, Any], kind: str = "") -> bytes:
        name = body["metadata"]["name"] if method == "POST" else path.rpartition("/")[2]
        self.methods.append(method)
        if (method == "POST") == self.has(name):
            raise Refused("no", 409 if method == "POST" else 404)
        self._written[name] = self.now
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
