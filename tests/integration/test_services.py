"""Services with real packets: who answers, whom endpoints see, and what clients without an endpoint are told."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lab_world import SLOWER
from services_world import FAMILIES, OTHER_PORT, PORT, Cluster, assert_clean, cluster_of, outer, vip

VERSIONS = pytest.mark.parametrize("version", [4, 6])
KERNEL = pytest.mark.kernel
VERSION = pytest.mark.parametrize("version", [4, pytest.param(6, marks=KERNEL)])
BOTH = pytest.mark.parametrize(
    ("version", "protocol"),
    [pytest.param(4, "tcp", marks=KERNEL), (4, "udp"), (6, "tcp"), pytest.param(6, "udp", marks=KERNEL)],
)
"""On the kernel's datapath half of the combinations: its tier is the longest."""
PROTOCOLS = pytest.mark.parametrize("protocol", ["tcp", "udp"])
SILENT = 0.7
"""Seconds after which nobody will answer."""
FAST = 0.5
"""Seconds within which a refusal is there, of three that a client would wait."""

WEB, TWIN, ITSELF, HERE, THERE, ABROAD, OPEN, KEPT, GUARDED, CLOSED, NOBODY, STICKY, PORTS, LEAST = range(
    1, 15
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of() as cluster:
        put_all(cluster)
        cluster.choose("least", "b1")
        assert_clean(cluster.lab)
        yield cluster
        assert_clean(cluster.lab)


def put_all(cluster: Cluster) -> None:
    cluster.put("web", ["a1", "b1", "b2"], WEB)
    cluster.put("twin", ["a1", "b1", "b2"], TWIN)
    cluster.put("itself", ["a1"], ITSELF, node_port=30003)
    cluster.put("here", ["node-a"], HERE, node_port=30004)
    cluster.put("there", ["node-b"], THERE, node_port=30005)
    cluster.put("abroad", ["outside"], ABROAD, node_port=30006)
    cluster.put("open", ["a1", "b1"], OPEN, node_port=30007, externalIPs=outers(OPEN))
    cluster.put("kept", ["a1"], KEPT, node_port=30008, externalTrafficPolicy="Local", **balanced(KEPT))
    # The pods' range holds the gateway's address, by which node-b calls Services.
    admitted = [cluster.address(place, version) for place in ("outside", "node-a") for version in FAMILIES]
    ours = [*map(str, map(ipaddress.ip_network, admitted)), "10.244.2.0/24", "fd00:10:244:2::/64"]
    cluster.put("guarded", ["b1"], GUARDED, loadBalancerSourceRanges=ours, **balanced(GUARDED))
    theirs = ["198.51.100.0/24", "2001:db8:100::/48"]
    cluster.put("closed", ["b1"], CLOSED, loadBalancerSourceRanges=theirs, **balanced(CLOSED))
    cluster.put("nobody", [], NOBODY, node_port=30011, externalIPs=outers(NOBODY))
    cluster.put(
        "sticky",
        ["a1", "a2", "b1", "b2"],
        STICKY,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
    )
    cluster.put("ports", ["a2", "b2"], PORTS, ports={"one": PORT, "two": OTHER_PORT})
    cluster.put("least", ["b1"], LEAST)


def outers(number: int) -> list[str]:
    return [outer(number, 4), outer(number, 6)]


def balanced(number: int) -> dict[str, object]:
    """Of a Service of type LoadBalancer with these addresses."""
    ingress = [{"ip": address} for address in outers(number)]
    return {"type": "LoadBalancer", "status": {"loadBalancer": {"ingress": ingress}}}


# --- what people are shown -----------------------------------------------------------------------


def shown(cluster: Cluster, *arguments: str) -> str:
    node = cluster.lab.node("node-a")
    return node.run(["/run/ovsnet/bin/ovsnet", "show", "services", *arguments], check=True).stdout


def test_show_lists_services_with_the_endpoints_that_this_node_uses(cluster: Cluster) -> None:
    found = {each["name"]: each["frontends"] for each in json.loads(shown(cluster, "-o", "json"))}
    assert set(found) >= {f"default/{name}" for name in ("web", "kept", "nobody", "closed")}
    web = next(
        each for each in found["default/web"] if (each["address"], each["protocol"]) == (vip(WEB, 4), "TCP")
    )
    assert web["endpoints"] == sorted(f"{cluster.address(place, 4)}:{PORT}" for place in ("a1", "b1", "b2"))
    assert all(each["refused"] for each in found["default/nobody"])
    text = shown(cluster)
    for words in (
        "default/sticky",
        "none: refused",
        "node port from outside, IPv6",
        "only from 198.51.100.0/24, this node excluded",
    ):
        assert words in text, text


# --- ClusterIPs ----------------------------------------------------------------------------------


@BOTH
def test_every_endpoint_answers_pods_and_sees_them(cluster: Cluster, version: int, protocol: str) -> None:
    for pod in ("a1", "b2"):
        found = cluster.ask(pod, vip(WEB, version), protocol=protocol, count=60)
        assert {each.get("name") for each in found} == {"a1", "b1", "b2"}, found
        others = {each["client"] for each in found if each["name"] != pod}
        assert others == {cluster.address(pod, version)}


@BOTH
def test_every_endpoint_answers_nodes(cluster: Cluster, version: int, protocol: str) -> None:
    for node in ("node-a", "node-b"):
        found = cluster.ask(node, vip(WEB, version), protocol=protocol, count=40)
        assert {each.get("name") for each in found} == {"a1", "b1", "b2"}, found


def chi_square(names: list[str], kinds: int) -> float:
    """Of equal shares."""
    expected = len(names) / kinds
    return sum((count - expected) ** 2 / expected for count in Counter(names).values())


@PROTOCOLS
def test_endpoints_have_equal_shares(cluster: Cluster, protocol: str) -> None:
    """Pearson's test over 10,000 connections.

    Three endpoints have 22, 21 and 21 of the datapath's 64 slots: one run in a million would exceed this.
    """
    names = [each["name"] for each in cluster.ask("a2", vip(WEB, 4), protocol=protocol, count=10_000)]
    assert len(set(names)) == 3
    assert chi_square(names, 3) < 50, Counter(names)


@VERSION
def test_two_services_of_the_same_endpoints(cluster: Cluster, version: int) -> None:
    """From one source port to both, one after the other, and to an endpoint itself."""
    bind = (cluster.address("a2", version), 41000 + version)
    for number in (WEB, TWIN, WEB):
        found = [cluster.one("a2", vip(number, version), bind=bind, protocol=p) for p in ("tcp", "udp")]
        assert all("error" not in each for each in found), found


@BOTH
def test_named_ports(cluster: Cluster, version: int, protocol: str) -> None:
    for port, target in ((80, PORT), (81, OTHER_PORT)):
        found = cluster.ask("a1", vip(PORTS, version), port, protocol=protocol, count=25)
        assert {(each["name"], each["port"]) for each in found} == {("a2", target), ("b2", target)}


@VERSIONS
def test_a_client_stays_with_its_endpoint(cluster: Cluster, version: int) -> None:
    chosen = set()
    for client in ("a1", "a2", "b1", "b2", "node-a", "node-b"):
        names = cluster.names(client, vip(STICKY, version), count=20)
        assert len(names) == 1, names
        assert cluster.names(client, vip(STICKY, version), count=5, protocol="udp") <= {
            "a1",
            "a2",
            "b1",
            "b2",
        }
        chosen |= names
    assert chosen <= {"a1", "a2", "b1", "b2"}


# --- hairpin -------------------------------------------------------------------------------------


@BOTH
def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, version: int, protocol: str) -> None:
    assert cluster.names("a1", vip(ITSELF, version), count=5, protocol=protocol) == {"a1"}
    for node in ("node-a", "node-b"):
        address = cluster.address(node, version)
        assert cluster.names("a1", address, 30003, count=5, protocol=protocol) == {"a1"}


