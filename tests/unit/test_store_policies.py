"""Manifests to NetworkPolicies: what the API means, and that what can't be read never allows more."""

from __future__ import annotations

import time
from ipaddress import ip_network
from typing import Any

import pytest
import yaml
from policy_manifests import POLICY, policies, policy, problems

from ovsnet.policymodel import (
    Block,
    NetworkPolicy,
    Operator,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
)
from ovsnet.servicemodel import Protocol

EVERYTHING = Selector()
ALL: dict[str, Any] = {"podSelector": {}}


def having(**labels: str) -> Selector:
    return Selector(
        requirements=tuple(
            Requirement(key=key, operator=Operator.IN, values=frozenset((value,)))
            for key, value in sorted(labels.items())
        )
    )


def peers(*entries: object, said: tuple[str, ...] = ()) -> tuple[PolicyPeer, ...] | None:
    found = policy({**ALL, "ingress": [{"from": list(entries)}]}, *said)
    assert found.ingress is not None
    return found.ingress[0].peers


def ports(*entries: object, said: tuple[str, ...] = ()) -> tuple[PolicyPort, ...] | None:
    found = policy({**ALL, "ingress": [{"ports": list(entries)}]}, *said)
    assert found.ingress is not None
    return found.ingress[0].ports


def test_a_policy_is_read() -> None:
    (found,), remarks = policies(yaml.safe_load(POLICY))
    assert remarks == []
    assert found == NetworkPolicy(
        namespace="shop",
        name="web",
        pods=Selector(
            requirements=(
                Requirement(key="app", operator=Operator.IN, values=frozenset(("web",))),
                Requirement(
                    key="app.kubernetes.io/part-of", operator=Operator.IN, values=frozenset(("shop",))
                ),
                Requirement(key="canary", operator=Operator.DOES_NOT_EXIST),
                Requirement(key="tier", operator=Operator.IN, values=frozenset(("front", "edge"))),
            )
        ),
        ingress=(
            PolicyRule(
                peers=(
                    PolicyPeer(pods=having(app="proxy")),
                    PolicyPeer(
                        namespaces=Selector(
                            requirements=(
                                Requirement(key="team", operator=Operator.NOT_IN, values=frozenset("x")),
                            )
                        )
                    ),
                    PolicyPeer(pods=EVERYTHING, namespaces=having(**{"kubernetes.io/metadata.name": "mon"})),
                    PolicyPeer(
                        block=Block(
                            cidr=ip_network("10.0.0.0/8"),
                            excepts=(ip_network("10.1.0.0/16"), ip_network("10.9.0.0/16")),
                        )
                    ),
                ),
                ports=(
                    PolicyPort(first=80, last=80),
                    PolicyPort(first=8000, last=8010),
                    PolicyPort(protocol=Protocol.UDP, name="dns"),
                    PolicyPort(protocol=Protocol.SCTP),
                ),
            ),
        ),
        egress=(
            PolicyRule(),
            PolicyRule(peers=(PolicyPeer(block=Block(cidr=ip_network("2001:db8::/32"))),)),
        ),
        source="a.yaml",
    )


def test_the_order_of_what_a_selector_says_means_nothing() -> None:
    one = {"matchLabels": {"a": "1", "b": "2"}}
    other = {
        "matchLabels": {"b": "2"},
        "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["1", "1"]},
            {"key": "a", "operator": "In", "values": ["1"]},
        ],
    }
    assert policy({"podSelector": one}) == policy({"podSelector": other})


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        (None, (), None),
        ({}, (), None),
        ({"policyTypes": None, "ingress": None, "egress": None}, (), None),
        ({"policyTypes": []}, (), None),
        ({"ingress": []}, (), None),
        ({"ingress": [{}]}, (PolicyRule(),), None),
        ({"egress": []}, (), None),
        ({"egress": [{}]}, (), (PolicyRule(),)),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Egress", "Egress"], "egress": [{}]}, None, (PolicyRule(),)),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (), None),
        ({"policyTypes": ["Ingress", "Egress"]}, (), ()),
        ({"ingress": [{"from": [], "ports": []}]}, (PolicyRule(),), None),
        ({"ingress": [{"from": None, "ports": None}]}, (PolicyRule(),), None),
    ],
)
def test_what_is_left_out_means_what_the_api_says(spec: Any, ingress: object, egress: object) -> None:
    found = policy(spec)
    assert (found.pods, found.ingress, found.egress) == (EVERYTHING, ingress, egress)


