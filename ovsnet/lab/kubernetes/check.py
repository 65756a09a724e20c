"""Whether a cluster's pods talk: a pod of ours on each node, and the lab's probes between all of them.

Pods are made by Kubernetes, in a namespace that lasts as long as the check; into their network namespaces go the lab's
own server and probes, so that what is asked is what a lab without Kubernetes is asked. Nodes ask too, but are not
asked: their ports are for those who use the cluster. Called by `cluster`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import signal
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ovsnet.lab import check as probes
from ovsnet.lab import files as lab_files
from ovsnet.lab.check import Host, Prober, Report
from ovsnet.lab.kubernetes import images
from ovsnet.lab.kubernetes.node import KubernetesNode
from ovsnet.lab.lab import outside_host
from ovsnet.lab.state import wait_for
from ovsnet.lab.underlay import server_command

if TYPE_CHECKING:
    from ovsnet.lab.kubernetes.cluster import Cluster

START_SECONDS = 90


def check(cluster: Cluster, seconds: float) -> Report:
    """Probe every path. Raises LabError if the pods for it don't start."""
    state = cluster.state
    outside = outside_host(state.spec)
    nodes = [cluster.node(name) for name in state.nodes]
    asking = [Prober(node_host(node), node.command) for node in nodes]
    with contextlib.ExitStack() as stack:
        pods = stack.enter_context(checking_pods(cluster, nodes))
        probers = [stack.enter_context(serving(cluster, pod)) for pod in pods]
        hosts = [prober.host for prober in probers]
        return probes.check(probers + asking, [*hosts, outside], seconds)


def node_host(node: KubernetesNode) -> Host:
    """Pods see it come from the first address of its range, or from its own."""
    gateways = (ipaddress.ip_network(text)[1] for text in node.pod_ranges())
    return Host(
        name=node.name,
        kind="node",
        addresses=node.addresses,
        sources=(*node.addresses, *gateways),
        outside_sources=node.addresses,
    )


@contextlib.contextmanager
def checking_pods(cluster: Cluster, nodes: list[KubernetesNode]) -> Iterator[list[dict[str, Any]]]:
    """A pod on each node, running; as Kubernetes tells of them."""
    namespace = f"lab-check-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", namespace)
    try:
        # Pods are refused until the controller-manager has made the account that they run as.
        account = ("get", "serviceaccount", "default", f"--namespace={namespace}")
        wait_for(lambda: not cluster.kubectl(*account, check=False).returncode, START_SECONDS, 0.2)
        items = [pod(namespace, node) for node in nodes]
        cluster.kubectl("create", "--filename=-", input=json.dumps(listed(items)))
        cluster.kubectl(
            "wait",
            f"--namespace={namespace}",
            "--for=condition=Ready",
            f"--timeout={START_SECONDS}s",
            "--all",
            "pods",
        )
        found = cluster.kubectl("get", "pods", f"--namespace={namespace}", "--output=json").stdout
        yield json.loads(found)["items"]
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false", check=False)


def listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def pod(namespace: str, node: KubernetesNode) -> dict[str, Any]:
    """One that does nothing; its name is short, for it heads a column."""
    container = {"name": "pause", "image": images.PAUSE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{node.node.letter}", "namespace": namespace},
        "spec": {"nodeName": node.name, "containers": [container], "terminationGracePeriodSeconds": 0},
    }


@contextlib.contextmanager
def serving(cluster: Cluster, pod: dict[str, Any]) -> Iterator[Prober]:
    """The lab's server in the pod's network namespace; the pod as one that asks and is asked."""
    spec, name = cluster.state.spec, pod["metadata"]["name"]
    place, netns = cluster.place(f"{pod['metadata']['namespace']}/{name}")
    node = cluster.node(place.name)
    addresses = tuple(ipaddress.ip_address(each["ip"]) for each in pod["status"]["podIPs"])
    host = Host(
        name=name,
        kind="pod",
        families=spec.pod_families,
        addresses=addresses,
        sources=addresses,
        outside_sources=tuple(node.node.address(version) for version in spec.underlay_families),
    )
    server = pod["metadata"]["namespace"]
    node.launch(server, server_command(name), netns=netns)
    try:
        yield Prober(host, lambda argv: node.command(argv, netns, lab_files.shell_environment()))
    finally:
        node.stop(server, signal.SIGKILL)
        for kind in ("proc", "log"):
            (node.path / f"{server}.{kind}").unlink(missing_ok=True)
