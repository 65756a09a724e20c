"""Who sees whom as what: pods as themselves inside the cluster, as their node outside, unless told otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab_world import eventually, manifest, reconfigure, running, seen, tunnels

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.spec import outside_interface
from ovsnet.lab.state import write_atomically

VERSIONS = pytest.mark.parametrize("version", [4, 6])
SECOND = {4: "192.0.2.2", 6: "2001:db8:0:1::2"}
"""Another address of the outside, one that no exception is made for."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The outside has routes to the pods, as a data centre's routers would have where pods aren't masqueraded."""
    with running(nodes=2, pods=1) as lab:
        lines = []
        for version in (4, 6):
            lines.append(f"address add {SECOND[version]}/{32 if version == 4 else 128} dev eth0 nodad")
            for node in lab.nodes:
                lines.append(
                    f"route add {node.node.pod_range(version)} via {node.node.address(version)} dev eth0"
                )
        lab.outside.ip([line.replace(" nodad", "") if "192." in line else line for line in lines])
        yield lab


def ruleset(node: Node) -> str:
    return node.run(["nft", "--stateless", "list", "table", "inet", "ovsnet"], check=True).stdout


@VERSIONS
def test_the_outside_sees_the_node(lab: Lab, version: int) -> None:
    target = outside_interface(version).ip
    for pod in lab.pods:
        assert seen(lab, pod.name, target) == str(pod.node.node.address(version))


@VERSIONS
def test_pods_and_nodes_see_pods_as_themselves(lab: Lab, version: int) -> None:
    a, b = lab.pods
    assert seen(lab, "a1", b.address(version)) == str(a.address(version))
    for node in lab.nodes:
        assert seen(lab, "a1", node.node.address(version)) == str(a.address(version))
        assert seen(lab, "a1", node.node.gateway(version)) == str(a.address(version))


@VERSIONS
def test_pods_see_a_node_as_itself(lab: Lab, version: int) -> None:
    node, far = lab.nodes[0].node, lab.pods[1]
    assert seen(lab, "node-a", far.address(version)) == str(node.gateway(version))
    # As the kubelet does that was told its address.
    bound = node.address(version)
    assert seen(lab, "node-a", far.address(version), bind=bound) == str(bound)
    assert seen(lab, "node-a", lab.pods[0].address(version), bind=bound) == str(bound)


def test_source_ports_are_drawn_at_random(lab: Lab) -> None:
    rules = [line for line in ruleset(lab.nodes[0]).splitlines() if "masquerade" in line]
    assert rules
    assert all("fully-random" in rule for rule in rules), rules


def test_a_second_agent_run_changes_no_rule(lab: Lab) -> None:
    node = lab.nodes[0]
    before = ruleset(node)
    node.kill(AGENT)
    node.start(AGENT)
    assert ruleset(node) == before
    tables = json.loads(node.run(["nft", "-j", "list", "tables"], check=True).stdout)["nftables"]
    names = [(entry["table"]["family"], entry["table"]["name"]) for entry in tables if "table" in entry]
    assert names.count(("inet", "ovsnet")) == 1


def test_rules_that_someone_removed_come_back_with_the_next_change(lab: Lab) -> None:
    """Of whatever kind; without one it takes the half minute after which everything is compared again."""
    node = lab.nodes[0]
    before = ruleset(node)
    node.run(["nft", "flush", "table", "inet", "ovsnet"], check=True)
    other = manifest(lab, "node-b")
    good = other.read_text()
    # A change that no rule depends on: it asks for what is so already.
    write_atomically(
        other, good.replace("name: node-b", "name: node-b\n  annotations: {ovsnet.io/encapsulation: vxlan}")
    )
    try:
        eventually(lambda: ruleset(node) == before)
    finally:
        write_atomically(other, good)


def test_rules_follow_the_tunnels(lab: Lab) -> None:
    """What pods may not send to the outside depends on what nodes send to one another."""
    node, other = lab.nodes[0], manifest(lab, "node-b")
    good, before = other.read_text(), ruleset(node)
    assert "dport 4789 " in before
    write_atomically(
        other, good.replace("name: node-b", "name: node-b\n  annotations: {ovsnet.io/encapsulation: geneve}")
    )
    try:
        eventually(lambda: tunnels(node).get("node-b", {}).get("type") == "geneve")
        eventually(lambda: "dport { 4789, 6081 }" in ruleset(node))
    finally:
        write_atomically(other, good)
    eventually(lambda: tunnels(node).get("node-b", {}).get("type") == "vxlan")
    eventually(lambda: ruleset(node) == before)


@pytest.mark.slow
def test_exceptions_see_the_pod_and_others_the_node(lab: Lab) -> None:
    node, pod = lab.nodes[0], lab.pods[0]
    exceptions = [str(outside_interface(version).ip) for version in (4, 6)]
    reconfigure(node, egress={"noMasquerade": [f"{exceptions[0]}/32", f"{exceptions[1]}/128"]})
    try:
        for version in (4, 6):
            assert seen(lab, "a1", outside_interface(version).ip) == str(pod.address(version))
            assert seen(lab, "a1", SECOND[version]) == str(node.node.address(version))
        assert seen(lab, "b1", exceptions[0]) == "192.0.2.12"
    finally:
        reconfigure(node, egress={})


@pytest.mark.slow
def test_without_masquerade_the_outside_sees_the_pod(lab: Lab) -> None:
    node, pod = lab.nodes[0], lab.pods[0]
    reconfigure(node, egress={"masquerade": False})
    try:
        for version in (4, 6):
            assert seen(lab, "a1", SECOND[version]) == str(pod.address(version))
            caller = outside_interface(version).ip
            assert seen(lab, "outside", pod.address(version), bind=caller) == str(caller)
    finally:
        reconfigure(node, egress={})
    assert seen(lab, "a1", SECOND[4]) == "192.0.2.11"


@pytest.mark.slow
def test_random_ports_can_be_turned_off(lab: Lab) -> None:
    node = lab.nodes[0]
    reconfigure(node, egress={"randomFully": False})
    try:
        assert "masquerade" in ruleset(node)
        assert "fully-random" not in ruleset(node)
        assert seen(lab, "a1", SECOND[4]) == "192.0.2.11"
    finally:
        reconfigure(node, egress={})
