"""ovsnet on a cluster, by what `ovsnet manifest` prints: how it is deployed and upgraded, and whether it is well.

Nodes' containerd has the image already. Called by test_daemonset and test_kubeadm.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from image_world import NAME
from kube_world import PORT, Loss, Namespace, Object, started, traffic
from lab_world import SLOWER

from ovsnet.cli.manifest import rendered
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.node import KubernetesNode

HOME = "ovsnet"
AGENTS = "app.kubernetes.io/name=ovsnet-agent"
SWITCHES = "app.kubernetes.io/name=openvswitch"
REPOSITORY = NAME.rpartition(":")[0]
NEXT = f"{REPOSITORY}:next"
"""What an upgrade is to: the same image by another name."""
ASKING = """
import http.client, select, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
connection.connect()
connection.auto_open = 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    connection.request("GET", "/hostname")
    assert connection.getresponse().read().decode() == sys.argv[3]
"""
"""Asks over one connection until standard input ends, and makes no other when that breaks."""


def deploy(cluster: Cluster, folder: Path, server: str, *more: str) -> str:
    """With what agents of a lab have in common; the manifest. server: the URL of the API server; more: of --set."""
    node = cluster.node("node-a")
    settings = yaml.safe_load(node.agent_config())
    shared = {key: settings[key] for key in ("datapath", "encapsulation", "tunnels", "bridge")}
    path = folder / "shared.yaml"
    path.write_text(yaml.safe_dump(shared))
    choices = (f"image={image(node)}", "imagePullPolicy=Never", f"apiServer={server}")
    text = rendered((*choices, *more), path)
    cluster.kubectl("apply", "--server-side", "--validate=strict", "--filename=-", input=text)
    return text


def image(node: KubernetesNode) -> str:
    """The name by which the node got it."""
    images = node.ctr("image", "ls", "-q").stdout.split()
    (name,) = (each for each in images if each.rpartition(":")[0] == REPOSITORY and each != NEXT)
    return str(name)


def agents(cluster: Cluster) -> list[str]:
    """Pods."""
    return str(cluster.kubectl("-n", HOME, "get", "pods", "-o", "name", "-l", AGENTS).stdout).split()


class Started(NamedTuple):
    """What of a pod another start of it, or of any of its containers, would change. pids: by container, its node's."""

    uid: str
    restarts: dict[str, int]
    pids: dict[str, int]


def running(cluster: Cluster, label: str) -> dict[str, Object]:
    """Pods of HOME that have the label, by node."""
    found = cluster.kubectl("-n", HOME, "get", "pods", "-l", label, "-o", "json").stdout
    return {pod["spec"]["nodeName"]: pod for pod in json.loads(found)["items"]}


def starts(cluster: Cluster, label: str) -> dict[str, Started]:
    """By node."""
    found = {}
    for name, pod in running(cluster, label).items():
        lines = cluster.node(name).ctr("task", "ls").stdout.splitlines()[1:]
        by_id = {line.split()[0]: int(line.split()[1]) for line in lines}
        status = {each["name"]: each for each in pod["status"]["containerStatuses"]}
        pids = {each: by_id[status[each]["containerID"].removeprefix("containerd://")] for each in status}
        restarts = {each: status[each]["restartCount"] for each in status}
        found[name] = Started(pod["metadata"]["uid"], restarts, pids)
    return found


@contextlib.contextmanager
def talking(world: Namespace, source: str, target: str) -> Iterator[Loss]:
    """Datagrams and new connections from one pod to another, and one connection per family that must not break."""
    with contextlib.ExitStack() as stack:
        loss = stack.enter_context(traffic(world, source, target))
        lasting = [
            stack.enter_context(started(asking(world, source, target, address), stdin=subprocess.PIPE))
            for address in world.addresses(target).values()
        ]
        yield loss
        for process in lasting:
            process.communicate(timeout=30 * SLOWER)
            assert process.returncode == 0


def asking(world: Namespace, source: str, target: str, address: str) -> list[str]:
    command = [sys.executable, "-I", "-S", "-c", ASKING, address, str(PORT), target]
    return world.cluster.command(world.place(source), command)


def await_agents(cluster: Cluster, seconds: int = 60) -> None:
    """All of them, and no older ones. Fails with what their pods say."""
    command = ("rollout", "status", "daemonset/ovsnet-agent", f"--timeout={seconds}s")
    done = cluster.kubectl("-n", HOME, *command, timeout=seconds + 10, check=False)
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
