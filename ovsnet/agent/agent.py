"""The loop: collect what is wanted, compare with what is there, apply the difference.

Owns readiness and the order in which things are done. Never talks to OVS, the kernel or a runtime itself: `switch`,
`host`, `store` and `cni` do. `sync` is idempotent, runs at start, after every event that concerns it and from time to
time; it is the only writer of bridge, gateway, tunnels, routes and nftables. Pods: `attachments` and `upkeep`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

from ovsnet import names, pipeline, plan, state
from ovsnet.agent import changes, drift
from ovsnet.agent.affinity import LongAffinity
from ovsnet.agent.auditor import Auditor
from ovsnet.agent.bridge import Bridge
from ovsnet.agent.complaints import Complaints
from ovsnet.agent.cutting import Cutting
from ovsnet.agent.deniallog import DenialLog
from ovsnet.agent.departed import Departed
from ovsnet.agent.deriving import Deriving
from ovsnet.agent.devices import Devices
from ovsnet.agent.hostside import HostSide
from ovsnet.agent.installer import Installer
from ovsnet.agent.leftovers import Leftovers
from ovsnet.agent.news import News, published_alone
from ovsnet.agent.pods import Pods
from ovsnet.agent.policing import Policing
from ovsnet.agent.recovery import Recovery
from ovsnet.agent.serving import Serving
from ovsnet.agent.starting import Starting
from ovsnet.agent.upkeep import Upkeep
from ovsnet.agent.wiring import Wiring
from ovsnet.config import Config
from ovsnet.errors import LimitedConnectivity, NotReady, OvsnetError, RouteRefused, SwitchUnavailable, Waiting
from ovsnet.host.nft import TABLE
from ovsnet.host.notices import Notices
from ovsnet.render import Renderer
from ovsnet.rows import PortRow
from ovsnet.services import Reach
from ovsnet.state import Topology
from ovsnet.store import Snapshot, Store
from ovsnet.switch.openflow import OpenFlow
from ovsnet.switch.ovsdb import Ovsdb

log = logging.getLogger("ovsnet.agent")

_PERIOD = 30.0
"""Seconds after which everything is compared again although nothing happened."""
_RETRY = 1.0
"""Seconds after which a sync that failed is tried again; doubles up to _PERIOD."""
_PATIENCE = 5.0
"""Seconds that the store has to be read at the start."""


@dataclass(eq=False)
class Agent:
    """One node's agent, composed in `app`."""

    config: Config
    name: str
    _: KW_ONLY
    store: Store
    ovsdb: Ovsdb
    openflow: OpenFlow
    host: HostSide
    renderer: Renderer
    installer: Installer
    wiring: Wiring
    pods: Pods
    upkeep: Upkeep
    recovery: Recovery
    policing: Policing
    departed: Departed | None = None
    cutting: Cutting | None = None
    denial_log: DenialLog | None = None
    leftovers: Leftovers | None = None
    affinity: LongAffinity | None = None

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self.serving = Serving(self.openflow, self.renderer, self.config, self._wake.set)
        self.topology: Topology | None = None
        self._reach = Reach()
        self.news = News(self.store, self._wake.set)
        self.complaints = Complaints(log)
        self.auditor = Auditor(self.installer, self.renderer, self.complaints, self.wake)
        self.installer.on_loss = self.wake
        self._starting = Starting(self.config, self.renderer)
        self.auditor.on_written = self._starting.heard
        self.on_ready: Callable[[], None] = lambda: None
        self._rows: Mapping[str, PortRow] = {}
        self._adopted = False
        self._bridge = Bridge(self.config, ovsdb=self.ovsdb, openflow=self.openflow, host=self.host)
        self._bridge.on_datapath = self._use_datapath
        self._devices = Devices(self.ovsdb)
        self._due = True
        """More may be different than the store tells of."""
        self._comparisons: list[asyncio.Future[None]] = []
        self._links_due = False
        """Pods' links are to be looked at."""
        self._auditing: asyncio.Task[None] | None = None
        self._notices = Notices(names.GATEWAY, pipeline.ROUTER.ipv6, TABLE, self.wake, self._links_changed)
        self._deriving = Deriving(
            self.config,
            self.name,
            ovsdb=self.ovsdb,
            host=self.host,
            notices=self._notices,
            complaints=self.complaints,
        )

    def wake(self) -> None:
        """Something happened that a sync should look at."""
        self._due = True
        self._wake.set()

    async def compare(self) -> None:
        """Returns when everything has been compared and put right once more, or could not be."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._comparisons.append(done)
        self.auditor.suspect()
        await done

    def trouble(self) -> OvsnetError | None:
        """Why no ADD can be served now; None when the node is ready."""
        if not self.ovsdb.connected:
            return SwitchUnavailable(
                f"ovsdb-server at {self.config.ovsdb} does not answer", "start Open vSwitch on this node"
            )
        if self.topology is None or not self._adopted:
            reason = "; ".join(self.complaints.current()) or "the first comparison is under way"
            return NotReady(f"the agent of node {self.name} is not ready: {reason}", "see the agent's log")
        if self.wiring.stuck:
            return NotReady("the kernel does not finish work on links", "see the agent's log, and dmesg")
        if self.installer.stale or self.openflow.silent:
            return LimitedConnectivity(
                f"ovs-vswitchd does not serve bridge {self.config.bridge}, or its flows are being written again",
                "is ovs-vswitchd running?",
            )
        return self._devices.trouble()

    async def run(self) -> None:
        """Runs until cancelled."""
        self.ovsdb.subscribe(self._rows_changed)
        self.store.subscribe(self.news.heard)
        self._notices.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.ovsdb.run())
                tasks.create_task(self.store.run())
                for beside in (self.departed, self.cutting, self.denial_log, self.leftovers, self.affinity):
                    if beside is not None:
                        tasks.create_task(beside.run())
                tasks.create_task(self._bridge.watch(self.wake, self.auditor.heard, self._switch_lost))
                await self._loop(tasks)
        finally:
            self.serving.close()

    async def _loop(self, tasks: asyncio.TaskGroup) -> None:
        await self.ovsdb.wait_connected()
        await self._await_store()
        self.wake()
        retry = _RETRY
        looked = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, looked + _PERIOD - time.monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            comparisons, self._comparisons = self._comparisons, []
            if comparisons or time.monotonic() >= looked + _PERIOD:
                # However often it is woken: what nobody tells of is looked for.
                looked, self._due, self._links_due = time.monotonic(), True, True
                self.auditor.look()
            if self._links_due:
                await self._look_at_pods()
            await self._audit(tasks, wait=bool(comparisons))
            try:
                await self._follow()
            except OvsnetError as error:
                self._due = True
                self.complaints.about("sync", str(error), waits=isinstance(error, Waiting))
                asyncio.get_running_loop().call_later(retry, self.wake)
                retry = min(2 * retry, _PERIOD)
            else:
                self.complaints.over("sync", f"node {self.name}: all is as it should be")
                retry = _RETRY
            for done in comparisons:
                if not done.done():
                    done.set_result(None)

    async def _audit(self, tasks: asyncio.TaskGroup, *, wait: bool) -> None:
        """Compares flows, if that is due: beside the loop, as it may take seconds. wait: until it is done."""
        if wait and self._auditing is not None:
            await asyncio.wait([self._auditing])
        if self.auditor.due and (self._auditing is None or self._auditing.done()):
            self._auditing = tasks.create_task(self.auditor.audit())
            # What became due meanwhile.
            self._auditing.add_done_callback(lambda _: self._wake.set())
        if wait and self._auditing is not None:
            await asyncio.wait([self._auditing])

    async def _follow(self) -> None:
        """Services alone where nothing else can be different, else everything. Raises like `sync`."""
        due, self._due = self._due, False
        snapshot, before = self.store.snapshot(), self.news.programmed
        if due or snapshot is None or before is None or self.installer.stale:
            await self.sync()
            return
        if snapshot.unread_nodes != before.unread_nodes or not published_alone(before.nodes, snapshot.nodes):
            await self.sync()
            return
        if snapshot.nodes is not before.nodes:
            self._deriving.compare(snapshot)
        await self.policing.enforce(snapshot, self.installer)
        changed = await self.serving.follow(snapshot, self._deriving.here, unknown=False)
        if self.serving.reach is not self._reach:
            # The node's kernel is concerned as well.
            await self.sync()
            return
        if changed:
            await self.installer.serve(changed)
        await self._served(snapshot)
        self._cut()

    def _links_changed(self) -> None:
        self._links_due = True
        self.wake()

    async def _look_at_pods(self) -> None:
        """Pods whose interface somebody deleted: the runtime has to make them again, but people should know."""
        self._links_due = False
        if self._adopted:
            try:
                self.complaints.only("interface", await self.upkeep.look())
            except OvsnetError as error:
                self.complaints.about("interfaces", str(error))
            else:
                self.complaints.over("interfaces", "pods' interfaces can be looked at again")

    async def _await_store(self) -> None:
        """Gives the store a moment: what the rows remember is for when it is really away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self.store.snapshot() is None:
                    self._wake.clear()
                    await self._wake.wait()

    async def sync(self) -> None:
        """Makes bridge, ports, flows and the host's side equal to what is wanted.
        Raises NotReady or another OvsnetError that says what is missing; what was done stays.
        """
        started = time.monotonic()
        # One for all: what comes meanwhile is news for the next time.
        snapshot = self.store.snapshot()
        if snapshot is not None and self._adopted and not self.installer.stale:
            await self.policing.enforce(snapshot, self.installer)
        topo = await self._deriving.topology(snapshot)
        if await self._bridge.ensure():
            # vswitchd flushes the flows when the fail mode changes, without closing a connection.
            self.installer.invalidate()
        port_plan = plan.ports(plan.desired_ports(self.config, topo), self.ovsdb.ports())
        self._starting.look(self.ovsdb.ports(), topo, port_plan.changes)
        if port_plan.changes:
            await self.ovsdb.apply(port_plan.changes)
            if topo == self.topology:
                # Nothing else is wanted than before, so somebody else changed what there was.
                self.auditor.tell("port", drift.ports(port_plan.changes))
        if not self.pods.known:
            await self.recovery.give_back(topo)
        self.pods.serve(topo, self.ovsdb.bridge(), self.ovsdb.ports())
        await self.upkeep.restore()
        if self._adopted:
            await self.upkeep.sweep()
            await self.upkeep.follow_mtu(topo.mtu)
        if self.installer.stale:
            await self._require_switch()
        await self._program(topo, port_plan.numbers, snapshot)
        if not self.installer.stale:
            await self._bridge.settled()
        self._tell(topo, time.monotonic() - started)
        await self._adopt(topo)
        if self.topology is None:
            log.info("node %s is ready: %d pods", self.name, len(self.pods.all()))
            self._starting.written(self.installer.size)
            self.on_ready()
        self.topology = topo
        self._cut()

    async def _require_switch(self) -> None:
        """Raises like `Bridge.require`."""
        await self._bridge.require()
        if self.denial_log is not None:
            await self.denial_log.look_for_meters(self.complaints)

    def _cut(self) -> None:
        """Policies are in: what they deny by now may have to end, and who is who is known."""
        if self.denial_log is not None:
            self.denial_log.topology = self.topology
        for each in (self.departed, self.cutting):
            if each is not None and self.topology is not None:
                each.tell(self.topology, self._bridge.datapath)

    async def _program(self, topo: Topology, numbers: Mapping[str, int], snapshot: Snapshot | None) -> None:
        """Flows and the host's side. numbers: OpenFlow port by port name."""
        await self.serving.follow(snapshot, self._deriving.here, unknown=self.installer.stale)
        await self.policing.follow(snapshot, unknown=self.installer.stale)
        await self.policing.note()
        hosting = asyncio.create_task(self._sync_host(topo))
        try:
            objects = state.objects(topo, self.config.tunnels, numbers, self.pods.all())
            self.policing.update()
            rendered = self.renderer.state(objects, {**self.serving.rendered, **self.policing.rendered})
            # Nothing in between: what a request asks for now is newer.
            await self.installer.settle(self.policing.with_kept(self.serving.with_kept(rendered)))
            await self.policing.older.add(self.installer)
            await self.policing.settle()
        except BaseException:
            await asyncio.gather(hosting, return_exceptions=True)
            raise
        await hosting
        await self._served(snapshot)

    async def _served(self, snapshot: Snapshot | None) -> None:
        """What this snapshot says is in."""
        self.complaints.only("service", self.serving.problems)
        self.complaints.only("refused", self.auditor.refusals())
        self.complaints.only("policy", self.policing.remarks())
        self.complaints.only("addresses", self.pods.exhausted())
        self.news.applied(snapshot)
        try:
            await self.serving.forget(self._bridge.datapath)
        except OvsnetError as error:
            self.complaints.about("conntrack", f"connections to endpoints that are gone stay known: {error}")
            asyncio.get_running_loop().call_later(_PERIOD, self._wake.set)
        else:
            self.complaints.over("conntrack")

    async def _sync_host(self, topo: Topology) -> None:
        renewed = await self._devices.ensure()
        self.auditor.tell("port", renewed)
        reach = self.serving.reach
        try:
            done = await self.host.reconcile(topo, self.config, reach)
            known, self._reach = (self.topology, self._reach) == (topo, reach), reach
            if renewed:
                done = []  # It went with the interface.
            if known:
                self.auditor.tell("host", [f"changed by someone else; {words}" for words in done])
            else:
                for words in done:
                    log.info("%s", words)
        except RouteRefused as error:
            # It concerns the node's own way to some; pods don't take it, and all else is in place.
            self._reach = reach
            self.complaints.about("routes", str(error))
        else:
            self.complaints.over("routes", "all routes are in place")

    async def _adopt(self, topo: Topology) -> None:
        """Once: what an earlier run left, when everything that is wanted is known."""
        if not self._adopted:
            await self.upkeep.adopt()
            await self.upkeep.follow_mtu(topo.mtu)
            self._adopted = True

    def _tell(self, topo: Topology, seconds: float) -> None:
        for line in changes.between(self.topology or self._starting.earlier, topo):
            log.info("%s in %.0f ms", line, 1000 * seconds)

    def _rows_changed(self) -> None:
        """Wakes the loop for rows that it minds; a pod's own ADD or DEL is none of its business."""
        before, self._rows = self._rows, self.ovsdb.ports()
        changed = [
            name for name in before.keys() | self._rows.keys() if before.get(name) is not self._rows.get(name)
        ]
        if self._adopted and self.upkeep.refresh(self._rows, changed):
            self.wake()
        roles = {row.role for name in changed for rows in (before, self._rows) if (row := rows.get(name))}
        if roles - {names.ROLE_POD} or self.ovsdb.bridge() is None:
            self.wake()

    def _use_datapath(self, datapath: str) -> None:
        # In user space nobody else computes the checksums that a pod leaves out.
        self.wiring.tx_off = datapath == "netdev"
        self.renderer.use(datapath)

    def _switch_lost(self) -> None:
        """Flows do not survive ovs-vswitchd: everything is to be written again."""
        if not self.installer.stale:
            log.warning("ovs-vswitchd or bridge %s went away, and flows with it", self.config.bridge)
        self.installer.invalidate()
