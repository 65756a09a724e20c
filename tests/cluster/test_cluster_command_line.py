"""`ovsnet lab` as a person uses it on a Kubernetes lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kube_world import NODES

from ovsnet.lab.kubernetes.cluster import Cluster

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"}


def ovsnet(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ovsnet", "lab", "--name", cluster.name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


def test_up_again_repairs_what_is_missing_and_probes_every_path(cluster: Cluster) -> None:
    cluster.node("node-c").kill("agent")
    done = ovsnet(cluster, "up", "--kubernetes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "node-c: agent" in done.stdout
    assert "probes over IPv4 and IPv6 passed" in done.stdout
    refused = ovsnet(cluster, "up", "--kubernetes", "--nodes", "2")
    assert refused.returncode == 1
    assert "--nodes 2 (not 3)" in refused.stderr


def test_kubectl_is_configured(cluster: Cluster) -> None:
    done = ovsnet(cluster, "kubectl", "get", "nodes", "--output=json")
    assert done.returncode == 0, done.stderr
    ready = {
        each["metadata"]["name"]: {one["type"]: one["status"] for one in each["status"]["conditions"]}[
            "Ready"
        ]
        for each in json.loads(done.stdout)["items"]
    }
    assert ready == dict.fromkeys(NODES, "True")
    assert ovsnet(cluster, "kubectl", "get", "pod", "nobody").returncode == 1
    status = ovsnet(cluster, "status")
    assert status.returncode == 0, status.stdout + status.stderr
