"""`ovsnet doctor` and `ovsnet support-bundle` in a lab: nothing wrong first, then one thing at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cni_world import Cni
from lab_world import assert_green, eventually, manifest, running

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.lab.state import Completed
from ovsnet.lab.underlay import port_of
from ovsnet.model import Encap, Tunnels

OVSNET = "/run/ovsnet/bin/ovsnet"
LIMIT = 10.0
"""Seconds that the doctor may take, whatever is broken."""

pytestmark = pytest.mark.slow


class Answer(NamedTuple):
    code: int
    findings: list[dict[str, str]]
    seconds: float

    def of(self, level: str) -> dict[str, str]:
        """Titles with what was seen and what to do; what is told twice under one title is joined."""
        found: dict[str, str] = {}
        for each in self.findings:
            if each["level"] == level:
                words = f"{each['seen']} -> {each['todo']}"
                found[each["title"]] = f"{found[each['title']]}\n{words}" if each["title"] in found else words
        return found

    @property
    def faults(self) -> dict[str, str]:
        return self.of("fault")

    @property
    def warnings(self) -> dict[str, str]:
        return self.of("warning")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=1) as lab:
        assert_green(lab)
        yield lab


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("node-a")


def ask(node: Node, *arguments: str) -> Completed:
    done = node.run([OVSNET, *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return done


def examined(node: Node, *arguments: str) -> Answer:
    start = time.monotonic()
    done = ask(node, "doctor", "-o", "json", *arguments)
    seconds = time.monotonic() - start
    assert seconds < LIMIT, f"{seconds:.1f} s: {done.stdout}"
    said: dict[str, Any] = json.loads(done.stdout)
    answer = Answer(done.returncode, said["findings"], seconds)
    assert said["faults"] == sum(each["level"] == "fault" for each in answer.findings)
    assert (done.returncode == 1) == bool(said["faults"])
    assert not [each for each in answer.findings if each["seen"].startswith("not checked")], done.stdout
    return answer


@contextlib.contextmanager
def killed(node: Node, daemon: str) -> Iterator[None]:
    node.kill(daemon)
    try:
        yield
    finally:
        node.start(daemon)
        node.await_agent(30)
        eventually(lambda: not examined(node).faults, 20)


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


# --- between the nodes ---------------------------------------------------------------------------


def test_underlay_with_a_smaller_mtu(lab: Lab, node: Node) -> None:
    port = port_of(lab.node("node-b").node)
    lab.underlay.ip([f"link set {port} mtu 1400"])
    try:
        faults = examined(node).faults
        assert (
            "packets of 1500 bytes, the uplink's MTU, do not pass; 1400 bytes do"
            in faults["peer node-b: underlay"]
        )
        # What is 1400 outside is 1350 inside.
        assert "mtu: 1350" in faults["peer node-b: tunnel IPv4"]
        assert "mtu: 1350" in faults["peer node-b: tunnel IPv6"]
        assert all(title.startswith("peer node-b") for title in faults)
    finally:
        lab.underlay.ip([f"link set {port} mtu 1500"])
    eventually(lambda: not examined(node).faults)


def test_peer_unreachable(lab: Lab, node: Node) -> None:
    port = port_of(lab.node("node-b").node)
    lab.underlay.ip([f"link set {port} down"])
    try:
        answer = examined(node)
        assert set(answer.faults) == {"peer node-b: underlay"}
        assert "192.0.2.12" in answer.faults["peer node-b: underlay"]
    finally:
        lab.underlay.ip([f"link set {port} up"])
    eventually(lambda: not examined(node).faults, 20)


def test_no_route_to_a_peer(lab: Lab, node: Node) -> None:
    far = manifest(lab, "far")
    far.write_text(
        manifest(lab, "node-b").read_text().replace("node-b", "far").replace("192.0.2.12", "203.0.113.7")
        .replace("2001:db8:0:1::12", "2001:db8:9::7").replace("10.244.2.", "10.244.9.").replace("244:2:", "244:9:")
    )  # fmt: skip
    node.ip(["route add unreachable 203.0.113.7"])
    try:
        eventually(lambda: "peer far: route" in examined(node).faults)
        faults = examined(node).faults
        assert set(faults) == {"peer far: route"}
        assert faults["peer far: route"].startswith("there is no route to 203.0.113.7 ->")
    finally:
        far.unlink()
        node.ip(["route del unreachable 203.0.113.7"])
    eventually(lambda: not examined(node).faults, 20)


@pytest.mark.parametrize("version", [4, 6])
def test_the_nodes_address_twice(lab: Lab, node: Node, version: int) -> None:
    interface = node.node.interface(version)
    address = f"{interface} dev eth0{' nodad' if version == 6 else ''}"
    lab.outside.ip([f"address add {address}"])
    try:
        mac = Path(lab.outside.root / "sys/class/net/eth0/address").read_text().strip()
        faults = examined(node).faults
        assert mac in faults[f"address {interface.ip}"]
    finally:
        lab.outside.ip([f"address del {interface} dev eth0"])
        lab.node("node-b").call_on_network(["ip", "neigh", "flush", "dev", node.uplink])
    eventually(lambda: not examined(node).faults, 20)


@contextlib.contextmanager
def rewritten(node: Node, match: str, change: str) -> Iterator[None]:
    """What arrives at the node from the pod network is changed before its kernel looks at it."""
    hook = "type filter hook ingress device ovsnet0 priority 0"
    rules = f"table netdev spoil {{\nchain in {{\n{hook};\n{match} {change}\n}}\n}}\n"
    node.call_on_network(["nft", "-f", "-"], rules, check=True)
    try:
        yield
    finally:
        node.call_on_network(["nft", "delete table netdev spoil"], check=True)


WRONG = "tcp checksum set 0xdead"
UNCHECKED = "between namespaces the kernel's datapath hands packets over as checked, and nobody looks again"
OF_THE_KERNEL = "tcp dport 10250 tcp window != 1024"
"""The SYN whose checksum is computed in software has a window that no kernel announces."""


def test_checksums_of_this_node_are_wrong(lab: Lab, node: Node) -> None:
    """As when an interface does not compute what the kernel has left to it."""
    if node.datapath == "system":
        pytest.skip(UNCHECKED)
    with rewritten(lab.node("node-b"), OF_THE_KERNEL, WRONG):
        faults = examined(node).faults
    assert set(faults) == {"peer node-b: TCP IPv4", "peer node-b: TCP IPv6"}
    assert "offload breaks it" in faults["peer node-b: TCP IPv4"]


def test_checksums_of_the_peer_are_wrong(lab: Lab, node: Node) -> None:
    if node.datapath == "system":
        pytest.skip(UNCHECKED)
    with rewritten(node, "tcp sport 10250", WRONG):
        faults = examined(node).faults
    assert set(faults) == {"peer node-b: TCP IPv4", "peer node-b: TCP IPv6"}
    assert "on node-b: ethtool" in faults["peer node-b: TCP IPv6"]


def test_tcp_that_is_dropped(lab: Lab, node: Node) -> None:
    with rewritten(lab.node("node-b"), "tcp dport 10250", "drop"):
        answer = examined(node)
    assert answer.faults == {}
    assert "firewall" in answer.warnings["peer node-b: TCP IPv4"]


# --- the bundle ----------------------------------------------------------------------------------


def unpacked(archive: Path) -> dict[str, str]:
    """Text by name, without the folder that all is in."""
    found = {}
    with tarfile.open(archive) as opened:
        for each in opened.getmembers():
            content = opened.extractfile(each)
            assert content is not None
            found[each.name.partition("/")[2]] = content.read().decode()
    return found


def test_support_bundle(lab: Lab, node: Node, tmp_path: Path) -> None:
    secret = "swordfish"
    folder, cni = node.private("/var/log"), Cni(node)
    (folder / "mine.log").write_text(f"first\nsent password={secret}\n")
    shown = manifest(lab, "node-a")
    before = shown.read_text()
    shown.write_text(before.replace("metadata:", f"metadata:\n  annotations: {{join/token: {secret}}}"))
    cni.tool("ovs-vsctl", "set", "Open_vSwitch", ".", f"external_ids:ipsec_psk={secret}")
    try:
        arguments = [
            "support-bundle",
            "--output",
            "/var/log/b.tar.gz",
            "--log",
            "/var/log/mine.log",
            "--log",
            "/etc/shadow",
        ]
        done = ask(node, *arguments)
        assert done.returncode == 0, done.stderr
        archive = folder / "b.tar.gz"
        assert archive.stat().st_mode & 0o777 == 0o600
        assert "/var/log/b.tar.gz" in done.stdout
        before_again = archive.read_bytes()
        again = ask(node, *arguments)
        assert again.returncode == 1
        assert "exists already" in again.stderr
        assert archive.read_bytes() == before_again
    finally:
        shown.write_text(before)
        cni.tool("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "ipsec_psk")
    assert [each for each in os.listdir(folder) if "b.tar.gz" in each] == ["b.tar.gz"]
    files = unpacked(archive)
    for name in files:
        assert secret not in files[name], name
        assert f"  {name}" in done.stdout
    assert json.loads(files["doctor.json"])["node"] == "node-a"
    assert json.loads(files["show.json"])["healthy"]
    assert "pod default/a1" in files["flows.txt"]
    assert "(hidden)" in files["ovs/ovsdb-dump.json"]
    assert '["key", "77"]' in files["ovs/ovsdb-dump.json"]
    assert "br-int" in files["ovs/vsctl-show.txt"]
    assert "cookie=" in files["ovs/ofctl-dump-flows.txt"]
    assert "10.244.1.1" in files["kernel/ip-address.txt"]
    assert "table inet ovsnet" in files["kernel/nft.txt"]
    assert "node-a" in files["config/agent.yaml"]
    assert "join/token: (hidden)" in files["config/manifests/node-a.yaml"]
    assert files["logs/mine.log"] == "first\nsent password=(hidden)\n"
    assert "left out" in files["logs/shadow"]
    assert "root:" not in files["logs/shadow"]
    # A tool that this machine has not, or that fails, is told in its place.
    assert all(files[name].strip() for name in files)


def test_support_bundle_named_after_node_and_time(node: Node) -> None:
    done = node.run(["sh", "-c", f"cd /var/log && {OVSNET} support-bundle -c /nowhere.yaml"])
    assert done.returncode == 0, done.stderr
    assert list(node.private("/var/log").glob("ovsnet-support-node-a-*Z.tar.gz"))
