"""Nodes are Ready, and pods that kubelets and containerds start reach one another as themselves."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kube_services import Called
from kube_world import NODES, Namespace, Object, by_family, client_seen, curl, namespace, server
from lab_world import agent_log, eventually, ovsnet_json, reconfigure

from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.node import KUBELET, KubernetesNode

PODS = {f"web-{node[-1]}{number}": node for node in NODES for number in (1, 2)}


@pytest.fixture(scope="module")
def pods(world: Namespace) -> dict[str, dict[int, str]]:
    """Two on each node: their addresses by name."""
    world.start(*(server(name, node) for name, node in PODS.items()))
    return {name: world.addresses(name) for name in PODS}


def test_nodes_are_ready_with_addresses_and_ranges_of_both_families(cluster: Cluster) -> None:
    items = json.loads(cluster.kubectl("get", "nodes", "--output=json").stdout)["items"]
    assert [item["metadata"]["name"] for item in items] == list(NODES)
    for item in items:
        ready = {each["type"]: each["status"] for each in item["status"]["conditions"]}["Ready"]
        addresses = [each["address"] for each in item["status"]["addresses"] if each["type"] == "InternalIP"]
        node = cluster.node(item["metadata"]["name"])
        assert (ready, addresses) == ("True", [str(each) for each in node.addresses])
        assert {*by_family(item["spec"]["podCIDRs"])} == {4, 6}
        shown = ovsnet_json(node, "show")
        assert {port["who"] for port in shown["ports"] if port["role"] == "tunnel"} == {*NODES} - {node.name}


def test_pods_have_addresses_of_their_nodes_ranges(cluster: Cluster, pods: dict[str, dict[int, str]]) -> None:
    assert {version for addresses in pods.values() for version in addresses} == {4, 6}
    every = [address for addresses in pods.values() for address in addresses.values()]
    assert len({*every}) == len(every) == 2 * len(PODS)
    for name, node in PODS.items():
        shown = ovsnet_json(cluster.node(node), "show")["ports"]
        known = {address for port in shown if port["role"] == "pod" for address in port["addresses"]}
        assert {*pods[name].values()} <= known


@pytest.mark.parametrize("version", [4, 6])
def test_every_pod_reaches_every_pod_and_is_seen_as_itself(
    cluster: Cluster, world: Namespace, pods: dict[str, dict[int, str]], version: int
) -> None:
    for source, target in itertools.permutations(PODS, 2):
        address = pods[target][version]
        assert curl(cluster, world.place(source), address) == target, f"{source} -> {target}"
        assert client_seen(cluster, world.place(source), address) == pods[source][version]


@pytest.mark.parametrize("version", [4, 6])
def test_nodes_and_the_control_plane_reach_every_pod(
    cluster: Cluster, pods: dict[str, dict[int, str]], version: int
) -> None:
    for source, target in itertools.product((*NODES, "control"), PODS):
        assert curl(cluster, source, pods[target][version]) == target, f"{source} -> {target}"


def test_a_pod_on_its_nodes_network_reaches_pods(
    cluster: Cluster, world: Namespace, pods: dict[str, dict[int, str]]
) -> None:
    world.start(server("on-node", "node-a", arguments=["pause"], spec={"hostNetwork": True}))
    for target in ("web-a1", "web-b1"):
        for address in pods[target].values():
            command = [
                "curl",
                "-sg",
                "-m5",
                f"http://{f'[{address}]' if ':' in address else address}:8080/hostname",
            ]
            assert world.kubectl("exec", "on-node", "--", *command) == target


def test_kubectl_exec_runs_in_the_pod(world: Namespace, pods: dict[str, dict[int, str]]) -> None:
    assert world.kubectl("exec", "web-b1", "--", "hostname").strip() == "web-b1"
    said = world.kubectl("exec", "-i", "web-c1", "--", "cat", input="through the API server")
    assert said == "through the API server"


def test_kubectl_logs_tells_what_the_pod_said(
    cluster: Cluster, world: Namespace, pods: dict[str, dict[int, str]]
) -> None:
    assert curl(cluster, "node-b", pods["web-b2"][4], "header?key=x") is not None
    eventually(lambda: "GET /header?key=x" in world.kubectl("logs", "web-b2"))


def test_kubectl_port_forward_leads_to_the_pod(
    cluster: Cluster, world: Namespace, pods: dict[str, dict[int, str]]
) -> None:
    arguments = [f"--namespace={world.name}", "port-forward", "pod/web-c2", "18080:8080"]
    process = subprocess.Popen(cluster.kubectl_command(arguments), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "Forwarding from 127.0.0.1:18080" in process.stdout.readline()
        assert curl(cluster, "control", "127.0.0.1", port=18080) == "web-c2"
    finally:
        process.kill()
        process.wait()


def test_the_api_server_is_a_proxy_to_a_pod(cluster: Cluster, world: Namespace, pods: object) -> None:
    path = f"/api/v1/namespaces/{world.name}/pods/web-a2:8080/proxy/hostname"
    assert cluster.kubectl("get", "--raw", path).stdout == "web-a2"


def test_a_kubeconfig_works_from_within_the_lab(cluster: Cluster, kubeconfig: Path) -> None:
    text = kubeconfig.read_text()
    done = cluster.exec(
        "node-c",
        ["sh", "-c", "cat >/tmp/$$ && kubectl --kubeconfig=/tmp/$$ auth whoami; rm /tmp/$$"],
        input=text,
    )
    assert "system:masters" in done.stdout, done.stderr


def test_a_pod_that_goes_leaves_nothing(cluster: Cluster) -> None:
    node = cluster.node("node-a")

    def attached() -> set[str]:
        return {port["who"] for port in ovsnet_json(node, "show")["ports"] if port["role"] == "pod"}

    before = attached()
    with namespace(cluster, "passing") as passing:
        passing.start(server("passing", "node-a"))
        assert attached() - before == {f"{passing.name}/passing"}
        passing.kubectl("delete", "pod", "passing")
    eventually(lambda: attached() <= before)


def test_names_at_their_limits(cluster: Cluster) -> None:
    """Of a namespace, a Service, a port, a zone; of a Pod as long as a kubelet can make its folder of logs, which is
    called NAMESPACE_NAME_UID."""
    label, port = "l" * 63, "port-of-fifteen"
    node = cluster.node("node-b")
    with namespace(cluster, "n" * 56) as long:
        pod = ("p" * 50 + ".").ljust(255 - len(long.name) - len("__") - 36, "p")
        cluster.kubectl("label", "nodes", "--all", f"topology.kubernetes.io/zone={label}")
        try:
            named = [{"name": port, "containerPort": 8080}]
            long.start(server(pod, "node-b", labels={"app": label}, ports=named))
            ports = {"name": label, "port": 80, "targetPort": port}
            called = Called(long)
            address = called.make(label, {"app": label}, ports, trafficDistribution="PreferClose")[6]
            called.await_names(address, {pod[:63]}, sources=["node-a", pod], count=2)
            zones = [{"name": label}]

            def hints() -> list[Object]:
                return [each["hints"] for found in called.slices(label) for each in found["endpoints"]]

            eventually(lambda: [each["forZones"] for each in hints()] == [zones] * 2)
        finally:
            cluster.kubectl("label", "nodes", "--all", "topology.kubernetes.io/zone-")
        argv = ["curl", "-s", "-m5", f"http://{label}/hostname"]
        eventually(lambda: long.kubectl("exec", pod, "--", *argv) == pod[:63])
        assert f"{long.name}/{pod}" in {each["who"] for each in ovsnet_json(node, "show")["ports"]}
        assert f"{long.name}/{label}" in {each["name"] for each in ovsnet_json(node, "show", "services")}
        known = node.run(["ovs-vsctl", "--columns=external_ids", "list", "port"], check=True).stdout
        assert pod in known
        assert long.name in known


def test_forty_pods_at_once(cluster: Cluster) -> None:
    """More than the kubelets start one after the other."""
    with namespace(cluster, "crowd") as crowd:
        names = [f"one-{number}" for number in range(40)]
        crowd.start(*(server(name, arguments=["pause"]) for name in names), seconds=120)
        addresses = [address for name in names for address in crowd.addresses(name).values()]
        assert len({*addresses}) == 2 * len(names)


@pytest.fixture
def hasty(cluster: Cluster) -> Iterator[KubernetesNode]:
    """A node whose agent tells after a second what does not go together."""
    node = cluster.node("node-c")
    store = yaml.safe_load(node.private("/etc/ovsnet/agent.yaml").read_text())["store"]
    reconfigure(node, store={"kubernetes": {**store["kubernetes"], "leftoverAfter": 1}})
    yield node
    reconfigure(node, store=store)


def test_a_pod_that_is_deleted_by_force_while_its_kubelet_is_away(
    hasty: KubernetesNode, world: Namespace
) -> None:
    """Its agent tells of the port that is left over, of nobody else, and that it is over when the kubelet is back."""
    node, numbers = hasty, itertools.count()
    world.start(server("forced", node.name), server("stays", node.name))
    before = len(agent_log(node))

    def said(words: str) -> list[str]:
        lines = agent_log(node)[before:].splitlines()
        # Pods of other tests come to their end beside it.
        return [line for line in lines if words in line and f"{world.name}/" in line]

    def told() -> bool:
        # Or else the server has nothing to say for up to a minute.
        world.kubectl("annotate", "--overwrite", "pod", "stays", f"n={next(numbers)}")
        return bool(said(" is left over: "))

    node.kill(KUBELET)
    try:
        world.kubectl("delete", "pod", "forced", "--force", "--grace-period=0", "--wait=false")
        eventually(told, 20)
    finally:
        node.start(KUBELET)
    eventually(lambda: said(": in order again"), 40)
    (left,) = said(" is left over: ")
    assert f"pod {world.name}/forced: port " in left
    assert "the API server has no Pod of that name on this node; if its sandbox is there, crictl rmp" in left
    assert not said("by the API server's word")
