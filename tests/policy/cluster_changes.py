"""Hypothesis strategies of what may happen to a cluster with NetworkPolicies.

`changes(cluster)` is one change, `Change.after` the cluster then, `histories()` a cluster and several changes. A change
is what a store would tell: objects that are there or different, and objects that are gone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster_policy_parts import cluster_policy, cluster_specs
from clusters import FAMILIES, addresses_at, clusters, containers, free_places, named, namespace, unnamed_pods
from hypothesis import strategies as st
from policy_parts import labels, policy, specs
from policy_world import Cluster, Object, finished, on_host_network, pod_addresses


@dataclass(frozen=True)
class Change:
    """words: what happens, for people. put: objects as they are from now on, new ones too; gone: what is deleted."""

    words: str
    put: tuple[Object, ...] = ()
    gone: tuple[Object, ...] = ()

    def after(self, cluster: Cluster) -> Cluster:
        return replace(
            cluster,
            namespaces=self._applied("Namespace", cluster.namespaces),
            pods=self._applied("Pod", cluster.pods),
            policies=self._applied("NetworkPolicy", cluster.policies),
            cluster_policies=self._applied("ClusterNetworkPolicy", cluster.cluster_policies),
        )

    def _applied(self, kind: str, objects: tuple[Object, ...]) -> tuple[Object, ...]:
        new = {_identity(each): each for each in self.put if each["kind"] == kind}
        gone = {_identity(each) for each in self.gone if each["kind"] == kind}
        kept = {_identity(each): each for each in objects if _identity(each) not in gone}
        return tuple({**kept, **new}.values())


def _identity(manifest: Object) -> tuple[str, str]:
    return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def _shown(manifest: Object) -> str:
    return "/".join(filter(None, _identity(manifest)))


def _fresh(letter: str, objects: Sequence[Object]) -> str:
    """A name that none of them has, in whichever namespace."""
    taken = {each["metadata"]["name"] for each in objects}
    return next(
        name for name in (f"{letter}{number}" for number in range(len(taken) + 1)) if name not in taken
    )


def _altered(manifest: Object, part: str, **fields: Any) -> Object:
    made = copy.deepcopy(manifest)
    made.setdefault(part, {}).update(fields)
    return made


def _reborn(pod: Object) -> Object:
    """Another pod of the same name."""
    uid = pod["metadata"]["uid"]
    before, _, count = uid.rpartition("-")
    return _altered(pod, "metadata", uid=f"{before}-{int(count) + 1}")


@st.composite
def _relabelled(draw: st.DrawFn, cluster: Cluster) -> Change:
    found = draw(st.sampled_from((*cluster.pods, *cluster.namespaces)))
    new = draw(labels())
    if found["kind"] == "Namespace":
        return Change(f"label namespace {_shown(found)}", put=(namespace(found["metadata"]["name"], new),))
    return Change(f"label pod {_shown(found)}", put=(_altered(found, "metadata", labels=new),))


@st.composite
def _policy_added(draw: st.DrawFn, cluster: Cluster) -> Change:
    where = draw(st.sampled_from([each["metadata"]["name"] for each in cluster.namespaces]))
    made = policy(where, _fresh("q", cluster.policies), draw(specs()))
    return Change(f"add policy {_shown(made)}", put=(made,))


@st.composite
def _policy_altered(draw: st.DrawFn, cluster: Cluster) -> Change:
    """The whole of it, or a part."""
    found = draw(st.sampled_from(cluster.policies))
    new = draw(specs())
    part = draw(st.sampled_from(("podSelector", "policyTypes", "ingress", "egress", None)))
    spec = new if part is None else {field: each for field, each in found["spec"].items() if field != part}
    if part in new:
        spec = {**spec, part: new[part]}
    return Change(f"alter {part or 'all'} of policy {_shown(found)}", put=({**found, "spec": spec},))


@st.composite
def _cluster_policy_added(draw: st.DrawFn, cluster: Cluster) -> Change:
    made = cluster_policy(_fresh("c", cluster.cluster_policies), draw(cluster_specs()))
    return Change(f"add cluster policy {_shown(made)}", put=(made,))


@st.composite
def _cluster_policy_altered(draw: st.DrawFn, cluster: Cluster) -> Change:
    """A part of it, mostly: another priority, subject or rules."""
    found = draw(st.sampled_from(cluster.cluster_policies))
    new = draw(cluster_specs())
    part = draw(st.sampled_from(("tier", "priority", "subject", "ingress", "egress")))
    spec = {field: each for field, each in found["spec"].items() if field != part}
    if part in new:
        spec = {**spec, part: new[part]}
    return Change(f"alter {part} of cluster policy {_shown(found)}", put=({**found, "spec": spec},))


@st.composite
def _pod_added(draw: st.DrawFn, cluster: Cluster) -> Change:
    where = draw(st.sampled_from([each["metadata"]["name"] for each in cluster.namespaces]))
    made = named(draw(unnamed_pods(free_places(cluster.pods))), where, _fresh("p", cluster.pods))
    return Change(f"add pod {_shown(made)}", put=(made,))


@st.composite
def _pod_replaced(draw: st.DrawFn, cluster: Cluster) -> Change:
    """A StatefulSet's, for one: the same name, and all else as it comes."""
    found = draw(st.sampled_from(cluster.pods))
    made = draw(unnamed_pods(free_places(cluster.pods)))
    made = {**made, "metadata": {**_reborn(found)["metadata"], **made["metadata"]}}
    return Change(f"replace pod {_shown(found)}", put=(made,))