@BOTH
def test_a_pod_keeps_its_address_through_its_nodes_ports(
    cluster: Cluster, version: int, protocol: str
) -> None:
    """Policies have to know whose connection it is."""
    found = cluster.ask("a2", cluster.address("node-a", version), 30007, count=12, protocol=protocol)
    assert {each.get("client") for each in found} == {cluster.address("a2", version)}, found


# --- endpoints in host networks ------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("where", ["here", "there", "abroad"])
def test_endpoints_in_host_networks(cluster: Cluster, where: str, version: int, protocol: str) -> None:
    number, name = {"here": (HERE, "node-a"), "there": (THERE, "node-b"), "abroad": (ABROAD, "outside")}[
        where
    ]
    for source in ("a1", "b1", "node-a", "node-b"):
        found = cluster.ask(source, vip(number, version), count=4, protocol=protocol)
        assert {each.get("name") for each in found} == {name}, (source, found)
        found = cluster.ask(source, cluster.address("node-a", version), 30000 + number, protocol=protocol)
        assert {each.get("name") for each in found} == {name}, (source, found)
    client = cluster.one("a1", vip(number, version), protocol=protocol)["client"]
    assert client == cluster.address("node-a" if where == "abroad" else "a1", version)


@VERSIONS
@pytest.mark.parametrize("number", [HERE, THERE, ABROAD])
def test_host_networks_through_node_ports_from_outside(cluster: Cluster, number: int, version: int) -> None:
    name = {HERE: "node-a", THERE: "node-b", ABROAD: "outside"}[number]
    for node in ("node-a", "node-b"):
        assert cluster.names("outside", cluster.address(node, version), 30000 + number, count=3) == {name}


