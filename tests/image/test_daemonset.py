"""What `ovsnet manifest` prints on a real cluster: kubelets start the agents, and those get everything from the API.

Open vSwitch is the nodes' own at first: without the kernel's datapath a node's address hangs on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from daemonset_world import (
    AGENTS,
    HOME,
    NEXT,
    SWITCHES,
    agents,
    await_agents,
    deploy,
    image,
    look_around,
    running,
    starts,
    talking,
)
from image_world import made
from inside_world import LOOKS, Inside
from kube_world import Namespace, client_seen, curl, namespace, running_cluster, server
from lab_world import eventually

from ovsnet.lab.files import UPLINK_TABLE
from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.lab.underlay import UPLINK

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def inside(world: Namespace) -> Inside:
    made = Inside(world, NODES)
    made.prepare()
    return made


@pytest.mark.parametrize("look", LOOKS)
def test_people_can_ask_from_within(inside: Inside, look: Callable[[Inside], None]) -> None:
    """With the node's own Open vSwitch."""
    look(inside)


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
    wait = ("wait", "--for=condition=Ready", "--timeout=120s", "pods", "-l", SWITCHES)
    cluster.kubectl("-n", HOME, *wait, timeout=130)
    # Other agents come meanwhile: the manifest grants them less.
    await_agents(cluster, 180)
    one, other = (f"web-{name}" for name in NODES)
    for address in world.addresses(other).values():
        eventually(partial(curl, cluster, world.place(one), address))


@pytest.mark.parametrize("look", LOOKS)
def test_people_can_ask_from_within_beside_open_vswitch_of_the_image(
    inside: Inside, look: Callable[[Inside], None]
) -> None:
    """With fewer capabilities, and processes of Open vSwitch that are in other containers."""
    look(inside)


def test_an_upgrade_of_agents_leaves_open_vswitch_alone(
    cluster: Cluster, world: Namespace, tmp_path: Path
) -> None:
    """To another image: of every node's pods that of Open vSwitch stays as it is, and nothing is lost."""
    for name in NODES:
        node = cluster.node(name)
        node.ctr("image", "tag", image(node), NEXT)
    switches, before = starts(cluster, SWITCHES), set(agents(cluster))
    assert [set(each.pids) for each in switches.values()] == [{"ovsdb-server", "ovs-vswitchd"}] * len(NODES)
    with talking(world, *(f"web-{name}" for name in NODES)) as loss:
        deploy(cluster, tmp_path, server_of(cluster), "stateDir=/etc/openvswitch", f"image={NEXT}")
        await_agents(cluster, 180)
    assert loss.none, str(loss)
    assert not before & set(agents(cluster))
    assert images(cluster, AGENTS) == {NEXT}
    assert starts(cluster, SWITCHES) == switches
    assert images(cluster, SWITCHES).isdisjoint({NEXT})
    look_around(cluster)


def images(cluster: Cluster, label: str) -> set[str]:
    pods = running(cluster, label).values()
    return {each["image"] for pod in pods for each in pod["spec"]["containers"]}


def test_an_upgrade_of_open_vswitch_keeps_its_state(cluster: Cluster, world: Namespace) -> None:
    """As docs/kubernetes.md says: one node's pod is deleted. Bridge, ports and flows come back under the same pods."""
    other, name = NODES
    node = cluster.node(name)
    before = starts(cluster, SWITCHES), starts(cluster, AGENTS), installed(node)
    pods = {pod["metadata"]["name"]: pod["status"]["containerStatuses"] for pod in world.get("pods")["items"]}
    chosen = ("-l", SWITCHES, "--field-selector", f"spec.nodeName={name}")
    cluster.kubectl("-n", HOME, "delete", "pod", "--wait=false", *chosen)
    eventually(lambda: not answers(node), 30)
    with address_on_the_uplink(node):
        eventually(partial(answers, node), 120)
    cluster.kubectl("-n", HOME, "wait", "--for=condition=Ready", "--timeout=60s", "pods", "-l", SWITCHES)
    switches, agents_now = starts(cluster, SWITCHES), starts(cluster, AGENTS)
    assert switches[other] == before[0][other]
    assert switches[name].uid != before[0][name].uid
    assert images(cluster, SWITCHES) == {image(node), NEXT}
    assert agents_now == before[1]
    eventually(lambda: installed(node) == before[2], 60)
    for source, target in ((name, other), (other, name)):
        for address in world.addresses(f"web-{target}").values():
            eventually(partial(curl, cluster, world.place(f"web-{source}"), address), 30)
    assert pods == {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"] for pod in world.get("pods")["items"]
    }
    look_around(cluster)


def installed(node: Node) -> tuple[str, ...]:
    """The bridge's identity, its ports' numbers and its flows."""
    rows = ("--columns=name,ofport", "--format=csv", "--no-headings", "list", "Interface")
    commands = (
        ("ovs-vsctl", "get", "Bridge", "br-int", "_uuid"),
        ("ovs-vsctl", *rows),
        ("ovs-ofctl", "-OOpenFlow15", "--no-stats", "--no-names", "dump-flows", "br-int"),
        ("ovs-ofctl", "-OOpenFlow15", "dump-groups", "br-int"),
    )
    return tuple("\n".join(sorted(node.run(each, check=True).stdout.splitlines())) for each in commands)


@contextlib.contextmanager
def address_on_the_uplink(node: Node) -> Iterator[None]:
    """As a node has it whose datapath is the kernel's: that in user space forwards nothing without ovs-vswitchd, and
    nobody could tell the kubelet of another pod."""
    if node.uplink == UPLINK:
        yield
        return
    node.run(["nft", "delete", "table", "netdev", UPLINK_TABLE], check=True)
    lines = [line.replace(f"dev {node.uplink}", f"dev {UPLINK}") for line in node.address_lines()]
    node.ip([f"address flush dev {node.uplink}", *lines])
    yield
    node.ip([f"address flush dev {UPLINK}"])
    node.make_uplink()
