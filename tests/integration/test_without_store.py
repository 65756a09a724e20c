"""What people ask a node whose store can't be read: what OVSDB and the switch know, and what is missing."""

from __future__ import annotations

import contextlib
import json
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from doctor_world import examined
from lab_world import SLOWER, eventually, manifest, ovsnet_json
from services_world import Cluster, assert_clean, cluster_of, outer, vip

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.state import Completed

pytestmark = pytest.mark.slow

OVSNET = "/run/ovsnet/bin/ovsnet"
CONFIG = "/etc/ovsnet/agent.yaml"
SILENT_PORT, DEAD_PORT = 6443, 6444
SILENT = f"""
import socket, time
sock = socket.create_server(("127.0.0.1", {SILENT_PORT}))
time.sleep(3600)
"""
"""Whoever connects waits for an answer."""
AWAY: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"file": "/etc/ovsnet/nowhere"}, "store /etc/ovsnet/nowhere: No such file or directory"),
    "no server": (
        {"kubernetes": {"kubeconfig": "/etc/ovsnet/kubeconfig", "server": f"http://127.0.0.1:{DEAD_PORT}"}},
        f"Kubernetes API http://127.0.0.1:{DEAD_PORT}",
    ),
    "silence": (
        {"kubernetes": {"kubeconfig": "/etc/ovsnet/kubeconfig", "server": f"http://127.0.0.1:{SILENT_PORT}"}},
        f"Kubernetes API http://127.0.0.1:{SILENT_PORT}: nothing came within 4 s",
    ),
}
KUBECONFIG = {
    "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{DEAD_PORT}"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of(nodes=2, pods=2) as cluster:
        external = [outer(1, version) for version in (4, 6)]
        cluster.put("web", ["a1", "b1"], 1, node_port=30001, externalIPs=external)
        cluster.choose("web", "a1", "b1")
        assert_clean(cluster.lab)
        node = cluster.lab.node("node-a")
        node.private("/etc/ovsnet/kubeconfig").write_text(json.dumps(KUBECONFIG))
        node.launch("silent-api", [sys.executable, "-I", "-S", "-c", SILENT])
        yield cluster


@pytest.fixture(scope="module")
def lab(cluster: Cluster) -> Lab:
    return cluster.lab


@contextlib.contextmanager
def store(node: Node, settings: dict[str, Any], *, agent: bool) -> Iterator[None]:
    """The node's configuration names that store, and its agent has started with it, or not at all."""
    path = node.private(CONFIG)
    before = path.read_text()
    node.kill(AGENT)
    path.write_text(yaml.safe_dump({**yaml.safe_load(before), "store": settings}))
    try:
        if agent:
            node.start(AGENT)
            node.await_agent(30)
        yield
    finally:
        if agent:
            node.kill(AGENT)
        path.write_text(before)
        node.start(AGENT)
        eventually(lambda: ovsnet_json(node, "show")["healthy"], 30)


@pytest.fixture(scope="module", params=["no folder, agent runs", "no server", "silence"])
def away(lab: Lab, request: pytest.FixtureRequest) -> Iterator[tuple[Node, str, bool]]:
    """A node whose store can't be read, what says so, and whether its agent runs."""
    if request.param == THERE:
        yield lab.node("node-a"), "", True
        return
    name, _, agent = request.param.partition(", ")
    settings, words = AWAY[name]
    node = lab.node("node-a")
    with store(node, settings, agent=bool(agent)):
        yield node, words, bool(agent)


THERE = "there"
there = pytest.mark.parametrize("away", [THERE], indirect=True)
"""For tests to which all must be as it was, in whichever order they come."""


def ask(node: Node, *arguments: str, code: int = 0) -> Completed:
    start = time.monotonic()
    done = node.run([OVSNET, *arguments])
    assert time.monotonic() - start < 10 * SLOWER
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


@there
@pytest.mark.usefixtures("away")
def test_a_node_that_nobody_remembers(lab: Lab) -> None:
    """Neither the store nor OVSDB knows it: its ports are shown all the same."""
    node = lab.node("node-a")
    other = yaml.safe_load(node.private(CONFIG).read_text())
    path = "/etc/ovsnet/stranger.yaml"
    node.private(path).write_text(
        yaml.safe_dump({**other, "nodeName": "stranger", "store": {"file": "/etc/ovsnet/nowhere"}})
    )
    done = ask(node, "show", "-c", path, "-o", "json", code=1)
    shown = json.loads(done.stdout)
    assert "no port of bridge br-int remembers node stranger" in " ".join(shown["troubles"])
    assert {"default/a1", "default/a2"} <= {port["who"] for port in shown["ports"]}
    assert (shown["node"], shown["mtu"], shown["peers"]) == ("stranger", None, [])
    objects = {flow["object"] for flow in json.loads(ask(node, "flows", "-c", path, "-o", "json").stdout)}
    assert objects == {"node ?", "pod default/a1", "pod default/a2", "peer ?", "service ?", "endpointslice ?"}
    for command in (["audit"], ["trace", "a1", "a2"]):
        assert "remembers node stranger" in ask(node, *command, "-c", path, code=1).stderr
    findings = json.loads(node.run([OVSNET, "doctor", "-c", path, "-o", "json"]).stdout)["findings"]
    assert [each["title"] for each in findings if each["level"] == "fault"] == ["store"]
    (here,) = [each["seen"] for each in findings if each["title"] == "this node"]
    assert here.startswith("not looked at")


@there
@pytest.mark.usefixtures("away")
def test_a_node_whose_object_is_gone(lab: Lab) -> None:
    node, path = lab.node("node-b"), manifest(lab, "node-b")
    before = path.read_text()
    try:
        path.unlink()
        eventually(lambda: node.run([OVSNET, "show"]).returncode == 1)
        done = ask(node, "show", "-o", "json", code=1)
        shown = json.loads(done.stdout)
        assert "warning: node node-b has no pod ranges: this node and 1 peers are as the ports" in done.stderr
        assert [trouble for trouble in shown["troubles"] if "pod ranges" in trouble]
        assert {"default/b1", "default/b2"} <= {port["who"] for port in shown["ports"]}
        assert [peer["name"] for peer in shown["peers"]] == ["node-a"]
        assert (shown["storeRead"], shown["healthy"]) == (True, False)
        flows = json.loads(ask(node, "flows", "-o", "json").stdout)
        assert {"node node-b", "peer node-a", "pod default/b1", "service default/web"} <= {
            flow["object"] for flow in flows
        }
        assert "! node node-b has no pod ranges" in ask(node, "show", code=1).stdout
    finally:
        path.write_text(before)
    eventually(lambda: ovsnet_json(node, "show")["healthy"])
    assert_clean(lab)


@there
@pytest.mark.usefixtures("away")
def test_a_node_whose_object_has_no_ranges(lab: Lab) -> None:
    """What was good of it stays in force, for the agent and for who looks."""
    node, path = lab.node("node-b"), manifest(lab, "node-b")
    before = path.read_text()
    try:
        path.write_text(yaml.safe_dump({**yaml.safe_load(before), "spec": {}}))
        eventually(lambda: ovsnet_json(node, "show")["troubles"])
        shown = ovsnet_json(node, "show")
        (trouble,) = shown["troubles"]
        assert "node-b.yaml" in trouble
        assert "podCIDR" in trouble
        assert [peer["name"] for peer in shown["peers"]] == ["node-a"]
        assert {"default/b1", "default/b2"} <= {port["who"] for port in shown["ports"]}
        assert_clean(lab)
    finally:
        path.write_text(before)
    eventually(lambda: not ovsnet_json(node, "show")["troubles"])


Away = tuple[Node, str, bool]


def test_show(lab: Lab, away: Away) -> None:
    node, words, agent = away
    done = ask(node, "show", "-o", "json", code=0 if agent else 1)
    assert f"warning: {words}" in done.stderr
    assert (
        "1 peers are as the ports of br-int remember them; Services and policies are not known" in done.stderr
    )
    assert "hint: " in done.stderr
    shown = json.loads(done.stdout)
    assert shown["storeRead"] is False
    assert shown["healthy"] == agent
    assert [(peer["name"], peer["podCIDRs"][0]) for peer in shown["peers"]] == [("node-b", "10.244.2.0/24")]
    assert "10.244.1.0/24" in shown["podCIDRs"]
    who = {port["who"] for port in shown["ports"]}
    assert {"default/a1", "default/a2", "node-b", "node node-a"} <= who
    assert any(words in trouble for trouble in shown["troubles"])
    assert not [
        trouble for trouble in shown["troubles"] if "pod ranges" in trouble or "tunnel port" in trouble
    ]
    people = ask(node, "show", code=0 if agent else 1).stdout
    assert f"agent {'ready' if agent else 'away'}" in people
    assert f"! {words}" in people


def test_flows(away: Away) -> None:
    node, words, _ = away
    done = ask(node, "flows", "-o", "json")
    assert words in done.stderr
    objects = {flow["object"] for flow in json.loads(done.stdout)}
    assert objects == {
        "node node-a", "pod default/a1", "pod default/a2", "peer node-b", "service ?", "endpointslice ?",
    }  # fmt: skip
    assert "pod default/a1" in ask(node, "flows", "--pod", "a1").stdout
    assert "those that dropped" in ask(node, "flows", "--drops").stdout


def test_trace(away: Away) -> None:
    node, words, _ = away
    done = ask(node, "trace", "a1", "a2")
    assert "DELIVERED to pod default/a2" in done.stdout
    assert words in done.stderr
    assert "SENT to node node-b" in ask(node, "trace", "a1", "node-b").stdout
    served = ask(node, "trace", "a1", vip(1, 4), "--tcp", "80").stdout
    assert "translated to" in served
    assert "service ?" in served


def test_conntrack(cluster: Cluster, away: Away) -> None:
    node, words, _ = away
    with cluster.going("hold", "a2", vip(1, 4), port=80):
        eventually(lambda: json.loads(ask(node, "conntrack", "-o", "json").stdout))
        done = ask(node, "conntrack", "-o", "json")
    assert words in done.stderr
    held = [each["service"] for each in json.loads(done.stdout) if each["address"] == f"{vip(1, 4)}:80"]
    assert held
    assert all(each.startswith("mark 0x") for each in held)
    assert "the mark of its Service" in ask(node, "conntrack", "--service", "default/web", code=1).stderr


def test_services(away: Away) -> None:
    node, words, _ = away
    done = ask(node, "show", "services", code=1)
    assert not done.stdout
    assert words in done.stderr
    assert "error: the store can't be read" in done.stderr


def test_audit(away: Away) -> None:
    node, words, agent = away
    done = ask(node, "audit")
    assert words in done.stderr
    assert "not compared: flows and groups of Services" in done.stdout
    assert done.stdout.endswith("what was compared is as it should be\n")
    if agent:
        return
    route = node.run(["ip", "route", "show", "10.244.2.0/24"], check=True).stdout.split()
    node.run(["ip", "route", "del", "10.244.2.0/24"], check=True)
    node.run(
        ["ovs-ofctl", "add-flow", "br-int", "cookie=0x77,priority=1,in_port=4321,actions=drop"], check=True
    )
    listed = node.run(["nft", "-a", "list", "chain", "inet", "ovsnet", "postrouting"], check=True).stdout
    handle = next(line for line in listed.splitlines() if "pods leave the cluster" in line).rpartition(" ")[2]
    node.run(["nft", "delete", "rule", "inet", "ovsnet", "postrouting", "handle", handle], check=True)
    try:
        found = json.loads(ask(node, "audit", "-o", "json", code=1).stdout)
        assert [each["subject"] for each in found["flows"]] == [
            "flow of an unknown owner (cookie 0x77) in table classify"
        ]
        assert found["ports"] == []
        way, rule = found["host"]
        assert way.startswith("to be done: route 10.244.2.0/24")
        assert rule.startswith("nftables table inet ovsnet lacks: ")
        assert "pods leave the cluster" in rule
        assert found["leftOut"]
    finally:
        # The rule the agent puts right when it starts.
        node.run(["ip", "route", "add", *route], check=True)
        node.run(["ovs-ofctl", "--strict", "del-flows", "br-int", "priority=1,in_port=4321"], check=True)


def test_support_bundle(away: Away) -> None:
    node, words, _ = away
    target = "/var/log/away.tar.gz"
    node.run(["rm", "-f", target], check=True)
    node.run([OVSNET, "support-bundle", "--output", target], check=True)
    with tarfile.open(node.private(target)) as archive:
        texts = {
            member.name.partition("/")[2]: file.read().decode()
            for member in archive.getmembers()
            if (file := archive.extractfile(member)) is not None
        }
    shown = json.loads(texts["show.json"])
    assert [peer["name"] for peer in shown["peers"]] == ["node-b"]
    assert any(words in trouble for trouble in shown["troubles"])
    assert "pod default/a1" in texts["flows.txt"]
    assert f"warning: {words}" in texts["flows.txt"]


def test_doctor(away: Away) -> None:
    node, words, agent = away
    answer = examined(node)
    assert set(answer.faults) == {"store"} | (set() if agent else {"agent", "agent's socket"})
    assert words.partition(": nothing")[0] in answer.faults["store"]
    assert "remembers node-a and 1 peers" in answer.warnings["this node"]
    titles = {each["title"] for each in answer.findings}
    assert "manifests" not in titles
    assert "peer node-b: tunnel IPv4" in titles, "the peers that OVSDB remembers are looked at"
