"""Answers load balancers that ask whether this node serves Services at all: http://NODE:10256/healthz.

Controllers of load balancers probe kube-proxy there for Services with externalTrafficPolicy: Cluster (KEP-3836), and
take a node that does not answer for a broken one. /livez is the same without the node's own fate. Owns the listening
socket; knows nothing of how the answers come about. Composed in `app`.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable

from ovsnet.agent import web
from ovsnet.agent.complaints import Complaints
from ovsnet.model import IPAddress

_AGAIN = 10.0
"""Seconds after which a port that somebody else has is tried again."""
_ZONE = datetime.UTC


class Healthz:
    """in_force: whether flows are as the cluster asks. eligible: whether the node is to get new connections."""

    def __init__(
        self,
        address: IPAddress | None,
        port: int,
        *,
        in_force: Callable[[], bool],
        eligible: Callable[[], bool],
        complaints: Complaints,
        again: float = _AGAIN,
    ) -> None:
        self._address = str(address) if address is not None else None
        self._port = port
        self._in_force = in_force
        self._eligible = eligible
        self._complaints = complaints
        self._again = again
        self._updated = datetime.datetime.min.replace(tzinfo=_ZONE)
        """When somebody asked last while flows were in."""

    async def run(self) -> None:
        """Answers until cancelled. A port that can't be had is a complaint, and tried again."""
        server = await self._listen()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _listen(self) -> asyncio.Server:
        while True:
            try:
                server = await web.listen(self._address, self._port, self._answer)
            except OSError as error:
                self._complaints.about("healthz", self._words(error))
                await asyncio.sleep(self._again)
            else:
                self._complaints.over("healthz", f"load balancers are answered at port {self._port}")
                return server

    def _words(self, error: OSError) -> str:
        where = f"{self._address} port {self._port}" if self._address else f"port {self._port}"
        return (
            f"load balancers that ask for this node's health are not answered at {where}: {error.strerror}; "
            "if a kube-proxy has it, remove that from the cluster, as both would serve Services; else choose another "
            "with healthz.port, 0 for none"
        )

    def _answer(self, path: str, _port: int) -> web.Reply:
        """As kube-proxy answers, in its words."""
        if path not in ("/healthz", "/livez"):
            return web.Reply("404 Not Found", "text/plain", b"only /healthz and /livez are here\n")
        now = datetime.datetime.now(_ZONE)
        healthy = self._in_force()
        if healthy:
            self._updated = now
        body: dict[str, object] = {"lastUpdated": _stamp(self._updated), "currentTime": _stamp(now)}
        good = healthy
        if path == "/healthz":
            body["nodeEligible"] = eligible = self._eligible()
            good = healthy and eligible
        return web.Reply(
            status="200 OK" if good else "503 Service Unavailable",
            type="application/json",
            body=json.dumps({**body, "healthy": healthy}).encode(),
        )


def _stamp(moment: datetime.datetime) -> str:
    """RFC 3339, as Go writes it."""
    return moment.isoformat().replace("+00:00", "Z")
