"""Where the agent learns of the cluster's nodes, Services and policies.

`Store` is what the agent needs of one; `file.FileStore` watches a folder of manifests, `kubernetes` an API server. A
store hands out whole snapshots, never events: who wants to know what changed compares. A store that is away, or an
object that is wrong, withdraws nothing: the last good snapshot stays.

    documents   text -> plain values                           pure
    reading     what the readers of all kinds share            pure
    nodes, services, slices, policies, clusterpolicies (with selectors, policyfields), namespaces, labelledpods, ownpods
                plain values -> an object                      pure
    manifest    a file's text -> its objects, and problems     pure
    cluster     all files' Nodes -> those that go together     pure
    merging     all files' objects -> one of each key          pure
    frontends   which Service has what several claim           pure
    taken       which addresses no Service has                 pure
    folder      reads the files that changed, keeps what was good in each
    watch       tells that a folder changed
    file        the store made of these
    telling     what stores say in the log
    kubernetes/ the store that follows the Kubernetes API
    choice      the store that the configuration asks for
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from ovsnet.model import Encap, Frozen, Node, OwnPod
from ovsnet.policymodel import ClusterNetworkPolicy, LabelledPod, Namespace, NetworkPolicy
from ovsnet.servicemodel import EndpointSlice, Service


class Snapshot(Frozen):
    """All objects at one moment. An object that did not change is the same instance in the next snapshot, and so is a
    mapping of which none did."""

    nodes: Mapping[str, Node]
    """By name; no two share a pod range or an address."""
    problems: Mapping[str, str]
    """What is wrong and what to do about it, by file (or folder)."""
    version: int
    """Grows with every snapshot that differs from the one before."""
    unread_nodes: frozenset[str] | None = frozenset()
    """Names of nodes that never were in order since the start; None: files, of which nobody knows what nodes they
    have. What an earlier run installed for a node that is not in `nodes` may well belong to one of them."""
    unread_policies: frozenset[str] = frozenset()
    """Files or objects that never were in order since the start, and are or may have policies, or namespaces or pods
    that policies select by."""
    services: Mapping[str, Service] = {}
    """By key; no two share an address and port."""
    slices: Mapping[str, EndpointSlice] = {}
    """By key."""
    policies: Mapping[str, NetworkPolicy] = {}
    """By key."""
    cluster_policies: Mapping[str, ClusterNetworkPolicy] = {}
    """By name."""
    namespaces: Mapping[str, Namespace] = {}
    """By name. Of these and `pods` there may be none where there are no policies; where there are, all."""
    pods: Mapping[str, LabelledPod] = {}
    """By key."""
    heard: Mapping[str, float] = {}
    """By kind, of those of which something is different from the snapshot before: when the first event came that said
    so, in seconds of `time.monotonic`."""

    @property
    def has_policies(self) -> bool:
        """Of whichever kind."""
        return bool(self.policies or self.cluster_policies)

    def lacks(self, node: str) -> bool:
        """Whether there is a Node of this name that never was in order since the start."""
        return self.unread_nodes is not None and node in self.unread_nodes


_KINDS = (
    ("Node", "nodes"),
    ("Service", "services"),
    ("EndpointSlice", "slices"),
    ("NetworkPolicy", "policies"),
    ("ClusterNetworkPolicy", "cluster_policies"),
    ("Namespace", "namespaces"),
    ("Pod", "pods"),
)


def kinds(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The kinds of which something is different."""
    for kind, attribute in _KINDS:
        old, new = getattr(before, attribute), getattr(after, attribute)
        if old is not new and (old or new):
            yield kind


class Facts(Frozen):
    """What is true of this node now, for a store that takes it. encap: where no Node asks for another. address: of the
    tunnels' end. mtu: of pods, in bytes."""

    encap: Encap
    address: str
    mtu: int


class OwnPods(Frozen):
    """All Pods of this node at one moment."""

    pods: Mapping[str, OwnPod | None]
    """By key; None: it is there, and can't be read."""
    heard: float
    """When the server last said something, in seconds of `time.monotonic`: what it had to tell until then is in."""


class Store(Protocol):
    """A source of objects."""

    async def run(self) -> None:
        """Reads and watches until cancelled."""

    def subscribe(self, callback: Callable[[], None]) -> None:
        """`callback` is called after every change of the snapshot."""

    def snapshot(self) -> Snapshot | None:
        """The latest; None until there has been a first complete list."""

    def figures(self) -> Mapping[str, float | Mapping[str, float]]:
        """For metrics: "store_away", and what it costs, "api_requests" by verb and "api_received_bytes"."""
