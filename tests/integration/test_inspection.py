"""What people ask a node: show, flows, trace, render; with the agent running and without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cni_world import Cni
from lab_world import agent_log, assert_green, eventually, fetch, manifest, reconfigure, running, tunnels

from ovsnet import names
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.lab.state import Completed, write_atomically

OVSNET = "/run/ovsnet/bin/ovsnet"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2) as lab:
        assert_green(lab)
        yield lab


@pytest.fixture(params=["running", "stopped"])
def node(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Node]:
    """With the agent running and without it: the answers come from the same state."""
    node = lab.node("node-a")
    if request.param == "stopped":
        node.kill(AGENT)
    yield node
    if request.param == "stopped":
        node.start(AGENT)


@pytest.fixture
def live(lab: Lab) -> Node:
    return lab.node("node-a")


def running_agent(node: Node) -> bool:
    return node.daemon(AGENT) is not None


def ask(node: Node, *arguments: str) -> Completed:
    done = node.run([OVSNET, *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(node: Node, *arguments: str) -> Any:
    done = ask(node, *arguments, "-o", "json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


# --- show ----------------------------------------------------------------------------------------


def test_show_tells_what_every_port_is(lab: Lab, node: Node) -> None:
    shown = answer(node, "show")
    assert shown["node"] == "node-a"
    assert shown["healthy"] == running_agent(node)
    assert [peer["name"] for peer in shown["peers"]] == ["node-b"]
    ports = {port["name"]: port for port in shown["ports"]}
    assert set(ports) == {"br-int", *Cni(node).tool("ovs-vsctl", "list-ports", "br-int").split()}
    pods = {port["who"]: port["addresses"] for port in ports.values() if port["role"] == "pod"}
    for name in ("a1", "a2"):
        assert pods[f"default/{name}"] == [str(address) for address in lab.pod(name).addresses]
    assert {port["who"] for port in ports.values() if port["role"] == "tunnel"} == {"node-b"}
    for name, row in Cni(node).rows().items():
        if name in ports:
            assert ports[name]["ofport"] == row.ofport


def test_show_for_people(node: Node) -> None:
    done = ask(node, "show")
    assert done.returncode == (0 if running_agent(node) else 1)
    for words in ("node-a", "default/a1", "10.244.1.", "node-b", "vxlan", "ovsnet0"):
        assert words in done.stdout
    assert ("agent ready" if running_agent(node) else "agent away") in done.stdout


def test_show_tells_a_port_that_does_not_work(live: Node) -> None:
    cni = Cni(live)
    cni.tool("ovs-vsctl", "--no-wait", "add-port", "br-int", "nothing0")
    try:
        eventually(lambda: ask(live, "show").returncode == 1)
        assert any("nothing0" in trouble for trouble in answer(live, "show")["troubles"])
    finally:
        cni.tool("ovs-vsctl", "del-port", "br-int", "nothing0")
    eventually(lambda: ask(live, "show").returncode == 0)


def test_a_configuration_that_changed_since_the_agent_started_is_told_first(live: Node) -> None:
    """Else all that follows, by the file, would look like what the agent fails to do."""
    path = live.private("/etc/ovsnet/agent.yaml")
    before = path.read_text()
    changed = "the configuration has changed since the agent started"
    path.write_text(f"{before}# read again, and the same\n")
    try:
        assert changed not in ask(live, "show").stderr
        path.write_text(yaml.safe_dump({**yaml.safe_load(before), "mtu": 1300}))
        # As with other complaints of an agent that is ready, `show` exits with 0.
        for arguments, code in ((["show"], 0), (["show", "services"], 0), (["audit"], 1)):
            done = ask(live, *arguments)
            assert done.returncode == code, done.stdout
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"warning: {changed}")
            assert "restart the agent" in line
        assert answer(live, "show")["troubles"][0].startswith(changed)
        findings = answer(live, "doctor", "--peer", "nobody")["findings"]
        (found,) = (each for each in findings if each["title"] == "configuration")
        assert found["level"] == "warning"
        assert changed in found["seen"]
        path.write_text(before)
        assert ask(live, "show").stderr == ""
    finally:
        path.write_text(before)


# --- flows ---------------------------------------------------------------------------------------


def test_every_flow_has_its_object(node: Node) -> None:
    found = answer(node, "flows")
    dumped = Cni(node).tool("ovs-ofctl", "dump-flows", "br-int").count("actions=")
    assert len(found) == dumped
    assert [flow for flow in found if flow["object"].startswith("unknown")] == []
    assert {"node node-a", "pod default/a1", "pod default/a2", "peer node-b"} == {
        flow["object"] for flow in found
    }


def test_flows_of_a_pod_of_a_table_and_drops(lab: Lab, live: Node) -> None:
    assert {flow["object"] for flow in answer(live, "flows", "--pod", "default/a1")} == {"pod default/a1"}
    everything = answer(live, "flows")
    table = everything[0]["table"]
    assert {flow["table"] for flow in answer(live, "flows", "--table", table)} == {table}
    number = str(everything[0]["number"])
    assert len(answer(live, "flows", "--table", number)) == len(answer(live, "flows", "--table", table))
    drops = answer(live, "flows", "--drops")
    assert drops
    assert {flow["actions"] for flow in drops} == {"drop"}
    packets = [flow["packets"] for flow in drops]
    assert packets == sorted(packets, reverse=True)


def test_flows_count_what_passes(lab: Lab, live: Node) -> None:
    def packets() -> int:
        return sum(flow["packets"] for flow in answer(live, "flows", "--pod", "a1"))

    before = packets()
    assert lab.exec("a1", ["ping", "-c5", "-i0.1", "-W2", "a2"]).returncode == 0
    eventually(lambda: packets() >= before + 5)


def test_a_flow_by_hand_is_called_unknown(lab: Lab) -> None:
    """While no agent is there, which would remove it."""
    node = lab.node("node-a")
    cni = Cni(node)
    node.kill(AGENT)
    try:
        cni.tool(
            "ovs-ofctl", "add-flow", "br-int", "cookie=0x77,table=0,priority=1,in_port=4321,actions=drop"
        )
        objects = {flow["cookie"]: flow["object"] for flow in answer(node, "flows")}
        assert objects["0x77"] == "unknown"
    finally:
        node.start(AGENT)
    eventually(lambda: "0x77" not in {flow["cookie"] for flow in answer(node, "flows")})


def test_flows_for_people(live: Node) -> None:
    done = ask(live, "flows")
    assert done.returncode == 0
    assert "pod default/a1" in done.stdout
    assert "table 0 " in done.stdout
    assert done.stdout.rstrip().endswith("flows")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flows", "--pod", "nobody"], ["nobody", "default/a1"]),
        (["flows", "--table", "nowhere"], ["nowhere", "spoof_guard"]),
        (["trace", "nobody", "a1"], ["nobody", "default/a1"]),
        (["trace", "a1", "nobody"], ["nobody", "default/a1"]),
        (["trace", "a1", "a2", "--tcp", "80", "--udp", "80"], ["--tcp", "--udp"]),
        (["trace", "a1", "a2", "--tcp", "0"], ["--tcp"]),
        (["show", "--config", "/nowhere.yaml"], ["/nowhere.yaml", "--config"]),
        (["flws"], ["flws"]),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(lab: Lab, arguments: list[str], words: list[str]) -> None:
    done = ask(lab.node("node-a"), *arguments)
    assert done.returncode in (1, 2), done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


# --- trace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a1", "a2"], ["pod default/a1 -> pod default/a2"]),
        (["default/a1", "default/a2", "--tcp", "80"], ["tcp", "80"]),
        (["a1", "node-b", "--udp", "53"], ["node-b", "vxl-"]),
        (["a1", "10.244.2.2"], ["node-b", "vxl-"]),
        (["a1", "fd00:10:244:2::2"], ["node-b", "vxl-"]),
        (["a1", "node-a"], ["kernel of node node-a"]),
        (["a1", "192.0.2.1", "--tcp", "443"], ["kernel of node node-a", "tcp_dst=443"]),
        (["node-a", "a1"], ["pod default/a1"]),
        (["node-b", "a1"], ["pod default/a1"]),
    ],
)
def test_trace_follows_a_packet(live: Node, arguments: list[str], words: list[str]) -> None:
    done = ask(live, "trace", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in words:
        assert word in done.stdout, done.stdout
    assert "unknown" not in done.stdout


@pytest.mark.parametrize("target", ["10.244.1.222", "fd00:10:244:1::222"])
def test_trace_tells_what_is_dropped_and_where(node: Node, target: str) -> None:
    done = ask(node, "trace", "a1", target)
    assert done.returncode == 1
    assert "DROPPED in table route" in done.stdout.splitlines()[0]


def test_trace_gives_ovs_its_own_text_too(live: Node) -> None:
    assert "Datapath actions:" in ask(live, "trace", "a1", "a2", "--raw").stdout


# --- what contradicts a node that is there --------------------------------------------------------

WORDS = "Node node-0: 10.244.2.0/24 overlaps a range of node node-b"


def test_an_older_manifest_with_a_living_peers_range_is_the_one_that_is_told(lab: Lab, live: Node) -> None:
    """A date in a folder is anybody's. The next start of the agent, and whoever looks, go by whom OVSDB remembers."""

    def judged() -> None:
        """By `show`, `audit` and the doctor."""
        shown = answer(live, "show")
        assert [peer["name"] for peer in shown["peers"]] == ["node-b"]
        accused = [line for line in shown["troubles"] if "overlaps" in line]
        assert len(accused) == 1, shown["troubles"]
        assert f"node-0.yaml: {WORDS}" in accused[0]
        assert ask(live, "audit").returncode == 0

    document = yaml.safe_load(manifest(lab, "node-b").read_text())
    document["metadata"] |= {"name": "node-0", "creationTimestamp": "2000-01-01T00:00:00Z"}
    document["status"]["addresses"] = [{"type": "InternalIP", "address": "192.0.2.77"}]
    live.kill(AGENT)
    mark, rogue = len(agent_log(live)), manifest(lab, "node-0")
    write_atomically(rogue, yaml.safe_dump(document))
    try:
        judged()
        live.start(AGENT)
        eventually(lambda: "node node-a is ready" in agent_log(live)[mark:])
        judged()
        assert WORDS in agent_log(live)[mark:]
        assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
        found = [each["seen"] for each in answer(live, "doctor", "--peer", "node-b")["findings"]]
        assert [words for words in found if "overlaps" in words and WORDS not in words] == []
        assert any(WORDS in words for words in found), found
    finally:
        rogue.unlink()
    eventually(lambda: ask(live, "show").returncode == 0)


