"""ovsnet on a cluster, by what `ovsnet manifest` prints: how it is deployed, and whether it is well.

Nodes' containerd has the image already. Called by test_daemonset and test_kubeadm.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from image_world import NAME

from ovsnet.cli.manifest import rendered
from ovsnet.lab.kubernetes.cluster import Cluster

HOME = "ovsnet"
AGENTS = "app.kubernetes.io/name=ovsnet-agent"


def deploy(cluster: Cluster, folder: Path, server: str, *more: str) -> str:
    """With what agents of a lab have in common; the manifest. server: the URL of the API server; more: of --set."""
    node = cluster.node("node-a")
    settings = yaml.safe_load(node.agent_config())
    shared = {key: settings[key] for key in ("datapath", "encapsulation", "tunnels", "bridge")}
    path = folder / "shared.yaml"
    path.write_text(yaml.safe_dump(shared))
    images = node.ctr("image", "ls", "-q").stdout.split()
    (name,) = (each for each in images if each.rpartition(":")[0] == NAME.rpartition(":")[0])
    choices = (f"image={name}", "imagePullPolicy=Never", f"apiServer={server}")
    text = rendered((*choices, *more), path)
    cluster.kubectl("apply", "--server-side", "--validate=strict", "--filename=-", input=text)
    return text


def agents(cluster: Cluster) -> list[str]:
    """Pods."""
    return str(cluster.kubectl("-n", HOME, "get", "pods", "-o", "name", "-l", AGENTS).stdout).split()


def await_agents(cluster: Cluster) -> None:
    """Fails with what their pods say."""
    command = ("rollout", "status", "daemonset/ovsnet-agent", "--timeout=60s")
    done = cluster.kubectl("-n", HOME, *command, check=False)
    told = "" if not done.returncode else trouble(cluster)
    assert done.returncode == 0, told


def trouble(cluster: Cluster) -> str:
    words = [
        ("describe", "pods"),
        ("logs", "--all-containers", "--tail=50", "-l", AGENTS),
    ]
    return "\n".join(cluster.kubectl("-n", HOME, *each, check=False).stdout[-6000:] for each in words)


def look_around(cluster: Cluster) -> None:
    """As people do, in every agent."""
    for pod in agents(cluster):
        for command in ("show", "audit"):
            argv = ("exec", pod, "-c", "agent", "--", "ovsnet", command)
            done = cluster.kubectl("-n", HOME, *argv, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
