"""Takes back attachments of which OVSDB's rows tell, before it is known what this node is to be.

A node without a Node object has no ranges, and its agent no list of pods; pods that end need neither. Of each it takes
away flows, row and interface, and lets the addresses rest; its policies' flows go when all flows are written next.
Owns nothing but when which addresses were given back. Called by `attachments`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from ovsnet import ipam, names, state
from ovsnet.agent.installer import Installer
from ovsnet.agent.pods import Key, Pods, key_of
from ovsnet.agent.recovery import contradiction
from ovsnet.agent.wiring import Wiring
from ovsnet.cni.resultcache import Cached
from ovsnet.config import Config
from ovsnet.errors import SwitchUnavailable
from ovsnet.host.worker import LinkWorker
from ovsnet.model import IPAddress, Pod
from ovsnet.render import cookie_of
from ovsnet.rows import DeletePort, PortRow, SetReleased
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.pods")

_FLOWS_PATIENCE = 2.0
"""Seconds that a pod's flows have to go."""


class Detaching:
    """read: what the container runtime has cached of pods."""

    def __init__(
        self,
        config: Config,
        pods: Pods,
        *,
        ovsdb: Ovsdb,
        links: LinkWorker,
        wiring: Wiring,
        installer: Installer,
        read: Callable[[], Cached],
    ) -> None:
        self._config = config
        self._pods = pods
        self._ovsdb = ovsdb
        self._links = links
        self._wiring = wiring
        self._installer = installer
        self._read = read
        self._released: dict[IPAddress, float] = {}
        """When each was, in unix seconds: transactions that come together write one list."""

    def attached(self) -> dict[Key, Pod]:
        """The rows' pods. Raises SwitchUnavailable while OVSDB is away."""
        return {key_of(pod): pod for pod in state.pods(self._rows())}

    async def remove(self, key: Key) -> None:
        """Of an attachment that is not there nothing; where `Pods` has come to know of it meanwhile, what is left too.

        Raises SwitchUnavailable, or OvsnetError with ovsdb-server's words: then the row is there, and a repeated call
        does the rest.
        """
        rows = self._rows()
        # Two of one interface: an ADD that nobody knows of any more, and the one that was repeated.
        found = [pod for pod in state.pods(rows) if key_of(pod) == key]
        for pod in found:
            await self._take(pod)
        if not found:
            await self._take_lost(key, rows)

    def _rows(self) -> Mapping[str, PortRow]:
        if not self._ovsdb.connected:
            raise SwitchUnavailable(
                f"ovsdb-server at {self._config.ovsdb} does not answer", "repeat the request"
            )
        return self._ovsdb.ports()

    async def _take(self, pod: Pod) -> None:
        flows = asyncio.ensure_future(self._installer.end([cookie_of(pod)]))
        # Without a switch there is nothing to drop, and one that hangs must not keep the rest from being done.
        flows.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([flows], timeout=_FLOWS_PATIENCE)
        if self._pods.known:
            return
        self._released |= dict.fromkeys(pod.ips, time.time())
        await self._ovsdb.apply([SetReleased(value=self._resting()), DeletePort(name=pod.port)])
        await self._wiring.disconnect(names.token_of(pod.port))

    def _resting(self) -> str:
        bridge = self._ovsdb.bridge()
        written = bridge.external_ids.get(names.KEY_RELEASED, "") if bridge else ""
        released = ipam.parse_released(written) | self._released
        resting = ipam.Allocator((), (), self._config.reuse_after, taken={}, released=released)
        return resting.released_text(time.time())

    async def _take_lost(self, key: Key, rows: Mapping[str, PortRow]) -> None:
        """The interface of a pod that has lost its row: it would get that back (`recovery`)."""
        for pod in self._read().pods:
            if key_of(pod) != key or pod.port in rows:
                continue
            try:
                false = await contradiction(pod, self._links)
            except PermissionError:
                continue
            if not false:
                await self._wiring.disconnect(names.token_of(pod.port))
