"""What the agent publishes on its own Node: how and where its tunnels end, its pods' MTU, that the network is there.

Owns what it wrote last, so that nothing is written twice; where the Node that the store follows does not say so, as one
that was made anew, it is written again. Annotations are a merge patch of three, the condition a strategic merge patch
of one entry of status: neither touches what anybody else wrote. The annotation `ovsnet.io/encapsulation` is the user's.
Called by `store`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ovsnet.errors import StoreError
from ovsnet.model import Node
from ovsnet.store import Facts
from ovsnet.store.kubernetes.backoff import Backoff
from ovsnet.store.kubernetes.client import Client, Refused
from ovsnet.store.nodes import MTU, TUNNEL_ADDRESS, TUNNEL_ENCAPSULATION

log = logging.getLogger("ovsnet.store")

_LOOK = 2.0
"""Seconds between looks at what is to be published."""
_AGAIN = 3600.0
_SEEN = 10.0
"""Seconds within which what was written comes back to the store that follows it; doubled while it does not."""
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"


Seen = tuple[bool, Node | None]
"""Whether there is such a Node, and what it is; None if it can't be read as it is now."""


class OwnNode:
    """Keeps the Node object of this node up to date."""

    def __init__(
        self,
        client: Client,
        name: str,
        facts: Callable[[], Facts | None],
        there: Callable[[], Seen],
    ) -> None:
        """facts: what to publish; None while the node is not ready. there: what the store sees of the Node."""
        self._client = client
        self._name = name
        self._facts = facts
        self._there = there
        self._written: Facts | None = None
        self._written_at = 0.0
        self._patience = _SEEN
        self._told = ""

    async def run(self) -> None:
        """Publishes until cancelled."""
        backoff = Backoff(first=2.0, longest=120.0)
        while True:
            facts = self._facts()
            pause = _LOOK
            if facts is not None and self._is_due(facts):
                try:
                    await self.publish(facts)
                    backoff.reset()
                except StoreError as error:
                    self._tell(error)
                    pause = backoff.next(error.retry_after if isinstance(error, Refused) else 0.0)
            await asyncio.sleep(pause)

    def _is_due(self, facts: Facts) -> bool:
        exists, node = self._there()
        if not exists:
            # Who makes it anew does not know what it said.
            self._written = None
            return False
        age = time.monotonic() - self._written_at
        if facts != self._written or age > _AGAIN:
            return True
        if node is None or _says(node, facts):
            self._patience = _SEEN
            return False
        if age <= self._patience:
            return False
        # Somebody else may take it away each time, or the store be late.
        self._patience = min(2 * self._patience, _AGAIN)
        return True

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


def _says(node: Node, facts: Facts) -> bool:
    """Whether that is what the Node publishes."""
    said = node.published
    return (said.encap, str(said.address), said.mtu) == (facts.encap, facts.address, facts.mtu)
