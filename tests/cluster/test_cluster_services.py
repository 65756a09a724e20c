"""Services as Kubernetes makes them, called from everywhere: no kube-proxy runs, the agents serve them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator

import pytest
from kube_services import AGE, BY_OUTSIDE, CLIENTS, EVERYWHERE, PROBE, SERVERS, TCP, UDP, Called, workload
from kube_world import NODES, Object, curl, server
from lab_world import eventually
from services_world import FAMILIES, assert_clean, outer

from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.spec import outside_interface

WEB = {"group": "web"}
ALL = {*SERVERS}
PROTOCOLS = ("tcp", "udp")


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does, afterwards all nodes are as their agents want them."""
    yield
    assert_clean(cluster)


def test_cluster_addresses_are_served_to_pods_and_nodes(called: Called) -> None:
    addresses = called.make("everyone", WEB)
    assert {*addresses} == {4, 6}
    called.await_served(addresses, ALL)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", FAMILIES)
def test_a_server_sees_the_pods_own_address(called: Called, version: int, protocol: str) -> None:
    address = called.make("seen", WEB)[version]
    called.await_names(address, ALL, protocol=protocol)
    for client in CLIENTS:
        own = called.world.addresses(client)[version]
        found = called.ask(client, address, protocol=protocol, text="clientip", count=12)
        assert {each["name"].rpartition(":")[0].strip("[]") for each in found} == {own}


def test_ports_by_name_and_several_of_them(called: Called) -> None:
    ports = ({**TCP, "targetPort": "by-name"}, {**TCP, "name": "other", "port": 8443}, UDP)
    addresses = called.make("ports", WEB, *ports)
    called.await_served(addresses, ALL)
    for address in addresses.values():
        called.await_names(address, ALL, 8443)
        refused = called.one("client-a", address, 8444)
        assert refused["error"] == "refused"
        assert refused["seconds"] < 1.0


def test_a_single_family(called: Called) -> None:
    for family, version in (("IPv4", 4), ("IPv6", 6)):
        name = f"only-{version}"
        addresses = called.make(name, WEB, ipFamilyPolicy="SingleStack", ipFamilies=[family])
        assert {*addresses} == {version}
        called.await_served(addresses, ALL)


def looked_up(called: Called, name: str, kind: str) -> set[str]:
    """What the cluster's DNS says to a pod."""
    said = called.world.kubectl(
        "exec", "client-a", "--", "sh", "-c", f"nslookup -type={kind} {name} 10.96.0.10; :"
    )
    lines = said.partition("Name:")[2].splitlines()
    return {line.split()[-1] for line in lines if line.startswith("Address")}


def test_names_of_services(called: Called) -> None:
    addresses = called.make("named", WEB)
    domain = f"{called.world.name}.svc.cluster.local"
    for version, kind in ((4, "a"), (6, "aaaa")):
        eventually(lambda: looked_up(called, f"named.{domain}", kind) == {addresses[version]}, AGE)  # noqa: B023
    for name in ("named", f"named.{called.world.name}", f"named.{domain}"):
        argv = ["curl", "-s", "-m5", f"http://{name}/hostname"]
        eventually(lambda: called.world.kubectl("exec", "client-b", "--", *argv) in ALL, AGE)  # noqa: B023


def test_a_headless_service_of_a_stateful_set(called: Called) -> None:
    world = called.world
    called.make("store", {"app": "store"}, clusterIP="None")
    world.apply(workload("StatefulSet", "store", 2, {"serviceName": "store"}))
    world.kubectl("rollout", "status", "statefulset/store", "--timeout=60s")
    domain = f"store.{world.name}.svc.cluster.local"
    pods = [world.addresses(name) for name in ("store-0", "store-1")]
    for version, kind in ((4, "a"), (6, "aaaa")):
        every = {pod[version] for pod in pods}
        eventually(lambda: looked_up(called, domain, kind) == every, AGE)  # noqa: B023
    argv = ["curl", "-s", "-m5", f"http://store-1.{domain}:8080/hostname"]
    eventually(lambda: world.kubectl("exec", "client-c", "--", *argv) == "store-1", AGE)


@pytest.mark.parametrize("source", EVERYWHERE)
def test_the_api_server_has_a_service(cluster: Cluster, called: Called, source: str) -> None:
    argv = ["curl", "-sk", "-m5", "https://10.96.0.1/version"]
    eventually(lambda: '"major": "1"' in cluster.exec(called.place(source), argv).stdout, AGE)


def test_the_api_server_by_its_name(called: Called) -> None:
    argv = ["curl", "-sk", "-m5", "https://kubernetes.default/version"]
    eventually(lambda: '"major": "1"' in called.world.kubectl("exec", "client-a", "--", *argv), AGE)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", FAMILIES)
def test_node_ports(cluster: Cluster, called: Called, version: int, protocol: str) -> None:
    called.make("node-ports", WEB, type="NodePort")
    port = called.node_port("node-ports", "http" if protocol == "tcp" else "udp")
    for node in cluster.nodes:
        address = str(node.node.address(version))
        called.await_names(address, ALL, port, ("outside", *EVERYWHERE), protocol=protocol)


