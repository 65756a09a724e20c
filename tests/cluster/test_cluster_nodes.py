"""A node that joins, is drained and removed, joins again under its name, and dies, while pods on others talk."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kube_services import AGE, EVERYWHERE, PROBE, SERVERS, Called, workload
from kube_world import READY_SECONDS, Namespace, begin_anew, curl, server, traffic
from lab_world import SLOWER, agent_log, dump, eventually, tunnels
from services_world import assert_clean

from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.control import ControlPlane
from ovsnet.lab.kubernetes.node import KUBELET, KubernetesNode
from ovsnet.lab.node import Node
from ovsnet.lab.underlay import Underlay

NAME = "node-d"
WEB = {"group": "web"}
OTHER_RANGES = ["10.244.77.0/24", "fd00:10:244:77::/64"]
"""Controllers would give the node those again that it had."""
DRAINING = {"preStop": {"sleep": {"seconds": 4}}}
"""A pod serves on until every node has heard that it goes."""
PATIENCE = 24
"""Seconds without a word from its kubelet, which has one every 10, until the controllers take a node for lost."""


def agent_first_api_server_last(
    control: ControlPlane, node: KubernetesNode, underlay: Underlay, changed: Callable[[str], None]
) -> None:
    """In place of `KubernetesNode.up`, for a node that has never been there."""
    control.kill(plan.APISERVER)
    node.up_runtime(underlay, changed)
    node.launch_agent()
    node.write_conflist()
    eventually(lambda: "waiting for it" in agent_log(node), READY_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        registered = pool.submit(node.start, KUBELET)
        eventually(lambda: node.daemon(KUBELET) is not None)
        time.sleep(1.0)
        control.start(plan.APISERVER)
        control.kill(plan.CONTROLLERS)  # which would ask again after up to minutes
        control.start(plan.CONTROLLERS)
        registered.result()
    node.await_agent(READY_SECONDS * SLOWER)


@pytest.fixture(scope="module")
def added(cluster: Cluster, called: Called) -> Iterator[KubernetesNode]:
    """A fourth node, agent first, then the kubelet, then the API server; the cluster's others have pods that talk."""
    with pytest.MonkeyPatch.context() as patched:
        control = cluster.control

        def up(node: KubernetesNode, underlay: Underlay, changed: Callable[[str], None]) -> None:
            agent_first_api_server_last(control, node, underlay, changed)

        patched.setattr(KubernetesNode, "up", up)
        with traffic(called.world, "client-a", "web-b", "web-c") as loss:
            cluster.add_node(NAME)
    try:
        assert loss.none, str(loss)
        begin_anew(cluster)
        yield cluster.node(NAME)
    finally:
        cluster.remove_node(NAME)


def await_answers(world: Namespace, source: str, target: str) -> None:
    """From pod to pod and back, in both families."""

    def unanswered() -> list[tuple[str, str]]:
        return [
            (asking, address)
            for asking, asked in ((source, target), (target, source))
            for address in world.addresses(asked).values()
            if curl(world.cluster, world.place(asking), address) != asked
        ]

    eventually(lambda: not unanswered(), AGE)


def in_ranges(world: Namespace, pod: str, node: KubernetesNode) -> bool:
    ranges = [ipaddress.ip_network(each) for each in node.pod_ranges()]
    return all(
        any(ipaddress.ip_address(each) in network for network in ranges)
        for each in world.addresses(pod).values()
    )


def mentions(node: Node, peer: KubernetesNode) -> list[str]:
    """What the node still has for the peer: tunnel and flows."""
    addresses = [str(peer.node.address(version)) for version in peer.spec.underlay_families]
    flows = [
        line for line in dump(node) if any(f"->{each}" in line or f"={each}," in line for each in addresses)
    ]
    return [*(name for name in tunnels(node) if name == peer.name), *flows]


def test_a_node_whose_agent_is_first_and_whose_api_server_is_last(
    cluster: Cluster, called: Called, added: KubernetesNode
) -> None:
    called.world.start(server("early", NAME))
    assert in_ranges(called.world, "early", added)
    await_answers(called.world, "early", "web-a")
    called.world.kubectl("delete", "pod", "early")
    assert_clean(cluster)


