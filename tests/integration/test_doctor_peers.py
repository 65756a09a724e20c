"""`ovsnet doctor` about what is between the nodes, and `ovsnet support-bundle`."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cni_world import Cni
from doctor_world import OVSNET, ask, examined, lab, node
from lab_world import eventually, manifest

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.underlay import port_of

__all__ = ["lab", "node"]
pytestmark = pytest.mark.slow


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


def test_support_bundle_where_nothing_can_be_written(node: Node) -> None:
    """As in the agent's container."""
    words = f"mount -t tmpfs -o ro none /mnt && cd /mnt && {OVSNET} support-bundle -c /nowhere.yaml"
    done = node.run(["unshare", "-m", "env", "TMPDIR=/var/log", "sh", "-c", words])
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1]
    assert said.startswith("/var/log/ovsnet-support-node-a-"), said
