"""What upstream's conformance tests ask of Services and of nodes' ports, where no other module does."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import chain

import pytest
from kube_services import AGE, EVERYWHERE, SERVERS, TCP, UDP_PORT, Called
from kube_world import PORT, Object, server, started
from lab_world import eventually
from services_world import FAMILIES, assert_clean

from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.node import Node

WEB = {"group": "web"}
ALL = {*SERVERS}
HOST_PORT = 18082
OFCTL = ("ovs-ofctl", "-O", "OpenFlow15")


@pytest.fixture(scope="module", autouse=True)
def clean(cluster: Cluster, called: Called) -> Iterator[None]:
    """Whatever tests do, afterwards all nodes are as their agents want them."""
    yield
    assert_clean(cluster)


# ports of nodes


@pytest.fixture(scope="module")
def host_pods(cluster: Cluster, called: Called) -> str:
    """Three pods of node-b with one hostPort, but other addresses and protocols. The node's address."""
    address = str(cluster.node("node-b").node.address(4))
    ports: dict[str, Object] = {
        "by-loopback": {"name": "one", "containerPort": PORT, "hostIP": "127.0.0.1"},
        "by-tcp": {"name": "two", "containerPort": PORT, "hostIP": address},
        "by-udp": {"name": "three", "containerPort": UDP_PORT, "hostIP": address, "protocol": "UDP"},
    }
    labels = {"some": "host-port"}
    called.world.start(
        *(
            server(name, "node-b", labels=labels, ports=[{**port, "hostPort": HOST_PORT}])
            for name, port in ports.items()
        )
    )
    return address


def test_one_host_port_of_several_pods_on_other_addresses_and_protocols(
    called: Called, host_pods: str
) -> None:
    called.await_names("127.0.0.1", {"by-loopback"}, HOST_PORT, ["node-b"], count=3)
    for protocol in ("tcp", "udp"):
        sources = ("outside", *EVERYWHERE)
        called.await_names(host_pods, {f"by-{protocol}"}, HOST_PORT, sources, protocol=protocol, count=3)
    called.await_names("127.0.0.1", {"refused"}, HOST_PORT, ["node-b"], protocol="udp", count=1)


def test_each_port_has_the_pods_that_name_it(called: Called, host_pods: str) -> None:
    """The API server writes an EndpointSlice for each of the sets of ports."""
    ports = [{"name": name, "port": 80 + at, "targetPort": name} for at, name in enumerate(("one", "two"))]
    for address in called.make("multiport", {"some": "host-port"}, *ports).values():
        called.await_names(address, {"by-loopback"}, 80, count=6)
        called.await_names(address, {"by-tcp"}, 81, count=6)


# names, and ways through the API server


def alias(name: str, target: str) -> Object:
    spec = {"type": "ExternalName", "externalName": target}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def test_an_external_name_is_an_alias(called: Called) -> None:
    """DNS's work; that of the agents is to leave it alone."""
    addresses = called.make("aliased", WEB)
    target = f"aliased.{called.world.name}.svc.cluster.local"
    called.world.apply(alias("alias", target))
    called.await_names(
        addresses[4], ALL
    )  # meanwhile DNS has heard: it remembers for 5 s that there is no such name
    eventually(lambda: called.canonical("alias") == target, AGE)
    argv = ["curl", "-s", "-m5", "http://alias/hostname"]
    eventually(lambda: called.world.kubectl("exec", "client-c", "--", *argv) in ALL, AGE)


