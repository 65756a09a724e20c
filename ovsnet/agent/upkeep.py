"""Running pods as they shall be: after a start, after somebody changed their rows, after the MTU changed.

Owns what no CNI request asks for: adopting what an earlier run left, restoring rows, sweeping rows and links that
belong to nobody, following port numbers and MTU. Never touches flows: they follow the list of pods. What was lost while
no agent ran is `recovery`'s. Called by the agent's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ovsnet import names, state
from ovsnet.agent.pods import Pods, key_of
from ovsnet.agent.wiring import Wiring
from ovsnet.errors import HostFailure
from ovsnet.host.worker import LinkWorker
from ovsnet.model import Pod
from ovsnet.rows import AddPort, Change, PortRow, PortSpec, SetIdentity
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.pods")

_NAMED = 10
"""Interfaces that a line names."""


class Upkeep:
    """What keeps the pods of `Pods` as they are known."""

    def __init__(self, pods: Pods, *, ovsdb: Ovsdb, links: LinkWorker, wiring: Wiring) -> None:
        self._pods = pods
        self._ovsdb = ovsdb
        self._links = links
        self._wiring = wiring
        self._refused: set[str] = set()
        """Ports whose MTU can't be set."""

    async def adopt(self) -> None:
        """Removes what interrupted requests, dead pods and a reboot left."""
        links = await self._links.list_ours()
        rows = self._ovsdb.ports()
        for pod in state.pods(rows):
            # Two rows of one interface: an ADD that nobody knows of any more, and the one that was repeated.
            if names.token_of(pod.port) in links:
                self._pods.by_key[key_of(pod)] = pod
        await self._release([pod for pod in self._pods.all() if names.token_of(pod.port) not in links])
        nobodys = [token for token in links if names.host_interface(token) not in rows]
        if nobodys:
            some = ", ".join(sorted(map(names.host_interface, nobodys))[:_NAMED])
            log.warning("removing %d interfaces that belong to no pod: %s", len(nobodys), some)
        await asyncio.gather(*map(self._wiring.disconnect, nobodys))
        await self.sweep()
        self._pods.mtus = {names.host_interface(token): mtu for token, mtu in links.items()}

    async def sweep(self) -> None:
        """Removes pods' rows that no pod of ours has: their ADD failed, or they have lost their identity."""
        known = self._pods.ports() | self._wiring.ports()
        for row in list(self._ovsdb.ports().values()):
            if row.role == names.ROLE_POD and row.name not in known:
                log.warning("port %s belongs to no pod; removing it", row.name)
                await self._wiring.disconnect(names.token_of(row.name))
                if (stray := state.pod(row)) is not None:
                    self._pods.gone(stray)
        await self._wiring.clear_up()

    async def restore(self) -> None:
        """Puts right what someone did to pods' Port rows: deleted, alone or with the bridge, or altered.

        A pod whose interface is gone as well is dead; its addresses are released. Pods with a request
        under way are left to it.
        """
        rows = self._ovsdb.ports()
        self.refresh(rows, rows)
        wrong = [
            key for key, pod in self._pods.by_key.items() if not self._pods.busy(key) and _differs(pod, rows)
        ]
        if not wrong:
            return
        async with contextlib.AsyncExitStack() as alone:
            for key in wrong:
                await alone.enter_async_context(self._pods.alone(key))
            links = await self._links.list_ours()
            rows = self._ovsdb.ports()
            pods = [pod for key in wrong if (pod := self._pods.by_key.get(key)) and _differs(pod, rows)]
            alive = [pod for pod in pods if names.token_of(pod.port) in links]
            for pod in alive:
                what = "altered" if pod.port in rows else "deleted"
                log.warning("pod %s: port %s was %s by someone else; restoring it", pod.title, pod.port, what)
            await self._ovsdb.apply([_restoration(pod, rows) for pod in alive])
            await self._release([pod for pod in pods if pod not in alive])

    async def _release(self, dead: Sequence[Pod]) -> None:
        for pod in dead:
            log.warning("pod %s: its port %s is gone; releasing %s", pod.title, pod.port, _text(pod))
            self._pods.leave(pod)
        try:
            if dead:
                await asyncio.gather(*(self._wiring.disconnect(names.token_of(pod.port)) for pod in dead))
                await self._ovsdb.apply([self._pods.released()])
        except BaseException:
            for pod in dead:
                self._pods.stay(pod)
            raise
        for pod in dead:
            self._pods.gone(pod)

    async def look(self) -> list[str]:
        """Sets up what somebody set down; one line for each pod that has lost its interface.

        What has another MTU is left to `follow_mtu`.
        """
        for token in await self._links.raise_fallen():
            log.warning("port %s was set down by someone else; up again", names.host_interface(token))
        links = await self._links.list_ours()
        for port, size in self._pods.mtus.items():
            found = links.get(names.token_of(port), size)
            if found != size and port not in self._refused:
                log.warning("port %s was given the MTU %d by someone else, not %d", port, found, size)
                self._pods.mtus[port] = found
        return [
            f"pod {pod.title}: its interface {pod.port} is gone; delete the pod"
            for pod in self._pods.all()
            if names.token_of(pod.port) not in links and not self._pods.busy(key_of(pod))
        ]

    def refresh(self, rows: Mapping[str, PortRow], changed: Iterable[str]) -> bool:
        """Follows port numbers; True if the loop must look: other flows, or something to `restore` or `sweep`."""
        by_port = {pod.port: key for key, pod in self._pods.by_key.items()}
        known = self._pods.ports() | self._wiring.ports()
        found = False
        for name in changed:
            row, key = rows.get(name), by_port.get(name)
            if key is None:
                found = found or (row is not None and row.role == names.ROLE_POD and name not in known)
                continue
            if self._pods.busy(key):
                continue
            pod = self._pods.by_key[key]
            if row is not None and row.number is not None and row.number != pod.ofport:
                self._pods.by_key[key] = msgspec.structs.replace(pod, ofport=row.number)
                found = True
            found = found or _differs(pod, rows)
        return found

    async def follow_mtu(self, mtu: int) -> None:
        """Gives running pods the MTU, in bytes, that have another: what is too big for a tunnel is lost in silence.

        The host's end comes last and tells that it was done, after a crash as well.
        """
        for pod in self._pods.all():
            if self._pods.mtus.get(pod.port) == mtu or self._pods.busy(key_of(pod)):
                continue
            self._refused.discard(pod.port)
            try:
                with contextlib.ExitStack() as opened:
                    namespace = os.open(pod.netns, os.O_RDONLY | os.O_CLOEXEC)
                    opened.callback(os.close, namespace)
                    await self._links.set_mtu(pod.port, pod.ifname, mtu, namespace)
            except (OSError, HostFailure) as error:
                log.warning("pod %s keeps its MTU until it is made again: %s", pod.title, error)
                self._refused.add(pod.port)
            self._pods.mtus[pod.port] = mtu
        known = self._pods.ports()
        self._refused &= known
        self._pods.mtus = {port: size for port, size in self._pods.mtus.items() if port in known}


def _differs(pod: Pod, rows: Mapping[str, PortRow]) -> bool:
    """Whether the pod's row is not there or names something else; its port number may be any."""
    row = rows.get(pod.port)
    found = state.pod(row) if row is not None else None
    return found is None or state.identity(found) != state.identity(pod)


def _restoration(pod: Pod, rows: Mapping[str, PortRow]) -> Change:
    if pod.port in rows:
        return SetIdentity(name=pod.port, external_ids=state.identity(pod), reclaim=True)
    return AddPort(
        spec=PortSpec(name=pod.port, external_ids=state.identity(pod), ofport_request=pod.ofport or None)
    )


def _text(pod: Pod) -> str:
    return " ".join(map(str, pod.ips))
