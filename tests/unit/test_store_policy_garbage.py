"""Whatever is garbage in a NetworkPolicy allows nothing more than the policy without it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from policy_manifests import POLICY, policies

from ovsnet.policymodel import (
    Direction,
    Labels,
    NetworkPolicy,
    PolicyPeer,
    PolicyRule,
    Selector,
)
from ovsnet.servicemodel import Protocol

EVERYTHING = Selector()
ALL: dict[str, Any] = {"podSelector": {}}


PODS: list[Labels] = [
    {},
    {"app": "web"},
    {"app": "web", "tier": "front", "app.kubernetes.io/part-of": "shop"},
    {"app": "web", "tier": "edge", "app.kubernetes.io/part-of": "shop", "canary": "yes"},
    {"app": "proxy"},
    {"team": "x"},
]
NAMESPACES: list[Labels] = [
    {"kubernetes.io/metadata.name": "shop"},
    {"kubernetes.io/metadata.name": "mon", "team": "x"},
]
ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.1.0.1", "10.9.0.1", "192.0.2.1", "2001:db8::1")]
PORTS = [(protocol, number) for protocol in Protocol for number in (1, 80, 8005, 65535)]
SPECS: list[dict[str, Any]] = [
    yaml.safe_load(POLICY)["spec"],
    {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]},
    {"podSelector": {"matchLabels": {"app": "web"}}, "egress": [{"ports": [{"port": 80}]}]},
    {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"namespaceSelector": {}}]}]},
    {
        "podSelector": {},
        "ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}],
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
        *way, last = draw(st.sampled_from(list(steps(bad)) or [()])) or ((), None)
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


def selected(chosen: NetworkPolicy, labels: Labels) -> bool:
    return chosen.pods.matches(labels)


def allowed(chosen: NetworkPolicy, direction: Direction) -> set[tuple[int, object, object]]:
    """Who may talk to (or be talked to by) whom at which port: positions in the tables above."""
    rules = chosen.rules(direction) or ()
    return {
        (pod, far, port)
        for pod, labels in enumerate(PODS)
        if selected(chosen, labels)
        for rule in rules
        for far in _far(rule)
        for port in _ports(rule)
    }


def _far(rule: PolicyRule) -> Iterator[object]:
    for peer in (PolicyPeer(), PolicyPeer(block=None)) if rule.peers is None else rule.peers:
        everybody = rule.peers is None
        for place, where in enumerate(NAMESPACES):
            for number, labels in enumerate(PODS):
                inside = where is NAMESPACES[0] if peer.namespaces is None else peer.namespaces.matches(where)
                matches = peer.pods is None or peer.pods.matches(labels)
                if everybody or (peer.block is None and inside and matches):
                    yield place, number
        for address in ADDRESSES:
            block = peer.block
            if everybody or (
                block is not None
                and address in block.cidr
                and not any(address in each for each in block.excepts)
            ):
                yield address


def _ports(rule: PolicyRule) -> Iterator[object]:
    if rule.ports is None:
        yield from PORTS
        yield "icmp"
        return
    for port in rule.ports:
        if port.name:
            yield port.protocol, port.name
        for protocol, number in PORTS:
            if not port.name and port.protocol is protocol and port.first <= number <= port.last:
                yield protocol, number


@given(spoilt())
def test_a_policy_with_garbage_in_it_never_allows_more(specs: tuple[Any, Any]) -> None:
    """It isolates at least whom it isolated, and allows at most what it allowed, whatever other policies there are."""
    found = []
    for spec in specs:
        (one,), _ = policies({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
        found.append(one)
    good, bad = found
    for direction in Direction:
        if good.rules(direction) is not None:
            assert bad.rules(direction) is not None
        assert allowed(bad, direction) <= allowed(good, direction)
    assert all(selected(bad, labels) for labels in PODS if selected(good, labels))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5))
def test_whatever_a_spec_is_it_is_read(spec: object) -> None:
    for value in (spec, {**ALL, "ingress": spec}, {**ALL, "ingress": [{"from": spec, "ports": spec}]}):
        (found,), _ = policies({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": value})
        assert found.ingress is not None


def test_the_evaluation_of_the_test_allows_what_is_meant() -> None:
    """Else the comparison above would be one of nothing with nothing."""
    (found,), _ = policies(yaml.safe_load(POLICY))
    good = allowed(found, Direction.INGRESS)
    assert {pod for pod, _, _ in good} == {2}
    assert (2, ip_address("10.0.0.1"), (Protocol.TCP, 8005)) in good
    assert (2, ip_address("10.1.0.1"), (Protocol.TCP, 8005)) not in good
    assert (2, (0, 4), (Protocol.UDP, "dns")) in good
    assert (2, (1, 4), (Protocol.TCP, 80)) in good
    assert (2, (0, 0), (Protocol.TCP, 81)) not in good
