"""A lab whose pods have policies, and what a node says to commands about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import yaml
from lab_world import eventually, running

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.state import Completed

OVSNET = "/run/ovsnet/bin/ovsnet"
WEB = 8080
CLUSTER_IP = "10.96.0.50"


def policy(name: str, selector: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": selector} if selector else {}, **spec},
    }


def pods(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


POLICIES = [
    policy(
        "web",
        {"app": "a1"},
        policyTypes=["Ingress"],
        ingress=[
            {"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]},
            {"from": [pods("b1")], "ports": [{"port": 7}, {"port": "web"}]},
            {"from": [pods("a2")], "ports": [{"protocol": "UDP", "port": 53}]},
        ],
    ),
    policy(
        "out",
        {"app": "a2"},
        policyTypes=["Egress"],
        egress=[{"to": [pods("b1")], "ports": [{"port": 80, "endPort": 90}]}],
    ),
    policy("closed", {"app": "b2"}, policyTypes=["Ingress", "Egress"]),
]


def write_manifests(lab: Lab) -> None:
    """What a control plane would know beside the nodes, in the files where a lab has such objects itself."""
    folder = lab.folder.path / "cluster"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    (folder / "namespace.default.yaml").write_text(yaml.safe_dump(namespace))
    for name, node in (("a1", "node-a"), ("a2", "node-a"), ("b1", "node-b"), ("b2", "node-b")):
        ports = [{"name": "web", "containerPort": WEB}]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": str(each)} for each in lab.pod(name).addresses]},
        }
        (folder / f"pod.{name}.yaml").write_text(yaml.safe_dump(pod))
    (folder / "policies.yaml").write_text(yaml.safe_dump_all(POLICIES))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2) as lab:
        write_manifests(lab)
        for name in ("node-a", "node-b"):
            node = lab.node(name)
            eventually(partial(policed, node))
        yield lab


@pytest.fixture
def live(lab: Lab) -> Node:
    return lab.node("node-a")


@pytest.fixture(params=["running", "stopped"])
def node(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Node]:
    """With the agent running and without it: the answers come from the same state."""
    node = lab.node("node-a")
    if request.param == "stopped":
        node.kill(AGENT)
    yield node
    if request.param == "stopped":
        node.start(AGENT)


def policed(node: Node) -> bool:
    """Whether the agent has followed the policies."""
    found = {flow["object"] for flow in answer(node, "flows")}
    return "policedpod default/a1" in found or "policedpod default/b2" in found


def ask(node: Node, *arguments: str) -> Completed:
    done = node.run([OVSNET, *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(node: Node, *arguments: str) -> Any:
    done = ask(node, *arguments, "-o", "json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)
