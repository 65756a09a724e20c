"""One cluster for all tests of a process; a namespace of its own for each module, removed after it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_services import Called
from kube_world import Namespace, namespace, running_cluster
from services_world import FAMILIES, outer

from ovsnet.host import netns
from ovsnet.lab.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Cluster]:
    """Three nodes, dual stack."""
    if os.geteuid() != 0:
        pytest.exit("cluster: needs root; run sudo ./bootstrap.sh test", returncode=2)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster(kubernetes: Cluster) -> Cluster:
    """The same, by the name that most tests call it."""
    return kubernetes


@pytest.fixture
def kubeconfig(kubernetes: Cluster) -> Iterator[Path]:
    """The administrator's. The API server's address is one of the lab, which the machine has no way to: meanwhile the
    sockets that the test makes itself are in the control plane's network namespace."""
    control = kubernetes.control
    with open(f"/proc/{control.held().pid}/ns/net") as namespace, netns.entered(namespace.fileno()):
        yield control.pki.folder / "admin.kubeconfig"


@pytest.fixture(scope="module")
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with namespace(cluster, request.module.__name__.removeprefix("test_cluster_").replace("_", "-")) as made:
        yield made


@pytest.fixture(scope="module")
def called(world: Namespace) -> Called:
    """Servers and clients of Services, on each node one of each."""
    made = Called(world)
    made.start()
    return made


@pytest.fixture(scope="module")
def ways(cluster: Cluster) -> Iterator[None]:
    """The outside sends what is for `outer` addresses to node-c."""
    node = cluster.node("node-c").node
    routes = [
        f"{ipaddress.ip_network((outer(0, version), 24 if version == 4 else 64))} via {node.address(version)} dev eth0"
        for version in FAMILIES
    ]
    cluster.outside.ip([f"route replace {route}" for route in routes])
    yield
    cluster.outside.ip([f"route delete {route}" for route in routes])
