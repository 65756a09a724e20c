"""`ovsnet doctor` in a lab: nothing wrong first, then one thing of the node at a time."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from cni_world import Cni
from doctor_world import Answer, ask, examined, killed, lab, node
from lab_world import assert_green, eventually, manifest, running

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.model import Encap, Tunnels

__all__ = ["lab", "node"]
pytestmark = pytest.mark.slow


# --- nothing wrong -------------------------------------------------------------------------------


def test_a_healthy_node(lab: Lab) -> None:
    for each in lab.nodes:
        answer = examined(each)
        assert answer.faults == {}
        assert answer.code == 0
        # Whether this machine's clock is kept right, and how full its disks are, is not the lab's.
        assert {
            title for title in answer.warnings if title != "clock" and not title.startswith("disk")
        } == set()
        peer = "node-b" if each.name == "node-a" else "node-a"
        seen = {finding["title"]: finding["seen"] for finding in answer.findings}
        titles = set(seen)
        assert seen["UDP port 4789"].startswith("held by kernel" if each.datapath == "system" else "free")
        for what in ("underlay", "tunnel IPv4", "tunnel IPv6", "TCP IPv4", "TCP IPv6"):
            assert f"peer {peer}: {what}" in titles


def test_for_people(node: Node) -> None:
    done = ask(node, "doctor")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok ") and "1500 bytes pass" in line for line in lines)
    assert lines[-1].startswith("node-a: no faults")


def test_one_peer_only(node: Node) -> None:
    answer = examined(node, "--peer", "nobody")
    assert "peer nobody" in answer.warnings
    assert not [each for each in answer.findings if "node-b" in each["title"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"encap": Encap.GENEVE, "tunnels": Tunnels.FLOW},
        {"encap": Encap.GRE, "families": "4", "underlay": "4"},
        {"families": "6", "underlay": "6"},
        {"underlay": "6", "mtu": 9000},
    ],
    ids=["geneve-flow", "gre", "ipv6", "over-ipv6-jumbo"],
)
def test_a_healthy_node_of_another_kind(options: dict[str, Any]) -> None:
    with running(nodes=2, pods=1, **options) as other:
        assert_green(other)
        answer = examined(other.node("node-a"))
    assert answer.faults == {}
    assert {title for title in answer.warnings if title != "clock" and not title.startswith("disk")} == set()
    families = {"4": [4], "6": [6]}.get(options.get("families", ""), [4, 6])
    titles = {finding["title"] for finding in answer.findings}
    for version in families:
        assert {f"peer node-b: tunnel IPv{version}", f"peer node-b: TCP IPv{version}"} <= titles
    ports = {title for title in titles if title.startswith("UDP port")}
    assert ports == {Encap.GENEVE: {"UDP port 6081"}, Encap.GRE: set()}.get(
        options.get("encap", Encap.VXLAN), {"UDP port 4789"}
    )


# --- daemons -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_agent_killed_and_flow_restore_wait_left(node: Node) -> None:
    with killed(node, AGENT):
        answer = examined(node)
        assert set(answer.faults) <= {"agent", "agent's socket"}
        assert "does not answer on /run/ovsnet/agent.sock" in answer.faults["agent"]
        assert "systemctl" in answer.faults["agent"]
        Cni(node).tool("ovs-vsctl", "set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
        try:
            told = examined(node).faults["flow-restore-wait"]
            command = told.rpartition("or: ")[2]
            assert command == "ovs-vsctl remove Open_vSwitch . other_config flow-restore-wait"
        finally:
            Cni(node).tool("ovs-vsctl", "remove", "Open_vSwitch", ".", "other_config", "flow-restore-wait")
        assert "flow-restore-wait" not in examined(node).faults


@pytest.mark.slow
def test_vswitchd_killed(node: Node) -> None:
    with killed(node, VSWITCHD):
        faults = examined(node).faults
        assert "does not answer" in faults["ovs-vswitchd"]
        assert "ovsdb-server" not in faults
        # What follows from it is not told as if it were a matter of the peers.
        assert not [title for title in faults if title.startswith("peer")]


@pytest.mark.slow
def test_vswitchd_that_hangs(node: Node) -> None:
    node.kill(VSWITCHD, signal.SIGSTOP)
    try:
        answer = examined(node)
        assert "no answer within" in answer.faults["ovs-vswitchd"]
        assert not [title for title in answer.faults if title.startswith("peer")]
    finally:
        node.kill(VSWITCHD, signal.SIGCONT)
    eventually(lambda: not examined(node).faults, 30)


@pytest.mark.slow
def test_ovsdb_killed(node: Node) -> None:
    with killed(node, OVSDB):
        faults = examined(node).faults
        assert "does not answer at unix:/run/openvswitch/db.sock" in faults["ovsdb-server"]
        assert "ovs-vswitchd" not in faults


def test_everything_stopped(lab: Lab) -> None:
    """On a node of its own, for it takes a while until it is as it was."""
    node = lab.add_node()
    try:
        for daemon in (AGENT, VSWITCHD, OVSDB):
            node.kill(daemon)
        assert {"agent", "ovs-vswitchd", "ovsdb-server"} <= set(examined(node).faults)
        done = ask(node, "support-bundle", "--output", "/var/log/stopped.tar.gz")
        assert done.returncode == 0, done.stderr
        # And its peers see that it does not answer.
        faults = examined(lab.node("node-a")).faults
        assert set(faults) == {f"peer {node.name}: underlay"}
        assert "unreachable" in faults[f"peer {node.name}: underlay"]
    finally:
        lab.remove_node(node.name)
    eventually(lambda: not examined(lab.node("node-a")).faults, 20)


# --- the node ------------------------------------------------------------------------------------

HOLD = """
import socket, time
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("0.0.0.0", 4789))
time.sleep(99)
"""


def test_udp_port_taken(node: Node) -> None:
    if node.datapath == "system":
        pytest.skip("the kernel has the port, and nobody else can take it")
    node.launch("holder", [sys.executable, "-I", "-S", "-c", HOLD])
    try:
        eventually(lambda: examined(node).faults)
        faults = examined(node).faults
        assert set(faults) == {"UDP port 4789"}
        assert "held by python" in faults["UDP port 4789"]
    finally:
        node.stop("holder", signal.SIGKILL)


def test_rp_filter(node: Node) -> None:
    # An agent that runs would mend it at once.
    with killed(node, AGENT):
        Cni(node).tool("sysctl", "-w", "net.ipv4.conf.ovsnet0.rp_filter=1")
        assert "rp_filter" in examined(node).faults


def test_disk_full(node: Node) -> None:
    cni = Cni(node)
    cni.tool("mount", "-t", "tmpfs", "-o", "size=64k", "none", "/etc/openvswitch")
    try:
        cni.tool("dd", "if=/dev/zero", "of=/etc/openvswitch/full", "bs=4k", check=False)
        faults = examined(node).faults
        assert set(faults) == {"disk /etc/openvswitch"}
        assert "full" in faults["disk /etc/openvswitch"]
    finally:
        cni.tool("umount", "/etc/openvswitch")


def test_a_second_network_before_ours(node: Node) -> None:
    first = node.private("/etc/cni/net.d") / "05-other.conflist"
    first.write_text('{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}')
    try:
        faults = examined(node).faults
        assert set(faults) == {"CNI network"}
        assert "05-other.conflist comes before 10-ovsnet.conflist" in faults["CNI network"]
    finally:
        first.unlink()


def test_interface_of_another_plugin(node: Node) -> None:
    node.ip(["link add cali0 type veth peer name spare0"])
    try:
        faults = examined(node).faults
        assert set(faults) == {"other plugins"}
        assert "cali0" in faults["other plugins"]
    finally:
        node.ip(["link delete cali0"])


def test_chains_of_another_plugin(node: Node) -> None:
    node.call_on_network(["nft", "add table ip t; add chain ip t cali-FORWARD"], check=True)
    try:
        assert "cali-FORWARD" in examined(node).warnings["other plugins"]
    finally:
        node.call_on_network(["nft", "delete table ip t"], check=True)


def test_agents_socket_open_to_others(node: Node) -> None:
    Cni(node).tool("chmod", "0666", "/run/ovsnet/agent.sock")
    try:
        assert set(examined(node).faults) == {"agent's socket"}
    finally:
        Cni(node).tool("chmod", "0600", "/run/ovsnet/agent.sock")


def test_a_broken_manifest(lab: Lab, node: Node) -> None:
    broken = manifest(lab, "broken")
    broken.write_text("kind: Node\nmetadata: {name: node-z\n")
    try:
        faults = examined(node).faults
        assert set(faults) == {"manifests"}
        assert "broken.yaml" in faults["manifests"]
    finally:
        broken.unlink()


def test_a_broken_configuration(node: Node) -> None:
    Path(node.private("/etc/ovsnet/broken.yaml")).write_text("vni: many\nnodeName: node-a\n")
    answer = Answer(
        1,
        json.loads(ask(node, "doctor", "-o", "json", "-c", "/etc/ovsnet/broken.yaml").stdout)["findings"],
        0,
    )
    assert "vni" in answer.faults["configuration"]
    # The rest of the node is looked at all the same.
    assert "ovs-vswitchd" not in answer.faults
