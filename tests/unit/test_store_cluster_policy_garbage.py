"""Whatever is garbage in a ClusterNetworkPolicy, it lets nothing pass that it denied or left to others before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import yaml
from cluster_policy_manifests import POLICY, SPEC, read
from hypothesis import given
from hypothesis import strategies as st

from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    LabelledPod,
    Namespace,
    PolicyPeer,
)
from ovsnet.policytiers import means
from ovsnet.servicemodel import Protocol

NAMESPACES = [
    Namespace(name=name, labels={"kubernetes.io/metadata.name": name, **labels})
    for name, labels in (("shop", {"team": "shop"}), ("mon", {"team": "mon"}))
]
PODS = [
    LabelledPod(namespace=namespace.name, name=f"p{number}", labels=labels)
    for namespace in NAMESPACES
    for number, labels in enumerate(({}, {"app": "web"}, {"app": "proxy"}))
]
NODES: list[dict[str, str]] = [{}, {"role": "infra"}]
ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1")]
PORTS = [(protocol, number) for protocol in Protocol for number in (1, 53, 80)]
SPECS: list[dict[str, Any]] = [
    yaml.safe_load(POLICY)["spec"],
    {
        **SPEC,
        "tier": "Baseline",
        "ingress": [
            {"action": "Pass", "from": [{"namespaces": {"matchLabels": {"team": "mon"}}}]},
            {"action": "Deny", "from": [{"namespaces": {}}]},
        ],
        "egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}]}],
    },
    {
        **SPEC,
        "ingress": [
            {
                "action": "Deny",
                "from": [{"namespaces": {}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}],
            },
            {"action": "Accept", "from": [{"namespaces": {}}]},
        ],
    },
]
GARBAGE: list[Any] = [
    -1,
    70000,
    3.5,
    True,
    "??",
    "a b",
    ["??"],
    [-1],
    {"??": 1},
    [{"??": 1}],
    [[]],
    [{"": {}}],
]


def steps(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*way, key)
        yield from steps(each, (*way, key))


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[Any, Any]:
    """A spec, and the same with some of it replaced, called by another name, or with a field too many."""
    good = draw(st.sampled_from(SPECS))
    bad = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        ways = [way for way in steps(bad) if way[-1] != "name"]
        *way, last = draw(st.sampled_from(ways))
        at = bad
        for step in way:
            at = at[step]
        how = draw(st.sampled_from(["replace", "rename", "add"]))
        if isinstance(at, dict) and how == "rename":
            at[f"{last}??"] = at.pop(last)
        elif isinstance(at, dict) and how == "add":
            at["??"] = 1
        else:
            at[last] = copy.deepcopy(draw(st.sampled_from(GARBAGE)))
    return good, bad


def decisions(policy: ClusterNetworkPolicy) -> dict[tuple[object, ...], Action | None]:
    """Of connections of the pods, in both directions, with everybody, at every port: None where no rule matches."""
    found: dict[tuple[object, ...], Action | None] = {}
    known = {each.name: each for each in NAMESPACES}
    for number, pod in enumerate(PODS):
        about = means(policy, pod.key, known, pod)
        for direction in Direction:
            for other in (*range(len(PODS)), *(f"node {at}" for at in range(len(NODES))), *ADDRESSES):
                for port in (*PORTS, (Protocol.TCP, "http"), "icmp"):
                    rules = policy.rules(direction) if about else ()
                    found[number, direction, other, port] = next(
                        (each.action for each in rules if _matches(each, other, port)), None
                    )
    return found


def _matches(rule: ClusterRule, other: object, port: object) -> bool:
    return any(_is(peer, other) for peer in rule.peers or ()) and (
        rule.ports is None
        or any(
            port == (each.protocol, each.name)
            if each.name
            else isinstance(port, tuple)
            and port[0] is each.protocol
            and isinstance(port[1], int)
            and each.first <= port[1] <= each.last
            for each in rule.ports
        )
    )


def _is(peer: PolicyPeer, other: object) -> bool:
    """Pods and nodes have some address: whoever means all of them means these too."""
    if peer.block is not None:
        return peer.block.cidr.prefixlen == 0 or other in [each for each in ADDRESSES if each in peer.block]
    if isinstance(other, int):
        pod = PODS[other]
        labels = next(each.labels for each in NAMESPACES if each.name == pod.namespace)
        return (
            peer.nodes is None
            and (peer.namespaces is None or peer.namespaces.matches(labels))
            and (peer.pods is None or peer.pods.matches(pod.labels))
        )
    return isinstance(other, str) and peer.nodes is not None and peer.nodes.matches(NODES[int(other[5:])])


@given(spoilt())
def test_a_policy_with_garbage_in_it_is_never_laxer(specs: tuple[Any, Any]) -> None:
    """What it denied it denies; what it passed on or said nothing about, it accepts never."""
    good, bad = (
        read({"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})[0] for spec in specs
    )
    assert good is not None
    assert bad is not None
    before, after = decisions(good), decisions(bad)
    stricter: dict[Action | None, set[Action | None]] = {
        Action.DENY: {Action.DENY},
        Action.PASS: {Action.PASS, Action.DENY},
        None: {None, Action.DENY},
        Action.ACCEPT: {Action.ACCEPT, Action.PASS, Action.DENY, None},
    }
    for which, action in after.items():
        assert action in stricter[before[which]], (which, before[which], action)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5))
def test_whatever_a_spec_is_it_is_read(value: object) -> None:
    for spec in (
        {"ingress": value},
        {**SPEC, "subject": value},
        {**SPEC, "egress": [{"action": "Deny", "to": value, "protocols": value}]},
    ):
        found, _ = read({"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
        assert found is not None


def test_the_evaluation_of_the_test_decides_what_is_meant() -> None:
    """Else the comparison above would be one of nothing with nothing."""
    found, _ = read(yaml.safe_load(POLICY))
    assert found is not None
    made = decisions(found)
    assert made[1, Direction.INGRESS, 3, (Protocol.TCP, 80)] is Action.ACCEPT
    assert made[1, Direction.INGRESS, 3, (Protocol.TCP, 1)] is Action.DENY
    assert made[1, Direction.EGRESS, "node 1", "icmp"] is Action.PASS
    assert made[1, Direction.EGRESS, "node 0", "icmp"] is None
    assert made[1, Direction.EGRESS, ADDRESSES[0], "icmp"] is Action.PASS
    assert made[0, Direction.INGRESS, 3, (Protocol.TCP, 1)] is None
