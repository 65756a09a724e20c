"""NetworkPolicies with real packets: who reaches whom, by every way in which a policy can say it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from lab_world import eventually
from policies_world import (
    API,
    DB,
    EVERYBODY,
    FREE,
    GUEST,
    NAMED,
    NODES,
    PODS,
    WEB,
    ZONE,
    Policed,
    Way,
    app,
    policed_cluster,
    port,
)
from services_world import FAMILIES, OTHER_PORT, PORT, vip

from ovsnet.lab.spec import OUTSIDE, outside_interface

KERNEL = pytest.mark.kernel
BOTH_PORTS = (PORT, OTHER_PORT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        yield cluster


class Case(NamedTuple):
    """A rule, and to whom it leaves the way, on which port."""

    rule: dict[str, Any]
    peers: tuple[str, ...]
    protocols: tuple[str, ...] = ("tcp", "udp")
    ports: tuple[int, ...] = BOTH_PORTS


def blocks(ranges: tuple[str, str], *excepts: tuple[str, str]) -> list[dict[str, Any]]:
    """ipBlocks, of both families."""
    return [
        {"ipBlock": {"cidr": cidr, **({"except": [each[at] for each in excepts]} if excepts else {})}}
        for at, cidr in enumerate(ranges)
    ]


PODS_OF_CLUSTER = ("10.244.0.0/16", "fd00:10:244::/48")
ON_A = (*(each for each in PODS if each.startswith("a-")), "node-a")
"""Who comes from there: to pods of other nodes a node has the address of its gateway."""
PODS_OF_B = ("10.244.2.0/24", "fd00:10:244:2::/64")
UNDERLAY = ("192.0.2.0/24", "2001:db8:0:1::/64")
ALWAYS = Case({}, EVERYBODY)
SHORT = ("both",)
"""What is tried on the kernel's datapath too."""
INGRESS = {
    "nobody": None,
    "pod label": Case({"from": [{"podSelector": app("api")}]}, API),
    "namespace label": Case({"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}, GUEST),
    "namespace name": Case(
        {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]},
        (*WEB, *API, *DB),
    ),
    "both": Case({"from": [{"namespaceSelector": {}, "podSelector": app("api")}]}, (*API, *GUEST)),
    "either": Case({"from": [{"podSelector": app("db")}, {"namespaceSelector": app("none")}]}, DB),
    "expression": Case(
        {
            "from": [
                {
                    "podSelector": {
                        "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["api"]}]
                    }
                }
            ]
        },
        (*WEB, *DB),
    ),
    "block": Case({"from": blocks(PODS_OF_CLUSTER, PODS_OF_B)}, ON_A),
    "outside": Case({"from": blocks(UNDERLAY)}, (OUTSIDE, *NODES)),
    "everybody": Case({}, EVERYBODY),
    "port": Case({"ports": [port(PORT)]}, EVERYBODY, ("tcp",), (PORT,)),
    "range": Case(
        {"from": [{"podSelector": {}}], "ports": [port(8001, "UDP", endPort=PORT)]},
        (*WEB, *API, *DB),
        ("udp",),
        (PORT,),
    ),
}
"""Of a rule of a-web's and b-web's ingress."""


def open_ways(case: Case | None, sources: Iterable[str], targets: Iterable[str]) -> set[Way]:
    ways = itertools.product(sources, targets, case.ports, case.protocols) if case else ()
    return {way for way in ways if way[0] != way[1]}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=KERNEL if each in SHORT else ()) for each in INGRESS]
)
def test_ingress(cluster: Policed, name: str) -> None:
    case = INGRESS[name]
    with cluster.policies({"podSelector": app("web"), "ingress": [case.rule] if case else []}):
        own = {way for each in WEB for way in open_ways(ALWAYS, [cluster.hosts[each]], [each])}
        wanted = open_ways(case, case.peers if case else (), WEB) | own
        cluster.becomes(wanted, EVERYBODY, WEB, ports=BOTH_PORTS)
        # Those that it does not select go on as before.
        others = (*WEB, *GUEST, OUTSIDE)
        cluster.expect("b-api", others, others)


EGRESS = {
    "nobody": None,
    "pod label": Case({"to": [{"podSelector": app("api")}]}, API),
    "both": Case(
        {"to": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": app("api")}]}, GUEST
    ),
    "block": Case({"to": blocks(PODS_OF_CLUSTER, PODS_OF_B)}, ON_A[:-1]),
    "outside": Case({"to": blocks(UNDERLAY)}, (OUTSIDE, *NODES)),
    "port": Case({"ports": [port(OTHER_PORT, "UDP")]}, EVERYBODY, ("udp",), (OTHER_PORT,)),
}
"""Of a rule of a-db's and b-db's egress."""


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=KERNEL if each in SHORT else ()) for each in EGRESS]
)
def test_egress(cluster: Policed, name: str) -> None:
    case = EGRESS[name]
    with cluster.policies({"podSelector": app("db"), "egress": [case.rule] if case else []}):
        own = {way for each in DB for way in open_ways(ALWAYS, [each], [cluster.hosts[each]])}
        wanted = open_ways(case, DB, case.peers if case else ()) | own
        cluster.becomes(wanted, DB, EVERYBODY, ports=BOTH_PORTS)
        others = (*WEB, *GUEST, OUTSIDE)
        cluster.expect("a-db", others, others)


