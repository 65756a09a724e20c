"""NetworkPolicies on a real cluster, by real packets: each file in policies/ is a case, which says what it shows.

Nine pods in three namespaces on three nodes, the nodes and the outside: all of them ask all others over TCP and UDP, on
two ports, in IPv4 and IPv6, at first and after each of a case's steps; before it, whatever the case denies. How a case
is written: policies/README.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import policy_cases
import pytest
from kube_api import Refused
from kube_policies import Policed, policed
from lab_world import eventually
from policy_agreement import disagreements
from policy_matrix import MATRIX, PODS, Table

from ovsnet.lab.kubernetes.cluster import Cluster

OPEN = Table()
CLOSED = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Policed]:
    with policed(cluster) as made:
        made.probes.becomes(OPEN, MATRIX)
        yield made


@pytest.fixture
def world(shared: Policed) -> Iterator[Policed]:
    """As in the beginning, also for the next test."""
    yield shared
    shared.undo()


@pytest.mark.parametrize("path", policy_cases.files(), ids=lambda path: path.stem)
def test_case(world: Policed, path: Path) -> None:
    case = policy_cases.load(path)
    denied = {way for step in case.steps for way in step.ways if not step.table.allows(way)}
    world.probes.becomes(OPEN, denied | world.probes.denied())
    for step in case.steps:
        world.do(step)
        world.probes.becomes(step.table, step.ways)
        world.probes.checked(step.table, step.ask)
        if step.said:
            eventually(lambda: world.logged(step.said))  # noqa: B023
    assert disagreements(case, world.book) == [], "with the addresses that the cluster has"


def test_probes_of_isolated_pods_go_on(world: Policed) -> None:
    """Kubelet asks each second: nobody becomes unready, and no server is started again."""
    before = {pod: world.lived(pod) for pod in PODS}
    for namespace in ("x", "y", "z"):
        world.put(f"{namespace}/closed", CLOSED)
    closed = policy_cases.load(policy_cases.FOLDER / "isolation-of-everything.yaml").steps[0].table
    world.probes.becomes(closed, MATRIX)
    time.sleep(5)
    assert {pod: world.lived(pod) for pod in PODS} == before
    assert all(since and not restarts for since, restarts in before.values())


REFUSED = {
    "a range that ends before it begins": {"ports": [{"port": 81, "endPort": 80}]},
    "a range of a port's name": {"ports": [{"port": "web", "endPort": 81}]},
    "an except outside of its block": {
        "from": [{"ipBlock": {"cidr": "10.244.0.0/24", "except": ["10.99.0.0/24"]}}]
    },
    "no block": {"from": [{"ipBlock": {"cidr": "10.244.0.0/33"}}]},
    "an unknown operator": {
        "from": [{"podSelector": {"matchExpressions": [{"key": "pod", "operator": "Like", "values": ["a"]}]}}]
    },
    "a peer that is nobody": {"from": [{}]},
    "a protocol that has no ports": {"ports": [{"protocol": "ICMP"}]},
}


@pytest.mark.parametrize("rule", REFUSED.values(), ids=REFUSED)
def test_what_the_api_server_refuses_needs_no_case(shared: Policed, rule: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        shared.put("x/bad", {"podSelector": {}, "ingress": [rule]})
    assert refused.value.code == 422