def test_all_ports_and_single_ones() -> None:
    assert ports({}) == (PolicyPort(),)
    assert ports({"protocol": None, "port": None, "endPort": None}) == (PolicyPort(),)
    assert ports({"port": 1, "endPort": 65535}) == (PolicyPort(first=1, last=65535),)
    assert ports({"port": 53}, {"port": 53, "endPort": 53, "protocol": "TCP"}) == (
        PolicyPort(first=53, last=53),
    )
    assert ports({"port": "a-b-9", "protocol": "SCTP"}) == (PolicyPort(protocol=Protocol.SCTP, name="a-b-9"),)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ({}, "from[0]: is nobody; give ipBlock, namespaceSelector, podSelector"),
        ({"podSelector": None, "ipBlock": None}, "from[0]: is nobody"),
        ("all", "from[0]: must be a mapping, is 'all'"),
        (None, "from[0]: must be a mapping, is nothing"),
        ({"serviceAccount": {}}, "from[0]: the field 'serviceAccount' is unknown here"),
        ({"podSelector": {}, "node": {}}, "from[0]: the field 'node' is unknown here"),
        ({"podSelector": []}, "from[0].podSelector: must be a mapping, is a list"),
        ({"podSelector": {"matchLabel": {"a": "b"}}}, "podSelector: the field 'matchLabel' is unknown here"),
        ({"podSelector": {"matchLabels": ["a"]}}, "podSelector.matchLabels: must be a mapping, is a list"),
        ({"podSelector": {"matchLabels": {"a b": "c"}}}, "matchLabels: 'a b' is not a label's key"),
        ({"podSelector": {"matchLabels": {"A.B/": "c"}}}, "matchLabels: 'A.B/' is not a label's key"),
        ({"podSelector": {"matchLabels": {"Up.er/a": "c"}}}, "'Up.er/a' is not a label's key"),
        ({"podSelector": {"matchLabels": {"a" * 64: "c"}}}, "is not a label's key"),
        ({"podSelector": {"matchLabels": {"a": 5}}}, "matchLabels.a: a number is not a label's value"),
        ({"podSelector": {"matchLabels": {"a": "b" * 64}}}, "is not a label's value"),
        ({"namespaceSelector": {"matchExpressions": {}}}, "matchExpressions: must be a list, is a mapping"),
        ({"namespaceSelector": {"matchExpressions": ["a"]}}, "matchExpressions[0]: must be a mapping"),
        ({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}, "has an ipBlock and a selector"),
        ({"namespaceSelector": {}, "ipBlock": {}}, "has an ipBlock and a selector"),
        ({"ipBlock": {}}, "ipBlock.cidr: nothing is not a range of addresses"),
        ({"ipBlock": "10.0.0.0/8"}, "ipBlock: must be a mapping, is '10.0.0.0/8'"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "not": []}}, "ipBlock: the field 'not' is unknown here"),
        *(
            ({"ipBlock": {"cidr": text}}, "ipBlock.cidr: ")
            for text in (
                "10.0.0.1",
                "10.0.0.0/33",
                "10.0.0.0/255.0.0.0",
                " 10.0.0.0/8",
                "10.0.0.0/8\n",
                "010.0.0.0/8",
                "fe80::%eth0/64",
                "::/129",
                "/8",
                "10.0.0.0/",
                5,
            )
        ),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}}, "except: must be a list"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}, "except[0]: 'x' is not a range"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": [None]}}, "except[0]: nothing is not a range"),
        (
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}},
            "except[1]: 11.0.0.0/16 is not a part of 10.0.0.0/8",
        ),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}}, "is not a part of"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}, "is not a part of"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}}, "is not a part of"),
        (
            {
                "ipBlock": {
                    "cidr": "::/0",
                    "except": [f"{n + 0x2000:x}:{n * 7:x}::1/128" for n in range(1000)],
                }
            },
            "except: 1000 exceptions make more than 20000 ranges of ::/0",
        ),
    ],
)
def test_a_peer_that_can_not_be_read_is_nobody(peer: object, expected: str) -> None:
    assert peers(peer, said=(expected,)) == ()
    others: tuple[object, ...] = ({"podSelector": {"matchLabels": {"a": "b"}}}, {"namespaceSelector": {}})
    texts = (expected.replace("[0]", "[1]", 1) if expected.startswith("from[0]") else expected,)
    assert peers(others[0], peer, others[1], said=texts) == (
        PolicyPeer(pods=having(a="b")),
        PolicyPeer(namespaces=EVERYTHING),
    )


