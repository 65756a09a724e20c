"""The `kubernetes` store: seven kinds followed, one snapshot.

Owns the snapshot and what is said about it in the log: each problem once. There is none before every kind has been
listed once; while the API server is away the last one stays. Pods and namespaces are followed from the first
policy on, since nothing else needs them and pods are most of what a cluster tells; a snapshot with policies has
all of them, and until they are there the one before stays. Changes that come together are one snapshot. The node's own
pods are followed from the start and stand beside the snapshot, which never waits for them (`own_pods`). Never talks to
the server itself (`client`, `reflector`) nor settles who is right (`cluster`, `frontends`). Called by the agent and,
for one look, by the inspection commands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from ovsnet.errors import StoreError
from ovsnet.mappings import different
from ovsnet.model import Node, OwnPod
from ovsnet.policymodel import ClusterNetworkPolicy, LabelledPod, Namespace, NetworkPolicy
from ovsnet.servicemodel import EndpointSlice, Service
from ovsnet.store import Facts, OwnPods, Snapshot, cluster, kinds
from ovsnet.store.clusterpolicies import ClusterPolicyReader
from ovsnet.store.frontends import Frontends
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.client import Client, Unreachable
from ovsnet.store.kubernetes.events import Events
from ovsnet.store.kubernetes.reflector import SILENCE, Changes, Reflector, Resource
from ovsnet.store.kubernetes.writer import OwnNode, Seen
from ovsnet.store.labelledpods import ENDED, PodReader
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.nodes import NodeReader
from ovsnet.store.ownpods import OwnPodReader
from ovsnet.store.policies import PolicyReader
from ovsnet.store.reading import Readable
from ovsnet.store.services import HEADLESS, OTHER_PROXY, ServiceReader
from ovsnet.store.slices import SERVICE_NAME, SliceReader
from ovsnet.store.taken import NO_LIMITS, Limits
from ovsnet.store.telling import Absence, counted, tell

log = logging.getLogger("ovsnet.store")

_OURS = f"!{OTHER_PROXY},!{HEADLESS}"
RESOURCES = (
    Resource(plural="nodes", path="/api/v1/nodes", reader=NodeReader),
    Resource(plural="services", path="/api/v1/services", reader=ServiceReader, selector=_OURS),
    Resource(
        plural="endpointslices",
        path="/apis/discovery.k8s.io/v1/endpointslices",
        reader=SliceReader,
        selector=f"{SERVICE_NAME},{_OURS}",
    ),
    Resource(
        plural="networkpolicies", path="/apis/networking.k8s.io/v1/networkpolicies", reader=PolicyReader
    ),
    Resource(
        plural="clusternetworkpolicies",
        path="/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        reader=ClusterPolicyReader,
        optional=True,
    ),
)
SELECTED = (
    Resource(plural="namespaces", path="/api/v1/namespaces", reader=NamespaceReader),
    Resource(
        plural="pods",
        path="/api/v1/pods",
        reader=PodReader,
        fields=",".join(f"status.phase!={phase}" for phase in ENDED),
        # They may have 20 kB each, and a page is in memory at once.
        page=250,
    ),
)
"""What policies select by."""
OWN = Resource(plural="pods", path="/api/v1/pods", reader=OwnPodReader, page=0)
"""Of one node: a few, for which the server has an index in memory. They are followed beside all pods too, which are
without those that have ended: it costs the changes of one node's pods once more, and no list when policies come."""
_QUIET = 0.005
"""Seconds in which changes come together to be one snapshot."""
_CHUNK = 250
"""Services that are settled before others get their turn: some 5 ms."""
_Object = TypeVar("_Object", bound=Readable)
_NOTHING = Snapshot(nodes={}, problems={}, version=0)


