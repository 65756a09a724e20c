"""ClusterNetworkPolicy on a real cluster: the kind as the manifest installs it, and agents that follow it then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kube_world import Namespace, curl, server
from lab_world import eventually

from ovsnet.cli.manifest import rendered
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.store.clusterpolicies import ClusterPolicyReader

KIND = "clusternetworkpolicies.policy.networking.k8s.io"
SPEC: dict[str, Any] = {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}}
EVERY_POD: dict[str, Any] = {"namespaces": {}}
SECONDS = 60.0
"""In which agents ask again whether there is the kind."""


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {**SPEC, **spec},
    }


def apply(cluster: Cluster, *objects: dict[str, Any], check: bool = True) -> str:
    """What the server complains of; kubectl looks at nothing itself."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    return cluster.kubectl("apply", "--validate=false", "--filename=-", input=text, check=check).stderr


@pytest.fixture(scope="module", autouse=True)
def kind(cluster: Cluster) -> Iterator[None]:
    documents = yaml.safe_load_all(rendered(("clusterNetworkPolicy=true",), None))
    apply(cluster, *(each for each in documents if each["kind"] == "CustomResourceDefinition"))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{KIND}")
    yield
    cluster.kubectl("delete", "crd", KIND, "--ignore-not-found")


def rule(**fields: Any) -> dict[str, Any]:
    return {"action": "Deny", "to": [EVERY_POD], **fields}


@pytest.mark.parametrize(
    "spec",
    [
        {"tier": "Platform"},
        {"priority": 1001},
        {"priority": None},
        {"subject": {}},
        {"subject": {"namespaces": {}, "pods": {"podSelector": {}}}},
        {"subject": {"pods": {"namespaceSelector": {}}}},
        {"egress": [{"action": "Allow", "to": [EVERY_POD]}]},
        {"egress": [{"action": "Deny", "to": []}]},
        {"egress": [rule(to=[{}])]},
        {"egress": [rule(to=[{"networks": ["10.0.0.1/8"]}])]},
        {"egress": [rule(to=[{"networks": ["10.0.0.0"]}])]},
        {"egress": [rule(to=[{"networks": []}])]},
        {"egress": [rule(to=[{"domainNames": ["example.org"]}])]},
        {"egress": [rule(protocols=[])]},
        {"egress": [rule(protocols=[{"tcp": {}}])]},
        {"egress": [rule(protocols=[{"tcp": {"destinationPort": {"number": 0}}}])]},
        {"egress": [rule(protocols=[{"udp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}])]},
        {"egress": [rule(to=[{"nodes": {}}], protocols=[{"destinationNamedPort": "http"}])]},
        {"egress": [rule(name="x" * 101)]},
        {"ingress": [{"action": "Deny", "from": [EVERY_POD]}] * 26},
    ],
    ids=str,
)
def test_what_the_reader_would_not_read_the_server_refuses(cluster: Cluster, spec: dict[str, Any]) -> None:
    made = policy("bad", **spec)
    assert "is invalid" in apply(cluster, made, check=False)
    # But for lists that are longer than the API allows, names, and host bits: they can be read.
    reader = ClusterPolicyReader(made, "", "")
    reader.read()
    assert reader.remarks or "name" in str(spec) or "ingress" in spec or "10.0.0.1/8" in str(spec)


def test_what_it_takes_is_read_as_it_was_written(cluster: Cluster) -> None:
    port = {"tcp": {"destinationPort": {"number": 80}}}
    ports = {"sctp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}
    made = policy(
        "good",
        tier="Baseline",
        subject={"pods": {"podSelector": {"matchLabels": {"app": "nobody-at-all"}}}},
        ingress=[
            {"name": "a", "action": "Accept", "from": [EVERY_POD], "protocols": [port, ports]},
            {
                "action": "Pass",
                "from": [{"pods": {"podSelector": {}}}],
                "protocols": [{"destinationNamedPort": "x"}],
            },
        ],
        egress=[rule(to=[{"networks": ["10.0.0.0/8", "::/0"]}, {"nodes": {"matchLabels": {"a": "b"}}}])],
    )
    apply(cluster, made)
    try:
        stored = json.loads(cluster.kubectl("get", KIND, "good", "--output=json").stdout)
        readers = [ClusterPolicyReader(each, "", "") for each in (made, stored)]
        found = [each.read() for each in readers]
        assert found[0] == found[1]
        assert not [each.remarks or each.problems for each in readers if each.remarks or each.problems]
        assert "Baseline" in cluster.kubectl("get", "cnp", "good").stdout
    finally:
        cluster.kubectl("delete", KIND, "good")


def test_agents_follow_it(cluster: Cluster, world: Namespace) -> None:
    """A Deny of the Admin tier over a NetworkPolicy that allows; its end with the kind's own."""
    world.start(server("web", "node-a"), server("caller", "node-b"))
    address, caller = world.addresses("web"), world.place("caller")

    def reaches(version: int) -> bool:
        return curl(cluster, caller, address[version], seconds=1.0) == "web"

    web = {"matchLabels": {"app": "web"}}
    world.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "web"},
            "spec": {"podSelector": web, "ingress": [{"from": [{"podSelector": {}}]}]},
        }
    )
    eventually(lambda: all(map(reaches, address)))
    here = {"matchLabels": {"kubernetes.io/metadata.name": world.name}}
    denying = policy(
        "shut",
        subject={"pods": {"namespaceSelector": here, "podSelector": web}},
        ingress=[{"name": "callers", "action": "Deny", "from": [EVERY_POD]}],
    )
    apply(cluster, denying)
    try:
        eventually(lambda: not any(map(reaches, address)), SECONDS)
        asked = ["/run/ovsnet/bin/ovsnet", "policy", "check", f"{world.name}/caller", f"{world.name}/web"]
        done = cluster.node("node-a").run([*asked, "--tcp", "8080"])
        assert "ClusterNetworkPolicy shut ingress[0] (callers) denies it, in the Admin tier" in done.stdout
        assert "the flows of this node agree" in done.stdout
        # They are followed by now.
        apply(cluster, policy("before", priority=1, ingress=[{"action": "Pass", "from": [EVERY_POD]}]))
        eventually(lambda: all(map(reaches, address)), 10.0)
        cluster.kubectl("delete", KIND, "before")
        eventually(lambda: not any(map(reaches, address)), 10.0)
    finally:
        cluster.kubectl("delete", "crd", KIND)
    eventually(lambda: all(map(reaches, address)), SECONDS)
