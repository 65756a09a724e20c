"""What must hold of the oracle's answers in any cluster; and of the clusters and changes that are made to ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import policy_parts
from cluster_changes import Change, histories
from clusters import HOSTS, asked, clusters
from hypothesis import find, given, settings
from hypothesis import strategies as st
from oracle import Verdict, verdict
from policy_parts import policy
from policy_world import Cluster, Connection, Object, finished, key, on_host_network, pod_addresses

FEW = (79, 80, 8080)
NOBODY = {"matchLabels": {"app": "nobody"}}
BOTH = {"policyTypes": ["Ingress", "Egress"]}


def _answers(cluster: Cluster, connections: Sequence[Connection]) -> list[Verdict]:
    return [verdict(cluster, each) for each in connections]


def _allowed(cluster: Cluster, connections: Sequence[Connection]) -> list[bool]:
    return [each.allowed for each in _answers(cluster, connections)]


def _questions(cluster: Cluster) -> list[Connection]:
    return list(asked(cluster, FEW))


def _first_namespace(cluster: Cluster) -> str:
    name: str = cluster.namespaces[0]["metadata"]["name"]
    return name


@given(cluster=clusters(), spec=policy_parts.specs())
def test_a_policy_that_selects_no_pod_changes_nothing(cluster: Cluster, spec: Object) -> None:
    idle = policy(_first_namespace(cluster), "idle", {**spec, "podSelector": NOBODY})
    questions = _questions(cluster)
    with_it = replace(cluster, policies=(*cluster.policies, idle))
    assert _answers(with_it, questions) == _answers(cluster, questions)


@given(cluster=clusters(), data=st.data())
def test_a_rule_more_takes_nothing_away(cluster: Cluster, data: st.DataObject) -> None:
    """With policyTypes written out: of those that are left to the default an egress rule makes more."""
    if not cluster.policies:
        return
    direction = data.draw(st.sampled_from(("ingress", "egress")))
    rule = data.draw(policy_parts.rules(direction))
    found = data.draw(st.sampled_from(cluster.policies))
    types = found["spec"].get("policyTypes") or (
        ["Ingress", "Egress"] if found["spec"].get("egress") else ["Ingress"]
    )
    spec = {**found["spec"], "policyTypes": types}
    spec[direction] = [*(spec.get(direction) or ()), rule]
    more = Change("one rule more", put=({**found, "spec": spec},)).after(cluster)
    questions = _questions(cluster)
    pairs = zip(_allowed(cluster, questions), _allowed(more, questions), strict=True)
    assert all(after or not before for before, after in pairs)


@given(cluster=clusters(), spec=policy_parts.specs())
def test_a_policy_more_takes_nothing_away_from_pods_that_are_isolated(cluster: Cluster, spec: Object) -> None:
    more = replace(cluster, policies=(*cluster.policies, policy(_first_namespace(cluster), "more", spec)))
    for question in _questions(cluster):
        before, after = verdict(cluster, question), verdict(more, question)
        for one, other in ((before.egress, after.egress), (before.ingress, after.ingress)):
            assert not one.isolated_by or other.allows or not one.allows


@given(cluster=clusters(), data=st.data())
def test_order_means_nothing(cluster: Cluster, data: st.DataObject) -> None:
    def shuffled(policy: Object) -> Object:
        """Its rules, and what is in them, the other way round."""
        spec = dict(policy["spec"])
        for direction in {"ingress", "egress"} & spec.keys():
            rules = reversed(spec[direction])
            spec[direction] = [{name: list(reversed(each)) for name, each in rule.items()} for rule in rules]
        return {**policy, "spec": spec}

    other = replace(
        cluster,
        namespaces=tuple(data.draw(st.permutations(cluster.namespaces))),
        pods=tuple(data.draw(st.permutations(cluster.pods))),
        policies=tuple(map(shuffled, data.draw(st.permutations(cluster.policies)))),
    )
    questions = _questions(cluster)
    found = [each.denied_by for each in _answers(other, questions)]
    assert found == [each.denied_by for each in _answers(cluster, questions)]


@given(cluster=clusters())
def test_without_policies_all_is_allowed(cluster: Cluster) -> None:
    assert all(_allowed(replace(cluster, policies=(), cluster_policies=()), _questions(cluster)))


@given(cluster=clusters(), data=st.data())
def test_a_pod_in_a_namespace_without_policies_allows_everything(
    cluster: Cluster, data: st.DataObject
) -> None:
    quiet = _first_namespace(cluster)
    policies = tuple(each for each in cluster.policies if each["metadata"]["namespace"] != quiet)
    for question in _questions(cluster):
        found = verdict(replace(cluster, policies=policies, cluster_policies=()), question)
        for end, side in ((question.source, found.egress), (question.destination, found.ingress)):
            if isinstance(end.who, dict) and end.who["metadata"]["namespace"] == quiet:
                assert side.allows
                assert not side.isolated_by


@given(cluster=clusters())
def test_deny_all_leaves_a_pod_itself_and_its_node(cluster: Cluster) -> None:
    names = [each["metadata"]["name"] for each in cluster.namespaces]
    denied = replace(
        cluster,
        policies=tuple(policy(name, "none", {"podSelector": {}, **BOTH}) for name in names),
        cluster_policies=(),
    )
    for question in _questions(cluster):
        one, other = question.source.who, question.destination.who
        if isinstance(one, dict) and isinstance(other, dict):
            near = one is other
        else:
            pod, node = (one, other) if isinstance(one, dict) else (other, one)
            assert isinstance(pod, dict)
            near = not isinstance(node, dict | None) and pod["spec"]["nodeName"] == node.name
        assert verdict(denied, question).allowed is near


@given(cluster=clusters())
def test_names_and_addresses_are_those_of_one(cluster: Cluster) -> None:
    _check(cluster)


@given(history=histories())
def test_changes_do_something_and_keep_it_a_cluster(history: tuple[Cluster, tuple[Change, ...]]) -> None:
    now, steps = history
    for step in steps:
        before, now = now, step.after(now)
        _check(now)
        kept = {str(each) for each in (*now.pods, *now.policies, *now.cluster_policies, *now.namespaces)}
        assert all(str(each) in kept for each in step.put)
        assert not [each for each in step.gone if str(each) in kept]
        assert all(str(each) in str(before) for each in step.gone)


def _check(cluster: Cluster) -> None:
    for objects in (cluster.pods, cluster.policies):
        assert len({key(each) for each in objects}) == len(objects)
    uids = [each["metadata"]["uid"] for each in cluster.pods]
    assert len(set(uids)) == len(uids)
    holders = [each for each in cluster.pods if not finished(each) and not on_host_network(each)]
    held = [address for each in holders for address in pod_addresses(each)]
    assert len(set(held)) == len(held)
    for pod in holders:
        number = pod["spec"]["nodeName"] == "node-b"
        for address in map(ip_address, pod_addresses(pod)):
            prefix = f"10.{1 + number}.0." if address.version == 4 else f"fd00:{1 + number}::"
            assert str(address).startswith(prefix)
            assert int(address) % 256 in HOSTS


SHRUNK = settings(max_examples=200, database=None)


def _denies_ingress_alone(cluster: Cluster) -> bool:
    return any(
        verdict(cluster, each).denied_by == ("ingress",)
        for each in asked(cluster, (80,))
        if each.protocol == "TCP"
    )


def test_a_failure_shrinks_to_little() -> None:
    found = find(clusters(), _denies_ingress_alone, settings=SHRUNK)
    assert (len(found.namespaces), len(found.pods), len(found.policies)) == (1, 2, 1)
    assert found.policies[0]["spec"] == {"podSelector": {}}
