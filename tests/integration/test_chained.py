"""ovsnet in front of the reference plugins: hostPort by portmap, limits by bandwidth, sysctls by tuning."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from lab_world import eventually, fetch, ovsnet_json, running, seen

from ovsnet.lab.cni_runner import CniError
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.pods import Pod
from ovsnet.lab.spec import outside_interface
from ovsnet.lab.state import write_atomically
from ovsnet.pipeline import PORT_CLIENT

HOST_PORT = 8080
PORTS = [{"hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp"}]
SYSCTL = {"net.core.somaxconn": "517", "net.ipv4.ip_unprivileged_port_start": "80"}
MEGABITS = 20
BURST = 2_000_000
"""Bits; small against what is sent while measuring."""
VERSIONS = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=1) as lab:
        for node in lab.nodes:
            path = node.private("/etc/cni/net.d/10-ovsnet.conflist")
            document = json.loads(path.read_text())
            document["plugins"].append({"type": "tuning", "sysctl": SYSCTL})
            path.write_text(json.dumps(document))
        lab.add_pod("node-a", "a2")
        lab.add_pod("node-b", "web", portMappings=PORTS)
        lab.add_pod("node-b", "beside")
        yield lab


def rules(node: Node) -> str:
    """The packet filter as a whole, without counters."""
    text = node.run(["nft", "list", "ruleset"], check=True).stdout
    return re.sub(r"counter packets \d+ bytes \d+", "counter", text)


def shapers(node: Node) -> list[str]:
    done = node.run(["tc", "qdisc", "show"], check=True)
    return [line for line in done.stdout.splitlines() if "tbf" in line or "ingress" in line]


@VERSIONS
@pytest.mark.parametrize("source", ["outside", "a1", "node-a"])
def test_a_host_port_is_reached_from_elsewhere(lab: Lab, source: str, version: int) -> None:
    answer = fetch(lab, source, lab.node("node-b").node.address(version), port=HOST_PORT)
    assert answer is not None
    assert answer["name"] == "web"


@VERSIONS
def test_who_the_pod_behind_a_host_port_sees(lab: Lab, version: int) -> None:
    """The outside as itself. Pods and nodes as another: to their own addresses answers would take the tunnel."""
    node = lab.node("node-b").node
    outside = seen(lab, "outside", node.address(version), port=HOST_PORT)
    assert outside == str(outside_interface(version).ip)
    for source in ("a1", "node-a", "beside"):
        assert seen(lab, source, node.address(version), port=HOST_PORT) == str(PORT_CLIENT.of(version))


@VERSIONS
def test_a_host_port_is_no_way_around_policies(lab: Lab, version: int) -> None:
    """Whoever comes through it is not the pod's own node, which reaches the pod whatever policies say."""
    address = lab.node("node-b").node.address(version)
    others = ("outside", "a1", "node-a", "beside", "web")

    def reached() -> set[str]:
        found = {each: fetch(lab, each, address, port=HOST_PORT, wait=0.5) for each in (*others, "node-b")}
        return {each for each, answer in found.items() if answer is not None}

    with policy(lab, {"podSelector": {}, "policyTypes": ["Ingress"]}):
        eventually(lambda: fetch(lab, "outside", address, port=HOST_PORT, wait=0.3) is None)
        assert reached() == {"node-b"}
    with policy(lab, {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": network(version)}}]}]}):
        eventually(lambda: reached() == {"a1", "node-a", "beside", "web", "node-b"}, 10.0)


def network(version: int) -> str:
    return str(ip_network(PORT_CLIENT.of(version)))


@contextlib.contextmanager
def policy(lab: Lab, spec: dict[str, Any]) -> Iterator[None]:
    path = lab.folder.path / "cluster" / "policy.json"
    document = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "default"},
        "spec": spec,
    }
    write_atomically(path, json.dumps(document))
    try:
        yield
    finally:
        path.unlink()


@VERSIONS
@pytest.mark.parametrize("source", ["beside", "web", "node-b"])
def test_a_host_port_is_reached_from_its_own_node(lab: Lab, source: str, version: int) -> None:
    answer = fetch(lab, source, lab.node("node-b").node.address(version), port=HOST_PORT)
    assert answer is not None
    assert answer["name"] == "web"