def moved(called: Called) -> set[str]:
    """Two servers that would rather be on the node, of which one has to be there; theirs is a Service."""
    name = "moved"
    there = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}
    affinity = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": there}]}
    pod = {"terminationGracePeriodSeconds": 10, "affinity": {"nodeAffinity": affinity}}
    made = workload("Deployment", name, 2, {}, spec=pod, lifecycle=DRAINING, readinessProbe=PROBE)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}},
    }
    called.world.apply(made, budget)
    called.world.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={90 * SLOWER:.0f}s")
    return called.pods(name)


def test_a_node_is_drained_removed_and_joins_again_with_another_range(
    cluster: Cluster, called: Called, added: KubernetesNode
) -> None:
    world, before = called.world, set(added.pod_ranges())
    pods = moved(called)
    assert all(in_ranges(world, pod, added) for pod in pods)
    addresses = called.make("moved", {"app": "moved"})
    for address in addresses.values():
        called.await_names(address, pods)
    with called.unfailing(("client-a", addresses[4], 80), ("node-b", addresses[6], 80)):
        world.kubectl("drain", NAME, "--ignore-daemonsets", f"--timeout={90 * SLOWER:.0f}s")
        time.sleep(6.0)  # the last one goes
    for address in addresses.values():
        called.await_names(address, called.pods("moved"))
    with traffic(world, "client-a", "web-b", "web-c") as loss:
        cluster.kubectl("delete", "node", NAME)
        for name in ("node-a", "node-c"):
            peer = cluster.node(name)
            eventually(lambda: not mentions(peer, added))  # noqa: B023
        added.kill(KUBELET)
        world.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": NAME},
                "spec": {"podCIDR": OTHER_RANGES[0], "podCIDRs": OTHER_RANGES},
            }
        )
        added.start(KUBELET)
        cluster.settle(cluster.state)
    assert loss.none, str(loss)
    assert added.pod_ranges() == OTHER_RANGES
    assert not before & {*OTHER_RANGES}

    def told() -> bool:
        found = json.loads(cluster.kubectl("get", "node", NAME, "--output=json").stdout)
        annotations, conditions = found["metadata"]["annotations"], found["status"]["conditions"]
        mine = {each["type"]: each["status"] for each in conditions}
        return "ovsnet.io/mtu" in annotations and mine.get("NetworkUnavailable") == "False"

    eventually(told, AGE)
    world.start(server("again", NAME))
    assert in_ranges(world, "again", added)
    for place in ("web-a", "web-c"):
        await_answers(world, "again", place)
    world.kubectl("delete", "pod", "again")
    assert_clean(cluster)


@pytest.fixture
def impatient(cluster: Cluster) -> Iterator[None]:
    """Controllers that wait for half as long as they usually do."""
    usual = plan.controllers
    hasty = f"--node-monitor-grace-period={PATIENCE}s"

    def restart() -> None:
        cluster.control.kill(plan.CONTROLLERS)
        cluster.control.start(plan.CONTROLLERS)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "controllers", lambda spec: [*usual(spec), hasty])
        restart()
    yield
    restart()


@pytest.mark.usefixtures("impatient")
def test_a_node_dies(cluster: Cluster, called: Called, added: KubernetesNode) -> None:
    """Others lose nothing, Services leave its endpoints out as soon as the controllers do, and it comes back."""
    world = called.world
    web: dict[str, Any] = {"labels": WEB, "readinessProbe": PROBE}
    world.start(server("web-d", NAME, **web))
    addresses = called.make("mortal", WEB)
    called.await_names(addresses[4], {*SERVERS, "web-d"}, sources=["client-a"], count=60)
    with traffic(world, "client-a", "web-b", "web-c") as loss:
        added.destroy()
        eventually(lambda: called.offers("mortal") == [{*SERVERS}] * 2, PATIENCE + 36)
        for address in addresses.values():
            called.await_names(address, {*SERVERS}, sources=EVERYWHERE)
    assert loss.none, str(loss)
    assert added.name in tunnels(cluster.node("node-a"))  # It still is a node of the cluster.
    cluster.up()
    eventually(lambda: called.offers("mortal") == [{*SERVERS, "web-d"}] * 2, READY_SECONDS)
    await_answers(world, "web-d", "web-a")
    assert_clean(cluster)
