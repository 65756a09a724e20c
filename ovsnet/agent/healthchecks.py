"""Answers load balancers that ask whether this node has endpoints of a Service (healthCheckNodePort).

With externalTrafficPolicy: Local a load balancer sends only to nodes that say so: 200 and the count of endpoints here,
503 where there are none. Owns a listening socket for each such Service. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable

from ovsnet.frontends import ServiceObject

log = logging.getLogger("ovsnet.services")

_PATIENCE = 5.0
"""Seconds that a client has for its question."""


class HealthChecks:
    """The ports that answer now."""

    def __init__(self) -> None:
        self._servers: dict[int, asyncio.Server] = {}
        self._services: dict[int, ServiceObject] = {}

    async def serve(self, services: Iterable[ServiceObject]) -> list[str]:
        """Answers for these and no others from now on; what could not be, a line for each."""
        wanted = {each.health_check_port: each for each in services if each.health_check_port}
        for port in self._servers.keys() - wanted.keys():
            self._servers.pop(port).close()
        self._services = wanted
        problems = []
        for port in wanted.keys() - self._servers.keys():
            try:
                self._servers[port] = await asyncio.start_server(self._answer, None, port, reuse_address=True)
            except OSError as error:
                problems.append(
                    f"Service {wanted[port].title}: healthCheckNodePort {port} can't be answered: {error.strerror}; "
                    "end the process of this node that has it (ss -ltnp)"
                )
        return problems

    def close(self) -> None:
        """Answers no more."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
            service = self._services.get(writer.get_extra_info("sockname")[1])
            if service is not None:
                writer.write(_response(service))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _response(service: ServiceObject) -> bytes:
    """As kube-proxy answers, which load balancers know."""
    status = "200 OK" if service.local_endpoints else "503 Service Unavailable"
    body = json.dumps(
        {
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": service.local_endpoints,
            "serviceProxyHealthy": True,
        }
    )
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
        f"X-Load-Balancing-Endpoint-Weight: {service.local_endpoints}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()
