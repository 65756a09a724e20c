"""External addresses that are somebody's: a host's outside, another node's. A Service takes its ports of them alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from lab_world import SLOWER, agent_log, assert_green, eventually, ovsnet_json, running
from services_world import FAMILIES, OTHER_PORT, PORT, Cluster, assert_clean, cluster_of, service, vip

KERNEL = pytest.mark.kernel
VERSIONS = pytest.mark.parametrize("version", FAMILIES)
NUMBER, TAKEN = 30, 8443
"""Of the Service; its port, which is nobody's else: the lab's probes have 80."""
AROUND = ("192.0.2.8", "192.0.2.15")
PLACES = ("node-a", "a1", "b1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of() as cluster:
        yield cluster


@contextlib.contextmanager
def named(cluster: Cluster, place: str, *endpoints: str, port: int = TAKEN) -> Iterator[None]:
    """A Service that has the place's addresses among its externalIPs."""
    hosts = [cluster.address(place, version) for version in FAMILIES]
    document: dict[str, Any] = service("named", NUMBER, externalIPs=hosts)
    for each in document["spec"]["ports"]:
        each["port"] = port
    slices = [cluster.slice_of("named", list(endpoints), {"": PORT}, version) for version in FAMILIES]
    cluster.write("named", [document, *slices])
    try:
        yield
    finally:
        cluster.remove("named")
        eventually(lambda: "lookup 7077" not in rules(cluster))


def rules(cluster: Cluster) -> str:
    node = cluster.lab.node("node-a")
    return "".join(node.run(["ip", family, "rule"], check=True).stdout for family in ("-4", "-6"))


@pytest.mark.parametrize("place", ["outside", "node-b"])
def test_other_ports_and_pings_of_such_a_host_are_its_own(cluster: Cluster, place: str) -> None:
    with named(cluster, place, "a1"):
        for version in FAMILIES:
            host = cluster.address(place, version)
            for source in PLACES:
                for protocol in ("tcp", "udp"):
                    eventually(lambda: cluster.names(source, host, TAKEN, 3, protocol=protocol) == {"a1"})  # noqa: B023
                    assert cluster.names(source, host, OTHER_PORT, 3, protocol=protocol) == {place}, source
                assert cluster.lab.exec(source, ["ping", "-c", "1", "-W", "2", host]).returncode == 0, source
            assert cluster.names("outside", cluster.address("node-a", version), PORT, 2) == {"node-a"}
        assert_green(cluster.lab)
        assert_clean(cluster.lab)
    for version in FAMILIES:
        assert cluster.names("node-a", cluster.address(place, version), PORT, 2) == {place}


@KERNEL
def test_a_service_that_names_a_tunnels_end_takes_no_tunnel_away(cluster: Cluster) -> None:
    with named(cluster, "node-b", "a1", port=4789):
        eventually(lambda: "lookup 7077" in rules(cluster))
        for node in cluster.lab.nodes:
            node.run(["ovs-appctl", "dpctl/del-flows"], check=True)
        assert_green(cluster.lab)
        assert_clean(cluster.lab)


@VERSIONS
def test_without_endpoints_the_port_is_refused_at_once(cluster: Cluster, version: int) -> None:
    with named(cluster, "node-b"):
        host = cluster.address("node-b", version)
        for source in PLACES[:2]:
            eventually(lambda: cluster.names(source, host, TAKEN, 1, seconds=1.0) == {"refused"})  # noqa: B023
            assert cluster.one(source, host, TAKEN, seconds=1.0)["seconds"] < 0.9 * SLOWER
        assert cluster.names("node-a", host, PORT, 2) == {"node-b"}


def test_on_an_underlay_of_ipv6_tunnels_stay_as_well() -> None:
    """The longest prefix that Open vSwitch finds would lead to the bridge itself."""
    with running(nodes=2, pods=1, underlay="6") as lab:
        document = service("named", NUMBER, externalIPs=[str(lab.node("node-b").node.address(6))])
        for each in document["spec"]["ports"]:
            each["port"] = TAKEN
        cluster = Cluster(lab)
        cluster.write("named", [document])
        eventually(lambda: "lookup 7077" in rules(cluster))
        for node in lab.nodes:
            node.run(["ovs-appctl", "dpctl/del-flows"], check=True)
        assert_green(lab)


def test_what_is_a_pods_or_a_nodes_is_no_services_address_and_stays_where_it_is(cluster: Cluster) -> None:
    """As if nobody had asked; all else of the Service works, and others are not disturbed."""
    node, pod, b = cluster.lab.node("node-a"), cluster.address("b1", 4), cluster.address("node-b", 4)
    document = service("greedy", NUMBER, ("",), ("TCP",), node_port=30031, externalIPs=[pod, b])
    document["spec"]["ports"][0]["port"] = TAKEN
    thief = service("thief", NUMBER, ("",), ("TCP",), node_port=22, clusterIP=b, clusterIPs=[b])
    slices = [cluster.slice_of(name, ["a1"], {"": PORT}, 4) for name in ("greedy", "thief")]
    # One network with both of these has the nodes' addresses as well, and is longer than that on the uplink.
    around = [service(f"around-{at}", 40 + at, clusterIP=ip, clusterIPs=[ip]) for at, ip in enumerate(AROUND)]
    before = ovsnet_json(node, "show", "services")
    cluster.write("greedy", [document, thief, *around, *slices])
    try:
        eventually(lambda: cluster.names("a2", vip(NUMBER, 4), TAKEN, 1) == {"a1"})
        eventually(lambda: cluster.names("outside", cluster.address("node-a", 4), 30031, 1) == {"a1"})
        # A node's address is usual outside.
        eventually(lambda: cluster.names("node-a", b, TAKEN, 1) == {"a1"})
        eventually(lambda: f"{AROUND[0]}/" in node.run(["ip", "route"], check=True).stdout)
        assert "ovsnet0" not in node.run(["ip", "route", "get", b], check=True).stdout
        for source in ("a1", "node-a"):
            assert cluster.names(source, pod, PORT, 1) == {"b1"}
            assert cluster.names(source, b, PORT, 1) == {"node-b"}
        lines = [line for line in agent_log(node).splitlines() if "service-greedy.yaml: Service " in line]
        for words in (
            f"Service default/greedy: {pod} lies in 10.244.2.0/24, a range of pods of node node-b (",
            f"Service default/thief: {b} is an address of node node-b (",
            "node port 22/TCP of port tcp is outside of 30000-32767, nodePortRange in the agent's configuration",
        ):
            assert any(words in line for line in lines), lines
        shown = {each["name"]: each["frontends"] for each in ovsnet_json(node, "show", "services")}
        assert set(shown) - {each["name"] for each in before} == {
            *("default/greedy", "default/around-0", "default/around-1")
        }
        assert pod not in {each["address"] for each in shown["default/greedy"]}
        assert_clean(cluster.lab)
    finally:
        cluster.remove("greedy")
    eventually(lambda: "lookup 7077" not in rules(cluster))