EXPRESSIONS: list[tuple[Any, str]] = [
    (
        {"key": "a", "operator": "Like", "values": ["b"]},
        "operator: 'Like' is unknown here (In, NotIn, Exists",
    ),
    ({"key": "a", "operator": "in", "values": ["b"]}, "operator: 'in' is unknown here"),
    ({"key": "a"}, "operator: nothing is unknown here"),
    ({"key": "a", "operator": ["In"]}, "operator: a list is unknown here"),
    ({"operator": "Exists"}, "key: nothing is not a label's key"),
    ({"key": "-a", "operator": "Exists"}, "key: '-a' is not a label's key"),
    ({"key": "a/b/c", "operator": "Exists"}, "key: 'a/b/c' is not a label's key"),
    ({"key": "a", "operator": "In"}, "values: In needs at least one value"),
    ({"key": "a", "operator": "NotIn", "values": []}, "values: NotIn needs at least one value"),
    ({"key": "a", "operator": "Exists", "values": ["b"]}, "values: Exists has no values"),
    ({"key": "a", "operator": "DoesNotExist", "values": ["b"]}, "values: DoesNotExist has no values"),
    ({"key": "a", "operator": "In", "values": "b"}, "values: must be a list, is 'b'"),
    ({"key": "a", "operator": "NotIn", "values": ["b", 1]}, "values[1]: a number is not a label's value"),
    ({"key": "a", "operator": "NotIn", "values": ["b", "c d"]}, "values[1]: 'c d' is not a label's value"),
    ({"key": "a", "operator": "Exists", "value": "b"}, "the field 'value' is unknown here"),
]


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS)
def test_a_requirement_that_can_not_be_read(expression: Any, expected: str) -> None:
    """A peer with it is nobody; a policy with it isolates whom the rest selects and allows nothing."""
    selector = {"matchLabels": {"app": "web"}, "matchExpressions": [expression]}
    assert peers({"podSelector": selector}, said=(expected,)) == ()
    assert peers({"namespaceSelector": selector, "podSelector": {}}, said=(expected,)) == ()
    found = policy({"podSelector": selector, "ingress": [{}], "egress": [{}]}, expected)
    assert (found.pods, found.ingress, found.egress) == (having(app="web"), (), ())


@pytest.mark.parametrize("selector", ["web", [], 5, True, {"matchlabels": {"app": "web"}}])
def test_a_pod_selector_that_is_none_isolates_all(selector: Any) -> None:
    found = policy({"podSelector": selector, "ingress": [{}]}, "spec.podSelector: ")
    assert (found.pods, found.ingress, found.egress) == (EVERYTHING, (), None)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"protocol": "ICMP"}, "protocol: 'ICMP' is unknown here (TCP, UDP, SCTP)"),
        ({"protocol": "tcp", "port": 80}, "protocol: 'tcp' is unknown here"),
        ({"protocol": 6}, "protocol: a number is unknown here"),
        ({"protocol": ["TCP"]}, "protocol: a list is unknown here"),
        ({"endPort": 90}, "endPort: needs a port that is a number"),
        ({"port": "http", "endPort": 90}, "endPort: needs a port that is a number"),
        ({"port": 80, "endPort": 79}, "endPort: 79 is below port, 80"),
        ({"port": 80, "endPort": 65536}, "endPort: 65536 is out of range: 1 to 65535"),
        ({"port": 80, "endPort": "90"}, "endPort: must be a whole number from 1 to 65535, is '90'"),
        ({"port": 80, "endPort": 0}, "endPort: 0 is out of range"),
        ({"port": 0}, "port: 0 is out of range"),
        ({"port": -1}, "port: -1 is out of range"),
        ({"port": 65536}, "port: 65536 is out of range"),
        ({"port": 2**100}, "port: the number is out of range"),
        ({"port": 80.5}, "port: must be a whole number"),
        ({"port": True}, "port: must be a whole number"),
        ({"port": []}, "port: must be a whole number"),
        ({"port": "80"}, "port: '80' is not the name of a port"),
        ({"port": ""}, "port: '' is not the name of a port"),
        ({"port": "Http"}, "port: 'Http' is not the name of a port"),
        ({"port": "a--b"}, "port: 'a--b' is not the name of a port"),
        ({"port": "a" * 16}, "is not the name of a port"),
        ({"port": 80, "endport": 90}, "ports[0]: the field 'endport' is unknown here"),
        (80, "ports[0]: must be a mapping, is a number"),
        (None, "ports[0]: must be a mapping, is nothing"),
    ],
)
def test_a_port_that_can_not_be_read_is_none(port: Any, expected: str) -> None:
    assert ports(port, said=(expected,)) == ()
    assert ports(port, {"port": 443}, said=(expected,)) == (PolicyPort(first=443, last=443),)


