"""Whether a node has endpoints of a Service, as a load balancer asks over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ovsnet.agent.healthchecks import HealthChecks
from ovsnet.frontends import ServiceObject


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service(port: int, count: int, name: str = "web") -> dict[str, ServiceObject | None]:
    made = ServiceObject(
        namespace="default", name=name, frontends=(), groups=(), health_check_port=port, local_endpoints=count
    )
    return {made.key: made}


async def ask(
    port: int, text: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", host: str = "127.0.0.1"
) -> tuple[str, Any]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(text)
    writer.write_eof()
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head.partition("\r\n")[0], json.loads(body) if body else None


@pytest.fixture
async def checks() -> AsyncIterator[HealthChecks]:
    made = HealthChecks()
    yield made
    made.close()


async def test_endpoints_come_and_go(checks: HealthChecks) -> None:
    port = free_port()
    assert await checks.serve(service(port, 2)) == []
    status, body = await ask(port)
    assert status == "HTTP/1.1 200 OK"
    assert (body["localEndpoints"], body["service"]) == (2, {"namespace": "default", "name": "web"})
    assert await checks.serve(service(port, 0)) == []
    assert (await ask(port))[0] == "HTTP/1.1 503 Service Unavailable"
    assert await checks.serve(service(0, 0)) == []
    with pytest.raises(ConnectionRefusedError):
        await ask(port)
    assert await checks.serve(service(port, 1)) == []
    assert await checks.serve(service(0, 0, "another")) == []
    assert (await ask(port))[0] == "HTTP/1.1 200 OK"
    assert await checks.serve({"default/web": None}) == []
    with pytest.raises(ConnectionRefusedError):
        await ask(port)


async def test_no_load_balancer_sends_to_a_node_whose_flows_are_not_in(checks: HealthChecks) -> None:
    port = free_port()
    in_force = [True]
    checks.in_force = lambda: in_force[0]
    await checks.serve(service(port, 2))
    for now, expected in ((True, "200 OK"), (False, "503 Service Unavailable"), (True, "200 OK")):
        in_force[0] = now
        status, body = await ask(port)
        assert (status, body["serviceProxyHealthy"]) == (f"HTTP/1.1 {expected}", now)
        assert body["localEndpoints"] == 2


async def test_addresses_come_and_go(checks: HealthChecks) -> None:
    """What is answered on others is left to whoever listens there."""
    port = free_port()
    news = service(port, 2)
    for hosts, refused in ((("127.0.0.1",), "::1"), (("127.0.0.2", "::1"), "127.0.0.1")):
        assert await checks.serve(news, hosts) == []
        news = {}
        for host in hosts:
            assert (await ask(port, host=host))[0] == "HTTP/1.1 200 OK"
        with pytest.raises(ConnectionRefusedError):
            await ask(port, host=refused)
    (problem,) = await checks.serve({}, ("192.0.2.200", "127.0.0.2"))
    assert f"healthCheckNodePort {port} of 192.0.2.200 can't be answered" in problem
    assert (await ask(port, host="127.0.0.2"))[0] == "HTTP/1.1 200 OK"


async def test_a_port_that_is_taken_is_told_with_the_service_and_disturbs_no_other(
    checks: HealthChecks,
) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        (problem,) = await checks.serve(service(number, 1, "other") | service(port, 1))
        assert problem.startswith(f"Service default/other: healthCheckNodePort {number} can't be answered: ")
        assert (await ask(port))[0] == "HTTP/1.1 200 OK"
    assert await checks.serve(service(number, 1, "other") | service(port, 1)) == []
    assert (await ask(number))[0] == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("text", [b"", b"GET / HTTP/1.1\r\n", b"\xff" * 100_000])
async def test_garbage_gets_no_answer_and_does_no_harm(checks: HealthChecks, text: bytes) -> None:
    port = free_port()
    await checks.serve(service(port, 1))
    with contextlib.suppress(ConnectionResetError):
        assert await ask(port, text) == ("", None)
    assert (await ask(port))[0] == "HTTP/1.1 200 OK"
