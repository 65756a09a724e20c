"""What only the kernel's datapath shows: the flows that it caches, and what goes on without ovs-vswitchd."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from lab_world import eventually, fetch, reaches, running

from ovsnet.host.datapath import kernel_has_openvswitch
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, VSWITCHD, Node

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not kernel_has_openvswitch(), reason="this kernel has no openvswitch; see --in-kernel"
    ),
]
VERSIONS = pytest.mark.parametrize("version", [4, 6])
PORTS = re.compile(r"\b(tcp|udp|sctp|ct_\w+)\(")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2, datapath="system") as lab:
        yield lab


def cached(node: Node) -> list[str]:
    done = node.run(["ovs-appctl", "dpctl/dump-flows", "--names"], check=True)
    return done.stdout.splitlines()


def between(lab: Lab, node: Node, source: str, target: str, version: int) -> list[str]:
    """The node's cached flows that TCP between two pods meets, either way."""
    ends = [port(lab, node, name) for name in (source, target)]
    kind = "eth_type(0x0800)" if version == 4 else "eth_type(0x86dd)"
    found = [flow for flow in cached(node) if kind in flow and "proto=58" not in flow]
    return [flow for flow in found if any(f"in_port({end})" in flow for end in ends)]


def port(lab: Lab, node: Node, pod: str) -> str:
    """What the node's datapath calls the way to the pod: its own port, or the tunnel's."""
    found = lab.pod(pod)
    result = found.result()
    assert result is not None
    return str(result["interfaces"][0]["name"]) if found.node.name == node.name else "vxlan_sys_4789"


CONNECT = """
import socket, sys
host, count = sys.argv[1], int(sys.argv[2])
for _ in range(count):
    with socket.create_connection((host, 80), timeout=20):
        pass
"""


def connect(lab: Lab, source: str, target: object, count: int) -> None:
    command = [sys.executable, "-I", "-S", "-c", CONNECT, str(target), str(count)]
    done = lab.exec(source, command, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_bridge_is_in_the_kernel(lab: Lab) -> None:
    shown = lab.run("node-a", ["ovs-dpctl", "show"]).stdout
    assert "system@ovs-system" in shown
    for name in ("ovsnet0", "vxlan_sys_4789", port(lab, lab.node("node-a"), "a1")):
        assert f" {name}" in shown


@pytest.mark.parametrize(
    ("target", "version", "count"),
    [("a2", 4, 1000), ("a2", 6, 100), ("b1", 4, 100), ("b1", 6, 1000)],
    ids=["near-4", "near-6", "far-4", "far-6"],
)
def test_a_thousand_connections_share_their_flows(lab: Lab, target: str, version: int, count: int) -> None:
    """One each way, without ports or conntrack; four leave room for what the connections before have left."""
    source = "a1"
    connect(lab, source, lab.pod(target).address(version), count)
    for node in {lab.pod(name).node.name: lab.pod(name).node for name in (source, target)}.values():
        flows = between(lab, node, source, target, version)
        assert 2 <= len(flows) <= 4, flows
        assert not [flow for flow in flows if PORTS.search(flow.partition(" actions:")[0])], flows
        assert not [flow for flow in flows if "userspace(" in flow], flows


@VERSIONS
def test_pods_answer_solicitations_themselves(lab: Lab, version: int) -> None:
    """In IPv6, and truthfully; in IPv4 the switch does."""
    address = lab.pod("a2").address(version)
    lab.exec("a1", ["ip", "neighbour", "flush", "dev", "eth0"])
    assert fetch(lab, "a1", address)
    known = lab.exec("a1", ["ip", "neighbour", "show", str(address)]).stdout
    own = lab.exec("a2", ["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    assert own in known


@VERSIONS
def test_the_node_knows_its_neighbours(lab: Lab, version: int) -> None:
    """Its own pods, which answer it, and the router towards peers, which can't."""
    lab.run("node-a", ["ip", "neighbour", "flush", "dev", "ovsnet0"])
    assert fetch(lab, "node-a", lab.pod("a1").address(version))
    assert fetch(lab, "node-a", lab.pod("b1").address(version))


def test_traffic_goes_on_while_ovs_vswitchd_is_away(lab: Lab) -> None:
    """What has a flow in the kernel needs nobody."""
    node = lab.node("node-a")
    targets = [lab.pod(name).address(version) for name in ("a2", "b1") for version in (4, 6)]
    assert reaches(lab, "a1", targets)
    pings = [
        subprocess.Popen(
            lab.command("a1", ["ping", "-n", "-q", "-i0.1", str(target)]), stdout=subprocess.PIPE, text=True
        )
        for target in targets
    ]
    try:
        time.sleep(2)
        node.kill(VSWITCHD, signal.SIGKILL)
        time.sleep(3)
    finally:
        for ping in pings:
            ping.send_signal(signal.SIGINT)
        said = [ping.communicate()[0] for ping in pings]
        node.start(VSWITCHD)
    assert [words for words in said if " 0% packet loss" not in words] == []
    eventually(lambda: reaches(lab, "a1", targets))


def test_traffic_goes_on_while_the_agent_is_away(lab: Lab) -> None:
    node, targets = lab.node("node-a"), [lab.pod(name).address(6) for name in ("a2", "b1")]
    node.kill(AGENT, signal.SIGKILL)
    try:
        lab.exec("a1", ["ip", "neighbour", "flush", "dev", "eth0"])
        assert reaches(lab, "a1", targets)
    finally:
        node.start(AGENT)