def test_a_port_by_its_name_is_another_number_with_another_pod(cluster: Policed) -> None:
    how: dict[str, Any] = {"ports": BOTH_PORTS, "protocols": ["tcp"]}
    sources = (*API, OUTSIDE)
    with cluster.policies({"podSelector": app("web"), "ingress": [{"ports": [port("http")]}]}):
        named = {(source, web, NAMED[web], "tcp") for source in sources for web in WEB}
        cluster.becomes(named, sources, WEB, **how)
    with cluster.policies({"podSelector": app("db"), "egress": [{"ports": [port("http")]}]}):
        named = {(source, web, NAMED[web], "tcp") for source in DB for web in WEB}
        cluster.becomes(named, DB, (*WEB, *API, OUTSIDE), **how)


def test_both_ends_must_allow_it(cluster: Policed) -> None:
    closed = {"podSelector": app("api"), "egress": []}
    with cluster.policies(
        {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}, closed
    ):
        cluster.expect("b-web", (*API, *DB), ())
        cluster.allow("p1", podSelector=app("api"), egress=[{"to": [{"podSelector": app("web")}]}])
        cluster.expect("b-web", (*API, *DB), API)
        # Policies add up.
        cluster.allow("p2", podSelector=app("web"), ingress=[{"from": [{"podSelector": app("db")}]}])
        cluster.expect("b-web", (*API, *DB, *GUEST), (*API, *DB))


# --- Services ------------------------------------------------------------------------------------


@KERNEL
def test_through_a_service_the_endpoint_and_its_port_are_what_counts(cluster: Policed) -> None:
    cluster.put("web", ["b-web"], 1)
    cluster.choose("web", "b-web")
    way: dict[str, Any] = {"service": 1, "ports": (80,)}
    try:
        to_web = {"to": [{"podSelector": app("web")}], "ports": [port(PORT), port(PORT, "UDP")]}
        with cluster.policies({"podSelector": app("api"), "egress": [to_web]}):
            cluster.expect("b-web", (*API, *DB), (*API, *DB), **way)
            # The Service's own port is nothing that a policy knows of.
            cluster.allow(
                "p0", podSelector=app("api"), egress=[{**to_web, "ports": [port(80), port(80, "UDP")]}]
            )
            cluster.expect("b-web", (*API, *DB), DB, **way)
        with cluster.policies(
            {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}
        ):
            cluster.expect("b-web", (*API, *DB, *GUEST), API, **way)
            cluster.allow("p1", podSelector=app("api"), ingress=[], egress=[to_web])
            cluster.expect("b-web", (*API, *DB, *GUEST), API, **way)
    finally:
        cluster.remove("web")


@KERNEL
def test_a_pod_reaches_itself_through_its_service(cluster: Policed) -> None:
    cluster.put("own", ["a-web"], 2)
    cluster.choose("own", "a-web")
    targets = [(vip(2, version), 80, protocol) for version in FAMILIES for protocol in ("tcp", "udp")]
    try:
        with cluster.policies({"podSelector": app("web"), "ingress": [], "egress": []}):
            cluster.expect("a-web", API, (), service=2, ports=(80,))
            assert {each.get("name") for each in cluster.probe("a-web", targets, 3.0)} == {"a-web"}
    finally:
        cluster.remove("own")


# --- what changes --------------------------------------------------------------------------------


def test_a_label_opens_and_closes_within_a_second(cluster: Policed) -> None:
    spec = {
        "podSelector": app("web"),
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"key": "yes"}}}]}],
    }
    with cluster.policies(spec):
        cluster.expect("b-web", API, ())
        for labels, reached in (({"key": "yes"}, {"a-api"}), ({}, set[str]()), ({"key": "yes"}, {"a-api"})):
            cluster.lab.label_pod("a-api", {"app": "api", **labels})
            eventually(lambda: cluster.reaching("b-web", ["a-api"], protocols=["tcp"]) == reached, 1.0)  # noqa: B023
        cluster.lab.label_pod("a-api", {"app": "api", "node": "a"})
        cluster.label_namespace("other", team="blue", key="yes")
        cluster.allow("p0", ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"key": "yes"}}}]}])
        cluster.expect("b-web", (*API, *GUEST), GUEST)
        cluster.label_namespace("other", team="blue")
        cluster.expect("b-web", (*API, *GUEST), ())


@KERNEL
def test_who_is_not_concerned_is_not_followed(cluster: Policed) -> None:
    with cluster.policies({"ingress": [{"from": [{"podSelector": {}}]}], "egress": [{}]}):
        cluster.expect("a-web", (*API, *GUEST), API)
        for node in NODES:
            # What pods have from earlier tests.
            cluster.lab.node(node).run(["ovs-appctl", "dpctl/flush-conntrack"], check=True)
        cluster.expect("a-web", ["b-api"], ["b-api"])
        others = (*FREE, *GUEST, *NODES, OUTSIDE)
        for target in FREE:
            cluster.expect(target, others, others)
        for node in NODES:
            for version in FAMILIES:
                a, b = (f"={cluster.address(name, version)}," for name in FREE)
                assert cluster.connections(node, a, b) == []
                for name in FREE:
                    assert (
                        cluster.connections(node, f"={cluster.address(name, version)},", f"zone={ZONE}") == []
                    )
        # That they would be seen there: these are.
        api, web = (f"={cluster.address(name, 4)}," for name in ("b-api", "a-web"))
        assert cluster.connections("node-a", api, web, f"zone={ZONE}")


@pytest.mark.parametrize("kept_out", [False, True])
def test_the_outside_is_told_from_nodes(cluster: Policed, kept_out: bool) -> None:
    """By its own address, whatever node it comes in by."""
    hosts = f"{outside_interface(4).ip}/32", f"{outside_interface(6).ip}/128"
    peers = blocks(UNDERLAY, hosts) if kept_out else blocks(hosts)
    with cluster.policies({"podSelector": app("web"), "ingress": [{"from": peers}]}):
        for target in WEB:
            cluster.expect(target, (*API, OUTSIDE), () if kept_out else (OUTSIDE,))
