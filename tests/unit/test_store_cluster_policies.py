"""Manifests to ClusterNetworkPolicies: what the API means, and what becomes of what can't be read."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import yaml
from cluster_policy_manifests import POLICY, SPEC, cluster_policy, problems, read

from ovsnet.policymodel import (
    Action,
    Block,
    ClusterNetworkPolicy,
    ClusterRule,
    Operator,
    PolicyPeer,
    PolicyPort,
    Requirement,
    Selector,
    Subject,
    Tier,
)
from ovsnet.servicemodel import Protocol
from ovsnet.store.clusterpolicies import EVERYBODY

NOTHING = ClusterRule(action=Action.ACCEPT, peers=())
DENY_ALL = ClusterRule(action=Action.DENY, peers=EVERYBODY)


def having(**labels: str) -> Selector:
    return Selector(
        requirements=tuple(
            Requirement(key=key, operator=Operator.IN, values=frozenset((value,)))
            for key, value in sorted(labels.items())
        )
    )


def test_a_policy_is_read() -> None:
    found, remarks = read(yaml.safe_load(POLICY))
    assert remarks == []
    assert found == ClusterNetworkPolicy(
        name="lockdown",
        tier=Tier.ADMIN,
        priority=10,
        subject=Subject(namespaces=having(team="shop"), pods=having(app="web")),
        ingress=(
            ClusterRule(
                action=Action.ACCEPT,
                name="monitoring",
                peers=(
                    PolicyPeer(namespaces=having(team="mon")),
                    PolicyPeer(namespaces=Selector(), pods=having(app="proxy")),
                ),
                ports=(
                    PolicyPort(protocol=Protocol.TCP, first=80, last=80),
                    PolicyPort(protocol=Protocol.UDP, first=53, last=54),
                    *(PolicyPort(protocol=each, name="http") for each in Protocol),
                ),
            ),
            ClusterRule(action=Action.DENY, peers=(PolicyPeer(namespaces=Selector()),)),
        ),
        egress=(
            ClusterRule(
                action=Action.PASS,
                peers=(
                    PolicyPeer(nodes=having(role="infra")),
                    PolicyPeer(block=Block(cidr=ip_network("10.0.0.0/8"))),
                    PolicyPeer(block=Block(cidr=ip_network("fd00::/8"))),
                ),
            ),
        ),
        source="a.yaml",
    )


def test_the_least_that_a_policy_has() -> None:
    found = cluster_policy({"tier": "Baseline", "priority": 0, "subject": {"namespaces": {}}})
    assert (found.tier, found.subject, found.ingress, found.egress) == (Tier.BASELINE, Subject(), (), ())


def test_another_group_s_kind_of_this_name_is_left_alone() -> None:
    assert read({"apiVersion": "example.org/v1", "kind": "ClusterNetworkPolicy", "spec": 1}) == (None, [])


@pytest.mark.parametrize("spec", [None, [], "deny"])
def test_without_a_spec_it_is_a_problem(spec: object) -> None:
    (text,) = problems({"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
    assert "ClusterNetworkPolicy p: spec: must be a mapping" in text


PODS: dict[str, Any] = {"namespaces": {}}
RULES: list[tuple[str, dict[str, Any], str]] = [
    ("ingress", {"from": []}, "ingress[0].from: must be a list with entries, is empty"),
    ("ingress", {}, "ingress[0].from: must be a list with entries, is nothing"),
    ("ingress", {"from": [{}]}, "ingress[0].from[0]: must have one of namespaces, pods, has nothing"),
    ("ingress", {"from": [{"namespaces": {}, "pods": {"podSelector": {}}}]}, "has namespaces and pods"),
    ("ingress", {"from": [PODS, {"networks": ["10.0.0.0/8"]}]}, "from[1]: the field 'networks' is unknown"),
    ("ingress", {"from": [{"pods": {"namespaceSelector": {}}}]}, "pods.podSelector: must be a mapping"),
    ("ingress", {"from": [{"pods": {"podSelector": {}, "x": 1}}]}, "the field 'x' is unknown"),
    ("ingress", {"from": [PODS, 3]}, "from[1]: must be a mapping, is a number"),
    (
        "ingress",
        {"from": [{"namespaces": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}]},
        "matchExpressions[0].operator: 'Gt' is unknown here",
    ),
    ("ingress", {"from": [PODS], "protocols": []}, "protocols: must be a list with entries, is empty"),
    ("ingress", {"from": [PODS], "protocols": [{}]}, "protocols[0]: must have one of destinationNamedPort"),
    ("ingress", {"from": [PODS], "protocols": [{"tcp": {}}]}, "tcp: must have one of destinationPort"),
    ("ingress", {"from": [PODS], "protocols": [{"icmp": {}}]}, "the field 'icmp' is unknown here"),
    (
        "ingress",
        {"from": [PODS], "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]},
        "destinationPort.number: 0 is out of range: 1 to 65535",
    ),
    (
        "ingress",
        {"from": [PODS], "protocols": [{"udp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}]},
        "range: start, 9, must be less than end, 9",
    ),
    (
        "ingress",
        {"from": [PODS], "protocols": [{"tcp": {"destinationPort": {"number": 1, "range": {}}}}]},
        "has number and range",
    ),
    ("ingress", {"from": [PODS], "protocols": [{"destinationNamedPort": "A B"}]}, "not the name of a port"),
    ("ingress", {"from": [PODS], "name": 3}, "ingress[0].name: must be text, is a number"),
    ("ingress", {"from": [PODS], "to": [PODS]}, "the field 'to' is unknown here"),
    ("egress", {"to": [{"domainNames": ["example.org"]}]}, "the field 'domainNames' is unknown here"),
    ("egress", {"to": [PODS, {"networks": []}]}, "to[1].networks: must be a list of networks, is empty"),
    ("egress", {"to": [{"networks": ["10.0.0.0/255.0.0.0"]}]}, "is not a range of addresses such as"),
    ("egress", {"to": [{"nodes": {"matchLabels": {"a": "b c"}}}]}, "'b c' is not a label's value"),
    (
        "egress",
        {"to": [PODS, {"nodes": {}}], "protocols": [{"destinationNamedPort": "http"}]},
        "destinationNamedPort means nothing where a peer is by nodes or networks",
    ),
]


@pytest.mark.parametrize(("direction", "rule", "words"), RULES)
def test_a_rule_that_cannot_be_read(direction: str, rule: dict[str, Any], words: str) -> None:
    """As the API says: an Accept matches nothing, a Deny or Pass denies everything. Others stay what they are."""
    for action, counts, tail in (
        ("Accept", NOTHING, "the rule accepts nothing"),
        ("Deny", DENY_ALL, "the rule denies everything"),
        ("Pass", DENY_ALL, "the rule denies everything"),
    ):
        other = {"action": "Accept", "from" if direction == "ingress" else "to": [PODS]}
        spec = {**SPEC, direction: [other, {**rule, "action": action}, other]}
        found = cluster_policy(spec, words.replace("[0].", "[1].", 1) if "gress[0]" in words else words)
        first, second, third = found.ingress or found.egress
        assert second == counts
        assert first == third == ClusterRule(action=Action.ACCEPT, peers=(PolicyPeer(namespaces=Selector()),))
        _, remarks = read({"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
        assert remarks[0].endswith(tail)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("all", "spec.ingress: must be a list, is 'all'"),
        ([7], "spec.ingress[0]: must be a mapping, is a number"),
        ([{"from": [PODS]}], "spec.ingress[0].action: must be one of Accept, Deny, Pass, is nothing"),
        ([{"from": [PODS], "action": "Allow"}], "action: must be one of Accept, Deny, Pass, is 'Allow'"),
        ([{"from": [PODS], "action": ["Deny"]}], "action: must be one of Accept, Deny, Pass, is a list"),
    ],
)
def test_rules_of_which_nobody_knows_what_they_do_deny_everything(rules: object, words: str) -> None:
    assert cluster_policy({**SPEC, "ingress": rules}, words).ingress == (DENY_ALL,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tier": "Platform"}, "spec.tier: must be Admin or Baseline, is 'Platform'"),
        ({"tier": None}, "spec.tier: must be Admin or Baseline, is nothing"),
        ({"priority": 1001}, "spec.priority: 1001 is out of range: 0 to 1000"),
        ({"priority": -1}, "spec.priority: -1 is out of range: 0 to 1000"),
        ({"priority": True}, "spec.priority: must be a whole number from 0 to 1000"),
        ({"priority": "7"}, "spec.priority: must be a whole number from 0 to 1000, is '7'"),
        ({"subject": None}, "spec.subject: must be a mapping, is nothing"),
        ({"subject": {}}, "spec.subject: must have either namespaces or pods"),
        ({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}, "must have either namespaces or pods"),
        ({"subject": {"pods": []}}, "spec.subject.pods: must be a mapping, is a list"),
        (
            {"subject": {"pods": {"namespaceSelector": {}}}},
            "spec.subject.pods.podSelector: must be a mapping",
        ),
        (
            {"subject": {"namespaces": {"matchLabels": {"a": 1}}}},
            "matchLabels.a: a number is not a label's value",
        ),
    ],
)
def test_a_policy_that_may_mean_others_or_later_denies_and_accepts_nothing(
    change: dict[str, Any], words: str
) -> None:
    rules = [{"action": action, "from": [PODS]} for action in ("Accept", "Deny", "Pass")]
    found = cluster_policy({**SPEC, "ingress": rules, **change}, words)
    denied = ClusterRule(action=Action.DENY, peers=(PolicyPeer(namespaces=Selector()),))
    assert found.ingress == (NOTHING, denied, denied)
    assert found.tier is Tier.ADMIN
    assert found.priority == (10 if "priority" not in change else 0)
    if "subject" in change:
        assert found.subject == Subject()


def test_of_a_subject_what_can_be_read_counts() -> None:
    labels = {"matchLabels": {"app": "web", "x": 1}}
    found = cluster_policy(
        {**SPEC, "subject": {"pods": {"namespaceSelector": {}, "podSelector": labels}}},
        "is not a label's value",
    )
    assert found.subject == Subject(pods=having(app="web"))


def test_a_field_that_is_unknown_may_be_rules() -> None:
    found = cluster_policy(
        {**SPEC, "ingres": [], "egress": [{"action": "Accept", "to": [PODS]}]}, "the policy denies everything"
    )
    assert (found.ingress, found.egress) == ((DENY_ALL,), (NOTHING, DENY_ALL))


def test_many_remarks_are_counted() -> None:
    _, remarks = read(
        {
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "p"},
            "spec": {**SPEC, "ingress": [{"action": "Deny"}] * 9},
        }
    )
    assert len(remarks) == 6
    assert "and 4 more that can't be read" in remarks[-1]
