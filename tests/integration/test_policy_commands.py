"""What people ask a node about policies: policy, flows, trace, audit, render; packets prove the answers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from cni_world import Cni
from lab_world import eventually, fetch
from policy_commands_world import (
    CLUSTER_IP,
    WEB,
    answer,
    ask,
    lab,
    live,
    node,
    policy,
)

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node

__all__ = ["lab", "live", "node"]


# --- show ----------------------------------------------------------------------------------------


def test_show_tells_rules_and_whom_they_mean_today(lab: Lab, live: Node) -> None:
    shown = answer(live, "policy", "show", "a1")
    assert shown["pod"] == "default/a1"
    assert shown["labels"] == {"app": "a1"}
    assert shown["policies"] == ["default/web"]
    ingress, egress = shown["directions"]["ingress"], shown["directions"]["egress"]
    assert ingress["isolated"]
    assert ingress["by"] == ["default/web"]
    assert egress == {
        "isolated": False,
        "unread": False,
        "admin": [],
        "baseline": [],
        "by": [],
        "allowsEverything": True,
        "rules": [],
    }
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


@pytest.mark.parametrize("on", ["node-a", "node-b"])
def test_show_of_a_pod_that_is_allowed_nothing(lab: Lab, on: str) -> None:
    """b2 is on node-b, and what isolates it every node can say."""
    done = ask(lab.node(on), "policy", "show", "b2")
    assert done.stdout.splitlines()[0].endswith("  on node node-b")
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
        (["show", "nobody"], ["nobody is no pod"]),
        (["show", "default/a"], ["do you mean default/a1, default/a2?"]),
        (["show", "node-a"], ["node node-a", "no policy can select it"]),
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


def test_what_cannot_be_read_in_a_policy_is_told_with_the_answer(lab: Lab, live: Node) -> None:
    """The reason why a rule that people see in their manifest allows nothing."""
    path = lab.folder.path / "cluster" / "odd.yaml"
    spec = {"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/33"}}]}]}
    path.write_text(yaml.safe_dump(policy("odd", {"app": "a2"}, **spec)))
    try:
        eventually(lambda: ask(live, "policy", "check", "b1", "a2").returncode == 1)
        for arguments in (["check", "b1", "a2"], ["show", "a2"]):
            out = ask(live, "policy", *arguments).stdout
            assert "problem: " in out
            assert "NetworkPolicy default/odd: spec.ingress[0].from[0].ipBlock.cidr" in out, out
            assert "problem: " not in ask(live, "policy", "show", "a1").stdout
    finally:
        path.unlink()
    eventually(lambda: ask(live, "policy", "check", "b1", "a2").returncode == 0)
