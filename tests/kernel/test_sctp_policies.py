"""Policies on the kernel's datapath over SCTP, whose ports conntrack knows there, and over ICMP, which has none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lab_world import left_over
from policies_world import API, DB, GUEST, WEB, Pair, Policed, Way, app, policed_cluster, port
from services_world import FAMILIES, OTHER_PORT, PORT, vip

from ovsnet.host.datapath import kernel_has_openvswitch

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not kernel_has_openvswitch(), reason="this kernel has no openvswitch; see --in-kernel"
    ),
]
BOTH_PORTS = (PORT, OTHER_PORT)
ON_PORT: dict[str, Any] = {"ports": [port(PORT, "SCTP")]}
FROM_API: dict[str, Any] = {"from": [{"podSelector": app("api")}]}
TO_WEB: dict[str, Any] = {"to": [{"podSelector": app("web")}]}
CLIENTS = (*API, *DB)
CLOSED: dict[str, Any] = {"ingress": [], "egress": []}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster(datapath="system") as cluster:
        yield cluster


def ways(sources: Iterable[str], targets: Sequence[str], ports: Sequence[int]) -> set[Way]:
    return {(a, b, number, "sctp") for a in sources for b in targets for number in ports}


def open_ways(cluster: Policed, wanted: set[Way], targets: Sequence[str] = WEB) -> None:
    cluster.becomes(wanted, CLIENTS, targets, ports=BOTH_PORTS, protocols=["sctp"])


def test_ingress_is_allowed_on_one_port_and_denied_on_another(cluster: Policed) -> None:
    """On one node and between two. A rule about SCTP says nothing of TCP."""
    open_ways(cluster, ways(CLIENTS, WEB, BOTH_PORTS))
    with cluster.policies({"podSelector": app("web"), "ingress": [{**FROM_API, **ON_PORT}]}):
        open_ways(cluster, ways(API, WEB, [PORT]))
        cluster.becomes(set(), CLIENTS, WEB, ports=[PORT], protocols=["tcp"])


def test_egress_is_allowed_on_one_port_and_denied_on_another(cluster: Policed) -> None:
    with cluster.policies({"podSelector": app("api"), "egress": [{**TO_WEB, **ON_PORT}]}):
        open_ways(cluster, ways(API, WEB, [PORT]) | ways(DB, WEB, BOTH_PORTS))
        open_ways(cluster, ways(DB, GUEST, BOTH_PORTS), GUEST)


def test_both_ends_must_allow_it(cluster: Policed) -> None:
    """The answers of what is allowed need no rule, in a namespace that is closed both ways."""
    egress = {"podSelector": app("api"), "egress": [{**TO_WEB, **ON_PORT}]}
    with cluster.policies(CLOSED, egress):
        open_ways(cluster, set())
        cluster.allow("p2", podSelector=app("web"), ingress=[{**FROM_API, **ON_PORT}])
        open_ways(cluster, ways(API, WEB, [PORT]))


def test_through_a_service_the_endpoints_port_counts(cluster: Policed) -> None:
    """The Service's is another one."""
    cluster.protocols = ("TCP", "SCTP")
    cluster.put("web", ["a-web"], 1)
    cluster.choose("web", "a-web")
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.remove, "web")
        stack.enter_context(
            cluster.policies({"podSelector": app("web"), "ingress": [{**FROM_API, **ON_PORT}]})
        )
        open_ways(cluster, ways(API, WEB, [PORT]))
        for version in FAMILIES:
            for source, wanted in ((API, "a-web"), (DB, "timeout")):
                for each in source:
                    found = cluster.names(each, vip(1, version), count=1, protocol="sctp", seconds=1.0)
                    assert found == {wanted}, (each, version)


def test_an_association_goes_on_when_new_ones_are_denied(cluster: Policed) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            cluster.policies({"podSelector": app("web"), "ingress": [{**FROM_API, **ON_PORT}]})
        )
        open_ways(cluster, ways(API, WEB, [PORT]))
        held = {
            (source, target, version): stack.enter_context(
                cluster.going("hold", source, cluster.address(target, version), PORT, protocol="sctp")
            )
            for source, target in (("a-api", "a-web"), ("b-api", "a-web"))
            for version in FAMILIES
        }
        cluster.allow("p0", podSelector=app("web"), ingress=[])
        open_ways(cluster, set())
        time.sleep(1.0)
        for load in held.values():
            load.end()
        for which, load in held.items():
            done = load.stop()
            assert (done.get("error"), done["name"]) == (None, "a-web"), (which, done)
            assert done["count"] > 10, (which, done)


# --- pings -----------------------------------------------------------------------------------------


PING = 'for to; do { ping -q -c1 -W2 "$to" > /dev/null && echo "$to"; } & done; wait'


def pinging(cluster: Policed, sources: Sequence[str]) -> set[Pair]:
    """From whom which of WEB answers, in both families; where it is one only, the address tells which."""
    targets = {cluster.address(target, version): target for target in WEB for version in FAMILIES}

    def of(source: str) -> set[Pair]:
        done = cluster.lab.exec(source, ["sh", "-c", PING, "sh", *targets])
        good = done.stdout.split()
        both = {name for name in WEB if [targets[each] for each in good].count(name) == len(FAMILIES)}
        return {(source, name) for name in both} | {
            (source, each) for each in good if targets[each] not in both
        }

    with ThreadPoolExecutor(4) as pool:
        return set().union(*pool.map(of, sources))


SOURCES = (*CLIENTS, *GUEST)
PAIRS = {(source, target) for source in SOURCES for target in WEB}
OF_API = {pair for pair in PAIRS if pair[0] in API}


def pings(cluster: Policed, wanted: set[Pair]) -> None:
    """Soon these are answered, and no others."""
    different = left_over(lambda: pinging(cluster, SOURCES) ^ wanted)
    assert not different, f"pings where {sorted(wanted)} may: otherwise: {sorted(different)}"


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        pytest.param(FROM_API, OF_API, id="without ports"),
        pytest.param({}, PAIRS, id="without ports, from everybody"),
        pytest.param({"ports": [*ON_PORT["ports"], {"protocol": "SCTP"}]}, set(), id="with ports"),
    ],
)
def test_pings_come_in_by_rules_without_ports(
    cluster: Policed, rule: dict[str, Any], wanted: set[Pair]
) -> None:
    with cluster.policies({"podSelector": app("web"), "ingress": [rule]}):
        pings(cluster, wanted)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        pytest.param(TO_WEB, PAIRS, id="without ports"),
        pytest.param({**TO_WEB, **ON_PORT}, PAIRS - OF_API, id="with ports"),
    ],
)
def test_pings_go_out_by_rules_without_ports(
    cluster: Policed, rule: dict[str, Any], wanted: set[Pair]
) -> None:
    with cluster.policies({"podSelector": app("api"), "egress": [rule]}):
        pings(cluster, wanted)
