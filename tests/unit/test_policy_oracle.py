"""The oracle that tests of policies believe (tests/policy), sentence by sentence of Kubernetes' documentation.

What must hold in any cluster is in test_policy_oracle_properties.
"""

from __future__ import annotations

import cases
import pytest
from oracle import verdict
from policy_world import Cluster, Connection, End, Node, Object

CASES = cases.load()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_oracle_says_what_the_documentation_says(case: cases.Case) -> None:
    said = [(connection, verdict(case.cluster, connection), answer) for connection, answer in case.expected]
    wrong = [
        f"{connection}: {found}, and not {answer}"
        for connection, found, answer in said
        if (" ".join(found.denied_by) or cases.ALLOWED) != answer
    ]
    assert not wrong


def test_every_case_has_its_own_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def _case(name: str) -> tuple[Cluster, Connection]:
    """With the first of its connections."""
    case = next(each for each in CASES if each.name == name)
    return case.cluster, case.expected[0][0]


def test_a_verdict_names_what_isolates_and_what_allows() -> None:
    assert str(verdict(*_case("both sides must allow, and do"))) == (
        "allowed (egress: isolated by shop/q0; allowed by shop/q0 egress[0]. "
        "ingress: isolated by shop/q1; allowed by shop/q1 ingress[0])"
    )
    assert str(verdict(*_case("deny all both ways"))) == (
        "denied by egress and ingress (egress: isolated by shop/q0; allowed by no rule. "
        "ingress: isolated by shop/q0; allowed by no rule)"
    )
    assert str(verdict(*_case("a pod reaches itself"))) == "allowed: a pod reaches itself"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            ("pod", "10.9.9.9"),
            "pod shop/front (10.9.9.9): has no such address; give one of 10.1.0.2, fd00:1::2",
        ),
        (("node", "10.1.0.1"), "node b (10.1.0.1): has no such address; give one of 192.168.0.2, fd99::2, "),
        (("pod", "fd00:1::2"), "the addresses are of different families; ask about one family at a time"),
        (("lost", "10.1.0.2"), "pod shop/lost (10.1.0.2): runs on node 'z', which the cluster doesn't have"),
    ],
)
def test_a_question_that_can_not_be_is_refused(source: tuple[str, str], expected: str) -> None:
    cluster, _ = _case("deny all both ways")
    lost = {"metadata": {"namespace": "shop", "name": "lost"}, "spec": {"hostNetwork": True, "nodeName": "z"}}
    who: dict[str, Object | Node] = {"pod": cluster.pods[0], "node": cluster.nodes[1], "lost": lost}
    with pytest.raises(ValueError) as refused:
        verdict(cluster, Connection(End(who[source[0]], source[1]), End(None, "203.0.113.7")))
    assert expected in str(refused.value)
