"""What `ovsnet manifest` prints on a real cluster: kubelets start the agents, and those get everything from the API.

Open vSwitch is the nodes' own at first: without the kernel's datapath a node's address hangs on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from daemonset_world import AGENTS, HOME, agents, await_agents, deploy, look_around
from image_world import made
from kube_world import Namespace, client_seen, curl, namespace, running_cluster, server
from lab_world import eventually

from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node

pytestmark = pytest.mark.slow
SWITCHES = "app.kubernetes.io/name=openvswitch"
NODES = ("node-a", "node-b")
OF_THE_PLUGIN = ("/opt/cni/bin/ovsnet", "/etc/cni/net.d/10-ovsnet.conflist")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes on which nothing of ovsnet runs any more, but whose containerd has the image."""
    assert os.geteuid() == 0, "needs root"
    folder = tmp_path_factory.mktemp("image")
    archive = made(folder)
    with running_cluster(nodes=len(NODES)) as cluster:
        for name in NODES:
            node = cluster.node(name)
            node.ctr("image", "import", str(archive))
            node.kill(AGENT)
            for path in OF_THE_PLUGIN:
                node.private(path).unlink()
        yield cluster


@pytest.fixture(scope="module")
def deployed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    deploy(cluster, tmp_path_factory.mktemp("config"), server_of(cluster), "openvswitch=node")


@pytest.fixture(scope="module")
def world(cluster: Cluster, deployed: None) -> Iterator[Namespace]:
    with namespace(cluster, "daemonset") as made:
        yield made


def server_of(cluster: Cluster) -> str:
    return plan.api_url(cluster.control.spec)


def answers(node: Node) -> bool:
    """Whether an ovs-vswitchd of the image runs there: its process number is that of its container."""
    command = ["ovs-appctl", "--timeout=2", "-t", "/run/openvswitch/ovs-vswitchd.1.ctl", "version"]
    return node.run(command).returncode == 0


def test_agents_become_ready(cluster: Cluster, deployed: None) -> None:
    await_agents(cluster)
    assert len(agents(cluster)) == len(NODES)


def test_pods_reach_one_another(cluster: Cluster, world: Namespace) -> None:
    world.start(*(server(f"web-{name}", name) for name in NODES))
    one, other = (f"web-{name}" for name in NODES)
    for version, address in world.addresses(other).items():
        assert curl(cluster, world.place(one), address) == other
        assert client_seen(cluster, world.place(one), address) == world.addresses(one)[version]


def test_an_upgrade_keeps_pods_connected(cluster: Cluster, world: Namespace) -> None:
    """What a rollout does: agents are ended one after another, and others come."""
    before = set(agents(cluster))
    cluster.kubectl("-n", HOME, "rollout", "restart", "daemonset/ovsnet-agent")
    one, other = (f"web-{name}" for name in NODES)
    address = world.addresses(other)[4]
    failed = [n for n in range(40) if curl(cluster, world.place(one), address, seconds=2) != other]
    assert not failed
    cluster.kubectl("-n", HOME, "rollout", "status", "daemonset/ovsnet-agent", "--timeout=120s")
    eventually(lambda: len(agents(cluster)) == len(NODES) and not before & set(agents(cluster)), 60)
    world.start(server("late", NODES[1]))
    assert curl(cluster, world.place(one), world.addresses("late")[4]) == "late"


def test_people_can_look_around(cluster: Cluster, deployed: None) -> None:
    look_around(cluster)


def test_open_vswitch_of_the_image_waits_for_the_nodes_to_be_gone_and_takes_over(
    cluster: Cluster, world: Namespace, tmp_path: Path
) -> None:
    """On the node's database; kubelets start it again and again, without the API server too."""
    deploy(cluster, tmp_path, server_of(cluster), "stateDir=/etc/openvswitch")
    refused = "Open vSwitch runs on this node already"
    said = ("-n", HOME, "logs", "-l", SWITCHES, "-c", "ovsdb-server")
    eventually(lambda: cluster.kubectl(*said, check=False).stdout.count(refused) == len(NODES), 60)
    for name in NODES:
        node = cluster.node(name)
        for daemon in (VSWITCHD, OVSDB):
            node.kill(daemon)
    for name in NODES:
        node = cluster.node(name)
        eventually(partial(answers, node), 200)
        node.make_uplink()
    wait = ("wait", "--for=condition=Ready", "--timeout=120s", "pods", "-l")
    for label in (SWITCHES, AGENTS):
        cluster.kubectl("-n", HOME, *wait, label, timeout=130)
    one, other = (f"web-{name}" for name in NODES)
    for address in world.addresses(other).values():
        eventually(partial(curl, cluster, world.place(one), address))
