"""What kubelets do over the pods' network: probes, and ports of the node."""

from __future__ import annotations

from typing import Any

import pytest
from kube_services import AGE, Called
from kube_world import Namespace, curl, server
from lab_world import eventually

from ovsnet.lab.kubernetes.cluster import Cluster


def http(path: str, failures: int = 2) -> dict[str, Any]:
    """A probe by the kubelet, which comes from the node to the pod's address."""
    asked = {"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}
    return {**asked, "failureThreshold": failures}


def container_status(world: Namespace, pod: str) -> dict[str, Any]:
    """Nothing as long as its kubelet has not told of it."""
    statuses: list[dict[str, Any]] = world.get("pod", pod)["status"].get("containerStatuses", [{}])
    return statuses[0]


def test_probes_that_succeed_keep_a_pod_ready(world: Namespace) -> None:
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    probes: dict[str, Any] = {kind: http("/healthz", failures=30) for kind in kinds}
    world.start(server("content", "node-a", **probes))
    world.start(server("by-tcp", "node-b", readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1}))
    assert container_status(world, "content")["restartCount"] == 0


def test_a_liveness_probe_that_fails_restarts_the_container(world: Namespace) -> None:
    # agnhost's liveness answers for ten seconds, then no more.
    world.start(server("ailing", "node-b", arguments=["liveness"], livenessProbe=http("/healthz")))
    before = world.addresses("ailing")
    eventually(lambda: container_status(world, "ailing")["restartCount"] > 0, 60)
    assert world.addresses("ailing") == before, "a container's restart is not the pod's"


def test_a_readiness_probe_follows_the_server(cluster: Cluster, world: Namespace) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    world.apply(server("waiting", "node-c", readinessProbe=probe))
    eventually(lambda: container_status(world, "waiting").get("started"), 30)
    assert not container_status(world, "waiting")["ready"]
    world.kubectl("exec", "waiting", "--", "touch", "/tmp/ready")
    eventually(lambda: container_status(world, "waiting")["ready"])
    world.kubectl("exec", "waiting", "--", "rm", "/tmp/ready")
    eventually(lambda: not container_status(world, "waiting")["ready"])


def test_a_probe_asks_a_service(world: Namespace) -> None:
    """The kubelet is a client of it, from its node."""
    world.start(server("probed", "node-b"))
    called = Called(world)
    asked: dict[str, Any] = {"periodSeconds": 1, "failureThreshold": 1}
    addresses = called.make("probed", {"app": "probed"})
    probes = {
        "asks-4": {"httpGet": {"host": addresses[4], "port": 80, "path": "/healthz"}},
        "asks-6": {"httpGet": {"host": addresses[6], "port": 80, "path": "/healthz"}},
        "opens-4": {"tcpSocket": {"host": addresses[4], "port": 80}},
    }
    pods = [
        server(name, node, arguments=["pause"], readinessProbe={**asked, **probe})
        for node, (name, probe) in zip(("node-a", "node-b", "node-c"), probes.items(), strict=True)
    ]
    world.start(*pods)
    called.patch("probed", {"spec": {"selector": {"app": "nobody"}}})
    for name in probes:
        eventually(lambda: not container_status(world, name)["ready"], AGE)  # noqa: B023


@pytest.mark.parametrize("source", ["outside", "node-a", "node-b"])
def test_a_host_port_leads_to_the_pod(cluster: Cluster, world: Namespace, source: str) -> None:
    port = {"containerPort": 8080, "hostPort": 18081}
    world.start(server("host-port", "node-a", ports=[port]))
    address = str(cluster.node("node-a").node.address(4))
    eventually(lambda: curl(cluster, source, address, port=18081) == "host-port")


def test_environment_and_name_resolution_are_kubernetes(world: Namespace) -> None:
    world.start(server("reader", "node-c"))
    text = world.kubectl("exec", "reader", "--", "cat", "/etc/resolv.conf")
    assert f"search {world.name}.svc.cluster.local" in text
    assert {"nameserver 10.96.0.10", "nameserver fd00:10:96::a"} <= {*text.splitlines()}
    assert "10.96.0.1" in world.kubectl("exec", "reader", "--", "env")
