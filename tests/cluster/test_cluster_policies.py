"""NetworkPolicies on a real cluster, by real packets: each file in policies/ is a case, which says what it shows.

Nine pods in three namespaces on three nodes, the nodes and the outside; of each case all of them ask all others over
TCP and UDP, on two ports, in IPv4 and IPv6, before and after each of its steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import policy_cases
import pytest
from kube_policies import Policed, policed
from lab_world import eventually
from policy_agreement import disagreements
from policy_cases import HOST_PODS
from policy_matrix import PODS, Table

from ovsnet.lab.kubernetes.cluster import Cluster

OPEN = Table()
FILES = policy_cases.files()


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Policed]:
    with policed(cluster) as made:
        made.becomes(OPEN, policy_cases.MATRIX)
        made.first_ready = {name: made.ready_since(name) for name in (*PODS, *HOST_PODS)}
        yield made


@pytest.fixture
def now(world: Policed) -> Iterator[Policed]:
    yield world
    world.undo()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_case(now: Policed, path: Path) -> None:
    case = policy_cases.load(path)
    print(case.shows)
    now.becomes(OPEN, {way: None for step in case.steps for way in step.ways})
    for step in case.steps:
        now.do(step)
        now.becomes(step.table, step.ways)
        now.checked(step.table, step.ask)
        if step.said:
            eventually(lambda: now.logged(step.said))  # noqa: B023
    assert disagreements(case, now.book) == []
