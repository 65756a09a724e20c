"""Pods' attachments: what CNI's ADD, DEL, CHECK, GC and STATUS do on this node.

Owns no list: that is `pods`. An ADD answers when identity, interface and flows are in place; its identity
is one transaction, so that a crash leaves either an attachment that DEL or GC finds, or something half
made that the next start removes (`wiring`). Requests about one interface are served one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from ovsnet import ipam, names, state
from ovsnet.agent import checking, requests
from ovsnet.agent.complaints import Complaints
from ovsnet.agent.detaching import Detaching
from ovsnet.agent.installer import Installer
from ovsnet.agent.pods import Key, Pods, Serving, key_of
from ovsnet.agent.policing import Policing
from ovsnet.agent.wiring import Wiring
from ovsnet.cni.protocol import Request
from ovsnet.cni.result import AddResult
from ovsnet.config import Config
from ovsnet.errors import (
    AlreadyAttached,
    OvsnetError,
    RangeExhausted,
    SwitchUnavailable,
    UnknownContainer,
)
from ovsnet.host.worker import LinkWorker
from ovsnet.model import IPAddress, Pod
from ovsnet.render import Renderer, cookie_of
from ovsnet.rows import Change, DeletePort
from ovsnet.state import Topology
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.pods")

_FLOWS_PATIENCE = 2.0
"""Seconds that a DEL waits for its flows to go before it goes on without."""


class Attachments:
    """The backend of the CNI server."""

    def __init__(
        self,
        config: Config,
        pods: Pods,
        *,
        ovsdb: Ovsdb,
        links: LinkWorker,
        wiring: Wiring,
        installer: Installer,
        renderer: Renderer,
        policing: Policing,
        detaching: Detaching,
    ) -> None:
        self._config = config
        self._detaching = detaching
        self._policing = policing
        self._pods = pods
        self._ovsdb = ovsdb
        self._links = links
        self._wiring = wiring
        self._installer = installer
        self._renderer = renderer
        self.wake: Callable[[], None] = lambda: None
        self.compare: Callable[[], Awaitable[None]] = _nothing
        self.trouble: Callable[[], OvsnetError | None] = lambda: None
        self.report: Callable[[], dict[str, object]] = dict
        """What is wrong with the node, and how it is; the agent's, which is made after this."""
        self.complaints = Complaints(log)
        """The agent's as well, once it is there."""

    # --- CNI -----------------------------------------------------------------------------------

    async def add(self, request: Request) -> AddResult:
        """Attaches a container. Raises what `errors` lists; nothing of a failed ADD remains.

        What of it can't be removed at once is removed by the loop.
        """
        key = request.container, request.ifname
        async with self._pods.alone(key):
            topo, allocator = self._ready()
            if key in self._pods.by_key:
                raise AlreadyAttached(
                    f"container {request.container} has an interface {request.ifname} already",
                    "DEL it first; an ADD is not repeated",
                )
            await self._policing.admit(requests.title(request), request.args.pod_uid)
            # The node may have become another one meanwhile.
            topo, allocator = self._ready()
            ips = self._allocate(request, allocator)
            try:
                with self._wiring.slot() as (token, ofport):
                    return await self._attach(request, requests.pod(request, ips, token, ofport), topo)
            except BaseException:
                # Not `allocator`: the node's ranges may have changed meanwhile.
                self._pods.serving().allocator.withdraw(ips)
                raise

    def _allocate(self, request: Request, allocator: ipam.Allocator) -> tuple[IPAddress, ...]:
        """Raises like `Allocator.allocate`. Runtimes try for ever: that a range is full is not said of each ADD."""
        wanted = [each.address for each in request.addresses]
        try:
            ips = allocator.allocate(requests.owner(request), time.time(), wanted)
        except RangeExhausted as error:
            self._pods.full = error.lasting
            raise
        else:
            if not wanted:
                # There was room, though this may have been the last.
                self._pods.full = ""
            return ips
        finally:
            self.complaints.only("addresses", self._pods.exhausted())

    async def _attach(self, request: Request, pod: Pod, topo: Topology) -> AddResult:
        cookie = cookie_of(pod)
        spec = requests.attach_spec(request, pod, topo)
        self._pods.by_key[key_of(pod)] = pod
        # In one bundle: its first packet meets its policies.
        flows = self._installer.begin({cookie: self._renderer.object(pod), **self._policing.coming()})
        try:
            identity = state.identity(pod) | self._policing.identity(pod)
            number = await self._wiring.connect(spec, pod.ofport, identity)
            await flows
            self._pods.mtus[pod.port] = spec.mtu
            if number != pod.ofport:
                # vswitchd had given the one asked for to somebody else.
                pod = self._pods.by_key[key_of(pod)] = msgspec.structs.replace(pod, ofport=number)
                await self._installer.change({cookie: self._renderer.object(pod)})
        except BaseException:
            try:
                await asyncio.gather(flows, return_exceptions=True)
                await self._wiring.disconnect(spec.token)
            finally:
                # Its policies go last, whoever else changes some meanwhile.
                del self._pods.by_key[key_of(pod)]
            with contextlib.suppress(OvsnetError):
                await self._installer.change({cookie: (), **self._policing.update()})
            raise
        if spec.mtu != self._pods.serving().topo.mtu:
            # It changed meanwhile: the loop gives it to the pods that have another.
            self.wake()
        return requests.result(pod, spec, topo)

    async def delete(self, request: Request) -> None:
        """Detaches; a container that is not attached is fine, and so is a namespace that is gone."""
        key = request.container, request.ifname
        async with self._pods.alone(key):
            await self._detach(key)

    async def check(self, request: Request) -> None:
        """Raises AttachmentBroken with the first difference between what is and what shall be."""
        topo, _ = self._ready()
        key = request.container, request.ifname
        async with self._pods.alone(key):
            pod = self._pods.by_key.get(key)
            if pod is None:
                raise UnknownContainer(
                    f"container {request.container} has no interface {request.ifname} here", "ADD it first"
                )
            checking.row(pod, self._ovsdb.port(pod.port))
            checking.flows(pod, self._installer.installed.get(cookie_of(pod)), self._renderer.object(pod))
            seen = await self._links.inspect(requests.netns_of(request), pod.ifname)
            sole = sum(container == pod.container for container, _ in self._pods.by_key) == 1
            gateways = requests.gateways(pod.ips, topo) if sole else ()
            checking.interface(pod, requests.addresses(pod, topo), gateways, seen)
            checking.previous(pod, request)

    async def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not list."""
        self._require_database()
        valid = {(each.container, each.ifname) for each in request.valid}
        failures: list[OvsnetError] = []
        for key, pod in list(self._attached().items()):
            # What has a request under way is newer than the list.
            if pod.network != request.network or key in valid or self._pods.busy(key):
                continue
            async with self._pods.alone(key):
                if self._attached().get(key) != pod:
                    continue
                log.info("pod %s: the runtime does not know it any more; removing it", pod.title)
                try:
                    await self._detach(key)
                except OvsnetError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    async def status(self, request: Request) -> None:
        """Raises NotReady (50) or LimitedConnectivity (51) when an ADD would fail."""
        trouble = self.trouble()
        if trouble is not None:
            raise requests.as_status(trouble, running=bool(self._pods.by_key))

    async def audit(self) -> None:
        await self.compare()

    def health(self) -> dict[str, object]:
        return self.report()

    # --- shared --------------------------------------------------------------------------------

    def _attached(self) -> Mapping[Key, Pod]:
        return self._pods.by_key if self._pods.known else self._detaching.attached()

    async def _detach(self, key: Key) -> None:
        """Needs rows and nothing else of this node: pods end on one that has no ranges, too. Raises like `_remove`."""
        if not self._pods.known:
            await self._detaching.remove(key)
        # The loop may have read the rows meanwhile.
        pod = self._pods.by_key.get(key)
        if pod is not None:
            await self._remove(pod)
        else:
            # An earlier request may have left something.
            await self._wiring.clear_up()

    def _require_database(self) -> None:
        if not self._ovsdb.connected:
            raise SwitchUnavailable(
                f"ovsdb-server at {self._config.ovsdb} does not answer", "repeat the request"
            )

    async def _remove(self, pod: Pod) -> None:
        """Takes back flows, row, interface, and then addresses.

        Raises SwitchUnavailable if OVSDB is away, and then nothing has been done; if it goes in the
        middle the pod is still listed, and a repeated DEL does the rest.
        """
        self._require_database()
        cookie = cookie_of(pod)
        self._pods.leave(pod)
        # Its policies stay until its port is gone: a packet that conntrack hands back after they went would be taken
        # for one of a pod that has none.
        flows = self._installer.begin({cookie: ()})
        try:
            # First of all, as vswitchd takes some 10 ms for each port that goes and answers nobody meanwhile; but
            # one that hangs must not keep the rest from being done.
            await asyncio.wait([flows], timeout=_FLOWS_PATIENCE)
            changes: list[Change] = [self._pods.released()]
            if self._ovsdb.port(pod.port) is not None:
                changes.append(DeletePort(name=pod.port))
            await self._ovsdb.apply(changes)
            await self._wiring.disconnect(names.token_of(pod.port))
            # Without a switch there is nothing to drop: the next replacement will not have them.
            with contextlib.suppress(SwitchUnavailable):
                await flows
        except BaseException:
            await asyncio.gather(flows, return_exceptions=True)
            await self._undo(pod)
            raise
        await self._gone(pod)

    async def _gone(self, pod: Pod) -> None:
        self._pods.gone(pod)
        changed = self._policing.update()
        # What can't be taken back now the loop will.
        with contextlib.suppress(OvsnetError):
            if changed:
                await self._installer.change(changed)
            await self._policing.older.add(self._installer)

    async def _undo(self, pod: Pod) -> None:
        """A removal failed: as long as there is a row the pod is listed, with its flows."""
        if self._ovsdb.port(pod.port) is None:
            self._wiring.later(names.token_of(pod.port))
            await self._gone(pod)
            return
        self._pods.stay(pod)
        with contextlib.suppress(OvsnetError):
            await self._installer.change(
                {cookie_of(pod): self._renderer.object(pod), **self._policing.update()}
            )

    def _ready(self) -> Serving:
        """Raises TryAgain with the reason while no request can be served."""
        trouble = self.trouble()
        if trouble is not None:
            raise requests.as_try_again(trouble)
        return self._pods.serving()


async def _nothing() -> None:
    """Until the agent's loop is there."""
