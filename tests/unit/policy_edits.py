"""Clusters and changes of their policies and labels, for hypothesis; dense, so that rules meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster_policy_parts import PRIORITIES, cluster_policy, cluster_specs
from clusters import NODES as NODES_OF_CLUSTERS
from clusters import addresses_at, clusters, containers, named, namespace
from hypothesis import strategies as st
from policy_parts import NAMESPACES, labels, policy, specs
from policy_world import Cluster, key

APPS = st.sampled_from(({"app": "web"}, {"app": "db"}, {}))
SUBJECTS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"namespaces": {}}), APPS.map(lambda each: {"pods": {"podSelector": {"matchLabels": each}}})
)
ACTIONS = st.sampled_from(("Accept", "Deny", "Pass"))
PORTS = (79, 80, 81, 8080, 8081)


@st.composite
def edits(draw: st.DrawFn) -> tuple[Cluster, Cluster]:
    """A cluster before and after what people apply: policies of both kinds, and labels of pods and namespaces.

    Either any cluster, or one that is crowded, of which most policies concern somebody.
    """
    before = draw(st.one_of(_crowds(), _crowds(), clusters()))
    after = before
    for _ in range(draw(st.integers(1, 3))):
        kinds = _policies(after), _cluster_policies(after), _cluster_policies(after), _labels(after)
        after = draw(st.one_of(*kinds))
    return before, after


@st.composite
def _crowds(draw: st.DrawFn) -> Cluster:
    """Six pods that live, in two namespaces, on both nodes."""
    names = NAMESPACES[:2]
    places = [("node-a", 2), ("node-a", 3), ("node-a", 5), ("node-b", 2), ("node-b", 3), ("node-b", 6)]
    made = Cluster(namespaces=tuple(namespace(each, draw(APPS)) for each in names), nodes=NODES_OF_CLUSTERS)
    for at, (node, host) in enumerate(places):
        pod = {
            "kind": "Pod",
            "metadata": {"labels": draw(APPS)},
            "spec": {"nodeName": node, **draw(containers())},
            "status": {"podIPs": addresses_at(node, host, draw(st.sampled_from(("46", "46", "4"))))},
        }
        made = replace(made, pods=(*made.pods, named(pod, names[at % 2], f"p{at}")))
    for _ in range(draw(st.integers(0, 3))):
        made = draw(_policies(made))
    for _ in range(draw(st.integers(0, 2))):
        made = draw(_cluster_policies(made))
    return made


@st.composite
def _policies(draw: st.DrawFn, cluster: Cluster) -> Cluster:
    """One more, another one of a name that there is, or one less."""
    where = draw(st.sampled_from([each["metadata"]["name"] for each in cluster.namespaces]))
    name = draw(st.sampled_from(("q0", "q1")))
    others = tuple(each for each in cluster.policies if key(each) != f"{where}/{name}")
    if len(others) < len(cluster.policies) and draw(st.sampled_from((False, False, True))):
        return replace(cluster, policies=others)
    spec = draw(specs())
    if draw(st.booleans()):
        spec["podSelector"] = {"matchLabels": draw(APPS)}
    return replace(cluster, policies=(*others, policy(where, name, spec)))


@st.composite
def _cluster_policies(draw: st.DrawFn, cluster: Cluster) -> Cluster:
    """Likewise; or one moves to another tier or priority as it is, or a rule of it gets another action."""
    name = draw(st.sampled_from(("c0", "c1", "c2")))
    those = [each for each in cluster.cluster_policies if each["metadata"]["name"] == name]
    others = tuple(each for each in cluster.cluster_policies if each not in those)
    what = draw(st.sampled_from(("anew", "gone", "moved", "turned"))) if those else "anew"
    if what == "gone":
        return replace(cluster, cluster_policies=others)
    if what == "moved":
        spec = {**those[0]["spec"], "tier": draw(st.sampled_from(("Admin", "Baseline")))}
        spec["priority"] = draw(st.sampled_from(PRIORITIES))
    elif what == "turned":
        spec = _turned(those[0]["spec"], draw(st.integers(0, 2)), draw(ACTIONS))
    else:
        spec = draw(cluster_specs())
        if draw(st.booleans()):
            spec["subject"] = draw(SUBJECTS)
    return replace(cluster, cluster_policies=(*others, cluster_policy(name, spec)))


def _turned(spec: dict[str, Any], number: int, action: str) -> dict[str, Any]:
    """The same, but for the action of that rule in each direction."""
    rules: dict[str, Any] = {way: list(spec[way]) for way in ("ingress", "egress") if way in spec}
    for those in rules.values():
        those[number : number + 1] = [{**each, "action": action} for each in those[number : number + 1]]
    return {**spec, **rules}


@st.composite
def _labels(draw: st.DrawFn, cluster: Cluster) -> Cluster:
    if draw(st.booleans()):
        found = draw(st.sampled_from(cluster.namespaces))
        made = namespace(found["metadata"]["name"], draw(labels()))
        return replace(
            cluster, namespaces=tuple(made if each is found else each for each in cluster.namespaces)
        )
    found = draw(st.sampled_from(cluster.pods))
    made = {**found, "metadata": {**found["metadata"], "labels": draw(st.one_of(APPS, labels()))}}
    return replace(cluster, pods=tuple(made if each is found else each for each in cluster.pods))