# policies


@pytest.fixture(scope="module")
def two_nodes(called: Called) -> dict[str, str]:
    """A label of servers on two of the three nodes."""
    called.world.kubectl("label", "pod", "web-a", "web-b", "some=two")
    return {"some": "two"}


def health(cluster: Cluster, node: str, port: int, version: int) -> tuple[int, int]:
    """Status, and the local endpoints that the answer counts."""
    address = cluster.node(node).node.address(version)
    host = f"[{address}]" if version == 6 else str(address)
    argv = ["curl", "-sg", "-m3", "--write-out", " %{http_code}", f"http://{host}:{port}/"]
    body, _, status = cluster.exec("outside", argv).stdout.rpartition(" ")
    return int(status), json.loads(body)["localEndpoints"] if body else -1


def test_external_policy_local(cluster: Cluster, called: Called, two_nodes: dict[str, str]) -> None:
    called.make("local", two_nodes, type="LoadBalancer", externalTrafficPolicy="Local")
    spec = called.world.get("service", "local")["spec"]
    for version in FAMILIES:
        outside = str(outside_interface(version).ip)
        for protocol, name in (("tcp", "http"), ("udp", "udp")):
            port = called.node_port("local", name)
            a, b, c = (str(node.node.address(version)) for node in cluster.nodes)
            called.await_names(a, {"web-a"}, port, ["outside"], protocol=protocol)
            called.await_names(b, {"web-b"}, port, ["outside"], protocol=protocol)
            assert called.seen("outside", a, port, protocol=protocol) == outside
            called.await_names(c, {"timeout"}, port, ["outside"], protocol=protocol, count=1)
            called.await_names(c, {"web-a", "web-b"}, port, protocol=protocol)
        eventually(lambda: health(cluster, "node-a", spec["healthCheckNodePort"], version) == (200, 1))  # noqa: B023
        eventually(lambda: health(cluster, "node-c", spec["healthCheckNodePort"], version) == (503, 0))  # noqa: B023


def test_load_balancers_learn_of_nodes_where_they_ask_kube_proxy(cluster: Cluster, called: Called) -> None:
    """Without a word in the agents' configuration (KEP-3836)."""

    def told(node: str) -> tuple[str, ...]:
        found = []
        for version in FAMILIES:
            address = cluster.node(node).node.address(version)
            host = f"[{address}]" if version == 6 else str(address)
            argv = [
                "curl",
                "-sg",
                "-m3",
                "-o/dev/null",
                "--write-out",
                "%{http_code}",
                f"http://{host}:10256/healthz",
            ]
            found.append(cluster.exec("outside", argv).stdout)
        return tuple(found)

    for node in NODES:
        eventually(lambda: told(node) == ("200", "200"))  # noqa: B023
    taint = "ToBeDeletedByClusterAutoscaler"
    called.world.kubectl("taint", "node", "node-c", f"{taint}=1:PreferNoSchedule")
    try:
        eventually(lambda: told("node-c") == ("503", "503"))
        assert told("node-a") == ("200", "200")
    finally:
        called.world.kubectl("taint", "node", "node-c", f"{taint}-")
    eventually(lambda: told("node-c") == ("200", "200"))


def test_servers_that_terminate_are_the_last_resort(cluster: Cluster, called: Called) -> None:
    """Policy Local: they are sent what still comes, but a load balancer is told to send no more (KEP-1669)."""
    world = called.world
    arguments = ["netexec", "--delay-shutdown=60"]
    pod = server("ending", "node-a", arguments=arguments, readinessProbe=PROBE)
    world.start({**pod, "spec": {**pod["spec"], "terminationGracePeriodSeconds": 60}})
    addresses = called.make("ending", {"app": "ending"}, type="LoadBalancer", externalTrafficPolicy="Local")
    checked, port = world.get("service", "ending")["spec"]["healthCheckNodePort"], called.node_port("ending")
    eventually(lambda: health(cluster, "node-a", checked, 4) == (200, 1), AGE)
    world.kubectl("delete", "pod", "ending", "--wait=false")
    eventually(lambda: health(cluster, "node-a", checked, 4) == (503, 0), AGE)
    for version in FAMILIES:
        node = str(cluster.node("node-a").node.address(version))
        called.await_names(node, {"ending"}, port, ["outside"])
        called.await_names(addresses[version], {"ending"})
    world.kubectl("delete", "pod", "ending", "--grace-period=0", "--force")
    for address in addresses.values():
        called.await_names(address, {"refused"}, count=1)


def test_internal_policy_local(called: Called, two_nodes: dict[str, str]) -> None:
    for address in called.make("inner", two_nodes, internalTrafficPolicy="Local").values():
        for protocol in PROTOCOLS:
            called.await_names(address, {"web-a"}, sources=["client-a", "node-a"], protocol=protocol)
            called.await_names(address, {"web-b"}, sources=["client-b", "node-b"], protocol=protocol)
            for source in ("client-c", "node-c"):
                called.await_names(address, {"timeout"}, sources=[source], protocol=protocol, count=1)


