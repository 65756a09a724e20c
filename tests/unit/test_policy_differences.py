"""`ovsnet policy diff` tells exactly the connections of which the oracle says otherwise before and after a change."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cluster_policy_parts import cluster_policy
from clusters import clusters, namespace
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import verdict
from policy_edits import ACTIONS, PORTS, edits
from policy_parts import policy
from policy_world import Cluster, Connection, End, Node, connections, key
from test_policy_judge import world

from ovsnet import policies, policydiffwords
from ovsnet.policydiff import Diff, compare
from ovsnet.policyends import Asked, EndClass
from ovsnet.policygroups import Group
from ovsnet.policymodel import Direction, Tier
from ovsnet.policynets import Networks, regions

OUTSIDE = ("203.0.113.7", "203.0.113.8", "2001:db8::7", "9.9.9.9")


def told(diff: Diff, connection: Connection) -> list[bool]:
    """What the diff says that would become of it, once for each time that it says so."""
    ends = connection.source, connection.destination
    version = ipaddress.ip_address(ends[0].address).version
    return [
        each.allowed
        for row in diff.rows
        if row.family in (0, version) and has(row.sources, ends[0]) and has(row.targets, ends[1])
        for each in row.verdicts
        if any(
            (None if kind is None else kind.value) == connection.protocol
            and any(first <= connection.port <= last for first, last in ports)
            for kind, ports in each.ports
        )
    ]


def has(classes: Iterable[EndClass], end: End) -> bool:
    if end.who is None:
        address = ipaddress.ip_address(end.address)
        found = [each.region for each in classes if each.region is not None]
        return any(
            address in each.network and not any(address in part for part in each.without) for each in found
        )
    kind, name = ("node", end.who.name) if isinstance(end.who, Node) else ("pod", key(end.who))
    return any(each.kind == kind and member.key == name for each in classes for member in each.members)


def usual(connection: Connection) -> bool:
    """Nodes send from their gateway's address, and are reached at their own."""
    source, target = connection.source, connection.destination
    return not (isinstance(source.who, Node) and source.address not in source.who.gateways) and not (
        isinstance(target.who, Node) and target.address not in target.who.addresses
    )


def always(connection: Connection) -> bool:
    """A pod and itself, or its node: what rows don't mean."""
    source, target = connection.source.who, connection.destination.who
    if isinstance(source, dict) and isinstance(target, dict):
        return key(source) == key(target)
    pod, node = (source, target) if isinstance(source, dict) else (target, source)
    return isinstance(pod, dict) and isinstance(node, Node) and pod["spec"].get("nodeName") == node.name


def check(before: Cluster, after: Cluster) -> None:
    diff = compare(world(before), world(after))
    now = {key(each): each for each in after.pods}

    def then(end: End) -> End:
        return End(now[key(end.who)], end.address) if isinstance(end.who, dict) else end

    for connection in filter(usual, connections(before, PORTS, OUTSIDE)):
        later = replace(connection, source=then(connection.source), destination=then(connection.destination))
        was, is_now = verdict(before, connection).allowed, verdict(after, later).allowed
        expected = [] if was is is_now else [is_now]
        assert ([] if always(connection) else told(diff, connection)) == expected, str(connection)


@given(edit=edits())
def test_exactly_what_the_oracle_says_otherwise_is_told(edit: tuple[Cluster, Cluster]) -> None:
    check(*edit)


@given(cluster=clusters())
def test_whether_a_rule_means_an_address_is_as_it_lists_them(cluster: Cluster) -> None:
    """`means`, which the judge asks, and `networks`, which flows are made of."""
    seen = world(cluster)
    asked = Asked(seen)
    ways = [(key, direction) for key in seen.pods for direction in Direction]
    granted = [each.allowances for way in ways for each in asked.granted(*way)]
    decided = [each.allowances for way in ways for tier in Tier for each in asked.decided(*way, tier)]
    groups: set[Group] = {
        group
        for allowances in (*granted, *decided)
        for allowance in allowances
        for group in allowance.peers or ()
    }
    nodes = policies.node_addresses(seen.nodes).values()
    addresses = {
        *(ip for pod in seen.pods.values() for ip in pod.ips),
        *(ip for node in nodes for ip in (*node.addresses, *node.gateways)),
        *map(ipaddress.ip_address, OUTSIDE),
    }
    for group in groups:
        networks = asked.networks(group)
        for address in addresses:
            assert asked.means(group, address) is any(address in each for each in networks), (group, address)


