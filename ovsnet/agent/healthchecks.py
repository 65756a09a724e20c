"""Answers load balancers that ask whether this node has endpoints of a Service (healthCheckNodePort).

With externalTrafficPolicy: Local a load balancer sends only to nodes that say so: 200 and the count of endpoints here,
503 where there are none, or where flows are not in. Owns a listening socket for each such Service, on the addresses
that node ports answer on. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Collection, Mapping

from ovsnet.agent import web
from ovsnet.frontends import ServiceObject

_REMEDIES = {
    errno.EADDRNOTAVAIL: "the node has that address not yet, or twice (ip -6 address: tentative, dadfailed)"
}


class HealthChecks:
    """The ports that answer now."""

    def __init__(self) -> None:
        self.in_force: Callable[[], bool] = lambda: True
        """Whether flows are as the cluster asks; composed in `app`."""
        self._servers: dict[tuple[str | None, int], asyncio.Server] = {}
        """By address, None being every one, and port."""
        self._services: dict[str, ServiceObject] = {}
        self._asked: dict[int, ServiceObject] = {}
        """Those that are asked for, by key and by port."""

    @property
    def any(self) -> bool:
        return bool(self._services)

    async def serve(
        self, news: Mapping[str, ServiceObject | None], hosts: Collection[str | None] = (None,)
    ) -> list[str]:
        """Answers for these, too, from now on, and no more for those that are gone (None). hosts: the addresses on
        which it does, for all of them.

        Tells what can't be answered, a line for each.
        """
        for key, service in news.items():
            if service is not None and service.health_check_port:
                self._services[key] = service
            else:
                self._services.pop(key, None)
        wanted = self._asked = {each.health_check_port: each for each in self._services.values()}
        places = {(host, port) for host in hosts for port in wanted}
        for place in self._servers.keys() - places:
            self._servers.pop(place).close()
        problems = []
        for host, port in places - self._servers.keys():
            try:
                self._servers[host, port] = await web.listen(host, port, self._answer)
            except OSError as error:
                where = f"{port} of {host}" if host else str(port)
                problems.append(
                    f"Service {wanted[port].title}: healthCheckNodePort {where} can't be answered: {error.strerror}; "
                    + _REMEDIES.get(error.errno or 0, "end the process of this node that has it (ss -ltnp)")
                )
        return sorted(problems)

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
