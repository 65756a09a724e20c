"""Hypothesis strategies of clusters with policies, as manifests: `cluster_changes` has what may happen to them.

`clusters()` makes one; `asked(cluster)` is every connection worth asking the oracle about. There are two nodes: pods of
node-a have 10.1.0.2 to .8 and fd00:1::2 to ::8, those of node-b the same of 10.2.0.0/24 and fd00:2::/64, so that an
address which is free again is soon another pod's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster_policy_parts import cluster_policy, cluster_specs
from hypothesis import strategies as st
from policy_parts import NAMES, NAMESPACES, NUMBERS, labels, policy, specs
from policy_world import (
    Cluster,
    Connection,
    Node,
    Object,
    connections,
    finished,
    on_host_network,
    pod_addresses,
)

HERE = Node("node-a", ("192.168.0.1", "fd99::1"), ("10.1.0.1", "fd00:1::1"), (("app", "web"),))
THERE = Node("node-b", ("192.168.0.2", "fd99::2"), ("10.2.0.1", "fd00:2::1"), (("app", "db"),))
NODES = (HERE, THERE)
PREFIXES = {"node-a": ("10.1.0.", "fd00:1::"), "node-b": ("10.2.0.", "fd00:2::")}
HOSTS = range(2, 9)
OUTSIDE = ("203.0.113.7", "2001:db8::7")
PORTS = (79, 80, 81, 82, 8080, 8081)
"""Those that policies have, and their neighbours."""


def asked(cluster: Cluster, ports: Sequence[int] = PORTS) -> Iterator[Connection]:
    """From each end to each, on all ports of all protocols: some thousands for a large cluster."""
    return connections(cluster, ports, OUTSIDE)


def namespace(name: str, with_labels: dict[str, str]) -> Object:
    has = {"kubernetes.io/metadata.name": name, **with_labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": has}}


def _ports() -> st.SearchStrategy[list[Object]]:
    """Of a container, where a name stands once; the other containers may have it too, for another port."""
    one = st.fixed_dictionaries(
        {"containerPort": st.sampled_from(NUMBERS)},
        optional={"name": st.sampled_from(NAMES), "protocol": st.sampled_from(("TCP", "UDP", "SCTP"))},
    )
    return st.lists(one, max_size=2, unique_by=lambda each: each.get("name") or each["containerPort"])


@st.composite
def containers(draw: st.DrawFn) -> Object:
    """The fields of a pod's spec that have ports."""
    made: Object = {
        "containers": [
            {"name": f"c{number}", "ports": each}
            for number, each in enumerate(draw(st.lists(_ports(), min_size=1, max_size=2)))
        ]
    }
    kind = draw(st.sampled_from(("none", "none", "none", "sidecar", "init")))
    if kind != "none":
        first: Object = {"name": "first", "ports": draw(_ports())}
        made["initContainers"] = [{**first, "restartPolicy": "Always"} if kind == "sidecar" else first]
    return made


def addresses_at(node: str, host: int, families: str) -> list[Object]:
    four, six = PREFIXES[node]
    both = {"4": f"{four}{host}", "6": f"{six}{host:x}"}
    return [{"ip": both[family]} for family in families]


FAMILIES = st.sampled_from(("46", "46", "64", "4", "6"))


@st.composite
def unnamed_pods(draw: st.DrawFn, places: Sequence[tuple[str, int]]) -> Object:
    """Without name, at one of these nodes and host numbers; some wait for addresses yet, some are at their end."""
    node, host = draw(st.sampled_from(places))
    phase = draw(st.sampled_from(("Running",) * 8 + ("Succeeded", "Failed", "Pending")))
    spec = {"nodeName": node, **draw(containers())}
    status: Object = {"phase": phase}
    if phase != "Pending":
        status["podIPs"] = addresses_at(node, host, draw(FAMILIES))
    if draw(st.sampled_from((False,) * 7 + (True,))):
        spec["hostNetwork"] = True
        on = next(each for each in NODES if each.name == node)
        status["podIPs"] = [{"ip": each} for each in on.addresses]
    metadata = {"labels": draw(labels())}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def named(pod: Object, in_namespace: str, name: str, incarnation: int = 0) -> Object:
    identity = {"name": name, "namespace": in_namespace, "uid": f"{in_namespace}-{name}-{incarnation}"}
    return {**pod, "metadata": {**identity, **pod["metadata"]}}


def _holds_addresses(pod: Object) -> bool:
    return not finished(pod) and not on_host_network(pod)


def free_places(pods: Sequence[Object]) -> list[tuple[str, int]]:
    """Nodes and host numbers that no pod holds: those that have finished let theirs go."""
    held = {address for pod in pods if _holds_addresses(pod) for address in pod_addresses(pod)}
    return [
        (node, host)
        for host in HOSTS
        for node in PREFIXES
        if not held & {each["ip"] for each in addresses_at(node, host, "46")}
    ]


@st.composite
def clusters(draw: st.DrawFn, max_policies: int = 6) -> Cluster:
    names = NAMESPACES[: draw(st.integers(1, len(NAMESPACES)))]
    namespaces = tuple(namespace(name, draw(labels())) for name in names)
    pods: list[Object] = []
    for number in range(draw(st.sampled_from(range(2, 8)))):
        pods.append(named(draw(unnamed_pods(free_places(pods))), draw(st.sampled_from(names)), f"p{number}"))
    policies = tuple(
        policy(draw(st.sampled_from(names)), f"q{number}", draw(specs()))
        for number in range(draw(st.sampled_from(range(max_policies + 1))))
    )
    cluster_policies = tuple(
        cluster_policy(f"c{number}", draw(cluster_specs()))
        for number in range(draw(st.sampled_from((0, 0, 0, 1, 2, 3))))
    )
    return Cluster(
        namespaces=namespaces,
        pods=tuple(pods),
        policies=policies,
        nodes=NODES,
        cluster_policies=cluster_policies,
    )
