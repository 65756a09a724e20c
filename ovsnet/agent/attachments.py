"""Pods' attachments: what CNI's ADD, DEL, CHECK, GC and STATUS do on this node.

Owns the list of pods and the allocator; both are rebuilt from OVSDB rows at start and are in step
with them ever after. An ADD answers when identity, interface and flows are in place; its identity
is one transaction, so that a crash leaves either an attachment that DEL or GC finds, or a spare with
a missing end that the next start removes. Requests about one interface are served one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from ovsnet import ipam, names, state
from ovsnet.agent import checking, requests
from ovsnet.agent.installer import Installer
from ovsnet.agent.pool import Pool, Spare
from ovsnet.cni.protocol import Request
from ovsnet.cni.result import AddResult
from ovsnet.config import Config
from ovsnet.errors import AlreadyAttached, OvsnetError, UnknownContainer
from ovsnet.host.links import Links
from ovsnet.model import Pod
from ovsnet.render import Renderer, cookie_of
from ovsnet.rows import Change, DeletePort, PortRow, SetIdentity, SetReleased
from ovsnet.state import Topology
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.pods")

Key = tuple[str, str]
"""Container ID and interface name: what identifies an attachment in the specification."""


class Attachments:
    """The backend of the CNI server, and the agent's list of pods."""

    def __init__(
        self,
        config: Config,
        *,
        ovsdb: Ovsdb,
        links: Links,
        pool: Pool,
        installer: Installer,
        renderer: Renderer,
    ) -> None:
        self._config = config
        self._ovsdb = ovsdb
        self._links = links
        self._pool = pool
        self._installer = installer
        self._renderer = renderer
        self.trouble: Callable[[], OvsnetError | None] = lambda: None
        self.report: Callable[[], dict[str, object]] = dict
        """What is wrong with the node, and how it is; the agent's, which is made after this."""
        self._pods: dict[Key, Pod] = {}
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._topology: Topology | None = None
        self._allocator: ipam.Allocator | None = None

    def pods(self) -> list[Pod]:
        """All pods whose flows shall be installed, those of ADDs under way included."""
        return list(self._pods.values())

    def serve(self, topo: Topology) -> None:
        """Takes note of this node's ranges and MTU; the first time, of the rows' pods as well."""
        before, self._topology = self._topology, topo
        if before is None or self._allocator is None:
            self._load(topo)
        elif before.cidrs != topo.cidrs:
            self._allocator = self._allocator.with_ranges(topo.cidrs)

    def _load(self, topo: Topology) -> None:
        for pod in state.pods(self._ovsdb.ports()):
            self._pods[pod.container, pod.ifname] = pod
        bridge = self._ovsdb.bridge()
        released = bridge.external_ids.get(names.KEY_RELEASED, "") if bridge else ""
        self._allocator = ipam.Allocator(
            topo.cidrs,
            self._config.excluded_addresses,
            self._config.reuse_after,
            taken={ip: pod.key for pod in self._pods.values() for ip in pod.ips},
            released=ipam.parse_released(released),
        )

    async def adopt(self) -> None:
        """Removes what interrupted requests, dead pods and a reboot left, and takes over the spares."""
        pairs = await self._links.list_ours()
        gone = [pod for pod in self._pods.values() if names.token_of(pod.port) not in pairs.hosts]
        for pod in gone:
            log.info("pod %s: its interface %s is gone; releasing %s", pod.title, pod.port, _text(pod))
            await self._remove(pod)
        rows = self._ovsdb.ports()
        for token in pairs.hosts:
            if names.host_interface(token) not in rows:
                log.info("interface %s belongs to no pod; removing it", names.host_interface(token))
                await self._links.detach(token)
        for row in rows.values():
            if row.role == names.ROLE_POD and state.pod(row) is None:
                log.warning("port %s has lost its identity; removing it", row.name)
                await self._ovsdb.apply([DeletePort(name=row.name)])
                await self._links.detach(names.token_of(row.name))
        await self._pool.adopt(pairs.spares & pairs.hosts)

    def refresh(self, rows: Mapping[str, PortRow], changed: Iterable[str]) -> bool:
        """Follows rows that changed under a pod; True if flows must follow."""
        by_port = {pod.port: key for key, pod in self._pods.items()}
        found = False
        for name in changed:
            key = by_port.get(name)
            if key is None or key in self._locks:
                continue
            pod, row = self._pods[key], rows.get(name)
            now = state.pod(row) if row is not None else None
            if now is None:
                log.warning("pod %s: its port %s was deleted by someone else; released", pod.title, name)
                self._forget(pod)
                found = True
            elif now != pod:
                self._pods[key] = now
                found = True
        return found

    # --- CNI -----------------------------------------------------------------------------------

    async def add(self, request: Request) -> AddResult:
        """Attaches a container. Raises what `errors` lists; nothing of a failed ADD remains."""
        self._require_ready()
        async with self._alone(request.container, request.ifname):
            if (request.container, request.ifname) in self._pods:
                raise AlreadyAttached(
                    f"container {request.container} has an interface {request.ifname} already",
                    "DEL it first; an ADD is not repeated",
                )
            assert self._topology is not None and self._allocator is not None
            wanted = [each.address for each in request.addresses]
            ips = self._allocator.allocate(requests.owner(request), time.time(), wanted)
            try:
                spare = await self._pool.take()
                try:
                    return await self._attach(request, requests.pod(request, ips, spare), spare)
                except BaseException:
                    await self._pool.discard(spare.token)
                    raise
            except BaseException:
                self._allocator.withdraw(ips)
                raise

    async def _attach(self, request: Request, pod: Pod, spare: Spare) -> AddResult:
        topo = self._topology
        assert topo is not None
        cookie = cookie_of(pod)
        spec = requests.attach_spec(request, pod, topo)
        key = (pod.container, pod.ifname)
        self._pods[key] = pod
        identity: Change = SetIdentity(name=pod.port, external_ids=state.identity(pod))
        flows = asyncio.create_task(self._installer.change({cookie: self._renderer.object(pod)}))
        row = asyncio.create_task(self._ovsdb.apply([identity]))
        try:
            # Both are on their way before the kernel makes this loop wait for the interface to move.
            await asyncio.sleep(0)
            await self._links.attach(spec)
            if spare.mtu != topo.mtu:
                await self._links.set_mtu(pod.port, topo.mtu)
            await asyncio.gather(flows, row)
        except BaseException:
            await asyncio.gather(flows, row, return_exceptions=True)
            del self._pods[key]
            with contextlib.suppress(OvsnetError):
                await self._installer.change({cookie: ()})
            raise
        return requests.result(pod, spec, topo)

    async def delete(self, request: Request) -> None:
        """Detaches; a container that is not attached is fine, and so is a namespace that is gone."""
        async with self._alone(request.container, request.ifname):
            pod = self._pods.get((request.container, request.ifname))
            if pod is None:
                self._require_known()
                return
            await self._remove(pod)

    async def check(self, request: Request) -> None:
        """Raises AttachmentBroken with the first difference between what is and what shall be."""
        self._require_ready()
        async with self._alone(request.container, request.ifname):
            pod = self._pods.get((request.container, request.ifname))
            if pod is None:
                raise UnknownContainer(
                    f"container {request.container} has no interface {request.ifname} here", "ADD it first"
                )
            assert self._topology is not None
            checking.row(pod, self._ovsdb.port(pod.port))
            checking.flows(pod, self._installer.installed.get(cookie_of(pod)), self._renderer.object(pod))
            seen = await self._links.inspect(requests.netns_of(request), pod.ifname)
            topo = self._topology
            sole = sum(container == pod.container for container, _ in self._pods) == 1
            gateways = requests.gateways(pod.ips, topo) if sole else ()
            checking.interface(pod, requests.addresses(pod, topo), gateways, seen)
            checking.previous(pod, request)

    async def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not list."""
        self._require_ready()
        valid = {(each.container, each.ifname) for each in request.valid}
        for key, pod in list(self._pods.items()):
            if pod.network == request.network and key not in valid:
                log.info("pod %s: the runtime does not know it any more; removing it", pod.title)
                async with self._alone(*key):
                    if key in self._pods:
                        await self._remove(self._pods[key])

    async def status(self, request: Request) -> None:
        """Raises NotReady (50) or LimitedConnectivity (51) when an ADD would fail."""
        trouble = self.trouble()
        if trouble is not None:
            raise requests.as_status(trouble, running=bool(self._pods))

    def health(self) -> dict[str, object]:
        return self.report()

    # --- shared --------------------------------------------------------------------------------

    async def _remove(self, pod: Pod) -> None:
        """Takes back address, row, flows and interface. Raises SwitchUnavailable and keeps all if OVSDB is away."""
        key, cookie = (pod.container, pod.ifname), cookie_of(pod)
        assert self._allocator is not None
        present = self._ovsdb.port(pod.port) is not None
        self._allocator.release(pod.ips, time.time())
        self._pods.pop(key, None)
        changes: list[Change] = [DeletePort(name=pod.port)] if present else []
        row = asyncio.create_task(
            self._ovsdb.apply([*changes, SetReleased(value=self._allocator.released_text(time.time()))])
        )
        flows = asyncio.create_task(self._drop_flows(cookie))
        try:
            await asyncio.sleep(0)
            await self._links.detach(names.token_of(pod.port))
            await asyncio.gather(row, flows)
        except BaseException:
            await asyncio.gather(row, flows, return_exceptions=True)
            if self._ovsdb.port(pod.port) is not None:
                self._allocator.claim(pod.ips, pod.key)
                self._pods[key] = pod
            raise

    async def _drop_flows(self, cookie: int) -> None:
        """Without a switch there is nothing to drop: the next replacement will not have them."""
        if not self._installer.stale:
            await self._installer.change({cookie: ()})

    def _forget(self, pod: Pod) -> None:
        assert self._allocator is not None
        self._allocator.release(pod.ips, time.time())
        self._pods.pop((pod.container, pod.ifname), None)

    def _require_ready(self) -> None:
        trouble = self.trouble()
        if trouble is not None:
            raise requests.as_try_again(trouble)

    def _require_known(self) -> None:
        """A DEL may only say "not here" when the rows have been read."""
        if self._allocator is None:
            self._require_ready()

    @contextlib.asynccontextmanager
    async def _alone(self, container: str, ifname: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault((container, ifname), asyncio.Lock())
        async with lock:
            yield


def _text(pod: Pod) -> str:
    return " ".join(map(str, pod.ips))