# --- names at their limits -----------------------------------------------------------------------

LONG = ".".join(["n" * 63] * 3 + ["n" * 61])
"""A node's name, or a pod's, may have 253 characters (RFC 1123); a namespace's 63."""


def test_names_at_their_limits(lab: Lab, live: Node) -> None:
    """Of a node, as itself and as a peer, and of a pod, which a start finds again in OVSDB."""
    peer, cni, before = lab.node("node-b"), Cni(live), manifest(lab, "node-a")
    document = yaml.safe_load(before.read_text())
    document["metadata"]["name"] = LONG
    namespace, name = "s" * 63, "p" + LONG[1:]
    arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"
    renamed = before.with_name("long.yaml")
    with cni.pod(variables={"CNI_ARGS": arguments}) as (_, added):
        try:
            before.unlink()
            write_atomically(renamed, yaml.safe_dump(document))
            reconfigure(live, nodeName=LONG)
            eventually(lambda: LONG in tunnels(peer))
            shown = answer(live, "show")
            assert (shown["node"], shown["troubles"]) == (LONG, [])
            ports = {port["who"]: port for port in shown["ports"]}
            assert ports[f"{namespace}/{name}"]["addresses"] == added.addresses
            flows = {flow["object"] for flow in answer(live, "flows")}
            assert {f"pod {namespace}/{name}", f"node {LONG}", "peer node-b"} <= flows
            assert not [each for each in flows if each.startswith("unknown")]
            done = ask(peer, "trace", "b1", LONG)
            assert LONG in done.stdout, done.stdout + done.stderr
            assert fetch(lab, "b1", lab.pod("a1").address(4))["name"] == "a1"
        finally:
            renamed.unlink(missing_ok=True)
            document["metadata"]["name"] = "node-a"
            write_atomically(before, yaml.safe_dump(document))
            reconfigure(live, nodeName="node-a")
    cni.assert_nothing_leaked()
    eventually(lambda: "node-a" in tunnels(peer))


