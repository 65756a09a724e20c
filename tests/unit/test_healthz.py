"""Whether a node serves Services, as a load balancer's controller asks over HTTP, in kube-proxy's words."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ovsnet.agent.complaints import Complaints
from ovsnet.agent.healthz import Healthz

LOOPBACK = ipaddress.ip_address("127.0.0.1")
GOOD, BAD = "HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come true")


class World:
    """An answering server, and what it goes by."""

    def __init__(self, port: int) -> None:
        self.in_force = self.eligible = True
        self.complaints = Complaints(logging.getLogger("test"))
        self.port = port
        self._healthz = Healthz(
            LOOPBACK,
            self.port,
            in_force=lambda: self.in_force,
            eligible=lambda: self.eligible,
            complaints=self.complaints,
            again=0.05,
        )
        self._task = asyncio.create_task(self._healthz.run())

    async def ask(self, path: str) -> tuple[str, Any]:
        async with asyncio.timeout(5):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return head.partition("\r\n")[0], json.loads(body) if "application/json" in head else body

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_it_answers_as_kube_proxy_does() -> None:
    world = World(free_port())
    try:
        before = datetime.datetime.now(datetime.UTC)
        status, body = await world.ask("/healthz?timeout=1s")
        assert status == GOOD
        assert set(body) == {"lastUpdated", "currentTime", "nodeEligible", "healthy"}
        assert (body["nodeEligible"], body["healthy"]) == (True, True)
        updated = datetime.datetime.fromisoformat(body["lastUpdated"])
        assert updated >= before
        # The node is about to go: it is alive, but gets nothing new.
        world.eligible = False
        status, body = await world.ask("/healthz")
        assert (status, body["nodeEligible"], body["healthy"]) == (BAD, False, True)
        status, body = await world.ask("/livez")
        assert (status, "nodeEligible" in body, body["healthy"]) == (GOOD, False, True)
        updated = datetime.datetime.fromisoformat(body["lastUpdated"])
        # Flows are not in.
        world.eligible, world.in_force = True, False
        for path in ("/healthz", "/livez"):
            status, body = await world.ask(path)
            assert (status, body["healthy"]) == (BAD, False)
            assert datetime.datetime.fromisoformat(body["lastUpdated"]) == updated
        assert (await world.ask("/metrics"))[0] == "HTTP/1.1 404 Not Found"
    finally:
        await world.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", world.port)


async def test_before_flows_were_in_for_the_first_time() -> None:
    world = World(free_port())
    world.in_force = False
    try:
        status, body = await world.ask("/healthz")
        assert (status, body["lastUpdated"]) == (BAD, "0001-01-01T00:00:00Z")
    finally:
        await world.close()


async def test_who_has_the_port_is_let_be_and_told_of_until_it_goes() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    world = World(taken.getsockname()[1])
    try:
        await until(lambda: bool(world.complaints.current()))
        (words,) = world.complaints.current()
        assert f"127.0.0.1 port {world.port}: " in words
        assert "address already in use" in words.lower()
        assert "kube-proxy" in words
        assert "healthz.port" in words
        taken.close()
        await until(lambda: not world.complaints.current())
        assert (await world.ask("/healthz"))[0] == GOOD
    finally:
        taken.close()
        await world.close()
