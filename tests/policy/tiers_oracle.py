"""What ClusterNetworkPolicies decide, in the plainest Python that says it: `oracle` asks, before and after the others.

Owns the semantics of policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy, on manifests as yaml.safe_load gives them.
Imports nothing of ovsnet. Takes manifests that the API server accepts.

Where the API leaves a choice, this is ovsnet's:
- of two policies of one tier and priority that whose name comes first is asked first;
- whoever means one of a node's addresses means the node's gateway as well, as in an ipBlock;
- a port's name that stands for several numbers in a pod is none of them to Accept, and all of them to Deny and Pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy_matching import block_matches, labels, named_ports, namespace_labels, selects
from policy_world import Cluster, Connection, End, Node, Object


@dataclass(frozen=True)
class Decision:
    """action: Accept, Deny or Pass. rule: NAME ingress[0]."""

    action: str
    rule: str


def decision(cluster: Cluster, tier: str, direction: str, connection: Connection) -> Decision | None:
    """Of the rule of the tier that comes first among those that match; None: none does.

    The pod that is asked about is one, and neither finished nor on its host's network.
    """
    end = connection.source if direction == "egress" else connection.destination
    other = connection.destination if direction == "egress" else connection.source
    pod = end.who
    if not isinstance(pod, dict):
        return None
    policies = [each for each in cluster.cluster_policies if each["spec"]["tier"] == tier]
    for policy in sorted(policies, key=lambda each: (each["spec"]["priority"], each["metadata"]["name"])):
        if not _finds(cluster, policy["spec"]["subject"], pod):
            continue
        for number, rule in enumerate(policy["spec"].get(direction) or ()):
            peers = rule["from" if direction == "ingress" else "to"]
            if any(_is_peer(cluster, peer, other) for peer in peers) and _is_port(rule, connection):
                return Decision(rule["action"], f"{policy['metadata']['name']} {direction}[{number}]")
    return None


def _finds(cluster: Cluster, peer: Object, pod: Object) -> bool:
    """By namespaces, or by pods in namespaces."""
    namespace = namespace_labels(cluster, pod["metadata"]["namespace"])
    if "namespaces" in peer:
        return selects(peer["namespaces"], namespace)
    pods = peer["pods"]
    return selects(pods.get("namespaceSelector") or {}, namespace) and selects(
        pods["podSelector"], labels(pod)
    )


def _is_peer(cluster: Cluster, peer: Object, other: End) -> bool:
    if "networks" in peer:
        return any(block_matches({"cidr": each}, other) for each in peer["networks"])
    if "nodes" in peer:
        return isinstance(other.who, Node) and selects(peer["nodes"], dict(other.who.labels))
    return isinstance(other.who, dict) and _finds(cluster, peer, other.who)


def _is_port(rule: Object, connection: Connection) -> bool:
    if "protocols" not in rule:
        return True
    return connection.protocol is not None and any(
        _is_protocol(each, connection.protocol, connection, rule["action"]) for each in rule["protocols"]
    )


def _is_protocol(entry: Object, protocol: str, connection: Connection, action: str) -> bool:
    if "destinationNamedPort" in entry:
        pod = connection.destination.who
        if not isinstance(pod, dict):
            return False
        numbers = named_ports(pod, entry["destinationNamedPort"], protocol)
        return connection.port in numbers and (action != "Accept" or len(numbers) == 1)
    if protocol.lower() not in entry:
        return False
    port = entry[protocol.lower()]["destinationPort"]
    if "number" in port:
        return bool(port["number"] == connection.port)
    return bool(port["range"]["start"] <= connection.port <= port["range"]["end"])
