"""The plain CNI runner, with plugins that write down what they are given, and with the reference plugins."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovsnet.lab import files
from ovsnet.lab.cni_runner import CniError, Runner
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.spec import LabError, LabSpec

RECORDER = f"""#!{sys.executable} -IS
import json, os, sys
config = json.load(sys.stdin)
command, plugin = os.environ["CNI_COMMAND"], config["type"]
call = {{"plugin": plugin, "command": command, "config": config,
        "environment": {{key: value for key, value in os.environ.items() if key.startswith("CNI_")}}}}
with open(os.environ["RECORD"], "a") as file:
    print(json.dumps(call), file=file)
if config.get("refuse") == command:
    sys.exit(print(json.dumps({{"cniVersion": "1.0.0", "code": 11, "msg": "not now", "details": "full"}})) or 1)
if config.get("crash") == command:
    sys.exit("traceback")
if command == "ADD":
    ips = config.get("prevResult", {{}}).get("ips", []) + [{{"address": plugin}}]
    print(json.dumps({{"cniVersion": config["cniVersion"], "ips": ips}}))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("etc/cni/net.d", "opt/cni/bin", "var/lib/cni"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("first", "second"):
        path = tmp_path / "opt/cni/bin" / name
        path.write_text(RECORDER)
        path.chmod(0o755)
    monkeypatch.setenv("RECORD", str(tmp_path / "calls"))
    return tmp_path


class InFolder(Runner):
    """Plugins are looked for and run below the root, without namespaces."""

    def find(self, plugin: str) -> str:
        return str(self.root) + super().find(plugin)


def configure(root: Path, *, version: str = "1.1.0", **second: Any) -> Runner:
    plugins = [
        {"type": "first", "capabilities": {"ips": True, "mac": False}},
        {"type": "second", "setting": 1, **second},
    ]
    document = {"cniVersion": version, "name": "net", "plugins": plugins}
    (root / "etc/cni/net.d/10-net.conflist").write_text(json.dumps(document))
    return InFolder(root)


def calls(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "calls").read_text().splitlines()]


def test_add_runs_the_chain_in_order_and_hands_results_on(root: Path) -> None:
    runner = configure(root)
    args, runtime = {"K8S_POD_NAME": "a1"}, {"ips": ["10.0.0.9/24"], "mac": "0a:00:00:00:00:01"}
    result = runner.add("c1", "/run/netns/a1", "eth0", args, runtime)
    assert [entry["address"] for entry in result["ips"]] == ["first", "second"]
    first, second = calls(root)
    assert first["environment"] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/a1",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAME=a1",
        "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    }
    assert first["config"] == {
        "type": "first",
        "cniVersion": "1.1.0",
        "name": "net",
        "runtimeConfig": {"ips": ["10.0.0.9/24"]},
    }
    assert second["config"]["prevResult"] == {"cniVersion": "1.1.0", "ips": [{"address": "first"}]}
    assert "runtimeConfig" not in second["config"]
    assert runner.result("c1") == result


def test_check_and_delete_get_the_last_result_and_delete_goes_backwards(root: Path) -> None:
    runner = configure(root)
    result = runner.add("c1", "/n", "eth0", {"A": "1"}, {"ips": ["10.0.0.9/24"]})
    runner.check("c1", "/n")
    runner.delete("c1", "")
    made = calls(root)[2:]
    assert [(call["command"], call["plugin"]) for call in made] == [
        ("CHECK", "first"),
        ("CHECK", "second"),
        ("DEL", "second"),
        ("DEL", "first"),
    ]
    assert all(call["config"]["prevResult"] == result for call in made)
    assert all(call["environment"]["CNI_ARGS"] == "A=1" for call in made)
    assert made[3]["config"]["runtimeConfig"] == {"ips": ["10.0.0.9/24"]}
    assert runner.result("c1") is None


