"""An agent with many Services: starts, a restart under load, changes, one large Service, memory, processor time.

On a lab of one node with two pods, a client and a server, whose store has the recorded cluster. Called by
`bench_services`, for each kind of store.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import recorded
import service_client
import service_server
from at_size import (
    WITHIN,
    agent_of,
    await_services,
    count,
    histogram,
    memory,
    proportional,
    quickness,
    restarted,
    seconds,
    told,
)
from connect_on_node import Connecting
from figures import Figure, figure
from recorded import Endpoint, Size
from recorded_stores import Store
from services_world import Load, going

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, VSWITCHD
from ovsnet.lab.spec import OUTSIDE
from ovsnet.lab.state import wait_for

_PATIENCE = 300.0
_LOOK = 0.02
_APART = 0.5
"""Seconds between changes that have nothing to do with one another: the agent lets more than three a second wait."""
_REPLY, _SERVICE = 34, 38
"""Tables with a flow for each endpoint, and for each address and port of a Service."""
_SERVED, _SMALL, _LARGE = 30_000, 30_001, 30_002
"""Numbers of ClusterIPs that no recorded Service has."""
_SPARE = 110_000
"""The first number of endpoints that no recorded Service has."""
Say = Callable[[str], None]


class Plan(NamedTuple):
    """How much there is, and how often it is measured."""

    few: Size
    many: Size
    large: int
    """Endpoints of one Service."""
    rounds: int
    changes: int
    connections: int
    busy: int
    """Changes, ten in each second."""
    rest: float
    """Seconds until the comparisons are over that follow so many new flows."""
    after: float
    """Seconds for which connections go on after a restart."""
    calm: float
    """Seconds until the agent has done what it does after a change."""


class Bench:
    def __init__(self, lab: Lab, store: Store, plan: Plan, say: Say) -> None:
        self.lab = lab
        self.store = store
        self.plan = plan
        self.say = say
        self.node = lab.nodes[0]
        self.families = plan.many.families
        self.client, self.server = (pod.name for pod in lab.pods)
        self.empty = (0, 0)
        """Flows of Services and of endpoints before there was a recorded one."""

    def run(self) -> Iterator[Figure]:
        plan = self.plan
        self.serve()
        few, among_few = self.among_few()
        yield from self.large()
        self.say(f"{plan.many}, {recorded.NODES} nodes")
        self.record(plan.many)
        service = plan.many.services // 2
        begun = self.changes(f"service-{service}", recorded.members(service, plan.many))
        title = f"one endpoint changed: from when it is {self.store.since} until its flows are in"
        yield figure(f"{title}, {plan.many}", "ms", begun, limit=60)
        against = f"{plan.few.endpoints} endpoints"
        yield figure(f"the same against {against}", "ms", begun, few, against, limit=1.5)
        yield figure(
            f"first connection to a Service among {plan.many.services}", "ms", self.connections(_SERVED),
            among_few, f"among {plan.few.services}", limit=1.5,
        )  # fmt: skip
        yield from self.busy()
        yield from self.restarts()
        yield from self.starts()

    # what is there

    def serve(self) -> None:
        """The second pod and the outside serve, the pod as a Service's only endpoint; waits for that."""
        python = [sys.executable, "-I", "-S", service_server.__file__, str(recorded.PORT)]
        place, netns = self.lab.place(self.server)
        place.launch("bench-server", [*python, self.server], netns=netns)
        self.lab.outside.launch("bench-server", [*python, OUTSIDE])
        self.lab.outside.ip([f"route add local {recorded.ABROAD} dev lo"])
        before = self.installed()
        address = str(self.lab.pod(self.server).address(4))
        self.put("served", _SERVED, [Endpoint(address, self.node.name)])
        self.empty = self.await_flows(before, 1, 1)
        with Connecting(self.lab, self.client) as client:
            client.ms(recorded.cluster_ip(_SERVED), 80)

    def record(self, size: Size) -> None:
        """Without an agent that follows each object as it comes, for minutes, on the processors of who makes them."""
        self.node.kill(AGENT)
        self.store.record(size)
        self.node.start(AGENT)
        self.settled(size)

    def put(self, name: str, number: int, endpoints: Sequence[Endpoint]) -> None:
        """A Service of one family."""
        self.store.put(name, [recorded.service(name, number), *recorded.slices(name, endpoints)])

    def installed(self) -> tuple[int, int]:
        """Flows of Services and of endpoints; -1 where the switch does not answer."""
        return self.count(_SERVICE), self.count(_REPLY)

    def count(self, table: int) -> int:
        return sum(count(self.node, f"table={table},{protocol}") for protocol in ("tcp", "tcp6"))

    def settled(self, size: Size) -> None:
        """Waits until so many Services are on the switch, all of them."""
        families = len(self.families)
        self.await_flows(self.empty, size.services * families, size.endpoints * families)

    def await_flows(self, before: tuple[int, int], services: int, endpoints: int) -> tuple[int, int]:
        """Waits until there are so many more; all that there are. An endpoint that had a connection may stay longer."""
        wanted = before[0] + services, before[1] + endpoints

        def there() -> bool:
            return self.count(_SERVICE) == wanted[0] and self.count(_REPLY) >= wanted[1]

        if not wait_for(there, _PATIENCE, _LOOK):
            found = f"{self.installed()} of {wanted} Services and endpoints"
            raise RuntimeError(f"{found} after {_PATIENCE:g} s: see {self.node.log(AGENT)}")
        return wanted

    # what is measured

    def among_few(self) -> tuple[list[float], list[float]]:
        """Milliseconds of changes and of first connections, in a small cluster."""
        size = self.plan.few
        self.say(f"{size}, {recorded.NODES} nodes")
        self.record(size)
        service = size.services // 2
        found = self.changes(f"service-{service}", recorded.members(service, size))
        return found, self.connections(_SERVED)

    def changes(self, service: str, members: Sequence[int]) -> list[float]:
        """Milliseconds of a change, of a slice beside the Service's first, until the switch tells of the new endpoint's
        flow, several times."""
        others = recorded.pods(members[1 : recorded.PER_SLICE])
        found = []
        with told(self.node, _REPLY) as lines:
            for round_ in range(-1, self.plan.changes):
                wanted = recorded.endpoint((200 + round_) * recorded.NODES)
                begun = self.change(service, [Endpoint(wanted, "n-0"), *others])
                if not any("event=ADDED" in line and f"nw_src={wanted}," in line for line in lines):
                    raise RuntimeError(f"ovs-vswitchd tells of nothing more, before {wanted} was there")
                if round_ >= 0:
                    found.append(1000 * (time.perf_counter() - begun))
                time.sleep(_APART)
        self.store.remove("changed")
        return found

    def change(self, service: str, endpoints: Sequence[Endpoint]) -> float:
        return self.store.put("changed", [recorded.slice_of(service, "more", endpoints)])

    def connections(self, number: int, forget: bool = True) -> list[float]:
        """Milliseconds that connect() takes, each from another port; forget: where the datapath has no flow yet. Begins
        when what went before is over: the agent at work takes the processor from the switch."""
        found = []
        time.sleep(self.plan.calm)
        with Connecting(self.lab, self.client) as client:
            for _ in range(self.plan.connections + 1):
                if forget:
                    self.node.run(["ovs-appctl", "dpctl/del-flows"], check=True)
                found += client.ms(recorded.cluster_ip(number), 80)
        return found[1:]

    def large(self) -> Iterator[Figure]:
        """One Service of many endpoints, beside a few others."""
        many, families = self.plan.large, len(self.families)
        self.say(f"one Service of {many} endpoints")
        numbers = range(_SPARE, _SPARE + many)
        objects = [recorded.service("large", _LARGE, self.families)]
        for family in self.families:
            objects += recorded.slices("large", recorded.pods(numbers, family), family)
        before, taken = self.installed(), []
        for round_ in range(self.plan.rounds):
            begun = time.perf_counter()
            self.store.put("large", objects)
            self.await_flows(before, families, families * many)
            taken.append(time.perf_counter() - begun)
            if round_ == self.plan.rounds - 1:
                changed = self.changes("large", numbers)
            self.store.remove("large")
            self.await_flows(before, 0, 0)
        title = f"one Service of {many} endpoints"
        yield figure(f"{title}: from the first object written until all flows are in", "s", taken)
        yield figure(f"{title}: one endpoint changed, until its flows are in", "ms", changed)
        yield from self.large_called(title)

    def large_called(self, title: str) -> Iterator[Figure]:
        """Whichever endpoint is chosen answers: the outside has all of their addresses."""
        before = self.installed()
        self.put("small", _SMALL, recorded.hosts(1))
        self.put("large", _LARGE, recorded.hosts(self.plan.large))
        self.await_flows(before, 2, self.plan.large)
        against = "of one endpoint"
        for words, forget in (("first connection", True), ("further connections", False)):
            small, large = (self.connections(number, forget) for number in (_SMALL, _LARGE))
            yield figure(f"{title}: {words}", "ms", large, small, against)
        for name in ("small", "large"):
            self.store.remove(name)
        self.await_flows(before, 0, 0)

    def busy(self) -> Iterator[Figure]:
        """Per cent of a processor while ten slices change in each second."""
        many = self.plan.many
        self.say("ten changes a second")
        time.sleep(self.plan.rest)
        before = histogram(self.node)
        shares = [self.share() for _ in range(self.plan.rounds)]
        self.store.remove("changed")
        own, whole, others = zip(*shares, strict=True)
        yield figure(f"agent's processor time with 10 changes a second, without ovs-ofctl: {many}", "%", own)
        yield figure(f"the same with the tools that it runs: {many}", "%", whole, limit=5)
        if any(others):
            yield figure(f"that of etcd and the API server meanwhile: {many}", "%", others)
        within = quickness(before, histogram(self.node))
        yield figure(
            f"of these changes, in within {WITHIN:g} s of when the store told of them: {many}", "%", [within]
        )
        yield from self.resident("after these changes", [memory(self.node)], [proportional(self.node)])

    def share(self) -> tuple[float, float, float]:
        """The agent's, the same with the tools that it runs, and that of the store's programs."""
        many, pid = self.plan.many, agent_of(self.node).pid
        service = many.services // 2
        others = recorded.pods(recorded.members(service, many)[1 : recorded.PER_SLICE])

        def now() -> tuple[float, float, float]:
            return (*seconds(pid), self.store.spent())

        before, begun = now(), time.monotonic()
        for round_ in range(self.plan.busy):
            address = recorded.endpoint((120 + round_) * recorded.NODES)
            self.change(f"service-{service}", [Endpoint(address, "n-0"), *others])
            time.sleep(max(0.0, begun + (round_ + 1) / 10 - time.monotonic()))
        taken = time.monotonic() - begun
        own, whole, store = (
            100 * (after - earlier) / taken for after, earlier in zip(now(), before, strict=True)
        )
        return own, whole, store

    def restarts(self) -> Iterator[Figure]:
        """All unchanged, while connections are opened and one goes on."""
        many = self.plan.many
        self.say("restarts")
        ready, taken, failed, tried, resident, shared = [], [], 0, 0, [], []
        for _ in range(self.plan.rounds):
            with self.connecting() as results:
                time.sleep(0.5)
                begun = time.monotonic()
                ready.append(restarted(self.node))
                await_services(self.node)
                taken.append(time.monotonic() - begun)
                resident.append(memory(self.node))
                shared.append(proportional(self.node))
                time.sleep(self.plan.after)
            failed += sum(len(each.get("failed", ())) + ("error" in each) for each in results)
            tried += sum(each.get("good", 1) + len(each.get("failed", ())) for each in results)
        title = "agent restarted, all unchanged"
        yield figure(f"{title}: until all is as the store says, {many}", "s", taken, limit=8)
        yield figure(f"{title}: until the agent is ready, {many}", "s", ready)
        yield figure(
            f"{title}: connections that failed meanwhile, {many}", "connections", [failed], limit=0,
            note=f"of {tried}",
        )  # fmt: skip
        yield from self.resident("after a restart", resident, shared)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[list[dict[str, Any]]]:
        """Connections to a Service from a pod and from the node; how they went, when it is over."""
        found: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            under_way: list[Load] = []
            for do, place in (("load", self.client), ("load", self.node.name), ("hold", self.client)):
                # A first packet that is lost comes again after a second.
                asked = {
                    "do": do,
                    "host": recorded.cluster_ip(_SERVED),
                    "port": 80,
                    "gap": 0.02,
                    "seconds": 1.0,
                }
                argv = [sys.executable, "-I", "-S", service_client.__file__, json.dumps(asked)]
                under_way.append(stack.enter_context(going(self.lab.command(place, argv))))
            yield found
            found += [each.stop() for each in under_way]

    def starts(self) -> Iterator[Figure]:
        """ovs-vswitchd has lost all flows, and the agent all that it knew."""
        many = self.plan.many
        self.say("starts from nothing")
        taken, resident, shared, store = [], [], [], []
        for _ in range(self.plan.rounds):
            self.node.kill(AGENT)
            self.node.kill(VSWITCHD)
            before, begun = self.store.spent(), time.monotonic()
            self.node.start(VSWITCHD)
            self.node.start(AGENT)
            self.settled(many)
            taken.append(time.monotonic() - begun)
            store.append(self.store.spent() - before)
            resident.append(memory(self.node))
            shared.append(proportional(self.node))
        yield figure(f"agent and Open vSwitch started from nothing: {many}", "s", taken, limit=15)
        if any(store):
            yield figure(f"processor time of etcd and the API server meanwhile: {many}", "s", store)
        yield from self.resident("after a start from nothing", resident, shared)

    def resident(self, when: str, both: list[float], once: list[float]) -> Iterator[Figure]:
        many = self.plan.many
        yield figure(
            f"resident memory of the agent and its child for links, {when}: {many}", "MB", both, limit=400,
            aim=200,
        )  # fmt: skip
        yield figure(f"the same, what they share counted once: {many}", "MB", once)
