"""Answers load balancers that ask whether this node has endpoints of a Service (healthCheckNodePort).

With externalTrafficPolicy: Local a load balancer sends only to nodes that say so: 200 and the count of endpoints here,
503 where there are none, or where flows are not in. Owns a listening socket for each such Service. Called by the
agent's loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

from ovsnet.agent import web
from ovsnet.frontends import ServiceObject


class HealthChecks:
    """The ports that answer now."""

    def __init__(self) -> None:
        self.in_force: Callable[[], bool] = lambda: True
        """Whether flows are as the cluster asks; composed in `app`."""
        self._servers: dict[int, asyncio.Server] = {}
        self._services: dict[str, ServiceObject] = {}
        self._asked: dict[int, ServiceObject] = {}
        """Those that are asked for, by key and by port."""

    async def serve(self, news: Mapping[str, ServiceObject | None]) -> list[str]:
        """Answers for these, too, from now on, and no more for those that are gone (None).

        Tells what can't be answered, a line for each.
        """
        for key, service in news.items():
            if service is not None and service.health_check_port:
                self._services[key] = service
            else:
                self._services.pop(key, None)
        wanted = self._asked = {each.health_check_port: each for each in self._services.values()}
        for port in self._servers.keys() - wanted.keys():
            self._servers.pop(port).close()
        problems = []
        for port in wanted.keys() - self._servers.keys():
            try:
                self._servers[port] = await web.listen(None, port, self._answer)
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

    def _answer(self, path: str, port: int) -> web.Reply | None:
        """As kube-proxy answers, which load balancers know: the same for every path."""
        service = self._asked.get(port)
        if service is None or not path:
            return None
        count, healthy = service.local_endpoints, self.in_force()
        body = {
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        return web.Reply(
            status="200 OK" if count and healthy else "503 Service Unavailable",
            type="application/json",
            body=json.dumps(body).encode(),
            headers={"X-Load-Balancing-Endpoint-Weight": str(count)},
        )
