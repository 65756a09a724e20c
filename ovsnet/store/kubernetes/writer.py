"""What the agent publishes on its own Node: how and where its tunnels end, its pods' MTU, that the network is there.

Owns what it wrote last, so that nothing is written twice; a Node object that was made anew is not noticed before the
facts change or an hour is over. Annotations are a merge patch of three, the condition a strategic merge patch of one
entry of status: neither touches what anybody else wrote. The annotation `ovsnet.io/encapsulation` is the user's. Called
by `store`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ovsnet.errors import StoreError
from ovsnet.store import Facts
from ovsnet.store.kubernetes.backoff import Backoff
from ovsnet.store.kubernetes.client import Client, Refused
from ovsnet.store.nodes import MTU, TUNNEL_ADDRESS, TUNNEL_ENCAPSULATION

log = logging.getLogger("ovsnet.store")

_LOOK = 2.0
"""Seconds between looks at what is to be published."""
_AGAIN = 3600.0
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"


class OwnNode:
    """Keeps the Node object of this node up to date."""

    def __init__(self, client: Client, name: str, facts: Callable[[], Facts | None]) -> None:
        """facts: what to publish; None while the node is not ready."""
        self._client = client
        self._name = name
        self._facts = facts
        self._written: Facts | None = None
        self._written_at = 0.0
        self._told = ""

    async def run(self) -> None:
        """Publishes until cancelled."""
        backoff = Backoff(first=2.0, longest=120.0)
        while True:
            facts = self._facts()
            old = time.monotonic() - self._written_at > _AGAIN
            pause = _LOOK
            if facts is not None and (facts != self._written or old):
                try:
                    await self.publish(facts)
                    backoff.reset()
                except StoreError as error:
                    self._tell(error)
                    pause = backoff.next(error.retry_after if isinstance(error, Refused) else 0.0)
            await asyncio.sleep(pause)

    async def publish(self, facts: Facts) -> None:
        """Writes once. Raises StoreError."""
        path = f"/api/v1/nodes/{self._name}"
        annotations = {
            TUNNEL_ENCAPSULATION: facts.encap.value,
            TUNNEL_ADDRESS: facts.address,
            MTU: str(facts.mtu),
        }
        await self._client.send("patch", "PATCH", path, {"metadata": {"annotations": annotations}}, _MERGE)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "OvsnetIsUp",
            "message": "ovsnet is running on this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        await self._client.send(
            "patch", "PATCH", f"{path}/status", {"status": {"conditions": [condition]}}, _STRATEGIC
        )
        self._written, self._written_at, self._told = facts, time.monotonic(), ""

    def _tell(self, error: StoreError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            log.warning("the Node object of %s is not up to date: %s", self._name, error)
