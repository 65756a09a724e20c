"""One cluster for the whole tier; a namespace of its own for each module, removed after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_world import Namespace, namespace, running_cluster

from ovsnet.lab.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes, dual stack."""
    if os.geteuid() != 0:
        pytest.exit("cluster: needs root; run sudo ./bootstrap.sh test", returncode=2)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    """The administrator's. The API server's address is one of the lab: use it from within, e.g. from `control`."""
    return cluster.control.pki.folder / "admin.kubeconfig"


@pytest.fixture(scope="module")
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with namespace(cluster, request.module.__name__.removeprefix("test_cluster_").replace("_", "-")) as made:
        yield made
