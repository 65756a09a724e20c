"""Pods' attachments: what CNI's ADD, DEL, CHECK, GC and STATUS do on this node.

Owns the list of pods and the allocator; both are rebuilt from OVSDB rows at start and are in step
with them ever after. An ADD answers when identity, interface and flows are in place; its identity
is one transaction, so that a crash leaves either an attachment that DEL or GC finds, or something half
made that the next start removes (`wiring`). Requests about one interface are served one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from ovsnet import ipam, names, state
from ovsnet.agent import checking, requests
from ovsnet.agent.installer import Installer
from ovsnet.agent.wiring import Wiring, together
from ovsnet.cni.protocol import Request
from ovsnet.cni.result import AddResult
from ovsnet.config import Config
from ovsnet.errors import (
    AlreadyAttached,
    HostFailure,
    NotReady,
    OvsnetError,
    SwitchUnavailable,
    UnknownContainer,
)
from ovsnet.host.worker import LinkWorker
from ovsnet.model import Pod
from ovsnet.render import Renderer, cookie_of
from ovsnet.rows import AddPort, Change, DeletePort, PortRow, PortSpec, SetIdentity, SetReleased
from ovsnet.state import Topology
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.pods")

_FLOWS_PATIENCE = 2.0
"""Seconds that a DEL waits for its flows to go before it goes on without."""

Key = tuple[str, str]
"""Container ID and interface name: what identifies an attachment in the specification."""


class _Serving(NamedTuple):
    """What is known of this node once the first comparison has begun."""

    topo: Topology
    allocator: ipam.Allocator


class Attachments:
    """The backend of the CNI server, and the agent's list of pods."""

    def __init__(
        self,
        config: Config,
        *,
        ovsdb: Ovsdb,
        links: LinkWorker,
        wiring: Wiring,
        installer: Installer,
        renderer: Renderer,
    ) -> None:
        self._config = config
        self._ovsdb = ovsdb
        self._links = links
        self._wiring = wiring
        self._installer = installer
        self._renderer = renderer
        self.trouble: Callable[[], OvsnetError | None] = lambda: None
        self.report: Callable[[], dict[str, object]] = dict
        """What is wrong with the node, and how it is; the agent's, which is made after this."""
        self._pods: dict[Key, Pod] = {}
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._serving: _Serving | None = None

    def pods(self) -> list[Pod]:
        """All pods whose flows shall be installed, those of ADDs under way included."""
        return list(self._pods.values())

    def serve(self, topo: Topology) -> None:
        """Takes note of this node's ranges and MTU; the first time, of the rows' pods as well."""
        if self._serving is None:
            self._serving = _Serving(topo, self._load(topo))
            return
        allocator = self._serving.allocator
        if self._serving.topo.cidrs != topo.cidrs:
            allocator = allocator.with_ranges(topo.cidrs)
        self._serving = _Serving(topo, allocator)

    def _load(self, topo: Topology) -> ipam.Allocator:
        for pod in state.pods(self._ovsdb.ports()):
            self._pods[pod.container, pod.ifname] = pod
        bridge = self._ovsdb.bridge()
        released = bridge.external_ids.get(names.KEY_RELEASED, "") if bridge else ""
        return ipam.Allocator(
            topo.cidrs,
            self._config.excluded_addresses,
            self._config.reuse_after,
            taken={ip: pod.key for pod in self._pods.values() for ip in pod.ips},
            released=ipam.parse_released(released),
        )

    async def adopt(self) -> None:
        """Removes what interrupted requests, dead pods and a reboot left."""
        links = await self._links.list_ours()
        gone = [pod for pod in self._pods.values() if names.token_of(pod.port) not in links]
        for pod in gone:
            log.info("pod %s: its interface %s is gone; releasing %s", pod.title, pod.port, _text(pod))
        await asyncio.gather(*(self._remove(pod) for pod in gone))
        rows = self._ovsdb.ports()
        nobodys = [token for token in links if names.host_interface(token) not in rows]
        if nobodys:
            log.info("removing %d interfaces that belong to no pod", len(nobodys))
        await asyncio.gather(*(self._links.detach(token) for token in nobodys))
        for row in rows.values():
            if row.role == names.ROLE_POD and state.pod(row) is None:
                log.warning("port %s has lost its identity; removing it", row.name)
                await self._ovsdb.apply([DeletePort(name=row.name)])
                await self._links.detach(names.token_of(row.name))

    async def set_mtu(self, mtu: int) -> None:
        """Gives running pods another MTU, in bytes: what is too big for a tunnel would be lost in silence."""
        for pod in self.pods():
            try:
                with contextlib.ExitStack() as opened:
                    namespace = os.open(pod.netns, os.O_RDONLY | os.O_CLOEXEC)
                    opened.callback(os.close, namespace)
                    await self._links.set_mtu(pod.port, mtu)
                    await self._links.set_mtu(pod.ifname, mtu, namespace)
            except (OSError, HostFailure) as error:
                log.warning("pod %s keeps its MTU until it is made again: %s", pod.title, error)

    async def restore(self) -> None:
        """Puts right what someone did to pods' Port rows: deleted, alone or with the bridge, or altered.

        A pod whose interface is gone as well is dead; its addresses are released. Pods with a request
        under way are left to it.
        """
        rows = self._ovsdb.ports()
        self.refresh(rows, rows)
        wrong = [key for key, pod in self._pods.items() if key not in self._locks and _differs(pod, rows)]
        if not wrong:
            return
        async with contextlib.AsyncExitStack() as alone:
            for key in wrong:
                await alone.enter_async_context(self._alone(*key))
            links = await self._links.list_ours()
            rows = self._ovsdb.ports()
            pods = [self._pods[key] for key in wrong if key in self._pods and _differs(self._pods[key], rows)]
            alive = [pod for pod in pods if names.token_of(pod.port) in links]
            for pod in alive:
                log.warning("pod %s: port %s was altered by someone else; restoring it", pod.title, pod.port)
            await self._ovsdb.apply([_restoration(pod, rows) for pod in alive])
            for pod in pods:
                if pod not in alive:
                    log.warning("pod %s: its port %s is gone; releasing %s", pod.title, pod.port, _text(pod))
                    self._forget(pod)

    def refresh(self, rows: Mapping[str, PortRow], changed: Iterable[str]) -> bool:
        """Follows port numbers; True if the loop must look: other flows, or something to `restore`."""
        by_port = {pod.port: key for key, pod in self._pods.items()}
        found = False
        for name in changed:
            key = by_port.get(name)
            if key is None or key in self._locks:
                continue
            row, pod = rows.get(name), self._pods[key]
            if row is not None and row.number is not None and row.number != pod.ofport:
                self._pods[key] = msgspec.structs.replace(pod, ofport=row.number)
                found = True
            found = found or _differs(pod, rows)
        return found

    # --- CNI -----------------------------------------------------------------------------------

    async def add(self, request: Request) -> AddResult:
        """Attaches a container. Raises what `errors` lists; nothing of a failed ADD remains."""
        async with self._alone(request.container, request.ifname):
            topo, allocator = self._ready()
            if (request.container, request.ifname) in self._pods:
                raise AlreadyAttached(
                    f"container {request.container} has an interface {request.ifname} already",
                    "DEL it first; an ADD is not repeated",
                )
            wanted = [each.address for each in request.addresses]
            ips = allocator.allocate(requests.owner(request), time.time(), wanted)
            try:
                with self._wiring.slot() as (token, ofport):
                    return await self._attach(request, requests.pod(request, ips, token, ofport), topo)
            except BaseException:
                # Not `allocator`: the node's ranges may have changed meanwhile.
                self._known().allocator.withdraw(ips)
                raise

    async def _attach(self, request: Request, pod: Pod, topo: Topology) -> AddResult:
        cookie = cookie_of(pod)
        spec = requests.attach_spec(request, pod, topo)
        key = (pod.container, pod.ifname)
        self._pods[key] = pod
        flows = self._installer.begin({cookie: self._renderer.object(pod)})
        try:
            number = await self._wiring.connect(spec, pod.ofport, state.identity(pod))
            await flows
            if number != pod.ofport:
                # vswitchd had given the one asked for to somebody else.
                pod = self._pods[key] = msgspec.structs.replace(pod, ofport=number)
                await self._installer.change({cookie: self._renderer.object(pod)})
        except BaseException:
            await asyncio.gather(flows, return_exceptions=True)
            await self._wiring.disconnect(spec.token)
            del self._pods[key]
            with contextlib.suppress(OvsnetError):
                await self._installer.change({cookie: ()})
            raise
        return requests.result(pod, spec, topo)

    async def delete(self, request: Request) -> None:
        """Detaches; a container that is not attached is fine, and so is a namespace that is gone."""
        async with self._alone(request.container, request.ifname):
            pod = self._pods.get((request.container, request.ifname))
            if pod is not None:
                await self._remove(pod)
            elif self._serving is None:
                # "Not here" may only be said when the rows have been read.
                self._ready()

    async def check(self, request: Request) -> None:
        """Raises AttachmentBroken with the first difference between what is and what shall be."""
        topo, _ = self._ready()
        async with self._alone(request.container, request.ifname):
            pod = self._pods.get((request.container, request.ifname))
            if pod is None:
                raise UnknownContainer(
                    f"container {request.container} has no interface {request.ifname} here", "ADD it first"
                )
            checking.row(pod, self._ovsdb.port(pod.port))
            checking.flows(pod, self._installer.installed.get(cookie_of(pod)), self._renderer.object(pod))
            seen = await self._links.inspect(requests.netns_of(request), pod.ifname)
            sole = sum(container == pod.container for container, _ in self._pods) == 1
            gateways = requests.gateways(pod.ips, topo) if sole else ()
            checking.interface(pod, requests.addresses(pod, topo), gateways, seen)
            checking.previous(pod, request)

    async def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not list."""
        self._ready()
        valid = {(each.container, each.ifname) for each in request.valid}
        failures: list[OvsnetError] = []
        for key, pod in list(self._pods.items()):
            # What has a request under way is newer than the list.
            if pod.network != request.network or key in valid or key in self._locks:
                continue
            log.info("pod %s: the runtime does not know it any more; removing it", pod.title)
            async with self._alone(*key):
                try:
                    await self._remove(pod)
                except OvsnetError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    async def status(self, request: Request) -> None:
        """Raises NotReady (50) or LimitedConnectivity (51) when an ADD would fail."""
        trouble = self.trouble()
        if trouble is not None:
            raise requests.as_status(trouble, running=bool(self._pods))

    def health(self) -> dict[str, object]:
        return self.report()

    # --- shared --------------------------------------------------------------------------------

    async def _remove(self, pod: Pod) -> None:
        """Takes back address, flows, row and interface.

        Raises SwitchUnavailable if OVSDB is away, and then nothing has been done; if it goes in the
        middle the pod is still listed, and a repeated DEL does the rest.
        """
        if not self._ovsdb.connected:
            raise SwitchUnavailable(
                f"ovsdb-server at {self._config.ovsdb} does not answer", "repeat the request"
            )
        key, cookie, allocator = (pod.container, pod.ifname), cookie_of(pod), self._known().allocator
        self._forget(pod)
        changes: list[Change] = [SetReleased(value=allocator.released_text(time.time()))]
        if self._ovsdb.port(pod.port) is not None:
            changes.append(DeletePort(name=pod.port))
        flows = self._installer.begin({cookie: ()})
        try:
            # First of all, as vswitchd takes some 10 ms for each port that goes and answers nobody meanwhile; but
            # one that hangs must not keep the rest from being done.
            await asyncio.wait([flows], timeout=_FLOWS_PATIENCE)
            await together(self._ovsdb.begin(changes), self._links.detach(names.token_of(pod.port)))
            # Without a switch there is nothing to drop: the next replacement will not have them.
            with contextlib.suppress(SwitchUnavailable):
                await flows
        except BaseException:
            await asyncio.gather(flows, return_exceptions=True)
            if self._ovsdb.port(pod.port) is not None:
                allocator.claim(pod.ips, pod.key)
                self._pods[key] = pod
                with contextlib.suppress(OvsnetError):
                    await self._installer.change({cookie: self._renderer.object(pod)})
            raise

    def _forget(self, pod: Pod) -> None:
        self._known().allocator.release(pod.ips, time.time())
        self._pods.pop((pod.container, pod.ifname), None)

    def _known(self) -> _Serving:
        """Raises NotReady before the first comparison has begun."""
        if self._serving is None:
            raise NotReady("the agent has not read its rows yet", "see the agent's log")
        return self._serving

    def _ready(self) -> _Serving:
        """Raises TryAgain with the reason while no request can be served."""
        trouble = self.trouble()
        if trouble is not None:
            raise requests.as_try_again(trouble)
        return self._known()

    @contextlib.asynccontextmanager
    async def _alone(self, container: str, ifname: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault((container, ifname), asyncio.Lock())
        async with lock:
            yield


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
