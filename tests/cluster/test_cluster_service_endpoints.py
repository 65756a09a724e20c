"""What is behind Services, as Kubernetes tells it: nobody, the client itself, a node, a host outside, who is near."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kube_services import AGE, BY_OUTSIDE, EVERYWHERE, PROBE, SERVERS, TCP, UDP, Called
from kube_world import NODES, Object, server
from lab_world import eventually
from services_world import FAMILIES, assert_clean, outer

from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.server import ECHO_PORT, HTTP_PORT
from ovsnet.lab.spec import outside_interface

WEB = {"group": "web"}
ALL = {*SERVERS}
PROTOCOLS = ("tcp", "udp")


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does, afterwards all nodes are as their agents want them."""
    yield
    assert_clean(cluster)


def test_without_endpoints_clients_are_refused_at_once(called: Called, ways: None) -> None:
    """By whichever of a Service's addresses."""
    external = [outer(12, version) for version in FAMILIES]
    own = called.make("nobody", {"app": "nobody"}, type="NodePort", externalIPs=external)
    targets = [(address, 80, protocol) for address in external for protocol in PROTOCOLS]
    targets += called.node_ports("nobody")
    called.await_answer(["outside"], targets, "refused")
    targets += [(address, 80, protocol) for address in own.values() for protocol in PROTOCOLS]
    called.await_answer(EVERYWHERE, targets, "refused")


def test_a_pod_reaches_itself(called: Called) -> None:
    own = called.make("itself", {"app": "web-a"}, type="NodePort")
    for address in own.values():
        for protocol in PROTOCOLS:
            called.await_names(address, {"web-a"}, sources=["web-a"], protocol=protocol)
    called.await_answer(["web-a"], called.node_ports("itself"), "web-a")


def abroad(version: int, ports: list[Object]) -> Object:
    """An EndpointSlice by hand, of the host outside. ports: the Service's."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"abroad-{version}",
            "labels": {"kubernetes.io/service-name": "abroad"},
        },
        "addressType": f"IPv{version}",
        "endpoints": [{"addresses": [str(outside_interface(version).ip)]}],
        "ports": [
            {"name": each["name"], "port": each["targetPort"], "protocol": each.get("protocol", "TCP")}
            for each in ports
        ],
    }


def test_a_host_outside_is_an_endpoint(called: Called) -> None:
    """Of a Service without selector."""
    ports = [{**TCP, "targetPort": HTTP_PORT}, {**UDP, "targetPort": ECHO_PORT}]
    called.world.apply(*(abroad(version, ports) for version in FAMILIES))
    own = called.make("abroad", {}, *ports, type="NodePort")
    # What the echo server answers is what it is asked.
    for protocol, answer in (("tcp", BY_OUTSIDE), ("udp", "hostname")):
        targets = [each for each in called.node_ports("abroad") if each[2] == protocol]
        called.await_answer(["outside"], targets, answer)
        targets += [(address, 80, protocol) for address in own.values()]
        called.await_answer(EVERYWHERE, targets, answer)


def test_a_pod_in_its_nodes_network_is_an_endpoint(cluster: Cluster, called: Called) -> None:
    # A datagram's answer comes from the address that was asked only if the server listens on just that.
    arguments = ["netexec", "--http-port=18090", "--udp-port=18091", "--udp-listen-addresses=$(ADDRESSES)"]
    env = [{"name": "ADDRESSES", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}}]
    called.world.start(server("on-node", "node-b", arguments=arguments, env=env, spec={"hostNetwork": True}))
    ports = ({**TCP, "targetPort": 18090}, {**UDP, "targetPort": 18091})
    addresses = called.make("host-web", {"app": "on-node"}, *ports, type="NodePort")
    called.await_served(addresses, {"node-b"})
    for node in cluster.nodes:
        for version in FAMILIES:
            port = called.node_port("host-web")
            called.await_names(str(node.node.address(version)), {"node-b"}, port, ["outside", "client-a"])


def test_a_pod_that_is_not_ready_gets_nothing(called: Called) -> None:
    world = called.world
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    pods = [
        server(f"late-{each}", node, labels={"some": "late"}, readinessProbe=probe)
        for each, node in zip("ab", NODES, strict=False)
    ]
    world.apply(*pods)
    addresses = called.make("late", {"some": "late"})

    def ready(pod: str, command: str) -> None:
        eventually(lambda: world.kubectl("exec", pod, "--", command, "/tmp/ready") == "", AGE)

    called.await_names(addresses[4], {"refused"}, count=1)
    ready("late-b", "touch")
    called.await_served(addresses, {"late-b"})
    ready("late-a", "touch")
    called.await_served(addresses, {"late-a", "late-b"})
    ready("late-b", "rm")
    called.await_served(addresses, {"late-a"})


def test_servers_that_terminate_are_a_nodes_last_resort(cluster: Cluster, called: Called) -> None:
    """Policy Local for clients within: a node's own serve while they end, though others are ready (KEP-1669)."""
    world, label = called.world, {"some": "inner"}
    lasting = server(
        "inner-ending",
        "node-a",
        labels=label,
        arguments=["netexec", "--delay-shutdown=60"],
        readinessProbe=PROBE,
    )
    lasting["spec"]["terminationGracePeriodSeconds"] = 60
    world.start(lasting, server("inner-ready", "node-b", labels=label, readinessProbe=PROBE))
    addresses = called.make("inner", label, type="NodePort", internalTrafficPolicy="Local")
    port, hosts = called.node_port("inner"), [str(node.node.address(4)) for node in cluster.nodes]

    def await_local(on_a: str) -> None:
        for address, protocol in zip(addresses.values(), PROTOCOLS, strict=True):
            called.await_names(address, {on_a}, sources=["client-a", "node-a"], protocol=protocol, count=4)
            called.await_names(address, {"inner-ready"}, sources=["client-b"], protocol=protocol, count=4)

    await_local("inner-ending")
    world.kubectl("delete", "pod", "inner-ending", "--wait=false")
    for host in hosts:  # policy Cluster: only those that are ready
        called.await_names(host, {"inner-ready"}, port, ["outside"])
    await_local("inner-ending")
    world.apply(server("inner-next", "node-a", labels=label, readinessProbe=PROBE))
    await_local("inner-next")
    called.await_names(addresses[4], {"timeout"}, sources=["client-c"], count=1)
    world.kubectl("delete", "pod", "inner-ending", "--grace-period=0", "--force")


def test_traffic_stays_where_it_is_cheap(cluster: Cluster, called: Called) -> None:
    """What the controller says in the slices' hints."""
    zones = dict(zip(NODES, ("east", "east", "west"), strict=True))
    for node, zone in zones.items():
        cluster.kubectl("label", "node", node, f"topology.kubernetes.io/zone={zone}")
    try:
        near = called.make("near", WEB, trafficDistribution="PreferClose")
        zoned = called.make("zoned", WEB, trafficDistribution="PreferSameZone")
        same = called.make("same", WEB, trafficDistribution="PreferSameNode")
        for node in NODES:
            here = [f"client-{node[-1]}", node]
            beside = {f"web-{each[-1]}" for each in NODES if zones[each] == zones[node]}
            for version in FAMILIES:
                for address in (near[version], zoned[version]):
                    called.await_names(address, beside, sources=here)
                called.await_names(same[version], {f"web-{node[-1]}"}, sources=here)
    finally:
        for node in NODES:
            cluster.kubectl("label", "node", node, "topology.kubernetes.io/zone-")
    called.await_served(near, ALL)
