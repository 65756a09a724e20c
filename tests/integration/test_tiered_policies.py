"""ClusterNetworkPolicies with real packets, from a folder: before and after NetworkPolicies, and what people see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lab_world import eventually
from policies_world import API, DB, GUEST, WEB, Policed, app, policed_cluster
from services_world import OTHER_PORT, PORT

from ovsnet.lab.spec import OUTSIDE

BOTH_PORTS = (PORT, OTHER_PORT)
SHOP = {"kubernetes.io/metadata.name": "shop"}
ALL_PODS: dict[str, Any] = {"namespaces": {}}
PODS = (*API, *DB, *GUEST)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        yield cluster


def api_to_web() -> dict[str, Any]:
    """A NetworkPolicy's spec."""
    return {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}


def ask(cluster: Policed, *arguments: str) -> str:
    done = cluster.lab.node("node-b").run(["/run/ovsnet/bin/ovsnet", *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return f"{done.returncode}: {done.stdout}"


def test_admin_comes_first_and_may_pass(cluster: Policed) -> None:
    from_api = {"from": [{"pods": {"podSelector": app("api")}}]}
    on_port = {"protocols": [{"tcp": {"destinationPort": {"number": PORT}}}]}
    with cluster.policies(api_to_web()):
        cluster.expect("b-web", PODS, API)
        # Denied although a NetworkPolicy allows it; but for what is left to it.
        cluster.decree("pass", "Admin", 1, SHOP, ingress=[{"action": "Pass", **from_api, **on_port}])
        cluster.decree("shut", "Admin", 2, SHOP, ingress=[{"action": "Deny", "from": [ALL_PODS]}])
        passed = {(source, web, PORT, "tcp") for web in WEB for source in ("a-api", "b-api")}
        cluster.becomes(passed, PODS, WEB, ports=BOTH_PORTS)
        found = ask(cluster, "policy", "check", "shop/a-db", "shop/b-web", "--tcp", str(PORT))
        assert found.startswith("1: "), found
        assert "denied: ClusterNetworkPolicy shut ingress[0] denies it, in the Admin tier" in found
        assert "the flows of this node agree: DROPPED in table verdict" in found
        # Accepted although no NetworkPolicy allows it.
        guests = {"namespaces": {"matchLabels": {"team": "blue"}}}
        cluster.decree("open", "Admin", 0, SHOP, ingress=[{"action": "Accept", "from": [guests]}])
        opened = {
            (guest, web, port, protocol)
            for guest in GUEST
            for web in WEB
            for port in BOTH_PORTS
            for protocol in ("tcp", "udp")
        }
        cluster.becomes(passed | opened, PODS, WEB, ports=BOTH_PORTS)
        shown = ask(cluster, "policy", "show", "b-web")
        rules = ("Accept by open ingress[0]", "Pass by pass ingress[0]", "Deny by shut ingress[0]")
        places = [shown.find(rule) for rule in (*rules, "isolated by NetworkPolicy shop/p0")]
        assert -1 not in places, shown
        assert places == sorted(places), shown
        assert ask(cluster, "audit").startswith("0: ")


def test_drops_name_the_rule(cluster: Policed) -> None:
    with cluster.policies():
        cluster.decree(
            "out",
            "Admin",
            7,
            SHOP,
            egress=[{"name": "none", "action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}],
        )
        cluster.becomes(
            {("b-db", "a-web", PORT, "tcp over IPv6 only")}, ["b-db"], ["a-web"], protocols=["tcp"]
        )

        def told() -> bool:
            found = json.loads(ask(cluster, "flows", "--drops", "-o", "json").partition(": ")[2])
            rules = [flow["denied"] for flow in found if flow["denied"]]
            return {
                "pod": None,
                "rule": "ClusterNetworkPolicy out egress[0] (none)",
                "direction": "egress",
            } in rules

        eventually(told)
        assert "ClusterNetworkPolicy out egress[0] (none)" in ask(cluster, "flows", "--drops")
        found = ask(cluster, "trace", "b-db", cluster.address("a-web", 4), "--tcp", str(PORT))
        assert "denied: ClusterNetworkPolicy out egress[0] (none) denies it, in the Admin tier" in found


def test_the_baseline_is_for_pods_that_no_policy_isolates(cluster: Policed) -> None:
    with cluster.policies(api_to_web()):
        cluster.decree("base", "Baseline", 0, SHOP, ingress=[{"action": "Deny", "from": [ALL_PODS]}])
        cluster.expect("b-web", PODS, API)
        cluster.expect("b-db", (*WEB, *API, "a-db", *GUEST, OUTSIDE), (OUTSIDE,))
        cluster.expect("b-guest", (*API, OUTSIDE), (*API, OUTSIDE))
        found = ask(cluster, "policy", "check", "shop/a-db", "shop/b-db", "--udp", "9")
        assert "denied: ClusterNetworkPolicy base ingress[0] denies it, in the Baseline tier" in found
        # A NetworkPolicy takes its place.
        cluster.allow("p1", podSelector=app("db"), ingress=[{"from": [{"podSelector": app("web")}]}])
        cluster.expect("b-db", (*WEB, *API, "a-db", *GUEST, OUTSIDE), WEB)


def test_connections_that_are_there_go_on(cluster: Policed) -> None:
    """A Deny, too, is about new ones; and pods that a change of ranks does not mean notice nothing."""
    with (
        cluster.policies(),
        cluster.watching([("a-api", "b-db"), ("b-api", "b-db")], [], gap=0.05) as figures,
    ):
        guests, callers = ({"pods": {"podSelector": app(name)}} for name in ("guest", "api"))
        for number in range(6):
            rules = [{"action": "Deny", "from": [guests]}, {"action": "Accept", "from": [ALL_PODS]}]
            cluster.decree(f"n{number}", "Admin", 5, SHOP, ingress=rules)
        cluster.decree("m", "Admin", 5, SHOP, ingress=[{"action": "Accept", "from": [callers]}])
        cluster.disallow("n0", "cluster")
        cluster.expect("b-db", API, API)
        # A busy machine makes few connections meanwhile.
        time.sleep(3)
    assert figures["good"] > 0