# --- without Open vSwitch ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("daemon", [OVSDB, VSWITCHD])
def test_what_is_away_is_named(lab: Lab, daemon: str) -> None:
    node = lab.node("node-b")
    node.kill(daemon)
    try:
        for arguments in [["show"]] if daemon == OVSDB else [["flows"], ["trace", "b1", "b2"]]:
            done = ask(node, *arguments)
            assert done.returncode == 1
            assert daemon in done.stderr, done.stderr
        if daemon == VSWITCHD:
            eventually(lambda: ask(node, "show").returncode == 1)
    finally:
        node.start(daemon)
    eventually(lambda: ask(node, "show").returncode == 0, 20)


# --- render --------------------------------------------------------------------------------------

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node-a}
status: {podIPs: [{ip: 10.244.1.7}, {ip: "fd00:10:244:1::7"}]}
"""


def test_render_needs_no_switch(lab: Lab, node: Node, tmp_path: Path) -> None:
    """Of the lab's own manifests it gives flows of as many objects as are installed: node, peer and pods."""
    folder = "/etc/ovsnet/cluster"
    rendered = ask(
        node, "render", "--state", folder, "--node", "node-a", "--config", "/etc/ovsnet/agent.yaml"
    )
    assert rendered.returncode == 0, rendered.stderr
    cookies = [
        int(line.partition(",")[0].removeprefix("cookie="), 16) for line in rendered.stdout.splitlines()
    ]
    cookies = [cookie for cookie in cookies if names.kind_of(cookie) != "pod"]
    objects = {flow["cookie"]: flow["object"] for flow in answer(node, "flows")}
    installed = sum(not owner.startswith("pod") for owner in objects.values())
    assert installed == len(set(cookies))
    flows = [flow for flow in answer(node, "flows") if not flow["object"].startswith("pod")]
    assert len(flows) == len(cookies)


