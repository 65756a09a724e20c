"""The `file` store: a folder of Kubernetes manifests, watched.

Owns the snapshot and what is said about it in the log: each problem once. The first one goes by the nodes that an
earlier run went by, as if that still ran: a folder's dates are anybody's, and nobody who comes later may cut off a node
that is there. Never reads a file itself (`folder`) nor
settles who is right (`cluster`, `frontends`). Called by the agent and, for one look, by the inspection commands.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from ovsnet.errors import StoreError
from ovsnet.mappings import different
from ovsnet.model import Node
from ovsnet.policymodel import ClusterNetworkPolicy, LabelledPod, Namespace, NetworkPolicy
from ovsnet.servicemodel import EndpointSlice, Service
from ovsnet.store import Snapshot, cluster, kinds
from ovsnet.store.clusterpolicies import ClusterPolicyReader
from ovsnet.store.folder import ManifestFolder
from ovsnet.store.frontends import Frontends
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.manifest import of
from ovsnet.store.merging import Merged
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.nodes import NodeReader
from ovsnet.store.policies import PolicyReader
from ovsnet.store.reading import Readable, Reader
from ovsnet.store.services import ServiceReader
from ovsnet.store.slices import SliceReader
from ovsnet.store.taken import NO_LIMITS, Limits
from ovsnet.store.telling import Absence, counted, tell
from ovsnet.store.watch import FolderWatch

log = logging.getLogger("ovsnet.store")

_POLL = 10.0
"""Seconds between looks without an event: what inotify can't see is seen then."""
_BLIND_POLL = 1.0
"""The same when there is no inotify or no folder: nobody tells when something is mounted."""
_POLICIES: tuple[type[Reader[Readable]], ...] = PolicyReader, ClusterPolicyReader, NamespaceReader, PodReader
"""Of policies, and of what they select by."""
_NOTHING = Snapshot(nodes={}, problems={}, version=0)
Memory = Callable[[], Awaitable[Mapping[str, Node]]]
"""The nodes that an earlier run went by, by name, with their ranges, addresses and encapsulation. Asked once."""
_Object = TypeVar("_Object", bound=Readable)


async def _nobody() -> Mapping[str, Node]:
    return {}


class FileStore:
    """What the manifests in `folder` say. Does nothing before `run` or `look`."""

    def __init__(self, folder: Path, limits: Limits = NO_LIMITS, memory: Memory = _nobody) -> None:
        """limits: of Services. memory: publishes nothing before it has answered."""
        self._folder = ManifestFolder(folder)
        self._memory = memory
        self._combining = _Combining(self._folder, limits)
        self._snapshot: Snapshot | None = None
        self._subscribers: list[Callable[[], None]] = []
        self._absence = Absence(log)

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._subscribers.append(callback)

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    def figures(self) -> Mapping[str, float | Mapping[str, float]]:
        return {"store_away": float(self._snapshot is None or bool(self._absence.reason))}

    async def run(self) -> None:
        """Follows the folder until cancelled, through its absence too."""
        watch = FolderWatch(self._folder.path)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(watch)
            except OSError as error:
                log.warning(
                    "no inotify (%s): looking at %s every %.0f s; raise fs.inotify.max_user_instances",
                    error.strerror,
                    self._folder.path,
                    _BLIND_POLL,
                )
            heard: float | None = None
            while True:
                # Watch first, then look: what changes in between is an event.
                if watch.aim():
                    self._folder.replaced()
                    await watch.filled()
                await self.look(watch.writing(), heard)
                heard = await watch.changed(_BLIND_POLL if watch.blind or self._absence.reason else _POLL)

    async def look(self, being_written: Collection[str] = (), heard: float | None = None) -> None:
        """Looks at the folder once and publishes what is different. Not while `run` runs.

        being_written: names of files to leave alone for now. heard: when there was word of a change, if there was.
        """
        started = time.monotonic()
        try:
            changed = await self._folder.look(being_written)
        except StoreError as error:
            kept = (
                f"{len(self._snapshot.nodes)} nodes stay as they are" if self._snapshot else "waiting for it"
            )
            changed = self._absence.away(str(error), kept)
        else:
            back = self._absence.back(f"store {self._folder.path} is there")
            changed = back or changed or self._snapshot is None
        if changed:
            read = time.monotonic() - started
            if self._snapshot is None and not self._absence.reason:
                self._combining.remembered = await self._memory()
            self._publish(read, started if heard is None else heard)

    def _publish(self, seconds: float, heard: float) -> None:
        """seconds: that reading took."""
        before, away = self._snapshot, self._absence.reason
        if before is None and away:
            return
        now = self._combining.snapshot(before, away)
        # What in a burst changed when nobody knows: none of it before the first word.
        now = msgspec.structs.replace(now, heard=dict.fromkeys(kinds(before or _NOTHING, now), heard))
        self._snapshot = now
        if not away:
            known = before.problems if before else {}
            tell(log, now.problems, known, self._folder.entries, "manifests")
        if before is None:
            log.info(
                "%s in %d files of %s, read in %.0f ms",
                counted(now),
                len(self._folder.entries),
                self._folder.path,
                1000 * seconds,
            )
        for callback in self._subscribers:
            callback()


async def read_folder(path: Path, limits: Limits = NO_LIMITS, memory: Memory = _nobody) -> Snapshot:
    """One look at a folder, without a word in the log. Raises StoreError when it can't be read."""
    folder = ManifestFolder(path)
    await folder.look()
    combining = _Combining(folder, limits)
    combining.remembered = await memory()
    return combining.snapshot(None, "")