@st.composite
def _pod_moved(draw: st.DrawFn, cluster: Cluster) -> Change:
    """The same in everything but node and addresses."""
    found = draw(st.sampled_from([each for each in cluster.pods if not on_host_network(each)]))
    node, host = draw(st.sampled_from(free_places(cluster.pods)))
    addresses = addresses_at(node, host, draw(FAMILIES))
    made = _altered(_reborn(found), "status", phase="Running", podIPs=addresses)
    made["spec"]["nodeName"] = node
    return Change(f"replace pod {_shown(found)} by one at another address", put=(made,))


@st.composite
def _ports_renamed(draw: st.DrawFn, cluster: Cluster) -> Change:
    """A pod can't change its ports; its successor can, at the same address."""
    found = draw(st.sampled_from(cluster.pods))
    made = copy.deepcopy(_reborn(found))
    made["spec"].pop("initContainers", None)
    made["spec"].update(draw(containers()))
    return Change(f"replace pod {_shown(found)} by one with other ports", put=(made,))


@st.composite
def _pod_finished(draw: st.DrawFn, cluster: Cluster) -> Change:
    found = draw(st.sampled_from([each for each in cluster.pods if not finished(each)]))
    phase = draw(st.sampled_from(("Succeeded", "Failed")))
    return Change(
        f"pod {_shown(found)} comes to its end: {phase}", put=(_altered(found, "status", phase=phase),)
    )


def _attachable(cluster: Cluster) -> list[tuple[Object, int]]:
    """Pods without addresses, and host numbers that are free on their nodes."""
    return [
        (pod, host)
        for pod in cluster.pods
        for node, host in free_places(cluster.pods)
        if pod["spec"]["nodeName"] == node and not finished(pod) and not pod_addresses(pod)
    ]


@st.composite
def _pod_attached(draw: st.DrawFn, cluster: Cluster) -> Change:
    """Kubelet tells of a pod's addresses, which nobody knew before."""
    found, host = draw(st.sampled_from(_attachable(cluster)))
    addresses = addresses_at(found["spec"]["nodeName"], host, draw(FAMILIES))
    made = _altered(found, "status", phase="Running", podIPs=addresses)
    return Change(f"give pod {_shown(found)} its addresses", put=(made,))


@st.composite
def _gone(draw: st.DrawFn, kind: str, objects: Sequence[Object]) -> Change:
    found = draw(st.sampled_from(objects))
    return Change(f"delete {kind} {_shown(found)}", gone=(found,))


def changes(cluster: Cluster) -> st.SearchStrategy[Change]:
    """One thing that may happen to this cluster."""
    places = bool(free_places(cluster.pods))
    possible: list[tuple[object, st.SearchStrategy[Change]]] = [
        (True, _relabelled(cluster)),
        (True, _policy_added(cluster)),
        (cluster.policies, _policy_altered(cluster)),
        (cluster.policies, _gone("policy", cluster.policies)),
        (True, _cluster_policy_added(cluster)),
        (cluster.cluster_policies, _cluster_policy_altered(cluster)),
        (cluster.cluster_policies, _gone("cluster policy", cluster.cluster_policies)),
        (cluster.pods, _gone("pod", cluster.pods)),
        (cluster.pods, _ports_renamed(cluster)),
        (places, _pod_added(cluster)),
        (places and cluster.pods, _pod_replaced(cluster)),
        (places and any(not on_host_network(each) for each in cluster.pods), _pod_moved(cluster)),
        (any(not finished(each) for each in cluster.pods), _pod_finished(cluster)),
        (_attachable(cluster), _pod_attached(cluster)),
    ]
    return st.one_of([strategy for can_be, strategy in possible if can_be])


@st.composite
def histories(draw: st.DrawFn, max_changes: int = 6) -> tuple[Cluster, tuple[Change, ...]]:
    """A cluster, and what happens to it, one after the other: `Change.after` is the cluster then."""
    now = first = draw(clusters())
    made: list[Change] = []
    for _ in range(draw(st.integers(0, max_changes))):
        made.append(draw(changes(now)))
        now = made[-1].after(now)
    return first, tuple(made)
