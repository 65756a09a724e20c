"""Parts of a cluster end and come back while pods talk: what runs goes on, what is new comes when all is back."""

from __future__ import annotations

import json
import signal
import time

import pytest
from kube_world import NODES, Namespace, begin_anew, curl, server, traffic
from lab_world import SLOWER, eventually

from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.node import CONTAINERD, KUBELET
from ovsnet.lab.node import AGENT

API_AWAY = 10.0
"""Seconds."""
KUBELET_BACK = 120.0
"""Seconds: a kubelet that missed the API server looks for new pods again after up to a minute, then it starts them."""


@pytest.fixture(scope="module")
def pods(world: Namespace) -> tuple[str, ...]:
    """One on each node."""
    names = tuple(f"peer-{node[-1]}" for node in NODES)
    world.start(*(server(name, node) for name, node in zip(names, NODES, strict=True)))
    return names


def assert_new_pods_talk(world: Namespace, name: str, node: str) -> None:
    """A pod that starts now reaches one on another node."""
    world.start(server(name, node), seconds=KUBELET_BACK)
    await_answers(world, name, "peer-c")


def await_answers(world: Namespace, source: str, target: str) -> None:
    """In both families."""

    def unanswered() -> list[str]:
        addresses = world.addresses(target).values()
        return [each for each in addresses if curl(world.cluster, world.place(source), each) != target]

    eventually(lambda: not unanswered())


def test_an_agent_is_killed_and_restarted_under_traffic(
    cluster: Cluster, world: Namespace, pods: tuple[str, ...]
) -> None:
    node = cluster.node("node-a")
    with traffic(world, "peer-a", "peer-b", "peer-c") as loss:
        time.sleep(1.0)
        node.kill(AGENT, signal.SIGKILL)
        time.sleep(1.0)
        node.start(AGENT)
        time.sleep(2.0)
    assert loss.none, str(loss)
    assert_new_pods_talk(world, "after-agent", "node-a")


def test_the_api_server_is_away_and_an_agent_starts_meanwhile(
    cluster: Cluster, world: Namespace, pods: tuple[str, ...]
) -> None:
    """Agents keep what they knew, also what an earlier one installed, and follow what is new when it is back."""
    node = cluster.node("node-b")
    with traffic(world, "peer-b", "peer-a", "peer-c") as loss:
        time.sleep(1.0)
        cluster.control.kill(plan.APISERVER)
        time.sleep(API_AWAY)
        node.kill(AGENT, signal.SIGKILL)
        node.launch_agent()
        time.sleep(5.0)
        cluster.control.start(plan.APISERVER)
        node.await_agent(30.0 * SLOWER)
        time.sleep(1.0)
    assert loss.none, str(loss)
    begin_anew(cluster)
    for place in ("node-b", "node-c"):
        assert_new_pods_talk(world, f"after-api-{place}", place)


@pytest.mark.parametrize("daemon", [KUBELET, CONTAINERD])
def test_a_nodes_daemon_is_killed_and_pods_stay(
    cluster: Cluster, world: Namespace, pods: tuple[str, ...], daemon: str
) -> None:
    node = cluster.node("node-c")
    before = world.get("pod", "peer-c")["status"]
    with traffic(world, "peer-c", "peer-a") as loss:
        node.kill(daemon, signal.SIGKILL)
        time.sleep(1.0)
        node.start(daemon)
        time.sleep(2.0)
    assert loss.none, str(loss)
    assert_new_pods_talk(world, f"after-{daemon}", "node-c")
    after = world.get("pod", "peer-c")["status"]
    assert after["podIPs"] == before["podIPs"]
    assert after["containerStatuses"][0]["restartCount"] == before["containerStatuses"][0]["restartCount"]


def test_a_node_loses_power_and_comes_back(cluster: Cluster, world: Namespace, pods: tuple[str, ...]) -> None:
    """Its pods are started again by its kubelet, with other sandboxes; nobody needs to touch the other nodes."""
    node = cluster.node("node-b")
    before = world.get("pod", "peer-b")["status"]["containerStatuses"][0]["restartCount"]
    node.destroy()
    cluster.up()

    def restarted() -> bool:
        status = world.get("pod", "peer-b")["status"]["containerStatuses"][0]
        return bool(status["restartCount"] > before and status["ready"])

    eventually(restarted, 60)
    await_answers(world, "peer-a", "peer-b")


def test_a_node_joins_and_leaves(cluster: Cluster, world: Namespace, pods: tuple[str, ...]) -> None:
    added = cluster.add_node()
    try:
        world.start(server("newcomer", added.name))
        await_answers(world, "newcomer", "peer-a")
    finally:
        cluster.remove_node(added.name)
    names = [
        item["metadata"]["name"]
        for item in json.loads(cluster.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    ]
    assert names == list(NODES)
