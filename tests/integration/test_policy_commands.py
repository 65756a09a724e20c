"""What people ask a node about policies: policy, flows, trace, audit, render; packets prove the answers."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cni_world import Cni
from lab_world import eventually, fetch, reconfigure, running

from ovsnet import names
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.state import Completed

OVSNET = "/run/ovsnet/bin/ovsnet"
WEB = 8080
CLUSTER_IP = "10.96.0.50"


def policy(name: str, selector: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": selector} if selector else {}, **spec},
    }


def pods(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


POLICIES = [
    policy(
        "web",
        {"app": "a1"},
        policyTypes=["Ingress"],
        ingress=[
            {"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]},
            {"from": [pods("b1")], "ports": [{"port": 7}, {"port": "web"}]},
            {"from": [pods("a2")], "ports": [{"protocol": "UDP", "port": 53}]},
        ],
    ),
    policy(
        "out",
        {"app": "a2"},
        policyTypes=["Egress"],
        egress=[{"to": [pods("b1")], "ports": [{"port": 80, "endPort": 90}]}],
    ),
    policy("closed", {"app": "b2"}, policyTypes=["Ingress", "Egress"]),
]


def write_manifests(lab: Lab) -> None:
    """What a control plane would know beside the nodes, in the files where a lab has such objects itself."""
    folder = lab.folder.path / "cluster"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    (folder / "namespace.default.yaml").write_text(yaml.safe_dump(namespace))
    for name, node in (("a1", "node-a"), ("a2", "node-a"), ("b1", "node-b"), ("b2", "node-b")):
        ports = [{"name": "web", "containerPort": WEB}]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": str(each)} for each in lab.pod(name).addresses]},
        }
        (folder / f"pod.{name}.yaml").write_text(yaml.safe_dump(pod))
    (folder / "policies.yaml").write_text(yaml.safe_dump_all(POLICIES))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2) as lab:
        write_manifests(lab)
        for name in ("node-a", "node-b"):
            node = lab.node(name)
            eventually(partial(policed, node))
        yield lab


@pytest.fixture
def live(lab: Lab) -> Node:
    return lab.node("node-a")


@pytest.fixture(params=["running", "stopped"])
def node(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Node]:
    """With the agent running and without it: the answers come from the same state."""
    node = lab.node("node-a")
    if request.param == "stopped":
        node.kill(AGENT)
    yield node
    if request.param == "stopped":
        node.start(AGENT)


def policed(node: Node) -> bool:
    """Whether the agent has followed the policies."""
    found = {flow["object"] for flow in answer(node, "flows")}
    return "policedpod default/a1" in found or "policedpod default/b2" in found


def ask(node: Node, *arguments: str) -> Completed:
    done = node.run([OVSNET, *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(node: Node, *arguments: str) -> Any:
    done = ask(node, *arguments, "-o", "json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


# --- show ----------------------------------------------------------------------------------------


def test_show_tells_rules_and_whom_they_mean_today(lab: Lab, live: Node) -> None:
    shown = answer(live, "policy", "show", "a1")
    assert shown["pod"] == "default/a1"
    assert shown["labels"] == {"app": "a1"}
    assert shown["policies"] == ["default/web"]
    ingress, egress = shown["directions"]["ingress"], shown["directions"]["egress"]
    assert ingress["isolated"]
    assert ingress["by"] == ["default/web"]
    assert egress == {"isolated": False, "by": [], "allowsEverything": True, "rules": []}
    block, named, udp = ingress["rules"]
    assert [each["rule"] for each in (block, named, udp)] == [f"default/web ingress[{at}]" for at in range(3)]
    assert named["ports"] == ["TCP 7", "TCP web"]
    (allowance,) = named["allows"]
    assert allowance["ports"] == ["TCP 7", f"TCP {WEB}"]
    (peer,) = allowance["peers"]
    assert peer["addresses"] == [
        {"address": str(each), "name": "default/b1"} for each in lab.pod("b1").addresses
    ]
    assert block["allows"][0]["peers"][0]["addresses"] == [{"address": "198.51.100.0/24", "name": ""}]


def test_show_for_people(lab: Lab, node: Node) -> None:
    done = ask(node, "policy", "show", "default/a1")
    assert done.returncode == 0
    for words in (
        "labels: app=a1",
        "ingress: isolated by NetworkPolicy default/web",
        "default/web ingress[1]: TCP 7, TCP web",
        "default/b1",
        "egress: not isolated, everything is allowed",
    ):
        assert words in done.stdout, done.stdout


def test_show_of_all_pods_of_the_node(lab: Lab, live: Node) -> None:
    assert [each["pod"] for each in answer(live, "policy", "show")] == ["default/a1", "default/a2"]
    assert answer(live, "policy", "show")[0] == answer(live, "policy", "show", "a1")
    lines = [line.split() for line in ask(live, "policy", "show").stdout.splitlines()]
    assert lines[1:] == [["default/a1", "default/web", "-"], ["default/a2", "-", "default/out"]]


def test_show_of_a_pod_that_is_allowed_nothing(lab: Lab) -> None:
    done = ask(lab.node("node-b"), "policy", "show", "b2")
    assert done.stdout.count("isolated by NetworkPolicy default/closed; no rule allows anything") == 2


# --- check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["b1", "a1", "--tcp", str(WEB)], 0, ["ingress of pod default/a1: allowed by default/web ingress[1]"]),
        (["b1", "a1", "--tcp", "81"], 1, ["ingress of pod default/a1 is isolated by NetworkPolicy default/web"]),
        (["b1", "a1"], 1, ["ping: DENIED"]),
        (["198.51.100.7", "a1"], 0, ["default/web ingress[0]"]),
        (["192.0.2.1", "a1", "--sctp", "7"], 1, ["192.0.2.1 -> pod default/a1"]),
        (["a2", "b1", "--tcp", "85"], 0, ["allowed by default/out egress[0]", "SENT to node node-b"]),
        (["a2", "a1", "--udp", "53"], 1, ["egress of pod default/a2", "default/web ingress[2]"]),
        (["a1", "b2", "--tcp", "80"], 1, ["default/closed", "(on node node-b)", "flows of this node agree: SENT"]),
        (["b1", "b2"], 1, ["no packet of it passes the flows of this node"]),
        (["node-a", "a1", "--tcp", "81"], 0, ["a pod and its node always reach each other"]),
        (["node-b", "a1", "--tcp", "81"], 1, ["node node-b 10.244.2.1 ->"]),
        (["a2", "node-a", "--udp", "53"], 0, ["192.0.2.11", "HANDED to the kernel"]),
        (["a2", "node-b", "--udp", "53"], 1, ["192.0.2.12", "default/out"]),
        (["a1", "a1"], 0, ["a pod always reaches itself"]),
        (["a1", "a2"], 0, ["egress of pod default/a1: no policy isolates it"]),
        (["a1", "10.244.1.222"], 0, ["it gets lost all the same", "table route"]),
    ],
)  # fmt: skip
def test_check_answers_and_flows_agree(live: Node, arguments: list[str], code: int, words: list[str]) -> None:
    done = ask(live, "policy", "check", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "DISAGREE" not in done.stdout
    for word in words:
        assert word in done.stdout, done.stdout


def test_check_for_programs(live: Node) -> None:
    found = answer(live, "policy", "check", "a2", "a1", "--udp", "53")
    assert (found["from"], found["to"], found["protocol"], found["port"]) == (
        "pod default/a2",
        "pod default/a1",
        "udp",
        53,
    )
    assert not found["allowed"]
    for each in found["connections"]:
        egress, ingress = each["sides"]
        assert (egress["allowed"], egress["rule"], egress["isolatedBy"]) == (False, None, ["default/out"])
        assert (ingress["allowed"], ingress["rule"]) == (True, "default/web ingress[2]")
        assert each["trace"]["agrees"]


@pytest.mark.parametrize("source", ["a1", "a2", "b1"])
def test_packets_go_as_check_says(lab: Lab, live: Node, source: str) -> None:
    """Over both families, to the web servers of all pods. All ask node-a but who is on neither end of it."""
    for target in ("a1", "a2", "b1", "b2"):
        for address in lab.pod(target).addresses:
            if source == target:
                continue
            node = live if source != "b1" or target != "b2" else lab.node("node-b")
            checked = answer(node, "policy", "check", source, str(address), "--tcp", "80")
            arrives = fetch(lab, source, address, wait=1.0) is not None
            assert arrives is checked["allowed"], (source, target, checked)


def test_flows_that_disagree_are_told_loudly(lab: Lab, live: Node) -> None:
    """While no agent is there, which would put them right."""
    live.kill(AGENT)
    try:
        Cni(live).tool("ovs-ofctl", "del-flows", "br-int", "table=48,ip")
        done = ask(live, "policy", "check", "b1", "a1", "--tcp", "81")
        assert done.returncode == 2, done.stdout
        assert "BUT THE FLOWS OF THIS NODE DISAGREE" in done.stdout
        assert "ovsnet audit" in done.stderr
    finally:
        live.start(AGENT)
    eventually(lambda: ask(live, "policy", "check", "b1", "a1", "--tcp", "81").returncode == 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nobody", "a1"], ["nobody", "NAMESPACE/NAME"]),
        (["check", "a1", "a2", "--tcp", "80", "--udp", "80"], ["--tcp", "--udp"]),
        (["check", "10.244.1.9", "fd00:10:244:1::2"], ["no address family in common"]),
        (["show", "b1"], ["b1", "default/a1, default/a2"]),
    ],
)
def test_what_nobody_can_tell(live: Node, arguments: list[str], words: list[str]) -> None:
    done = ask(live, "policy", *arguments)
    assert done.returncode == (1 if arguments[0] == "show" else 2)
    for word in words:
        assert word in done.stderr, done.stderr


def service(lab: Lab) -> list[dict[str, Any]]:
    """b1 behind a ClusterIP."""
    address = str(lab.pod("b1").addresses[0])
    endpoint = {"addresses": [address], "nodeName": "node-b", "conditions": {"ready": True}}
    labels = {"kubernetes.io/service-name": "web"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "ports": [{"port": 8081, "targetPort": 80}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"port": 80, "protocol": "TCP"}],
            "endpoints": [endpoint],
        },
    ]  # fmt: skip


def test_the_way_to_a_service_is_judged_by_its_endpoint(lab: Lab, live: Node) -> None:
    """a2 may go to port 80 of b1, which is port 8081 of the Service."""
    path = lab.folder.path / "cluster" / "service.yaml"
    path.write_text(yaml.safe_dump_all(service(lab)))
    try:
        eventually(lambda: fetch(lab, "a2", CLUSTER_IP, port=8081, wait=1.0))
        done = ask(live, "policy", "check", "a2", CLUSTER_IP, "--tcp", "8081")
        assert done.returncode == 2
        assert f"{CLUSTER_IP} is an address of Service default/web" in done.stderr
        for arguments, code in ((["--tcp", "80"], 0), (["--tcp", "8081"], 1)):
            done = ask(live, "policy", "check", "a2", str(lab.pod("b1").addresses[0]), *arguments)
            assert done.returncode == code, done.stdout
        assert ask(live, "trace", "a2", CLUSTER_IP, "--tcp", "8081").returncode == 0
        done = ask(lab.node("node-b"), "trace", "b2", CLUSTER_IP, "--tcp", "8081")
        assert "denied: egress of pod default/b2 is isolated by NetworkPolicy default/closed" in done.stdout
    finally:
        path.unlink()


# --- the other commands --------------------------------------------------------------------------


def test_trace_names_the_policies_that_deny(lab: Lab, node: Node) -> None:
    done = ask(node, "trace", "a2", "a1", "--tcp", "80")
    assert done.returncode == 1
    assert (
        "denied: egress of pod default/a2 is isolated by NetworkPolicy default/out, and no rule allows this"
        in done.stdout.splitlines()[0]
    )
    done = ask(node, "trace", str(lab.pod("b1").addresses[0]), "a1", "--tcp", "81")
    assert "denied: ingress of pod default/a1 is isolated by NetworkPolicy default/web" in done.stdout
    done = ask(node, "trace", str(lab.pod("b1").addresses[1]), "a1", "--tcp", str(WEB))
    assert done.returncode == 0, done.stdout
    assert "rule ingress from pods app in (b1) of namespace default" in done.stdout


def test_every_flow_has_its_object_and_audit_is_clean(node: Node) -> None:
    objects = {flow["object"] for flow in answer(node, "flows")}
    assert not [each for each in objects if each.startswith("unknown")]
    assert {"policedpod default/a1", "policedpod default/a2"} <= objects
    done = ask(node, "audit")
    assert done.returncode == 0, done.stdout


def test_audit_tells_of_a_policy_s_flow_that_is_gone(lab: Lab, live: Node) -> None:
    live.kill(AGENT)
    try:
        Cni(live).tool("ovs-ofctl", "del-flows", "br-int", "table=48,ip")
        done = ask(live, "audit")
        assert done.returncode == 1
        assert "flow of policedpod default/a1 in table verdict deleted" in done.stdout
    finally:
        live.start(AGENT)
    eventually(lambda: ask(live, "audit").returncode == 0)


def test_drops_are_counted_for_pods_and_directions(lab: Lab, live: Node) -> None:
    def denied() -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for flow in answer(live, "flows", "--drops"):
            if flow["denied"]:
                who = flow["denied"]["pod"], flow["denied"]["direction"]
                found[who] = found.get(who, 0) + flow["packets"]
        return found

    def counted(who: tuple[str, str], packets: int) -> bool:
        return denied().get(who, 0) >= packets

    before = denied()
    # The first packet through a userspace tunnel may wait for a neighbour.
    lab.exec("b1", ["ping", "-c5", "-i0.1", "-W1", str(lab.pod("a1").addresses[0])])
    lab.exec("a2", ["ping", "-c2", "-i0.1", "-W1", str(lab.pod("b1").addresses[1])])
    for who, packets in ((("default/a1", "ingress"), 3), (("default/a2", "egress"), 2)):
        eventually(partial(counted, who, before.get(who, 0) + packets))
    done = ask(live, "flows", "--drops")
    assert "denied by policies" in done.stdout
    assert "pod default/a1               ingress" in done.stdout
    # A look at policies that ends without a rule drops nothing.
    assert {flow["table"] for flow in answer(live, "flows", "--drops", "--all")}.isdisjoint(
        {"egress", "ingress"}
    )


def test_while_the_store_is_away_policies_have_no_names(lab: Lab) -> None:
    """They stay in force all the same."""
    node = lab.node("node-b")
    known = yaml.safe_load(node.private("/etc/ovsnet/agent.yaml").read_text())
    before = policy_flows(node)
    reconfigure(node, store={"file": "/nowhere"})
    try:
        node.await_agent(30)
        assert policy_flows(node) == before
        objects = {flow["object"] for flow in answer(node, "flows")}
        assert "policedpod ?" in objects
        assert not [each for each in objects if each.startswith("unknown")]
        assert "flows of policies" in answer(node, "audit")["leftOut"]
        for arguments, code in ((["show", "b1"], 1), (["check", "b1", "b2"], 2)):
            done = ask(node, "policy", *arguments)
            assert done.returncode == code, done.stdout
            assert "error: store /nowhere" in done.stderr
    finally:
        reconfigure(node, store=known["store"])
    eventually(lambda: policed(node) and policy_flows(node) == before)


def policy_flows(node: Node) -> list[str]:
    """Those that serve policies, without counters."""
    return sorted(
        f"{flow['table']} {flow['priority']} {flow['match']} {flow['actions']}"
        for flow in answer(node, "flows")
        if names.kind_of(int(flow["cookie"], 16)) in names.POLICIES
    )


def test_a_support_bundle_has_them(lab: Lab, live: Node, tmp_path: Path) -> None:
    done = ask(live, "support-bundle", "--output", str(tmp_path / "bundle.tar.gz"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        members = {Path(name).name: name for name in archive.getnames()}
        texts = {
            name: file.read().decode()
            for name in ("policy.json", "flows.txt")
            if (file := archive.extractfile(members[name])) is not None
        }
    assert [each["pod"] for each in json.loads(texts["policy.json"])] == ["default/a1", "default/a2"]
    assert "policedpod default/a1" in texts["flows.txt"]
    assert "unknown" not in texts["flows.txt"]


def test_render_shows_what_policies_come_to(lab: Lab, live: Node) -> None:
    """Of the lab's own manifests, what is installed for them."""
    done = ask(
        live,
        "render",
        "--state",
        "/etc/ovsnet/cluster",
        "--node",
        "node-a",
        "--config",
        "/etc/ovsnet/agent.yaml",
    )
    assert done.returncode == 0, done.stderr
    installed = {
        flow["cookie"]
        for flow in answer(live, "flows")
        if names.kind_of(int(flow["cookie"], 16)) in names.POLICIES
    }
    rendered = {line.partition(",")[0].removeprefix("cookie=") for line in done.stdout.splitlines()}
    assert installed
    assert installed <= rendered


def test_render_of_a_policy_that_is_wrong(lab: Lab, live: Node, tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text((lab.folder.path / "cluster" / "node-a.yaml").read_text())
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**policy("wrong", {}), "spec": "nonsense"}))
    done = ask(live, "render", "--state", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr
    assert "wrong.yaml: NetworkPolicy default/wrong: spec" in done.stderr
    nameless = {**policy("nameless", {}), "metadata": {}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(nameless))
    done = ask(live, "render", "--state", str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert "wrong.yaml: metadata.name: is missing; every NetworkPolicy has a name" in done.stderr