# --- what is told ---

POD_NODES = {"web-1": "node-a", "web-2": "node-b", "web-3": "node-b", "client-1": "node-a", "mail": "node-b"}
NODES = tuple(
    Node(f"node-{letter}", (f"192.168.0.{at}",), (f"10.{at}.0.1",)) for at, letter in ((1, "a"), (2, "b"))
)


def pod(number: int, name: str, in_namespace: str = "default") -> dict[str, Any]:
    node = POD_NODES[name]
    ip = f"10.{1 if node == 'node-a' else 2}.0.{number + 2}"
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": in_namespace, "labels": {"app": name.partition("-")[0]}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"podIPs": [{"ip": ip}]},
    }


CLUSTER = Cluster(
    namespaces=(namespace("default", {}),),
    pods=tuple(pod(number, name) for number, name in enumerate(POD_NODES)),
    nodes=NODES,
)


def having(app: str) -> dict[str, Any]:
    return {"pods": {"podSelector": {"matchLabels": {"app": app}}}}


ABOUT_WEB = {"priority": 1, "subject": having("web")}
FROM_CLIENT = {"from": [having("client")]}
RULES = st.tuples(st.sampled_from(("Admin", "Baseline")), ACTIONS)


def test_tiers_come_before_and_after_policies_and_are_named() -> None:
    """A NetworkPolicy lets client-1 into web. Admin denies that, but for TCP 80, which it passes on; Baseline denies
    the others, whom no policy isolates, what it does not accept."""
    allowing = policy(
        "default",
        "p",
        {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
        },
    )
    port = {"protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}
    everybody: dict[str, Any] = {"namespaces": {}}
    admin = {
        "tier": "Admin",
        "priority": 5,
        "subject": having("web"),
        "ingress": [
            {"name": "keep", "action": "Pass", "from": [everybody], **port},
            {"action": "Deny", "from": [everybody]},
        ],
    }
    baseline = {
        "tier": "Baseline",
        "priority": 5,
        "subject": everybody,
        "ingress": [
            {"action": "Accept", "from": [having("client")]},
            {"action": "Deny", "from": [everybody]},
        ],
    }
    before = replace(CLUSTER, policies=(allowing,))
    rules = (cluster_policy("lockdown", admin), cluster_policy("base", baseline))
    after = replace(before, cluster_policies=rules)
    check(before, after)
    denied = (
        "allowed -> DENIED, ingress: denied by ClusterNetworkPolicy base ingress[1], in the Baseline tier"
    )
    assert told_of(before, after) == [
        "default/client-1  <-  all 4 other pods  (4 pairs)",
        f"  everything: {denied}",
        "default/mail  <-  default/web-* (3 pods)  (3 pairs)",
        f"  everything: {denied}",
        "default/web-* (3 pods)  <-  default/client-1  (3 pairs)",
        "  pings; TCP all but 80; UDP all; SCTP all: allowed -> DENIED, ingress: denied by ClusterNetworkPolicy "
        "lockdown ingress[1], in the Admin tier",
        "10 pairs would change",
    ]
    # What has no policy any more is what the Baseline tier is for, with what Admin passes on.
    check(after, replace(after, policies=()))
    assert told_of(after, replace(after, policies=())) == [
        "default/web-* (3 pods)  <-  node node-a, node node-b, all IPv4 addresses outside  (6 pairs)",
        "  everything: denied -> ALLOWED, ingress: no policy isolates it",
        "6 pairs would change",
    ]
    alone = replace(after, policies=(), cluster_policies=rules[:1])
    check(after, alone)
    passed = "no policy isolates it, and ClusterNetworkPolicy lockdown ingress[0] (keep) passes it on"
    assert f"  TCP 80: denied -> ALLOWED, ingress: {passed}" in told_of(after, alone)


@given(
    before=st.lists(RULES, min_size=2, max_size=2),
    after=st.lists(RULES, min_size=2, max_size=2),
    closed=st.booleans(),
)
@example(
    before=[("Admin", "Pass"), ("Baseline", "Deny")],
    after=[("Admin", "Pass"), ("Admin", "Deny")],
    closed=False,
)
@example(
    before=[("Admin", "Deny"), ("Admin", "Pass")], after=[("Admin", "Accept"), ("Admin", "Pass")], closed=True
)
def test_rules_that_say_the_same_of_the_same_in_another_tier_or_with_another_action(
    before: list[tuple[str, str]], after: list[tuple[str, str]], closed: bool
) -> None:
    """closed: a NetworkPolicy isolates the pods too."""
    isolating = policy("default", "p", {"podSelector": {"matchLabels": {"app": "web"}}})
    clusters = [
        replace(
            CLUSTER,
            policies=(isolating,) if closed else (),
            cluster_policies=tuple(
                cluster_policy(
                    f"c{at}", {**ABOUT_WEB, "tier": tier, "ingress": [{**FROM_CLIENT, "action": action}]}
                )
                for at, (tier, action) in enumerate(rules)
            ),
        )
        for rules in (before, after)
    ]
    check(clusters[0], clusters[1])


def told_of(before: Cluster, after: Cluster) -> list[str]:
    found = policydiffwords.shown(compare(world(before), world(after)), everything=False)
    return list(policydiffwords.lines(found, everything=False))


def test_a_node_is_meant_by_its_labels_at_all_its_addresses() -> None:
    """Those of a node that it has beside its InternalIPs are outside otherwise."""
    nodes = (NODES[0], replace(NODES[1], labels=(("rack", "b"),)))
    spec = {
        "tier": "Admin",
        "priority": 0,
        "subject": having("client"),
        "egress": [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"rack": "b"}}}]}],
    }
    cluster = replace(CLUSTER, nodes=nodes)
    denied = replace(cluster, cluster_policies=(cluster_policy("c", spec),))
    check(cluster, denied)
    further = ipaddress.ip_address("198.51.100.1")
    worlds = []
    for each in map(world, (cluster, denied)):
        node = msgspec.structs.replace(each.nodes["node-b"], others=(further,))
        worlds.append(msgspec.structs.replace(each, nodes={**each.nodes, "node-b": node}))
    (row,) = policydiffwords.shown(compare(*worlds), everything=False)["changes"]
    assert row["from"]["titles"] == ["default/client-1"]
    assert row["to"]["titles"] == ["node node-b", "198.51.100.1/32"]