def test_external_addresses(called: Called, ways: None) -> None:
    addresses = {version: outer(7, version) for version in FAMILIES}
    called.make("external", WEB, externalIPs=[*addresses.values()])
    for address in addresses.values():
        for protocol in PROTOCOLS:
            called.await_names(address, ALL, sources=("outside", *EVERYWHERE), protocol=protocol)


def test_a_load_balancers_address_and_who_may_use_it(called: Called, ways: None) -> None:
    addresses = {version: outer(8, version) for version in FAMILIES}
    called.make("balanced", WEB, type="LoadBalancer")
    called.balance("balanced", addresses.values())
    for address in addresses.values():
        called.await_names(address, ALL, sources=("outside", *EVERYWHERE))
    called.patch("balanced", {"spec": {"loadBalancerSourceRanges": ["198.51.100.0/24", "2001:db8:9::/64"]}})
    for address in addresses.values():
        called.await_names(address, {"timeout"}, sources=["outside"], count=1, seconds=1.0)
    own = [str(ipaddress.ip_network(outside_interface(version).ip)) for version in FAMILIES]
    called.patch("balanced", {"spec": {"loadBalancerSourceRanges": own}})
    for address in addresses.values():
        called.await_names(address, ALL, sources=["outside"])
    called.patch("balanced", {"status": {"loadBalancer": None}}, "--subresource=status")
    for address in addresses.values():
        called.await_names(address, {"timeout"}, sources=["outside"], count=1, seconds=1.0)


@pytest.fixture
def balancer(cluster: Cluster) -> Iterator[list[str]]:
    """A load balancer that is a host outside: its addresses, on which it answers TCP port 80."""
    addresses = [outer(9, version) for version in FAMILIES]
    own = [f"{ipaddress.ip_network(address)} dev lo" for address in addresses]
    cluster.outside.ip([f"address add {each}" for each in own])
    yield addresses
    cluster.outside.ip([f"address delete {each}" for each in own])


def test_a_load_balancer_that_is_a_proxy_gets_its_connections(
    called: Called, ways: None, balancer: list[str]
) -> None:
    """ipMode (KEP-1860): nodes answer for a VIP, and leave a Proxy's address alone."""
    called.make("by-mode", WEB, type="LoadBalancer")
    routed = [outer(10, version) for version in FAMILIES]
    for mode in ("VIP", "Proxy", "VIP"):
        called.balance("by-mode", [*balancer, *routed], ipMode=mode)
        if mode == "Proxy":
            called.await_answer(EVERYWHERE, [(address, 80, "tcp") for address in balancer], BY_OUTSIDE)
            targets = [(address, 80, protocol) for address in routed for protocol in PROTOCOLS]
            called.await_answer(["outside"], targets, "timeout")
        else:
            for sources, addresses in ((EVERYWHERE, balancer), (["outside"], routed)):
                for address in addresses:
                    called.await_names(address, ALL, sources=sources)


def test_a_load_balancer_without_node_ports(called: Called, ways: None) -> None:
    addresses = {version: outer(11, version) for version in FAMILIES}
    called.make("portless", WEB, type="LoadBalancer", allocateLoadBalancerNodePorts=False)
    assert not any("nodePort" in each for each in called.world.get("service", "portless")["spec"]["ports"])
    called.balance("portless", addresses.values())
    for address in addresses.values():
        for protocol in PROTOCOLS:
            called.await_names(address, ALL, sources=("outside", *EVERYWHERE), protocol=protocol)


# clients


def test_a_pod_in_its_nodes_network_is_a_client(cluster: Cluster, called: Called) -> None:
    """Not just a process of the node: netexec in a container dials for whoever asks it to."""
    arguments = ["netexec", "--http-port=18092", "--udp-port=18093"]
    called.world.start(server("as-node", "node-a", arguments=arguments, spec={"hostNetwork": True}))
    dialer = str(cluster.node("node-a").node.address(4))

    def names(address: str, protocol: str) -> set[str]:
        asked = f"dial?host={address}&port=80&protocol={protocol}&request=hostname&tries=24"
        found = json.loads(curl(cluster, "outside", dialer, asked, port=18092, seconds=20.0) or "{}")
        return {*found.get("responses", ()), *found.get("errors", ())}

    for address in called.make("of-node", WEB).values():
        for protocol in ("http", "udp"):
            eventually(lambda: names(address, protocol) == ALL, AGE)  # noqa: B023


def test_kubelets_never_took_a_server_for_dead(called: Called) -> None:
    for name in (*SERVERS, *CLIENTS):
        status: Object = called.world.get("pod", name)["status"]["containerStatuses"][0]
        assert (status["ready"], status["restartCount"]) == (True, 0), name