def test_a_service_turns_from_each_type_into_each(cluster: Cluster, called: Called) -> None:
    name = {"type": "ExternalName", "externalName": "elsewhere.example.org"}
    called.world.apply(alias("turning", name["externalName"]))
    spec = {"selector": WEB, "ports": [TCP], "externalName": None, "ipFamilyPolicy": "RequireDualStack"}
    host, port, addresses = str(cluster.node("node-a").node.address(4)), 0, dict[int, str]()
    for kind in ("ClusterIP", "NodePort", "ExternalName", "NodePort", "ClusterIP", "ExternalName"):
        called.patch("turning", {"spec": name if kind == "ExternalName" else {**spec, "type": kind}})
        now = called.addresses("turning")
        assert {*now} == set(() if kind == "ExternalName" else FAMILIES)
        for version in FAMILIES:
            if now:
                called.await_names(now[version], ALL, sources=["client-b", "node-c"])
            else:
                gone = addresses[version]
                eventually(lambda: "error" in called.one("client-a", gone, seconds=1.0), AGE)  # noqa: B023
        if kind == "NodePort":
            port = called.node_port("turning")
            called.await_names(host, ALL, port, ["outside", "client-b", "node-c"])
        elif port:
            called.await_names(host, {"refused"}, port, ["outside"], count=1)
        addresses = now
    eventually(lambda: called.canonical("turning") == name["externalName"], AGE)


def test_the_api_server_is_a_proxy_to_services(cluster: Cluster, called: Called) -> None:
    """The lab's is on no node: it takes an endpoint by itself, and needs the way to pods alone."""
    called.make("proxied", {"app": "web-b"}, {**TCP, "name": "first"}, {**TCP, "name": "second", "port": 81})
    for port in ("first", "second", "80", "81"):
        path = f"/api/v1/namespaces/{called.world.name}/services/proxied:{port}/proxy/hostname"
        eventually(lambda: cluster.kubectl("get", "--raw", path, check=False).stdout == "web-b", AGE)  # noqa: B023


# affinity


CLIENTS_OUTSIDE = [f"198.51.100.{number}" for number in range(1, 25)]
"""That all of them are given the server again that they had is a chance of 1 in 3^24."""
TIMEOUT = 4
"""Seconds."""


@pytest.fixture
def clients_outside(cluster: Cluster) -> Iterator[None]:
    addresses = [f"{address}/32 dev lo" for address in CLIENTS_OUTSIDE]
    cluster.outside.ip([f"address add {each}" for each in addresses])
    yield
    cluster.outside.ip([f"address delete {each}" for each in addresses])


def test_affinity_of_clients_outside_ends(cluster: Cluster, called: Called, clients_outside: None) -> None:
    """Through a node port, where every client stays for itself with a server, for as long as it does not pause."""
    timeout = {"clientIP": {"timeoutSeconds": TIMEOUT}}
    called.make("lent", WEB, type="NodePort", sessionAffinity="ClientIP", sessionAffinityConfig=timeout)
    port, node = called.node_port("lent"), cluster.node("node-a")
    host = str(node.node.address(4))
    called.await_answer(["outside"], [(host, port, "tcp")], "web-")

    def servers() -> list[str]:
        targets = [(host, port, "tcp", client) for client in CLIENTS_OUTSIDE]
        return [
            str(each.get("name", each)) for each in called.ask("outside", "", do="probe", targets=targets)
        ]

    def remembered() -> bool:
        lines = node.run([*OFCTL, "dump-flows", "br-int", "table=37"], check=True).stdout.splitlines()
        return any(f"reg12={int(ip_address(each)):#x}," in line for line in lines for each in CLIENTS_OUTSIDE)

    before: list[str] = []

    def stayed() -> bool:
        """False too if the machine stood still meanwhile."""
        begun, (first, second, third) = time.monotonic(), [servers() for _ in range(3)]
        known = remembered()
        if time.monotonic() - begun > TIMEOUT:
            return False
        assert {*first} <= ALL
        assert first == second == third
        before[:] = third
        return known

    eventually(stayed, 60)
    eventually(lambda: not remembered(), TIMEOUT + AGE)
    after = servers()
    assert {*after} <= ALL
    assert after != before


# endpoints written by hand