# --- from outside --------------------------------------------------------------------------------


@BOTH
def test_node_ports(cluster: Cluster, version: int, protocol: str) -> None:
    """On each node, from everywhere, to endpoints of both nodes."""
    for node in ("node-a", "node-b"):
        for source in ("outside", "a1", "a2", "b1", "node-a", "node-b"):
            names = cluster.names(source, cluster.address(node, version), 30007, count=25, protocol=protocol)
            assert names == {"a1", "b1"}, (source, node)


@VERSIONS
def test_node_ports_answer_on_the_gateways_address_too(cluster: Cluster, version: int) -> None:
    gateway = cluster.lab.node("node-a").node.gateway(version)
    for source in ("a1", "b1", "node-a"):
        assert cluster.names(source, gateway, 30007, count=25) == {"a1", "b1"}


@BOTH
def test_external_addresses(cluster: Cluster, version: int, protocol: str) -> None:
    for source in ("outside", "a1", "b2", "node-a", "node-b"):
        names = cluster.names(source, outer(OPEN, version), count=25, protocol=protocol)
        assert names == {"a1", "b1"}, source


@BOTH
def test_policy_local_keeps_the_clients_address(cluster: Cluster, version: int, protocol: str) -> None:
    client = cluster.address("outside", version)
    for host, port in ((cluster.address("node-a", version), 30008), (outer(KEPT, version), 80)):
        found = cluster.one("outside", host, port, protocol=protocol)
        assert (found.get("name"), found.get("client")) == ("a1", client), (host, found)


@VERSIONS
def test_policy_local_without_endpoints_is_silent_to_the_outside_alone(
    cluster: Cluster, version: int
) -> None:
    address = cluster.address("node-b", version)
    assert cluster.one("outside", address, 30008, seconds=SILENT)["error"] == "timeout"
    for source in ("a1", "a2", "b1", "node-a", "node-b"):
        assert cluster.names(source, address, 30008, count=2) == {"a1"}, source
        assert cluster.names(source, outer(KEPT, version), count=2) == {"a1"}, source


@VERSION
def test_source_ranges_of_load_balancers(cluster: Cluster, version: int) -> None:
    """Pods by their own addresses, nodes by their InternalIPs, whichever address their kernel takes."""
    for source in ("outside", "node-a", "b2"):
        assert cluster.names(source, outer(GUARDED, version), count=3) == {"b1"}, source
    for source in ("a1", "node-b"):
        assert cluster.one(source, outer(GUARDED, version), seconds=SILENT)["error"] == "timeout", source
    for source in ("outside", "a1", "node-a", "node-b"):
        assert cluster.one(source, outer(CLOSED, version), seconds=SILENT)["error"] == "timeout", source


# --- refusals ------------------------------------------------------------------------------------


def assert_refused(cluster: Cluster, source: str, host: object, port: int, protocol: str) -> None:
    found = cluster.one(source, host, port, protocol=protocol)
    for _ in range(2 if protocol == "udp" else 0):
        # The kernel sends a receiver six ICMP errors and then one each second (icmp_ratelimit), or for any at a time.
        if found.get("error") == "timeout":
            found = cluster.one(source, host, port, protocol=protocol, seconds=1.2)
    assert found.get("error") == "refused", (source, host, found)
    assert found["seconds"] < FAST * SLOWER, (source, host, found)


@BOTH
def test_without_endpoints_clients_are_refused_at_once(cluster: Cluster, version: int, protocol: str) -> None:
    for source in ("a1", "node-a"):
        assert_refused(cluster, source, vip(NOBODY, version), 80, protocol)
    for source in ("a1", "b1", "node-a", "outside"):
        assert_refused(cluster, source, cluster.address("node-a", version), 30011, protocol)
        assert_refused(cluster, source, outer(NOBODY, version), 80, protocol)


