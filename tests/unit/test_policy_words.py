"""Policies in words: what `ovsnet policy show` tells of a pod, and what a flow that denies says."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import policy_manifests
import pytest
from cluster_policy_manifests import cluster_policy

from ovsnet import pipeline, policies, policywords, resources
from ovsnet.model import Node
from ovsnet.policies import Policies
from ovsnet.policymodel import ClusterNetworkPolicy, Direction
from ovsnet.policyobjects import ClusterRule, Isolation, PolicedPod, Rule
from ovsnet.render import Renderer
from ovsnet.store.namespaces import NAME

NODES = {
    "node-a": Node(
        name="node-a",
        pod_cidrs=(ipaddress.ip_network("10.244.1.0/24"),),
        addresses=(ipaddress.ip_address("192.0.2.11"),),
    )
}
LOCAL = {"default/web": (ipaddress.ip_address("10.244.1.5"),)}


def pod(name: str, ip: str, **labels: str) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8080}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIPs": [{"ip": ip}]},
    }


PODS = [pod("web", "10.244.1.5", app="web"), pod("db", "10.244.2.6", app="db")]


class Shown:
    """What is shown of pod default/web, on whose node these policies are in force."""

    def __init__(self, *specs: dict[str, Any], pods: list[dict[str, Any]] = PODS) -> None:
        found, _ = policy_manifests.policies(
            *(
                {"kind": "NetworkPolicy", "metadata": {"name": f"p{number}"}, "spec": spec}
                for number, spec in enumerate(specs)
            )
        )
        known = {each.key: each for document in pods for each in policy_manifests.pods(document)[0]}
        nodes = policies.node_addresses(NODES)
        namespaces = {"default": policy_manifests.namespace({"name": "default", "labels": {NAME: "default"}})}
        self.policies = Policies()
        self._given = {each.key: each for each in found}, namespaces, known, LOCAL, nodes
        self._names = policywords.Names(known, LOCAL, nodes)
        self.lines = self.with_cluster({})

    def with_cluster(self, cluster: dict[str, ClusterNetworkPolicy]) -> list[str]:
        """The same with these ClusterNetworkPolicies."""
        self.policies.update(*self._given, cluster)
        self.data = policywords.shown("default/web", self.policies, self._names)
        return list(policywords.lines(self.data))


def test_without_policies_nothing_is_isolated() -> None:
    assert Shown().lines == [
        "ingress: not isolated, everything is allowed",
        "egress: not isolated, everything is allowed",
    ]


def test_rules_are_told_with_whom_they_mean_today() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "db"}}}
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 8000, "endPort": 8010}, {"protocol": "SCTP"}]
    spec = {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer], "ports": ports}, {"ports": [{"port": "http"}]}, {"ports": [{"port": "x"}]}],
    }  # fmt: skip
    assert Shown(spec).lines == [
        "ingress: isolated by NetworkPolicy default/p0",
        "  default/p0 ingress[0]: UDP 53, TCP 8000-8010, SCTP all",
        "    from pods app in (db) of namespace default, on SCTP all, TCP 8000-8010, UDP 53",
        "      10.244.2.6               default/db",
        "  default/p0 ingress[1]: TCP http",
        "    from everybody, on TCP 8080",
        "  default/p0 ingress[2]: TCP x",
        "    allows this pod nothing",
        "egress: not isolated, everything is allowed",
    ]


def test_blocks_nobody_and_everything() -> None:
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}
    nobody = {"podSelector": {"matchLabels": {"app": "none"}}}
    allow = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
    closed = {"podSelector": {}, "policyTypes": ["Ingress"]}
    to = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [block, nobody]}]}
    assert Shown(allow, closed, to).lines == [
        "ingress: isolated by NetworkPolicy default/p1; no rule allows anything",
        "egress: isolated by NetworkPolicy default/p0, default/p2; a rule allows everything",
        "  default/p0 egress[0]: all ports and protocols",
        "    to everybody",
        "  default/p2 egress[0]: all ports and protocols",
        "    to 192.0.2.0/24 but 192.0.2.128/25",
        "      10.244.1.1               node node-a",
        "      192.0.2.0/25",
        "    to pods app in (none) of namespace default: nobody today",
    ]


def test_a_pod_whose_labels_nobody_knows_is_isolated_by_all_policies() -> None:
    """What it may not be meant by allows it nothing."""
    labelled = {"podSelector": {"matchLabels": {"app": "other"}}, "ingress": [{}]}
    assert Shown(labelled, pods=PODS[1:]).lines == [
        "ingress: isolated by NetworkPolicy default/p0",
        "  default/p0 ingress[0]: all ports and protocols",
        "    allows this pod nothing",
        "egress: not isolated, everything is allowed",
    ]
    assert Shown(labelled).lines[0] == "ingress: not isolated, everything is allowed"


@pytest.mark.parametrize("direction", list(Direction))
def test_a_flow_that_denies_names_the_policies(direction: Direction) -> None:
    """Priorities are those of the template."""
    spec = {"podSelector": {}, "policyTypes": [direction.value]}
    shown = Shown(spec)
    (obj,) = [each for each in shown.policies.objects if isinstance(each, PolicedPod)]
    verdict = {table.name: table.number for table in pipeline.tables(resources.flows_dir())}[
        policywords.VERDICT
    ]
    lines = [line for line in Renderer(resources.flows_dir()).object(obj) if f",table={verdict}," in line]
    (line,) = [line for line in lines if line.endswith("actions=drop")]
    priority = int(line.partition("priority=")[2].partition(",")[0])
    word = direction.value.lower()
    assert policywords.denial(obj, priority, shown.policies) == (
        f"denied: {word} of pod default/web is isolated by NetworkPolicy default/p0, and no rule allows this"
    )


def test_other_flows_deny_nothing() -> None:
    obj = PolicedPod(namespace="default", name="web", ips=(), ingress=Isolation())
    assert policywords.denial(obj, 100, Policies()) is None
    assert policywords.denial(None, 50, Policies()) is None
    rule = Rule(number=1, direction=Direction.INGRESS, text="ingress from everybody")
    assert policywords.denial(rule, 40, Policies()) is None
    assert policywords.denial(obj, 40, Policies()) == (
        "denied: ingress of pod default/web is isolated, and no rule allows this"
    )


def test_tables_are_those_that_there_are() -> None:
    names = {table.name for table in pipeline.tables(resources.flows_dir())}
    assert {*policywords.TABLES, *policywords.LOOKS} <= names


def test_tiers_are_told_in_the_order_in_which_they_are_asked() -> None:
    shown = Shown({"podSelector": {}, "policyTypes": ["Ingress"]})
    spec: dict[str, Any] = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    admin = {
        **spec,
        "ingress": [
            {
                "name": "callers",
                "action": "Pass",
                "from": [{"pods": {"podSelector": {"matchLabels": {"app": "db"}}}}],
            },
            {"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}]},
            {"action": "Accept", "from": [{}]},
        ],
    }
    base = {**spec, "tier": "Baseline", "egress": [{"action": "Deny", "to": [{"nodes": {}}]}]}
    found = [
        cluster_policy(each, *expected) for each, expected in ((admin, ("must have one of",)), (base, ()))
    ]
    named = {
        name: msgspec.structs.replace(each, name=name) for name, each in zip(("a", "b"), found, strict=True)
    }
    assert shown.with_cluster(named) == [
        "ingress: Admin tier of ClusterNetworkPolicies, the first that matches decides",
        "  Pass by a ingress[0] (callers): all ports and protocols",
        "    from pods app in (db) of namespaces *",
        "      10.244.2.6               default/db",
        "  Deny by a ingress[1]: port http",
        "    from pods * of namespaces *, on TCP 8080",
        "      10.244.1.5               default/web",
        "      10.244.2.6               default/db",
        "  Accept by a ingress[2]: all ports and protocols",
        "    matches nothing of this pod",
        "ingress: isolated by NetworkPolicy default/p0; no rule allows anything",
        "egress: Baseline tier of ClusterNetworkPolicies, the first that matches decides",
        "  Deny by b egress[0]: all ports and protocols",
        "    to nodes *",
        "      10.244.1.1               node node-a",
        "      192.0.2.11               node node-a",
        "egress: not isolated, everything else is allowed",
    ]
    (rule,) = (
        each for each in shown.policies.objects if isinstance(each, ClusterRule) and "egress" in each.key
    )
    assert policywords.denial(rule, 55, shown.policies) == (
        "denied: ClusterNetworkPolicy b egress[0] denies it, in the Baseline tier"
    )