def test_render_a_folder(lab: Lab, tmp_path: Path) -> None:
    for name in ("node-a", "node-b"):
        (tmp_path / f"{name}.yaml").write_text((lab.folder.path / "cluster" / f"{name}.yaml").read_text())
    (tmp_path / "web.yaml").write_text(POD)
    node = lab.node("node-a")
    done = ask(node, "render", "--state", str(tmp_path), "--node", "node-a")
    assert done.returncode == 0, done.stderr
    assert "10.244.1.7" in done.stdout
    assert "fd00:10:244:1::7" in done.stdout
    assert done.stdout == ask(node, "render", "--state", str(tmp_path), "--node", "node-a").stdout
    assert "10.244.1.7" not in ask(node, "render", "--state", str(tmp_path), "--node", "node-b").stdout

    for arguments, words in (
        ([], ["--node", "node-a", "node-b"]),
        (["--node", "node-x"], ["node-x", "node-a"]),
    ):
        refused = ask(node, "render", "--state", str(tmp_path), *arguments)
        assert refused.returncode == 1
        for word in words:
            assert word in refused.stderr, refused.stderr
    (tmp_path / "broken.yaml").write_text("{")
    refused = ask(node, "render", "--state", str(tmp_path), "--node", "node-a")
    assert refused.returncode == 1
    assert "broken.yaml" in refused.stderr


def test_render_of_no_folder(lab: Lab) -> None:
    done = ask(lab.node("node-a"), "render", "--state", "/nowhere")
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