@pytest.mark.parametrize(
    ("rules", "expected", "left"),
    [
        ("all", "spec.ingress: must be a list, is 'all'; it allows nothing", ()),
        ({}, "spec.ingress: must be a list, is a mapping", ()),
        ([None], "spec.ingress[0]: must be a mapping, is nothing; the rule is left out", ()),
        ([[]], "spec.ingress[0]: must be a mapping, is a list", ()),
        ([{"to": []}], "spec.ingress[0]: the field 'to' is unknown here (from, ports)", ()),
        ([{"form": [{}]}], "spec.ingress[0]: the field 'form' is unknown here", ()),
        ([{"action": "Deny"}, {"ports": []}], "ingress[0]: the field 'action'", (PolicyRule(),)),
        ([{"from": {}}], "spec.ingress[0].from: must be a list, is a mapping", (PolicyRule(peers=()),)),
        ([{"ports": 80}], "spec.ingress[0].ports: must be a list, is a number", (PolicyRule(ports=()),)),
    ],
)
def test_a_rule_that_can_not_be_read_is_none(rules: Any, expected: str, left: object) -> None:
    assert policy({**ALL, "ingress": rules}, expected).ingress == left


@pytest.mark.parametrize(
    ("types", "ingress", "egress"),
    [
        (["Ingress", "Forward"], (PolicyRule(),), ()),
        (["Egress", "Forward"], (), (PolicyRule(),)),
        (["ingress"], (), ()),
        ([None], (), ()),
        ([["Ingress"]], (), ()),
        ("Ingress", (), ()),
        ({}, (), ()),
        (False, (), ()),
    ],
)
def test_policy_types_that_can_not_be_read_isolate_both_ways(
    types: Any, ingress: object, egress: object
) -> None:
    found = policy({**ALL, "policyTypes": types, "ingress": [{}], "egress": [{}]}, "spec.policyTypes: ")
    assert (found.ingress, found.egress) == (ingress, egress)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", "spec: must be a mapping, is 'all'; the policy isolates both ways and allows nothing"),
        ([], "spec: must be a mapping, is a list"),
        ({**ALL, "policytypes": ["Egress"], "ingress": [{}]}, "spec: the field 'policytypes' is unknown"),
        ({**ALL, "priority": 5, "ingress": [{}], "egress": [{}]}, "spec: the field 'priority' is unknown"),
    ],
)
def test_a_spec_that_can_not_be_read_isolates_both_ways(spec: Any, expected: str) -> None:
    found = policy(spec, expected)
    assert (found.pods, found.ingress, found.egress) == (EVERYTHING, (), ())


def test_many_mistakes_are_counted() -> None:
    found = policy(
        {**ALL, "ingress": [{"from": [{}] * 1000}]},
        *["is nobody"] * 5,
        "spec: and 995 more that can't be read",
    )
    assert found.ingress == (PolicyRule(peers=()),)


def test_only_who_has_no_name_is_a_problem() -> None:
    for metadata, expected in (
        ({}, "metadata.name: is missing; every NetworkPolicy has a name"),
        ({"name": "A"}, "metadata.name: 'A' is not a name of a NetworkPolicy"),
        ({"name": "a", "namespace": "B"}, "metadata.namespace: 'B' is not a namespace"),
        ([], "metadata: must be a mapping"),
    ):
        assert expected in problems({"kind": "NetworkPolicy", "metadata": metadata, "spec": ALL})[0]


def test_policies_of_another_api_are_left_alone() -> None:
    document = yaml.safe_load(POLICY)
    for version, count in (
        ("projectcalico.org/v3", 0),
        ("crd.antrea.io/v1", 0),
        ("networking.k8s.io/v2", 1),
        ("extensions/v1beta1", 1),
        ("v1", 1),
        (1, 1),
        (None, 1),
    ):
        found, remarks = policies({**document, "apiVersion": version})
        assert (len(found), remarks) == (count, []), version


def test_a_list_of_policies_is_read() -> None:
    item = yaml.safe_load(POLICY)
    del item["kind"], item["apiVersion"]
    found, _ = policies({"kind": "NetworkPolicyList", "items": [item]})
    assert [each.key for each in found] == ["shop/web"]


def test_thousands_of_exceptions_are_read() -> None:
    block = {"cidr": "10.0.0.0/8", "except": [f"10.{n // 256}.{n % 256}.0/24" for n in range(0, 10_000, 2)]}
    (peer,) = peers({"ipBlock": block}) or ()
    assert peer.block is not None
    assert len(peer.block.excepts) == 5000


def test_large_policies_are_read_in_a_moment() -> None:
    document = yaml.safe_load(POLICY)
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"10.{n}.0.0/16" for n in range(200)]}}
    document["spec"]["ingress"] = [{"from": [block], "ports": [{"port": n + 1}]} for n in range(100)]
    started = time.process_time()
    (found,), _ = policies(document)
    assert len(found.ingress or ()) == 100
    assert time.process_time() - started < 5
