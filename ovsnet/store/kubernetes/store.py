"""The `kubernetes` store: three kinds followed, one snapshot.

Owns the snapshot and what is said about it in the log: each problem once. There is none before every kind has been
listed once; while the API server is away the last one stays. Changes that come together are one snapshot. Never talks
to the server itself (`client`, `reflector`) nor settles who is right (`cluster`, `frontends`). Called by the agent and,
for one look, by the inspection commands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from ovsnet.errors import StoreError
from ovsnet.mappings import different
from ovsnet.model import Node
from ovsnet.servicemodel import EndpointSlice, Service
from ovsnet.store import Facts, Snapshot, cluster
from ovsnet.store.frontends import Frontends
from ovsnet.store.kubernetes.access import Source
from ovsnet.store.kubernetes.client import Client, Unreachable
from ovsnet.store.kubernetes.events import Events
from ovsnet.store.kubernetes.reflector import SILENCE, Changes, Reflector, Resource
from ovsnet.store.kubernetes.writer import OwnNode
from ovsnet.store.nodes import NodeReader
from ovsnet.store.reading import Readable
from ovsnet.store.services import HEADLESS, OTHER_PROXY, ServiceReader
from ovsnet.store.slices import SERVICE_NAME, SliceReader
from ovsnet.store.telling import Absence, tell

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
)
_QUIET = 0.005
"""Seconds in which changes come together to be one snapshot."""
_CHUNK = 250
"""Services that are settled before others get their turn: some 5 ms."""


class KubernetesStore:
    """Nodes, Services and their endpoints from the Kubernetes API. Does nothing before `run` or `look`."""

    def __init__(self, source: Source, *, silence: float = SILENCE) -> None:
        """silence: seconds without a word from the server after which a watch is opened anew."""
        self.client = Client(source)
        self._snapshot: Snapshot | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._nodes, self._services, self._slices = self._reflectors = tuple(
            Reflector(self.client, each, self._note, self._trouble, silence) for each in RESOURCES
        )
        self._changes: dict[Reflector, dict[str, Readable | None]] = {each: {} for each in self._reflectors}
        self._troubles: dict[Reflector, StoreError] = {}
        self._dirty = asyncio.Event()
        self._frontends = Frontends()
        self._conflicts: Mapping[str, str] = {}
        """Between nodes, by source."""
        self._told: Mapping[str, str] = {}
        self._absence = Absence(log)
        self._started = time.monotonic()

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._subscribers.append(callback)

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    @property
    def requests(self) -> Mapping[str, int]:
        """By verb, since the start."""
        return self.client.requests

    @property
    def received(self) -> int:
        """Bytes from the API server since the start."""
        return self.client.received

    def figures(self) -> Mapping[str, float | Mapping[str, float]]:
        return {"api_requests": dict(self.requests), "api_received_bytes": self.received}

    async def run(self) -> None:
        """Follows the cluster until cancelled, through the server's absence too."""
        self._started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for reflector in self._reflectors:
                    tasks.create_task(reflector.run())
                tasks.create_task(self._publish_changes())
        finally:
            await self.client.close()

    async def publish(
        self, node: str, facts: Callable[[], Facts | None], current: Callable[[], list[str]]
    ) -> None:
        """Tells the cluster of this node until cancelled, beside `run`.

        facts: None while it is not ready. current: what is wrong at this moment, in words.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(OwnNode(self.client, node, facts).run())
            tasks.create_task(Events(self.client, node, current).run())

    async def look(self) -> Snapshot:
        """One complete list of each kind, without a word in the log. Not while `run` runs. Raises StoreError."""
        try:
            await asyncio.gather(*(each.list() for each in self._reflectors))
        finally:
            await self.client.close()
        return await self._combined(None)

    def _note(self, reflector: Reflector, changes: Changes) -> None:
        self._changes[reflector].update(changes)
        self._dirty.set()

    def _trouble(self, reflector: Reflector, error: StoreError | None) -> None:
        """error: None when all is well."""
        if error is not None:
            self._troubles[reflector] = error
            if isinstance(error, Unreachable):
                # It is one server that all of them want: what was seen last counts.
                self._troubles |= {
                    each: error for each, other in self._troubles.items() if isinstance(other, Unreachable)
                }
            text = "; ".join(sorted({str(each) for each in self._troubles.values()}))
            now = self._snapshot
            kept = (
                f"{len(now.nodes)} nodes and {len(now.services)} Services stay as they are"
                if now
                else "waiting for it"
            )
            changed = self._absence.away(text, kept)
        else:
            self._troubles.pop(reflector, None)
            for other, trouble in self._troubles.items():
                if isinstance(trouble, Unreachable):
                    other.retry()
            changed = not self._troubles and self._absence.back(f"{self.client.title} is there")
        if changed:
            self._dirty.set()

    async def _publish_changes(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_QUIET)
            self._dirty.clear()
            if all(each.complete for each in self._reflectors):
                await self._publish()

    async def _publish(self) -> None:
        before = self._snapshot
        now = self._snapshot = await self._combined(before)
        problems = {subject: text for subject, text in now.problems.items() if subject != self.client.title}
        tell(log, problems, self._told, _There(self._reflectors), "objects")
        self._told = problems
        if before is None:
            log.info(
                "%d nodes and %d Services from %s in %.0f ms",
                len(now.nodes),
                len(now.services),
                self.client.title,
                1000 * (time.monotonic() - self._started),
            )
        for callback in self._subscribers:
            callback()

    async def _combined(self, before: Snapshot | None) -> Snapshot:
        """The snapshot that follows from what the reflectors know."""
        changes, self._changes = self._changes, {each: {} for each in self._reflectors}
        await self._settle(changes[self._services])
        nodes: Mapping[str, Node] = before.nodes if before else {}
        if changes[self._nodes] or before is None:
            nodes = self._settled_nodes(nodes)
        return Snapshot(
            nodes=nodes,
            services=self._frontends.services,
            slices=_changed(before.slices if before else {}, changes[self._slices]),
            problems=self._problems(),
            version=before.version + 1 if before else 1,
            unread=frozenset(
                _source(self._nodes, key) for key in self._nodes.problems if key not in self._nodes.objects
            ),
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


def _changed(before: Mapping[str, EndpointSlice], changes: Changes) -> Mapping[str, EndpointSlice]:
    """The mapping with the changes in it; itself if there are none."""
    if not changes:
        return before
    now = dict(before)
    for key, each in changes.items():
        if isinstance(each, EndpointSlice):
            now[key] = each
        else:
            now.pop(key, None)
    return now