def applied(*specs: dict[str, Any], everything: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What is told of policies that are added to a cluster without any."""
    made = tuple(policy("default", f"p{number}", spec) for number, spec in enumerate(specs))
    diff = compare(world(CLUSTER), world(replace(CLUSTER, policies=made)))
    found = policydiffwords.shown(diff, everything)
    json.dumps(found)
    return found, list(policydiffwords.lines(found, everything))


def test_nothing_changes_by_a_policy_that_selects_nobody() -> None:
    found, lines = applied({"podSelector": {"matchLabels": {"app": "none"}}})
    assert found == {"pairs": 0, "changes": [], "leftOut": {"changes": 0, "pairs": 0}}
    assert lines == ["nothing would change"]


def test_pods_that_are_alike_are_one_line() -> None:
    """Each of three from four other pods, from the one node that is not its own, and from outside."""
    found, lines = applied({"podSelector": {"matchLabels": {"app": "web"}}})
    assert found["pairs"] == 3 * 4 + 3 + 3
    assert lines[0].startswith("default/web-* (3 pods)  <-  all 5 pods, node node-a, node node-b, all IPv4")
    assert lines[1] == (
        "  everything: allowed -> DENIED, ingress: isolated by NetworkPolicy default/p0, and no rule allows this"
    )


@pytest.mark.parametrize(
    ("peer", "field"),
    [
        ({"podSelector": {"matchLabels": {"app": "client"}}}, "pods"),
        ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, "namespaces"),
    ],
)
def test_peers_that_get_other_labels_are_told_though_no_policy_selects_them(
    peer: dict[str, Any], field: str
) -> None:
    spec = {"podSelector": {"matchLabels": {"app": "mail"}}, "ingress": [{"from": [peer]}]}
    namespaces = (namespace("default", {"team": "a"}),)
    before = replace(CLUSTER, namespaces=namespaces, policies=(policy("default", "p", spec),))
    if field == "pods":
        (found,) = [each for each in CLUSTER.pods if key(each) == "default/client-1"]
        made = {**found, "metadata": {**found["metadata"], "labels": {}}}
        after = replace(before, pods=tuple(made if each is found else each for each in before.pods))
        expected = [key(found)]
    else:
        after = replace(before, namespaces=(namespace("default", {}),))
        expected = sorted(key(each) for each in CLUSTER.pods if key(each) != "default/mail")
    for worlds, allowed in (((before, after), False), ((after, before), True)):
        diff = compare(*map(world, worlds))
        (row,) = policydiffwords.shown(diff, everything=True)["changes"]
        assert (row["from"]["pods"], row["to"]["pods"]) == (expected, ["default/mail"])
        assert [each["allowed"] for each in row["verdicts"]] == [allowed]
        assert diff.pairs == row["pairs"] == len(expected)


def test_ports_and_networks_are_told_to_their_edges() -> None:
    rule = {
        "from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}],
        "ports": [{"port": 80}, {"port": 90, "endPort": 99}, {"protocol": "UDP"}],
    }
    found, lines = applied({"podSelector": {"matchLabels": {"app": "mail"}}, "ingress": [rule]})
    allowed = {"network": "203.0.113.0/24", "without": ["203.0.113.128/25"]}
    (row,) = [each for each in found["changes"] if allowed in each["from"]["networks"]]
    assert row["from"]["titles"] == ["203.0.113.0/24 (but 203.0.113.128/25)"]
    assert row["to"]["pods"] == ["default/mail"]
    assert row["verdicts"][0]["connections"] == [
        {"protocol": None, "ports": None},
        {"protocol": "TCP", "ports": [[1, 79], [81, 89], [100, 65535]]},
        {"protocol": "SCTP", "ports": [[1, 65535]]},
    ]
    assert any("pings; TCP all but 80, 90-99; SCTP all" in line for line in lines)
    assert any("203.0.113.0/24 (but 203.0.113.128/25)" in line for line in lines)


def test_what_is_much_is_left_out_and_counted() -> None:
    """A rule for each of many networks, which differ in their ports."""
    rules = [
        {"from": [{"ipBlock": {"cidr": f"198.51.{number}.0/24"}}], "ports": [{"port": number + 1}]}
        for number in range(60)
    ]
    spec = {"podSelector": {"matchLabels": {"app": "mail"}}, "ingress": rules}
    found, lines = applied(spec)
    assert len(found["changes"]) == policydiffwords.MOST
    left = found["leftOut"]
    assert left["pairs"] + sum(each["pairs"] for each in found["changes"]) == found["pairs"]
    assert f"... and {left['changes']} more changes, of {left['pairs']} pairs: --all tells them" in lines
    whole, lines = applied(spec, everything=True)
    assert len(whole["changes"]) == policydiffwords.MOST + left["changes"]
    assert not any("more" in line for line in lines)


def test_regions_are_apart_and_have_an_address_of_nobody() -> None:
    networks = [
        ipaddress.ip_network(each) for each in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/30", "9.9.9.9/32")
    ]
    inside = [ipaddress.ip_network("10.1.0.0/16")]
    taken = {ipaddress.ip_address("9.9.9.9"), ipaddress.ip_address("10.0.0.0")}
    found = {str(each.network): each for each in regions(networks, inside, taken)}
    assert set(found) == {"0.0.0.0/0", "10.0.0.0/8", "::/0"}
    assert str(found["10.0.0.0/8"].address) == "10.0.0.1"
    assert list(map(str, found["0.0.0.0/0"].without)) == ["9.9.9.9/32", "10.0.0.0/8"]
    narrow = Networks(networks)
    assert str(narrow.narrowest(ipaddress.ip_address("10.1.2.3"))) == "10.1.2.0/30"
    assert narrow.narrowest(ipaddress.ip_address("::a01:203")) is None