def test_a_refusal_is_told_with_its_code_and_nothing_is_kept(root: Path) -> None:
    runner = configure(root, refuse="ADD")
    with pytest.raises(CniError, match="second: code 11: not now") as caught:
        runner.add("c1", "/n")
    assert (caught.value.code, caught.value.details) == (11, "full")
    assert runner.result("c1") is None


def test_a_crash_is_told_with_its_output(root: Path) -> None:
    with pytest.raises(CniError, match="code 999") as caught:
        configure(root, crash="DEL").delete("c1", "")
    assert "traceback" in caught.value.details


def test_gc_deletes_what_is_not_listed_and_passes_the_list_on(root: Path) -> None:
    runner = configure(root)
    runner.add("c1", "/n")
    runner.add("c2", "/n")
    runner.collect([("c2", "eth0")])
    made = calls(root)[4:]
    assert [call["command"] for call in made] == ["DEL", "DEL", "GC", "GC"]
    assert made[2]["config"]["cni.dev/valid-attachments"] == [{"containerID": "c2", "ifname": "eth0"}]
    assert runner.result("c1") is None
    assert runner.result("c2") is not None


def test_status_asks_every_plugin(root: Path) -> None:
    configure(root).status()
    assert [call["command"] for call in calls(root)] == ["STATUS", "STATUS"]
    with pytest.raises(CniError, match="STATUS by second: code 11"):
        configure(root, refuse="STATUS").status()


def test_older_lists_are_asked_neither_status_nor_gc(root: Path) -> None:
    runner = configure(root, version="1.0.0")
    runner.status()
    runner.collect([])
    assert not (root / "calls").exists()


def test_a_missing_plugin_and_a_missing_configuration_are_named(root: Path) -> None:
    with pytest.raises(LabError, match=r"/etc/cni/net.d"):
        InFolder(root).network()
    runner = configure(root)
    (root / "opt/cni/bin/second").unlink()
    with pytest.raises(LabError, match="second is in none of"):
        runner.add("c1", "/n")


# The reference plugins on a tunnel made by hand: the lab's own ground, without ovsnet.


def by_hand(node: Node, peer: Node) -> None:
    """A reference network: ptp with host-local, a Geneve port to the peer and a route to its pods over it."""
    me, other = node.node, peer.node
    subnets = [{"subnet": str(me.pod_range(4))}]
    ipam = {"type": "host-local", "ranges": [subnets], "routes": [{"dst": "0.0.0.0/0"}]}
    conflist = {"cniVersion": "1.0.0", "name": "ref", "plugins": [{"type": "ptp", "mtu": 1442, "ipam": ipam}]}
    (node.private("/etc/cni/net.d") / "10-ref.conflist").write_text(json.dumps(conflist))
    script = f"""set -e
    ovs-vsctl --timeout=20 add-br br-int -- set bridge br-int datapath_type=netdev \
      -- set interface br-int mtu_request=1442 -- add-port br-int to-peer \
      -- set interface to-peer type=geneve options:remote_ip={other.address(4)} options:key=7
    ip link set br-int up
    ip address add 172.16.0.{me.index + 1}/24 dev br-int
    ip address add {me.gateway(4)}/32 dev br-int
    ip route add {other.pod_range(4)} via 172.16.0.{other.index + 1} src {me.gateway(4)}
    echo 1 > /proc/sys/net/ipv4/ip_forward
    nft add table inet ref
    nft 'add chain inet ref nat {{ type nat hook postrouting priority 100; }}'
    nft add rule inet ref nat oif br-phy ip daddr 192.0.2.1 masquerade
    """
    node.run(["sh", "-c", script], check=True, env=files.shell_environment())


@pytest.fixture(scope="module")
def reference() -> Iterator[Lab]:
    lab = Lab(f"t-{uuid.uuid4().hex[:8]}", LabSpec(nodes=2, pods=0, plugin="none", families="4"))
    try:
        lab.up()
        first, second = lab.nodes
        by_hand(first, second)
        by_hand(second, first)
        for node in ("node-a", "node-a", "node-b"):
            lab.add_pod(node)
        yield lab
    finally:
        lab.down()