@BOTH
def test_a_port_that_no_service_has_is_refused(cluster: Cluster, version: int, protocol: str) -> None:
    for source in ("a1", "node-a"):
        assert_refused(cluster, source, vip(WEB, version), 99, protocol)


@VERSION
def test_refusals_are_tcp_resets_and_icmp_errors_about_ports(cluster: Cluster, version: int) -> None:
    """A TCP client would take an ICMP error for a reset, and does not show which it was."""
    node = cluster.address("node-a", version)
    inside = [(vip(NOBODY, version), 80), (vip(WEB, version), 99)]
    outside = [(node, 30011), (outer(NOBODY, version), 80)]
    by_source = {
        "a1": inside + outside,
        "node-a": inside + outside,
        "b1": inside + outside,
        "outside": outside,
    }
    error = "ICMP 3/3" if version == 4 else "ICMPv6 1/4"
    with ThreadPoolExecutor() as pool:
        found = dict(zip(by_source, pool.map(cluster.refusals, by_source, by_source.values()), strict=True))
    for source, ends in by_source.items():
        expected = [[[what, *end]] for end in ends for what in ("RST", error)]
        assert found[source] == expected, source


@PROTOCOLS
@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_node_ports_are_not_on_the_loopback_interface(cluster: Cluster, loopback: str, protocol: str) -> None:
    assert_refused(cluster, "node-a", loopback, 30007, protocol)


# --- beside Services -----------------------------------------------------------------------------


@KERNEL
@VERSIONS
@PROTOCOLS
@pytest.mark.parametrize("later", ["service", "endpoint"])
def test_a_service_and_its_endpoint_from_one_source_port(
    cluster: Cluster, later: str, version: int, protocol: str, request: pytest.FixtureRequest
) -> None:
    """At the same time: the two connections differ in nothing but how the client names its end."""
    if later == "endpoint" and cluster.lab.state.datapath == "netdev":
        # flows/38-service tells why. Over UDP the later one gets the answers to both.
        request.applymarker(pytest.mark.xfail(strict=True, reason="not in user space"))
    ends = [(cluster.address("b1", version), PORT), (vip(LEAST, version), 80)]
    first, other = ends if later == "service" else reversed(ends)
    bind = (cluster.address("a1", version), 42000 + 10 * version + (later == "service"))
    options: dict[str, Any] = {"protocol": protocol, "bind": bind, "seconds": 1.5}
    with cluster.going("hold", "a1", *first, **options) as held:
        assert cluster.names("a1", *other, count=3, **options) == {"b1"}
        done = held.stop()
    assert (done["name"], done.get("error")) == ("b1", None)


@VERSIONS
def test_many_connections_to_an_endpoint_itself(cluster: Cluster, version: int) -> None:
    """At the same time: conntrack follows them beside those to its Service."""
    target = cluster.address("b1", version), PORT
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(cluster.going("hold", "a1", *target)) for _ in range(4)]
        assert cluster.names("a1", *target, protocol="udp", count=20) == {"b1"}
        assert [each.stop().get("error") for each in held] == [None] * 4


@VERSION
def test_much_data_passes_in_both_directions(cluster: Cluster, version: int) -> None:
    """Full segments, and that the kernel's offloads are right about translated packets."""
    size = 8 << 20
    for source in ("a1", "node-a", "outside"):
        host, port = (vip(LEAST, version), 80) if source != "outside" else (outer(OPEN, version), 80)
        found = cluster.one(source, host, port, up=size, down=size, seconds=10)
        assert found.get("received") == size, (source, found)


@VERSION
def test_fragments(cluster: Cluster, version: int) -> None:
    """Large datagrams and their answers, which are as large."""
    for source in ("a1", "b1", "node-a"):
        with cluster.going("hold", source, vip(LEAST, version), protocol="udp", up=4000, first=200) as client:
            time.sleep(0.2)
            held = client.stop()
        assert (held["name"], held.get("error"), held["last"]["received"]) == ("b1", None, 4000), (
            source,
            held,
        )


@VERSION
def test_a_connection_that_begins_with_fragments(
    cluster: Cluster, version: int, request: pytest.FixtureRequest
) -> None:
    """In user space each fragment leaves conntrack by itself, later ones without ports: no flow knows their Service."""
    if cluster.lab.state.datapath == "netdev":
        request.applymarker(pytest.mark.xfail(strict=True, reason="not in user space"))
    for source in ("a1", "b1"):
        found = cluster.ask(source, vip(LEAST, version), protocol="udp", up=4000, count=3)
        assert {(each.get("name"), each.get("received")) for each in found} == {("b1", 4000)}, (source, found)
