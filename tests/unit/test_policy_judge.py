"""`ovsnet policy check` answers what the oracle says, in any cluster: side by side, with the rule that allows it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable

import msgspec
import pytest
from cases import Case, load
from clusters import asked, clusters
from hypothesis import given
from oracle import Side as Expected
from oracle import verdict
from policy_world import Cluster, Connection

from ovsnet import policies, policyjudge, policywords
from ovsnet.errors import OvsnetError
from ovsnet.model import Node
from ovsnet.policies import Policies
from ovsnet.policyjudge import Judge, Side, Why, World
from ovsnet.policymodel import Direction
from ovsnet.servicemodel import Protocol
from ovsnet.store import manifest
from ovsnet.store.clusterpolicies import ClusterPolicyReader
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.policies import PolicyReader

CASES = load()


def world(cluster: Cluster) -> World:
    """As its first node sees it."""
    node = cluster.nodes[0].name
    everything = [*cluster.namespaces, *cluster.pods, *cluster.policies, *cluster.cluster_policies]
    contents = manifest.read("\n---\n".join(map(json.dumps, everything)), "cluster")
    assert not contents.problems
    pods = manifest.of(contents.objects, PodReader)
    nodes = {
        each.name: Node(
            name=each.name,
            pod_cidrs=tuple(
                ipaddress.ip_network(f"{gateway}/{24 if '.' in gateway else 64}", strict=False)
                for gateway in each.gateways
            ),
            addresses=tuple(map(ipaddress.ip_address, each.addresses)),
            labels=dict(each.labels),
        )
        for each in cluster.nodes
    }
    local = {
        key: pod.ips for key, pod in pods.items() if pod.node == node and pod.ips and not pod.host_network
    }
    return World(
        policies=manifest.of(contents.objects, PolicyReader),
        cluster_policies=manifest.of(contents.objects, ClusterPolicyReader),
        namespaces=manifest.of(contents.objects, NamespaceReader),
        pods=pods,
        nodes=nodes,
        node=node,
        local=local,
    )


def judge_of(seen: World) -> Judge:
    derived = Policies()
    derived.update(
        seen.policies,
        seen.namespaces,
        seen.pods,
        seen.local,
        policies.node_addresses(seen.nodes),
        seen.cluster_policies,
    )
    return Judge(derived, seen.nodes)


def check(cluster: Cluster, connections: Iterable[Connection]) -> None:
    seen = world(cluster)
    judge = judge_of(seen)
    for connection in connections:
        ends = [policyjudge.end(each.address, seen) for each in (connection.source, connection.destination)]
        asked_for = policyjudge.Connection(
            source=ends[0].ips[0],
            target=ends[1].ips[0],
            protocol=Protocol(connection.protocol) if connection.protocol else None,
            port=connection.port,
        )
        egress, ingress = judge.sides(ends[0], ends[1], asked_for)
        expected = verdict(cluster, connection)
        words = f"{connection}: {expected}"
        if expected.always:
            assert egress.allowed, words
            assert ingress.allowed, words
            assert {egress.why, ingress.why} & {Why.OWN_NODE, Why.ITSELF, Why.OPEN}, words
        else:
            agrees(egress, expected.egress, words)
            agrees(ingress, expected.ingress, words)


def agrees(found: Side, expected: Expected, words: str) -> None:
    assert found.allowed is expected.allows, words
    assert tuple(each.key for each in found.isolating) == tuple(sorted(expected.isolated_by)), words
    decided = None if found.decided is None else (found.decided.action.value, found.decided.key)
    assert decided == (expected.decision and (expected.decision.action, expected.decision.rule)), words
    if decided is not None:
        return
    rule = None if found.rule is None else policywords.rule_title(found.rule, found.direction)
    assert rule in expected.allowed_by if expected.allowed_by else rule is None, words


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_is_judged_as_it_is_written_down(case: Case) -> None:
    check(case.cluster, [connection for connection, _ in case.expected])


@given(cluster=clusters())
def test_any_cluster_is_judged_as_the_oracle_does(cluster: Cluster) -> None:
    check(cluster, list(asked(cluster, (79, 80, 8080))))


def test_names_that_lead_nowhere_or_to_several_are_told() -> None:
    seen = world(CASES[0].cluster)
    with pytest.raises(OvsnetError, match="nobody is no pod, node or address"):
        policyjudge.end("nobody", seen)
    node = policyjudge.end(seen.node, seen)
    known = seen.nodes[seen.node]
    assert node.ips[: len(known.pod_cidrs)] == tuple(each.network_address + 1 for each in known.pod_cidrs)
    assert node.reached[: len(known.addresses)] == known.addresses
    key = next(iter(seen.local))
    name = key.partition("/")[2]
    pods = {**seen.pods, f"elsewhere/{name}": seen.pods[key]}
    with pytest.raises(OvsnetError, match="give NAMESPACE/NAME"):
        policyjudge.end(name, msgspec.structs.replace(seen, pods=pods))


def test_the_families_must_meet() -> None:
    seen = world(CASES[0].cluster)
    ends = policyjudge.end("203.0.113.7", seen), policyjudge.end("2001:db8::7", seen)
    with pytest.raises(OvsnetError, match="no address family in common"):
        policyjudge.pairs(*ends)
    assert policyjudge.pairs(ends[0], ends[0]) == [(ends[0].ips[0], ends[0].ips[0])]


def test_of_what_no_policy_can_select_nobody_says_more() -> None:
    seen = world(CASES[0].cluster)
    outside = policyjudge.end("203.0.113.7", seen)
    question = policyjudge.Connection(source=outside.ips[0], target=outside.ips[0])
    egress, _ = judge_of(seen).sides(outside, outside, question)
    assert policywords.side(egress) == "egress of 203.0.113.7: no policy can select it"
    assert egress.direction is Direction.EGRESS
