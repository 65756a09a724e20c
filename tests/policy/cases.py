"""The cases of cases.yaml, as clusters and connections with what must come of each.

For tests of the oracle, and for tests that what it judges does the same. Imports nothing of ovsnet.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from policy_world import Cluster, Connection, End, Node, Object, key, pod_addresses

ALLOWED = "allowed"


@dataclass(frozen=True)
class Case:
    """expected: of each connection "allowed", or the directions that deny it, egress first."""

    name: str
    cluster: Cluster
    expected: tuple[tuple[Connection, str], ...]

    def __str__(self) -> str:
        return self.name


def load() -> tuple[Case, ...]:
    read = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return tuple(_case(read, each) for each in read["cases"])


def _case(read: Any, case: Any) -> Case:
    policies = [next(iter(each.items())) for each in case.get("policies", ())]
    cluster = Cluster(
        namespaces=tuple(_manifest("v1", "Namespace", each) for each in read["namespaces"]),
        pods=tuple(_manifest("v1", "Pod", each) for each in read["pods"]),
        policies=tuple(
            _manifest(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                {"metadata": {"namespace": namespace, "name": f"q{number}"}, "spec": spec},
            )
            for number, (namespace, spec) in enumerate(policies)
        ),
        nodes=tuple(
            Node(
                each["name"],
                tuple(each["addresses"]),
                tuple(each["gateways"]),
                tuple(each.get("labels", {}).items()),
            )
            for each in read["nodes"]
        ),
        cluster_policies=tuple(
            _manifest(
                "policy.networking.k8s.io/v1alpha2",
                "ClusterNetworkPolicy",
                {"metadata": {"name": f"c{number}"}, "spec": spec},
            )
            for number, spec in enumerate(case.get("clusterPolicies", ()))
        ),
    )
    expected = case["expected"].items()
    return Case(
        case["case"],
        cluster,
        tuple((_connection(cluster, read["outside"], words), answer) for words, answer in expected),
    )


def _manifest(version: str, kind: str, fields: Object) -> Object:
    return {"apiVersion": version, "kind": kind, **fields}


def _connection(cluster: Cluster, outside: list[str], words: str) -> Connection:
    source, destination, what, *version = words.split()
    family = 6 if version == ["v6"] else 4
    protocol, _, port = what.partition("/")
    source_end, destination_end = (_end(cluster, outside, each, family) for each in (source, destination))
    return Connection(source_end, destination_end, None if what == "ping" else protocol, int(port or 0))


def _end(cluster: Cluster, outside: list[str], words: str, family: int) -> End:
    known: dict[str, tuple[Object | Node | None, tuple[str, ...]]] = {"outside": (None, tuple(outside))}
    for pod in cluster.pods:
        known[key(pod)] = pod, pod_addresses(pod)
    for node in cluster.nodes:
        known[node.name] = node, node.addresses
        known[f"{node.name}.gw"] = node, node.gateways
    who, addresses = known[words]
    return End(who, next(each for each in addresses if ip_address(each).version == family))