class _Combining:
    """What all files say together. What none of them says anew is not settled again."""

    def __init__(self, folder: ManifestFolder, limits: Limits) -> None:
        self._folder = folder
        self._frontends = Frontends(limits)
        self.remembered: Mapping[str, Node] = {}
        """Nodes of an earlier run, as long as nobody knows whether they still are in the folder."""
        self._nodes: Mapping[str, tuple[Node, ...]] = {}
        self._settled = cluster.Cluster(nodes={}, problems={})
        self._services = Merged[Service](_one_of_each)
        self._slices = Merged[EndpointSlice](_one_of_each)
        self._policies = Merged[NetworkPolicy](cluster.policies)
        self._cluster_policies = Merged[ClusterNetworkPolicy](_one_of_each)
        self._namespaces = Merged[Namespace](_one_of_each)
        self._pods = Merged[LabelledPod](_one_of_each)

    def snapshot(self, before: Snapshot | None, away: str) -> Snapshot:
        """The snapshot that follows `before`. away: why the folder is not there, "" if it is."""
        entries = self._folder.entries
        was = before or _NOTHING
        self._settle_nodes(was.nodes)
        conflicts = {path: list(lines) for path, lines in self._settled.problems.items()}
        self._settle_services(conflicts)
        slices = self._update(self._slices, SliceReader, conflicts)
        policies = self._update(self._policies, PolicyReader, conflicts)
        cluster_policies = self._update(self._cluster_policies, ClusterPolicyReader, conflicts)
        namespaces = self._update(self._namespaces, NamespaceReader, conflicts)
        pods = self._update(self._pods, PodReader, conflicts)
        problems = {
            path: "; ".join(lines)
            for path, entry in entries.items()
            if (lines := (*entry.problems, *entry.remarks, *conflicts.get(path, ())))
        }
        return Snapshot(
            nodes=_same(self._known_nodes, was.nodes),
            services=self._frontends.services,
            slices=slices,
            policies=policies,
            cluster_policies=cluster_policies,
            namespaces=namespaces,
            pods=pods,
            problems=problems | ({str(self._folder.path): away} if away else {}),
            version=was.version + 1,
            unread_nodes=None if self._unread(NodeReader) else frozenset(),
            unread_policies=self._unread(*_POLICIES),
        )

    def _settle_nodes(self, before: Mapping[str, Node]) -> None:
        """Has `cluster` settle which nodes go together. A remembered one that may stand in a file that can't be read
        keeps what it has: who knows rows fills it in (`recall`)."""
        nodes = {
            path: found for path, each in self._files(NodeReader).items() if (found := tuple(each.values()))
        }
        if self.remembered:
            before = {**cluster.recognised(nodes, self.remembered), **before}
            named = {node.name for each in nodes.values() for node in each}
            unread = bool(self._unread(NodeReader))
            self.remembered = {
                name: node for name, node in self.remembered.items() if unread and name not in named
            }
        if self.remembered:
            nodes[""] = tuple(self.remembered.values())
        if nodes != self._nodes:
            self._nodes = nodes
            self._settled = cluster.combine(nodes, {**before, **self.remembered})
            self._frontends.follow(self._settled.nodes)

    @property
    def _known_nodes(self) -> Mapping[str, Node]:
        """Those that the folder tells of."""
        nodes = self._settled.nodes
        if not self.remembered:
            return nodes
        return {name: node for name, node in nodes.items() if name not in self.remembered}

    def _unread(self, *readers: type[Reader[Readable]]) -> frozenset[str]:
        """Files that may have objects of these kinds which nobody has ever read."""
        kinds = {reader.kind for reader in readers}
        return frozenset(path for path, entry in self._folder.entries.items() if entry.unread & kinds)

    def _files(self, reader: type[Reader[_Object]]) -> dict[str, Mapping[str, _Object]]:
        """What each file has of one kind, by key."""
        return {path: of(entry.objects, reader) for path, entry in self._folder.entries.items()}

    def _update(
        self, merged: Merged[_Object], reader: type[Reader[_Object]], conflicts: dict[str, list[str]]
    ) -> Mapping[str, _Object]:
        """One object of each key; into `conflicts` goes who has another."""
        merged.update(self._files(reader))
        for path, lines in merged.problems.items():
            conflicts.setdefault(path, []).extend(lines)
        return merged.objects

    def _settle_services(self, conflicts: dict[str, list[str]]) -> None:
        """Has `frontends` settle who has what."""
        before = self._services.objects
        services = self._update(self._services, ServiceReader, conflicts)
        if services is not before:
            self._frontends.replace(services)
        files = self._files(ServiceReader)
        for key, text in self._frontends.problems.items():
            path = next(path for path, each in files.items() if each.get(key) is services[key])
            conflicts.setdefault(path, []).append(f"Service {key}: {text}")


def _same(now: Mapping[str, _Object], before: Mapping[str, _Object]) -> Mapping[str, _Object]:
    """The mapping that there was before if it says the same."""
    return now if different(before, now) else before


def _one_of_each(
    files: Mapping[str, Iterable[_Object]], before: Mapping[str, _Object]
) -> tuple[dict[str, _Object], dict[str, list[str]]]:
    chosen, problems = cluster.one_of_each(files, before)
    return {key: item for key, (_, item) in chosen.items()}, problems