def slice_of(name: str, number: int, addresses: list[str], **ports: int) -> Object:
    """An EndpointSlice of a Service without selector."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-{number}", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": port, "port": value, "protocol": "TCP"} for port, value in ports.items()],
    }


def test_slices_of_one_service_have_their_own_ports(called: Called) -> None:
    a, b, c = (called.world.addresses(name)[4] for name in SERVERS)
    called.world.apply(
        slice_of("sliced", 0, [a], http=PORT),
        slice_of("sliced", 1, [b], http=PORT, other=PORT),
        slice_of("sliced", 2, [c], other=PORT, http=PORT + 9),
    )
    ports = (TCP, {**TCP, "name": "other", "port": 81})
    called.make("sliced", {}, *ports, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])
    address = called.addresses("sliced")[4]
    called.await_names(address, {"web-a", "web-b", "refused"})
    called.await_names(address, {"web-b", "web-c"}, 81)
    called.world.kubectl("delete", "endpointslice", "sliced-2")
    called.await_names(address, {"web-a", "web-b"})
    called.await_names(address, {"web-b"}, 81)


MANY, SLICE = 5000, 1000
"""Endpoints, and those of a slice: no more are allowed."""
ANYBODY, HERE = "198.18.0.0/16", 9012
"""Of these all addresses are the outside's, where a server on that port tells which of them was asked."""
TELLER = f"""
import socket
listening = socket.create_server(("", {HERE}), backlog=512)
print("ready", flush=True)
while True:
    with listening.accept()[0] as asked:
        try:
            asked.settimeout(3)
            asked.recv(4096)
            asked.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + asked.getsockname()[0].encode())
        except OSError:
            pass
"""
CONNECTIONS, LIMIT = 2500, 150.0
"""With 64 equal shares chi-square exceeds the limit less than once in 10^8 times; as seldom do so many connections find
fewer than 1850 of the endpoints: 1963 on average, with a standard deviation of 17."""


def anybody(number: int) -> str:
    return f"198.18.{number >> 8}.{number & 255}"


@pytest.fixture
def tellers(cluster: Cluster) -> Iterator[None]:
    cluster.outside.ip([f"route add local {ANYBODY} dev lo"])
    with started(cluster.command("outside", [sys.executable, "-I", "-S", "-c", TELLER])):
        yield
    cluster.outside.ip([f"route delete local {ANYBODY} dev lo"])


def shares(node: Node) -> dict[str, frozenset[str]]:
    """The endpoints among those that each group chooses from."""
    lines = node.run([*OFCTL, "dump-groups", "br-int"], check=True).stdout.splitlines()
    found = {line.partition(",")[0]: frozenset(re.findall(r"dst=(198\.18\.[\d.]+)", line)) for line in lines}
    return {group: addresses for group, addresses in found.items() if addresses}


def test_five_thousand_endpoints(cluster: Cluster, called: Called, tellers: None) -> None:
    numbers = range(1, MANY + 1)
    slices = [
        slice_of("many", at, [anybody(number) for number in numbers[at : at + SLICE]], http=HERE)
        for at in range(0, MANY, SLICE)
    ]
    called.world.apply(*slices)
    address = called.make("many", {}, TCP, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])[4]
    every = {anybody(number) for number in numbers}
    before = {}
    for node in cluster.nodes:
        eventually(lambda: {*chain(*shares(node).values())} == every, 2 * AGE)  # noqa: B023
        before[node.name] = shares(node)
    (groups,) = {frozenset(each.values()) for each in before.values()}
    assert len(groups) == 64
    assert sum(map(len, groups)) == MANY
    group_of = {endpoint: group for group in groups for endpoint in group}

    said = [str(each.get("name", each)) for each in called.ask("client-a", address, count=CONNECTIONS)]
    assert {*said} <= every
    expected = CONNECTIONS / len(groups)
    found = Counter(group_of[endpoint] for endpoint in said)
    assert sum((found[group] - expected) ** 2 / expected for group in groups) < LIMIT, sorted(found.values())
    assert len({*said}) > 1850

    gone, come = anybody(MANY), anybody(MANY + 1)
    slices[-1]["endpoints"][-1] = {"addresses": [come]}
    called.world.apply(slices[-1])
    for node in cluster.nodes:
        eventually(lambda: {*chain(*shares(node).values())} == every - {gone} | {come}, 2 * AGE)  # noqa: B023
        changed = {*before[node.name].items()} ^ {*shares(node).items()}
        # What had the one and what has the other, as they were and as they are.
        assert 2 <= len(changed) <= 4
        assert {*chain(*(each for _, each in changed))} >= {gone, come}