def test_tuning_sets_what_it_is_told(lab: Lab) -> None:
    for key, value in SYSCTL.items():
        done = lab.exec("a2", ["cat", f"/proc/sys/{key.replace('.', '/')}"])
        assert done.stdout.strip() == value


def test_check_is_content_and_finds_what_is_amiss(lab: Lab) -> None:
    pod = lab.pod("a2")
    document = json.loads(pod.node.private("/etc/cni/net.d/10-ovsnet.conflist").read_text())
    # The bandwidth plugin of Debian 12 crashes in CHECK where no limit was asked for.
    document["plugins"] = [plugin for plugin in document["plugins"] if plugin["type"] != "bandwidth"]
    path = pod.node.private("/etc/cni/net.d/05-check.conflist")
    path.write_text(json.dumps(document))
    try:
        pod.node.runner.check(pod.pod.container, pod.netns)
        lab.exec("a2", ["ip", "address", "delete", f"{pod.address(4)}/24", "dev", "eth0"])
        with pytest.raises(CniError, match="ovsnet"):
            pod.node.runner.check(pod.pod.container, pod.netns)
    finally:
        path.unlink()
        lab.remove_pod("a2")
        lab.add_pod("node-a", "a2")


def throughput(lab: Lab, sender: str, receiver: Pod) -> float:
    """Megabits a second over TCP, after the burst."""
    server = subprocess.Popen(
        receiver.command(["iperf3", "-s", "-1"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        listening = ["ss", "-Htln", "sport = 5201"]
        eventually(lambda: lab.exec(receiver.name, listening).stdout)
        command = ["iperf3", "-J", "-t2", "-O1", "-c", str(receiver.address(4))]
        done = lab.exec(sender, command)
        assert done.returncode == 0, done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_bandwidth_limits_what_a_pod_gets_and_sends(lab: Lab) -> None:
    limits = {"Rate": MEGABITS * 1_000_000, "Burst": BURST}
    bandwidth = {f"{way}{what}": number for way in ("ingress", "egress") for what, number in limits.items()}
    node = lab.node("node-a")
    before = shapers(node)
    limited = lab.add_pod("node-a", "limited", bandwidth=bandwidth)
    try:
        assert (
            len(shapers(node)) == len(before) + 3
        )  # tbf on the host end and on the ifb, and what feeds that
        limited.node.runner.check(limited.pod.container, limited.netns)
        assert MEGABITS * 0.5 < throughput(lab, "a2", limited) < MEGABITS * 1.3
        # The plugin limits what a pod sends behind the place where Open vSwitch in user space takes it.
        if lab.state.datapath == "system":
            assert MEGABITS * 0.5 < throughput(lab, "limited", lab.pod("a2")) < MEGABITS * 1.3
    finally:
        lab.remove_pod("limited")
    assert shapers(node) == before
    assert node.run(["ip", "-o", "link", "show", "type", "ifb"]).stdout == ""


def test_del_takes_everything_back(lab: Lab) -> None:
    node = lab.node("node-a")
    before = leftovers(node)
    lab.add_pod(
        "node-a",
        "brief",
        portMappings=[{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}],
        bandwidth={"ingressRate": 10**7, "ingressBurst": BURST},
    )
    assert fetch(lab, "outside", "192.0.2.11", port=8081)["name"] == "brief"
    assert "8081" in rules(node)
    lab.remove_pod("brief")
    eventually(lambda: leftovers(node) == before)
    assert "8081" not in rules(node)
    assert fetch(lab, "outside", "192.0.2.11", port=8081, wait=0.5) is None


def leftovers(node: Node) -> tuple[object, ...]:
    """What a pod may leave behind; portmap's own chains are there from its first use on."""
    shown = ovsnet_json(node, "show")
    used = [port["name"] for port in shown["ports"] if port["role"] == "pod"]
    flows = len(ovsnet_json(node, "flows"))
    cache = sorted(path.name for path in node.private("/var/lib/cni").glob("results/*"))
    portmap = [line for line in rules(node).splitlines() if "CNI-DN-" in line]
    return used, flows, cache, portmap, shapers(node)
