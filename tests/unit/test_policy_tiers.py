"""ClusterNetworkPolicies to flows: their places, what changes with what, and how many flows there are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from cluster_policy_manifests import cluster_policy
from hypothesis import given
from hypothesis import strategies as st

from ovsnet import resources
from ovsnet.model import IPAddress
from ovsnet.policies import Policies
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    LabelledPod,
    NamedPort,
    Namespace,
    NetworkPolicy,
    PolicyPeer,
    Selector,
    Subject,
    Tier,
)
from ovsnet.policyobjects import ClusterRule as Rendered
from ovsnet.policyobjects import PolicedPod
from ovsnet.policytiers import FIRST, PLACES, places
from ovsnet.render import Renderer
from ovsnet.servicemodel import Protocol

DEFAULT = Namespace(name="default", labels={"kubernetes.io/metadata.name": "default"})
EVERY_POD: dict[str, Any] = {"namespaces": {}}
RENDERER = Renderer(resources.flows_dir())


def labelled(name: str, number: int, **labels: str) -> LabelledPod:
    return LabelledPod(
        namespace="default", name=name, labels=labels, ips=(ipaddress.ip_address(f"10.244.1.{number}"),)
    )


WEB, DB = labelled("web", 5, app="web"), labelled("db", 6, app="db")


class World:
    """A node with some pods, led from one state to the next."""

    def __init__(self, *pods: LabelledPod) -> None:
        self.policies = Policies()
        self.pods: dict[str, LabelledPod] = {each.key: each for each in pods or (WEB, DB)}
        self.local: Mapping[str, tuple[IPAddress, ...]] = {key: pod.ips for key, pod in self.pods.items()}
        self.namespaces = {"default": DEFAULT}

    def follow(
        self, *cluster: ClusterNetworkPolicy, policies: Iterable[NetworkPolicy] = ()
    ) -> dict[tuple[type, str], Any]:
        """What is rendered otherwise than before."""
        self.policies.update(
            {each.key: each for each in policies},
            self.namespaces,
            self.pods,
            self.local,
            {},
            {each.name: each for each in cluster},
        )
        return dict(self.policies.news())

    def flows(self) -> list[str]:
        return [line for each in self.policies.objects for line in RENDERER.object(each)]

    def policed(self) -> set[str]:
        return {each.key for each in self.policies.isolated}


def made(name: str, *rules: tuple[Action, PolicyPeer], **fields: Any) -> ClusterNetworkPolicy:
    """About all pods and their ingress, of the Admin tier with priority 0, unless it says otherwise."""
    given_ = {"tier": Tier.ADMIN, "priority": 0, "subject": Subject(), **fields}
    ingress = tuple(ClusterRule(action=action, peers=(peer,)) for action, peer in rules)
    return ClusterNetworkPolicy(name=name, ingress=ingress, **given_)


ALL = PolicyPeer(namespaces=Selector())
DENY, ACCEPT, PASS = (Action.DENY, ALL), (Action.ACCEPT, ALL), (Action.PASS, ALL)


# --- places --------------------------------------------------------------------------------------


def _ordered(sizes: list[tuple[int, int]]) -> list[ClusterNetworkPolicy]:
    found = [made(f"p{number:05}", *[DENY] * size, priority=at) for number, (at, size) in enumerate(sizes)]
    return sorted(found, key=lambda each: (each.priority, each.name))


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 30)), max_size=30))
def test_places_are_in_order_and_nobody_shares_one(sizes: list[tuple[int, int]]) -> None:
    ordered = _ordered(sizes)
    found = places(ordered)
    flat = [place for each in ordered for place in found.get((each.name, Direction.INGRESS), ())]
    assert flat == sorted(set(flat), reverse=True)
    assert all(FIRST[Tier.ADMIN] - PLACES < place <= FIRST[Tier.ADMIN] for place in flat)


def test_a_priority_of_its_own_is_a_place_of_its_own_whatever_others_there_are() -> None:
    crowd = _ordered([(at, 25) for at in range(1001)])
    full = places(crowd)
    for each in (crowd[0], crowd[500], crowd[1000]):
        alone = places([each])
        assert alone == {key: full[key] for key in alone}


def test_who_has_a_priority_in_common_moves_behind_the_other() -> None:
    found = places(_ordered([(7, 3), (7, 2), (8, 1)]))
    first = FIRST[Tier.ADMIN]
    assert [found[f"p0000{at}", Direction.INGRESS] for at in range(3)] == [
        (first - 175, first - 176, first - 177),
        (first - 178, first - 179),
        (first - 200,),
    ]


def test_the_last_priority_has_room_before_it() -> None:
    found = places(_ordered([(1000, 25)] * 200))
    flat = [place for each in found.values() for place in each]
    assert len(set(flat)) == 200 * 25
    assert min(flat) == FIRST[Tier.ADMIN] - PLACES + 1


def test_more_rules_than_places() -> None:
    found = places(_ordered([(0, 1000)] * 28))
    flat = [place for each in found.values() for place in each]
    assert flat == sorted(flat, reverse=True)
    assert len(set(flat)) == PLACES


# --- what is concerned ---------------------------------------------------------------------------


def test_who_is_denied_nothing_is_not_policed() -> None:
    world = World()
    world.follow(made("open", ACCEPT, PASS))
    assert world.flows() == []
    world.follow(made("open", ACCEPT, PASS), made("base", ACCEPT, tier=Tier.BASELINE))
    assert world.flows() == []
    world.follow(made("shut", DENY, subject=Subject(pods=_having("web"))))
    assert world.policed() == {"default/web"}
    world.follow()
    assert world.flows() == []


def _having(app: str) -> Selector:
    found = cluster_policy(
        {
            "tier": "Admin",
            "priority": 0,
            "subject": {"pods": {"podSelector": {"matchLabels": {"app": app}}}},
        }
    )
    return found.subject.pods


def test_the_baseline_is_not_even_rendered_for_pods_that_are_isolated() -> None:
    world = World()
    base = made("base", DENY, tier=Tier.BASELINE)
    isolating = NetworkPolicy(namespace="default", name="p", pods=_having("web"), ingress=())
    world.follow(base, policies=[isolating])
    shown = {each.key: each for each in world.policies.isolated}
    assert shown["default/web"].tiers == ()
    assert [each.tier for each in shown["default/db"].tiers] == [Tier.BASELINE]


def test_labels_that_nobody_knows_are_accepted_nothing_and_denied_what_is_passed() -> None:
    world = World()
    del world.pods["default/web"]
    world.follow(made("rules", ACCEPT, PASS, subject=Subject(pods=_having("web"))))
    (rule,) = (each for each in world.policies.objects if isinstance(each, Rendered))
    assert (rule.key, rule.action) == ("rules ingress[1] for pods that nobody knows", Action.DENY)
    assert world.policed() == {"default/web"}
    assert world.policies.asks_for_labels("default") == "rules"


def test_whom_nobody_knows_decides_for_nobody_else() -> None:
    world = World(labelled("web", 5, app="web"), labelled("gone", 7, app="web"))
    del world.pods["default/gone"]
    world.follow(made("rules", PASS, DENY, subject=Subject(pods=_having("web"))))
    found = {each.key: each for each in world.policies.objects if isinstance(each, Rendered)}
    assert {key: each.action for key, each in found.items()} == {
        "rules ingress[0]": Action.PASS,
        "rules ingress[0] for pods that nobody knows": Action.DENY,
        "rules ingress[1]": Action.DENY,
    }
    numbers = [set(each.numbers) for each in found.values()]
    assert sum(map(len, numbers)) == len(set().union(*numbers))


def test_of_a_port_by_name_that_nobody_knows_all_are_denied() -> None:
    world = World()
    del world.pods["default/web"]
    world.follow(
        cluster_policy(
            {
                "tier": "Admin",
                "priority": 0,
                "subject": EVERY_POD,
                "ingress": [
                    {
                        "action": "Deny",
                        "from": [EVERY_POD],
                        "protocols": [{"destinationNamedPort": "admin"}],
                    }
                ],
            }
        )
    )
    # The other has no such port.
    assert world.policed() == {"default/web"}
    assert world.policies.denies(
        "default/web", Direction.INGRESS, ipaddress.ip_address("10.244.1.6"), Protocol.TCP, 22
    )
    assert world.policies.asks_for_labels("default") is not None


def test_a_namespace_that_nobody_knows_has_its_name_and_perhaps_any_label() -> None:
    def outwards(action: str, **labels: str) -> ClusterNetworkPolicy:
        return cluster_policy(
            {
                "tier": "Admin",
                "priority": 0,
                "subject": {"namespaces": {"matchLabels": labels}},
                "egress": [{"action": action, "to": [{"networks": ["0.0.0.0/0"]}]}],
            }
        )

    world = World()
    by_name = {"kubernetes.io/metadata.name": "default"}
    other_name = {"kubernetes.io/metadata.name": "other"}
    for known, concerned in (({}, True), ({"default": DEFAULT}, False)):
        world.namespaces = known
        for action in ("Deny", "Pass"):
            world.follow(outwards(action, team="a"))
            assert bool(world.policed()) is concerned, (known, action)
        world.follow(outwards("Deny", **by_name))
        assert world.policed() == {"default/web", "default/db"}
        world.follow(outwards("Pass", **by_name))
        assert world.policed() == set()
        world.follow(outwards("Deny", **other_name))
        assert world.policed() == set()


# --- what changes, and how many there are --------------------------------------------------------


def test_a_pod_that_changes_label_touches_its_own_lists_alone() -> None:
    world = World(*(labelled(f"p{number}", number, app="web") for number in range(2, 40)))
    rules = tuple((Action.DENY, PolicyPeer(namespaces=Selector(), pods=_having(app))) for app in ("db", "x"))
    world.follow(made("shut", *rules, subject=Subject(pods=_having("web"))))
    world.pods = {**world.pods, "default/p7": labelled("p7", 7, app="db")}
    news = world.follow(made("shut", *rules, subject=Subject(pods=_having("web"))))
    assert {key for kind, key in news if kind is PolicedPod} == {"default/p7"}
    assert len(news) == 2, "the pod, and its address on the list of the first rule"


def test_a_policy_that_changes_leaves_the_places_of_others() -> None:
    world = World()
    others = [made(f"p{number}", DENY, priority=number) for number in range(1, 9)]
    world.follow(made("p0", DENY), *others)
    news = world.follow(made("p0", ACCEPT, DENY, DENY), *others)
    rules = {key for kind, key in news if kind is Rendered}
    assert rules == {f"p0 ingress[{at}]" for at in range(3)}


def test_flows_grow_with_pods_peers_and_ports_and_not_with_their_product() -> None:
    """20 pods, 30 networks and 10 ports."""
    world = World(*(labelled(f"p{number}", number) for number in range(2, 22)))
    rule = {
        "action": "Deny",
        "to": [{"networks": [f"192.0.2.{at}/32" for at in range(30)]}],
        "protocols": [{"tcp": {"destinationPort": {"number": 1000 + 2 * at}}} for at in range(10)],
    }
    spec = {"tier": "Admin", "priority": 1, "subject": EVERY_POD}
    world.follow(cluster_policy({**spec, "egress": [rule]}))
    flows = [line for line in world.flows() if "table=46" in line]
    # A port is one flow in each family.
    assert len(flows) == 20 + 30 + 2 * 10 + 1
    world.follow(cluster_policy({**spec, "egress": [rule, rule]}))
    assert len([line for line in world.flows() if "table=46" in line]) == 2 * len(flows)


def test_a_port_by_name_is_one_rule_with_a_number_for_each_sort_of_pod() -> None:
    spec = {
        "tier": "Admin",
        "priority": 1,
        "subject": EVERY_POD,
        "ingress": [{"action": "Deny", "from": [EVERY_POD], "protocols": [{"destinationNamedPort": "http"}]}],
    }
    pods = [
        _with_port(name, number, port) for name, number, port in (("a", 2, 80), ("b", 3, 8080), ("c", 4, 80))
    ]
    world = World(*pods)
    world.follow(cluster_policy(spec))
    (rule,) = (each for each in world.policies.objects if isinstance(each, Rendered))
    assert len(rule.numbers) == 2
    drops = [line for line in RENDERER.object(rule) if "table=48" in line]
    assert len(drops) == 1


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("action", Action)
def test_a_name_of_several_numbers_is_none_to_accept_and_each_to_the_others(
    direction: Direction, tier: Tier, action: Action
) -> None:
    """The pod gets a second container, whose port has the name of the first's."""
    way, far = ("ingress", "from") if direction is Direction.INGRESS else ("egress", "to")
    named = {far: [EVERY_POD], "protocols": [{"destinationNamedPort": "http"}]}
    rules = [{"action": action.value, **named}, {"action": "Deny", far: [{"pods": {"podSelector": {}}}]}]
    spec = {"tier": tier.value, "priority": 1, "subject": EVERY_POD, way: rules}
    cluster = cluster_policy(spec)
    client, web = labelled("client", 2), _with_port("web", 3, 9000)
    world = World(client, web)
    for numbers in ((9000,), (9000, 9001), (9001,)):
        world.pods = {**world.pods, web.key: _with_port("web", 3, *numbers)}
        world.follow(cluster)
        (decided, _) = world.policies.decided(
            web.key if direction is Direction.INGRESS else client.key, direction, tier
        )
        found = {port.first for each in decided.allowances for port in each.ports or ()}
        alone = action is not Action.ACCEPT or len(numbers) == 1
        assert found == (set(numbers) if alone else set())
        subject, other = (web, client) if direction is Direction.INGRESS else (client, web)
        for port in (9000, 9001):
            let = action is not Action.DENY and port in found
            assert world.policies.denies(subject.key, direction, other.ips[0], Protocol.TCP, port) is not let


def _with_port(name: str, number: int, *ports: int) -> LabelledPod:
    return LabelledPod(
        namespace="default",
        name=name,
        ips=(ipaddress.ip_address(f"10.244.1.{number}"),),
        ports=tuple(NamedPort(name="http", port=port, several=len(ports) > 1) for port in ports),
    )