def test_every_path_is_green_and_full_size(reference: Lab) -> None:
    report = reference.check()
    assert report.ok, "\n".join(map(str, report.failures))
    assert {result.size for result in report.results if result.source in ("a1", "a2", "b1")} == {1442}
    assert {result.protocol for result in report.cell("a1", "b1")} == {"tcp", "udp", "ping"}
    assert {result.protocol for result in report.cell("a1", "outside")} == {"tcp", "udp", "ping"}


def test_pods_know_names(reference: Lab) -> None:
    for name in ("b1", "a2", "node-b", "outside"):
        done = reference.exec("a1", ["ping", "-c1", "-W2", name])
        assert done.returncode == 0, done.stdout + done.stderr
    assert "eth0" in reference.exec("a1", ["ls", "/sys/class/net"]).stdout


def test_the_web_server_tells_who_called(reference: Lab) -> None:
    fetch = "import urllib.request as u; print(u.urlopen('http://b1/', timeout=5).read().decode())"
    told = json.loads(reference.exec("a1", [sys.executable, "-c", fetch]).stdout)
    assert told["name"] == "b1"
    assert told["client"] == str(reference.pod("a1").address(4))


def test_a_wrong_mtu_and_a_masqueraded_pod_turn_red(reference: Lab) -> None:
    node = reference.node("node-b")
    node.run(["ovs-vsctl", "set", "interface", "br-int", "mtu_request=1400"], check=True)
    node.run(["nft", "insert", "rule", "inet", "ref", "nat", "oif", "br-int", "masquerade"], check=True)
    try:
        failures = [str(failure) for failure in reference.check(seconds=2).failures]
    finally:
        node.run(["ovs-vsctl", "set", "interface", "br-int", "mtu_request=1442"], check=True)
        node.run(["nft", "flush", "chain", "inet", "ref", "nat"], check=True)
        rule = "add rule inet ref nat oif br-phy ip daddr 192.0.2.1 masquerade"
        node.run(["nft", *rule.split()], check=True)
    assert any("b1 -> a1" in each and "instead of 10.244.2." in each for each in failures), failures
    assert any("udp over IPv4" in each and "1442 bytes" in each for each in failures), failures
    assert not any("a1 -> a2" in each for each in failures)


def test_up_mends_pods_and_only_them(reference: Lab) -> None:
    pod = reference.pod("a1")
    pod.node.stop(pod.sandbox, signal.SIGKILL)
    assert reference.up() == ["pod a1"]
    pod.node.run(["ip", "link", "delete", "eth0"], netns=pod.netns, check=True)
    assert reference.up() == ["pod a1"]
    assert reference.up() == []
    assert reference.check().ok


def test_a_pod_comes_and_goes(reference: Lab) -> None:
    pod = reference.add_pod("node-b", "extra")
    assert reference.exec("a1", ["ping", "-c1", "-W2", "extra"]).returncode == 0
    with pytest.raises(LabError, match="taken"):
        reference.add_pod("node-a", "extra")
    reference.remove_pod("extra")
    assert "extra" not in reference.state.pods
    assert not os.path.exists(pod.node.root / "run/netns/extra")
    assert pod.result() is None
    assert reference.up() == []


def test_a_refused_pod_leaves_nothing(reference: Lab) -> None:
    conflist = reference.node("node-b").private("/etc/cni/net.d") / "10-ref.conflist"
    good = conflist.read_text()
    conflist.write_text(good.replace("host-local", "no-such-ipam"))
    try:
        with pytest.raises(LabError, match="no-such-ipam"):
            reference.add_pod("node-b", "refused")
    finally:
        conflist.write_text(good)
    assert "refused" not in reference.state.pods
    assert not os.path.exists(reference.node("node-b").root / "run/netns/refused")
    assert reference.up() == []
