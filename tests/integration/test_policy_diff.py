"""`ovsnet policy diff` on a lab: what it says of a file comes true once the file is applied, and what it refuses."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab_world import eventually, fetch
from policy_commands_world import OVSNET, WEB, answer, ask, lab, live, node, pods, policy

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.state import Completed

__all__ = ["lab", "live", "node"]

CHANGE = [
    policy(
        "web",
        {"app": "a1"},
        policyTypes=["Ingress"],
        ingress=[
            {"from": [{"ipBlock": {"cidr": "198.51.100.0/25"}}]},
            {"from": [pods("b1"), pods("b2")], "ports": [{"port": "web"}, {"port": 80, "endPort": 82}]},
        ],
    ),
    policy("new", {"app": "b1"}, policyTypes=["Egress"], egress=[{"to": [pods("a1")]}]),
]
"""Of `web` another version, and a policy that is new; `closed` goes."""
ASKED = [
    ("b1", "a1", "tcp", 7),
    ("b1", "a1", "tcp", 80),
    ("b1", "a1", "tcp", 83),
    ("b1", "a1", "tcp", WEB),
    ("a2", "a1", "tcp", 80),
    ("b2", "a1", "tcp", 81),
    ("b2", "a1", "udp", 53),
    ("b2", "a2", "icmp", 0),
    ("b1", "a2", "sctp", 5),
    ("b1", "b2", "icmp", 0),
    ("a1", "b2", "tcp", 443),
    ("b1", "node-a", "tcp", 22),
    ("b1", "198.51.100.7", "tcp", 443),
    ("198.51.100.7", "a1", "tcp", 443),
    ("198.51.100.200", "a1", "tcp", 443),
    ("203.0.113.1", "b2", "udp", 53),
]
"""Connections: from, to, protocol, port."""


def file(lab: Lab, name: str, *objects: dict[str, Any]) -> str:
    """Manifests in the folder that all nodes see, under a name that is none of a manifest there."""
    (lab.folder.path / "cluster" / f"{name}.later").write_text(yaml.safe_dump_all(objects))
    return f"/etc/ovsnet/cluster/{name}.later"


def allowed(node: Node, source: str, target: str, protocol: str, port: int) -> bool:
    how = [] if protocol == "icmp" else [f"--{protocol}", str(port)]
    return bool(answer(node, "policy", "check", source, target, *how)["allowed"])


def told(found: dict[str, Any], source: str, target: str, protocol: str, port: int) -> list[bool]:
    """What the diff says that would become of the connection: nothing if it stays as it is."""
    return [
        verdict["allowed"]
        for row in found["changes"]
        if _is_in(row["from"], source) and _is_in(row["to"], target)
        for verdict in row["verdicts"]
        for each in verdict["connections"]
        if (each["protocol"] or "ICMP").lower() == protocol
        and (each["ports"] is None or any(first <= port <= last for first, last in each["ports"]))
    ]


def _is_in(end: dict[str, Any], name: str) -> bool:
    if name in end["nodes"] or f"default/{name}" in end["pods"]:
        return True
    if not name[0].isdigit():
        return False
    address = ipaddress.ip_address(name)
    return any(
        address in ipaddress.ip_network(each["network"])
        and not any(address in ipaddress.ip_network(part) for part in each["without"])
        for each in end["networks"]
    )


@pytest.fixture
def applied(lab: Lab, live: Node) -> Iterator[Path]:
    """Where a file is applied; afterwards everything is as it was."""
    path = lab.folder.path / "cluster" / "policies.yaml"
    before = path.read_text()
    yield path
    path.write_text(before)
    eventually(partial(_is_as_before, live))


def _is_as_before(live: Node) -> bool:
    return "default/new" not in ask(live, "policy", "show").stdout and not allowed(
        live, "a1", "b2", "tcp", 443
    )


def test_what_it_says_comes_true(lab: Lab, live: Node, applied: Path) -> None:
    change = file(lab, "change", *CHANGE)
    arguments = ["policy", "diff", change, "--delete", "default/closed"]
    assert ask(live, *arguments).returncode == 1
    found = answer(live, *arguments)
    assert found["applied"] == [
        "NetworkPolicy default/closed is deleted",
        "NetworkPolicy default/web is replaced",
        "NetworkPolicy default/new is added",
    ]
    # Every node says the same of all pods.
    assert answer(lab.node("node-b"), *arguments)["pairs"] == found["pairs"]
    before = {each: allowed(live, *each) for each in ASKED}
    reached = fetch(lab, "b1", lab.pod("a1").addresses[0], wait=1.0) is not None
    assert not reached
    stays = [each for each in yaml.safe_load_all(applied.read_text()) if each["metadata"]["name"] == "out"]
    applied.write_text(yaml.safe_dump_all([*stays, *CHANGE]))
    eventually(lambda: allowed(live, "a1", "b2", "tcp", 443))
    for each in ASKED:
        now = allowed(live, *each)
        assert told(found, *each) == ([] if now is before[each] else [now]), each
    assert {len(told(found, *each)) for each in ASKED} == {0, 1}
    eventually(lambda: fetch(lab, "b1", lab.pod("a1").addresses[0], wait=1.0))
    # Nothing of it is news then.
    done = ask(live, "policy", "diff", change)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing would change")


def tier(name: str, tier: str, app: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """A ClusterNetworkPolicy about the ingress of pods."""
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": 3, "subject": {"pods": pods(app)}, "ingress": list(rules)},
    }


def from_all(action: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "from": [{"namespaces": {}}], **more}


TIERS = [
    tier(
        "lockdown",
        "Admin",
        "a1",
        from_all("Pass", protocols=[{"tcp": {"destinationPort": {"number": 7}}}]),
        from_all("Deny", name="shut"),
    ),
    tier("base", "Baseline", "b1", from_all("Deny")),
]
TIERS_ASKED = {
    ("b1", "a1", "tcp", 7): True,
    ("b1", "a1", "tcp", WEB): False,
    ("a1", "b1", "icmp", 0): False,
    ("198.51.100.7", "a1", "tcp", 443): True,
}
"""All of them are allowed without these; whether with them."""


def test_what_it_says_of_tiers_comes_true_and_is_undone(lab: Lab, live: Node) -> None:
    arguments = ["policy", "diff", file(lab, "tiers", *TIERS)]
    found = answer(live, *arguments)
    assert found["applied"] == [
        "ClusterNetworkPolicy lockdown is added",
        "ClusterNetworkPolicy base is added",
    ]
    said = ask(live, *arguments).stdout
    for words in ("lockdown ingress[1] (shut), in the Admin tier", "base ingress[0], in the Baseline tier"):
        assert f"allowed -> DENIED, ingress: denied by ClusterNetworkPolicy {words}" in said
    assert all(allowed(live, *each) for each in TIERS_ASKED)
    path = lab.folder.path / "cluster" / "tiers.yaml"
    path.write_text(yaml.safe_dump_all(TIERS))
    try:
        eventually(lambda: not allowed(live, "b1", "a1", "tcp", WEB))
        assert {each: allowed(live, *each) for each in TIERS_ASKED} == TIERS_ASKED
        undone = answer(live, "policy", "diff", "--delete", "lockdown", "--delete", "base")
    finally:
        path.unlink()
    eventually(lambda: allowed(live, "b1", "a1", "tcp", WEB))
    for each, stays in TIERS_ASKED.items():
        assert told(found, *each) == ([] if stays else [False]), each
        assert told(undone, *each) == ([] if stays else [True]), each


def test_for_people(lab: Lab, node: Node) -> None:
    """With and without the agent."""
    deny = file(lab, "deny", policy("deny", {"app": "a2"}))
    done = ask(node, "policy", "diff", deny)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[0] == "if applied: NetworkPolicy default/deny is added"
    assert "default/a2  <-  default/a1" in done.stdout
    assert "allowed -> DENIED, ingress: isolated by NetworkPolicy default/deny, and no rule allows this" in (
        done.stdout
    )
    assert "would change" in done.stdout.splitlines()[-1]


def test_labels_that_would_change(lab: Lab, live: Node) -> None:
    """a2 would be as b2 is, whom `closed` isolates, and no more as `out` has it."""
    pod = {"kind": "Pod", "metadata": {"name": "a2", "labels": {"app": "b2"}}}
    found = answer(live, "policy", "diff", file(lab, "pod", pod))
    assert found["applied"] == ["Pod default/a2 has other labels"]
    assert told(found, "a1", "a2", "tcp", 80) == [False]
    assert told(found, "a2", "b1", "tcp", 85) == [False]


def test_standard_input(lab: Lab, live: Node) -> None:
    text = json.dumps(policy("deny", {"app": "a2"}))
    done: Completed = live.run(["sh", "-c", f"echo '{text}' | {OVSNET} policy diff -"])
    assert done.returncode == 1, done.stderr
    assert "default/a2" in done.stdout


BAD = policy("bad", {}, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}])


@pytest.mark.parametrize(
    ("objects", "arguments", "words"),
    [
        ([BAD], [], ["NetworkPolicy default/bad", "spec.ingress[0].from[0].ipBlock.cidr", "10.0.0.0/33"]),
        ([policy("odd", {}, policyType=["Egress"])], [], ["default/odd", "policyType"]),
        ([policy("twice", {}), policy("twice", {})], [], ["twice", "keep one"]),
        ([{"kind": "Pod", "metadata": {"name": "c9"}}], [], ["Pod default/c9 is not there"]),
        (
            [{"kind": "Deployment", "metadata": {"name": "d"}}],
            [],
            ["Deployment d", "no object of these kinds"],
        ),
        ([tier("odd", "Admin", "a1", from_all("Drop"))], [], ["odd", "spec.ingress[0].action"]),
        (
            [TIERS[0]],
            ["--delete", "lockdown"],
            ["--delete lockdown", "this ClusterNetworkPolicy", "choose one"],
        ),
        ([policy("p", {})], ["--delete", "web"], ["no such ClusterNetworkPolicy", "give NAMESPACE/NAME"]),
        ([policy("web", {})], ["--delete", "default/web"], ["--delete default/web", "choose one"]),
        ([policy("p", {})], ["--delete", "default/none"], ["default/none", "default/closed"]),
        ([policy("p", {})], ["/nowhere.yaml"], ["/nowhere.yaml", "No such file"]),
        ([], [], ["no object of these kinds"]),
    ],
)
def test_what_nobody_can_tell(
    lab: Lab, live: Node, objects: list[dict[str, Any]], arguments: list[str], words: list[str]
) -> None:
    done = ask(live, "policy", "diff", file(lab, "bad", *objects), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    for word in words:
        assert word in done.stderr, done.stderr


def test_it_takes_a_file_or_a_deletion(live: Node) -> None:
    done = ask(live, "policy", "diff")
    assert done.returncode == 2
    assert "--delete [NAMESPACE/]NAME" in done.stderr