class KubernetesStore:
    """What the Kubernetes API has. Does nothing before `run` or `look`."""

    def __init__(
        self,
        source: Source,
        node: str = "",
        *,
        pods_of: str = "",
        limits: Limits = NO_LIMITS,
        silence: float = SILENCE,
    ) -> None:
        """node: whose agent tells the log itself what its own Node lacks. limits: of its Services.
        pods_of: the node whose Pods are followed in any case, for `own_pods`; "" for none.
        silence: seconds without a word from the server after which a watch is opened anew."""
        self.client = Client(source)
        self._node = node
        self._snapshot: Snapshot | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._always = self._made(RESOURCES, silence)
        self._nodes, self._services, self._slices, self._policies, self._cluster_policies = self._always
        self._namespaces, self._pods = self._selected = self._made(SELECTED, silence)
        self._reflectors = self._always + self._selected
        own = msgspec.structs.replace(OWN, fields=f"spec.nodeName={pods_of}")
        self._own = self._made([own], silence)[0] if pods_of else None
        self._wanted = asyncio.Event()
        """There is a policy, or was one."""
        self._changes: dict[Reflector, dict[str, Readable | None]] = {each: {} for each in self._reflectors}
        self._heard: dict[str, float] = {}
        """When the first of these came, by kind."""
        self._troubles: dict[Reflector, StoreError] = {}
        self._dirty = asyncio.Event()
        self._frontends = Frontends(limits)
        self._conflicts: Mapping[str, str] = {}
        """Between nodes, by source."""
        self._told: Mapping[str, str] = {}
        self._absence = Absence(log)
        self._started = time.monotonic()

    def _made(self, resources: Iterable[Resource], silence: float) -> tuple[Reflector, ...]:
        told = (self._note, self._trouble, self._restored)
        return tuple(Reflector(self.client, each, *told, silence) for each in resources)

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._subscribers.append(callback)

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    def own_pods(self) -> OwnPods | None:
        """The Pods of the node; None while nobody can say: there has been no complete list, or the server is away."""
        own = self._own
        if own is None or not own.complete or own in self._troubles:
            return None
        pods = {key: each if isinstance(each, OwnPod) else None for key, each in own.objects.items()}
        return OwnPods(pods={**dict.fromkeys(own.problems), **pods}, heard=own.heard)

    @property
    def requests(self) -> Mapping[str, int]:
        """By verb, since the start."""
        return self.client.requests

    @property
    def received(self) -> int:
        """Bytes from the API server since the start."""
        return self.client.received

    def figures(self) -> Mapping[str, float | Mapping[str, float]]:
        return {
            "store_away": float(self._snapshot is None or bool(self._absence.reason)),
            "api_requests": dict(self.requests),
            "api_received_bytes": self.received,
        }

    async def run(self) -> None:
        """Follows the cluster until cancelled, through the server's absence too."""
        self._started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for reflector in filter(None, (*self._always, self._own)):
                    tasks.create_task(reflector.run())
                tasks.create_task(self._follow_selected())
                tasks.create_task(self._publish_changes())
        finally:
            await self.client.close()

    async def _follow_selected(self) -> None:
        await self._wanted.wait()
        kind = "NetworkPolicies" if self._policies.objects else "ClusterNetworkPolicies"
        log.info("there are %s: all pods and namespaces are followed from now on", kind)
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._selected:
                tasks.create_task(reflector.run())

    async def publish(
        self, node: str, facts: Callable[[], Facts | None], current: Callable[[], list[str]]
    ) -> None:
        """Tells the cluster of this node until cancelled, beside `run`.

        facts: None while it is not ready. current: what is wrong at this moment, in words.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(OwnNode(self.client, node, facts, lambda: self._seen(node)).run())
            tasks.create_task(Events(self.client, node, current).run())

    def _seen(self, name: str) -> Seen:
        found, problem = self._nodes.objects.get(name), self._nodes.problems.get(name)
        return bool(found or problem), found if isinstance(found, Node) and not problem else None

    async def look(self) -> Snapshot:
        """One complete list of each kind, without a word in the log. Not while `run` runs. Raises StoreError."""
        try:
            await asyncio.gather(*(each.list() for each in self._always))
            if self._has_policies:
                await asyncio.gather(*(each.list() for each in self._selected))
        finally:
            await self.client.close()
        return await self._combined()

    def _note(self, reflector: Reflector, changes: Changes) -> None:
        if reflector is self._own:
            return
        self._changes[reflector].update(changes)
        if changes:
            self._heard.setdefault(reflector.resource.reader.kind, time.monotonic())
        self._dirty.set()
        if self._has_policies:
            self._wanted.set()

    @property
    def _has_policies(self) -> bool:
        return bool(self._policies.objects or self._cluster_policies.objects)

    def _trouble(self, reflector: Reflector, error: StoreError | None) -> None:
        """error: None when all is well."""
        refused = self._refused
        if error is not None:
            self._troubles[reflector] = error
            if isinstance(error, Unreachable):
                # It is one server that all of them want: what was seen last counts.
                self._troubles |= {
                    each: error for each, other in self._troubles.items() if isinstance(other, Unreachable)
                }
        else:
            self._troubles.pop(reflector, None)
            for other, trouble in self._troubles.items():
                if isinstance(trouble, Unreachable):
                    other.retry()
        found = {
            str(each) for other, each in self._troubles.items() if other is not self._own or not self._refused
        }
        if not found:
            changed = self._absence.back(f"{self.client.title} is there")
        elif error is not None:
            kept = f"{counted(self._snapshot)} stay as they are" if self._snapshot else "waiting for it"
            changed = self._absence.away("; ".join(sorted(found)), kept)
        else:
            changed = False
        if changed or refused != self._refused:
            self._dirty.set()

    @property
    def _refused(self) -> str:
        """Why the node's own Pods can't be had from a server that is there, as one whose role is from before they were
        asked for: nothing else is less known for it."""
        error = self._troubles.get(self._own) if self._own is not None else None
        return "" if error is None or isinstance(error, Unreachable) else str(error)

    def _restored(self, found: Reflector) -> None:
        """The version of one kind shows it; the server's may have passed those of others again."""
        log.info("%s was restored from a backup: everything is listed again", self.client.title)
        for each in filter(None, (*self._reflectors, self._own)):
            if each is not found:
                each.anew()

    async def _publish_changes(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_QUIET)
            self._dirty.clear()
            before = self._snapshot
            if self._complete():
                self._publish(await self._combined())
            elif before is not None and self._problems() != before.problems:
                # What else is new has to wait, but not why.
                problems, version = self._problems(), before.version + 1
                self._publish(msgspec.structs.replace(before, problems=problems, version=version, heard={}))

    def _complete(self) -> bool:
        wanted = self._reflectors if self._has_policies else self._always
        return all(each.complete for each in wanted)

    def _publish(self, now: Snapshot) -> None:
        before, self._snapshot = self._snapshot, now
        others = {self.client.title}
        if now.lacks(self._node):
            others.add(f"Node {self._node}")
        problems = {subject: text for subject, text in now.problems.items() if subject not in others}
        tell(log, problems, self._told, _There(self._reflectors), "objects")
        self._told = problems
        if before is None:
            milliseconds = 1000 * (time.monotonic() - self._started)
            log.info("%s from %s in %.0f ms", counted(now), self.client.title, milliseconds)
        for callback in self._subscribers:
            callback()

    async def _combined(self) -> Snapshot:
        """The snapshot that follows from what the reflectors know."""
        before = self._snapshot or _NOTHING
        changes, self._changes = self._changes, {each: {} for each in self._reflectors}
        heard, self._heard = self._heard, {}
        nodes = before.nodes
        if changes[self._nodes] or before is _NOTHING:
            nodes = self._settled_nodes(nodes)
            self._frontends.follow(nodes)
        await self._settle(changes[self._services])
        now = Snapshot(
            nodes=nodes,
            services=self._frontends.services,
            slices=_changed(before.slices, changes[self._slices], EndpointSlice),
            policies=_changed(before.policies, changes[self._policies], NetworkPolicy),
            cluster_policies=_changed(
                before.cluster_policies, changes[self._cluster_policies], ClusterNetworkPolicy
            ),
            namespaces=_changed(before.namespaces, changes[self._namespaces], Namespace),
            pods=_changed(before.pods, changes[self._pods], LabelledPod),
            problems=self._problems(),
            version=before.version + 1,
            unread_nodes=frozenset(_unread(self._nodes)),
            unread_policies=frozenset(
                _source(each, key)
                for each in (self._policies, self._cluster_policies, *self._selected)
                for key in _unread(each)
            ),
        )
        # An event that changes nothing here is none of it.
        return msgspec.structs.replace(
            now, heard={kind: heard[kind] for kind in kinds(before, now) if kind in heard}
        )

    async def _settle(self, changes: Changes) -> None:
        items = [(key, each) for key, each in changes.items() if each is None or isinstance(each, Service)]
        for start in range(0, len(items), _CHUNK):
            self._frontends.settle(dict(items[start : start + _CHUNK]))
            await asyncio.sleep(0)

    def _settled_nodes(self, before: Mapping[str, Node]) -> Mapping[str, Node]:
        found = {
            _source(self._nodes, key): [each]
            for key, each in self._nodes.objects.items()
            if isinstance(each, Node)
        }
        settled = cluster.combine(found, before)
        self._conflicts = {
            source: "; ".join(line.removeprefix(f"{source}: ") for line in lines)
            for source, lines in settled.problems.items()
        }
        return settled.nodes if different(before, settled.nodes) else before

    def _problems(self) -> dict[str, str]:
        """By object, or server."""
        found = {_source(each, key): text for each in self._reflectors for key, text in each.problems.items()}
        conflicts = dict(self._conflicts) | {
            _source(self._services, key): text for key, text in self._frontends.problems.items()
        }
        for source, text in conflicts.items():
            found[source] = "; ".join(filter(None, (found.get(source), text)))
        if self._absence.reason:
            found[self.client.title] = self._absence.reason
        if self._refused:
            found["Pods of this node"] = f"{self._refused}; ports are not compared with them"
        return found


class _There:
    """The sources of all objects, without making a list of them for every change."""

    def __init__(self, reflectors: Iterable[Reflector]) -> None:
        self._objects = {each.resource.reader.kind: each.objects for each in reflectors}

    def __contains__(self, source: object) -> bool:
        kind, _, key = str(source).partition(" ")
        return key in self._objects.get(kind, {})


def _source(reflector: Reflector, key: str) -> str:
    return f"{reflector.resource.reader.kind} {key}"


def _unread(reflector: Reflector) -> Iterator[str]:
    """Keys of objects that never were in order."""
    return (key for key in reflector.problems if key not in reflector.objects)


def _changed(before: Mapping[str, _Object], changes: Changes, kind: type[_Object]) -> Mapping[str, _Object]:
    """The mapping with the changes in it; itself if there are none."""
    if not changes:
        return before
    now = dict(before)
    for key, each in changes.items():
        if isinstance(each, kind):
            now[key] = each
        else:
            now.pop(key, None)
    return now
