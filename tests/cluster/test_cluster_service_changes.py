"""Services, and what is behind them, change while clients go on; parts of the cluster are away meanwhile."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import service_server
from kube_services import AGE, EVERYWHERE, PROBE, SERVERS, TCP, UDP, Called, workload
from kube_world import Object, server, started
from lab_world import SLOWER, eventually
from services_world import FAMILIES, assert_clean

from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.node import AGENT

WEB = {"group": "web"}
ALL = {*SERVERS}
API_AWAY = 60.0
"""Seconds."""
LASTING = 9010
"""A port."""
DRAINING = {"preStop": {"sleep": {"seconds": 4}}}
"""A pod serves on until every node has heard that it goes: what any Deployment without failures needs."""


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does, afterwards all nodes are as their agents want them."""
    yield
    assert_clean(cluster)


def deploy(called: Called, name: str, replicas: int = 3) -> set[str]:
    """Make such a Deployment and wait for it; its pods."""
    pod = {"terminationGracePeriodSeconds": 10}
    more = {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}
    made = workload("Deployment", name, replicas, more, spec=pod, lifecycle=DRAINING, readinessProbe=PROBE)
    called.world.apply(made)
    called.world.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={90 * SLOWER:.0f}s")
    return called.pods(name)


def callers(cluster: Cluster, called: Called, name: str) -> list[tuple[str, str, int]]:
    """Clients of a Service with a node port: from pods, a node and outside, in both families."""
    addresses, port = called.addresses(name), called.node_port(name)
    sources = ("client-a", "client-c", "node-b")
    inner = [(source, addresses[version], 80) for source, version in zip(sources, (4, 6, 4), strict=True)]
    outer = [("outside", str(cluster.node("node-a").node.address(version)), port) for version in FAMILIES]
    return [*inner, *outer]


def await_all(called: Called, targets: list[tuple[str, str, int]], names: set[str]) -> None:
    for source, address, port in targets:
        called.await_names(address, names, port, [source])


# under load


def test_a_rolling_update_fails_no_connection(cluster: Cluster, called: Called) -> None:
    before = deploy(called, "rolled")
    called.make("rolled", {"app": "rolled"}, type="NodePort")
    targets = callers(cluster, called, "rolled")
    await_all(called, targets, before)
    with called.unfailing(*targets):
        called.world.kubectl("rollout", "restart", "deployment/rolled")
        called.world.kubectl("rollout", "status", "deployment/rolled", f"--timeout={120 * SLOWER:.0f}s")
        time.sleep(6.0)  # the last of the old ones goes
    after = called.pods("rolled")
    assert not before & after
    await_all(called, targets, after)


def test_a_deployment_is_scaled_under_load_and_to_nothing_and_back(cluster: Cluster, called: Called) -> None:
    before = deploy(called, "scaled", 2)
    address = called.make("scaled", {"app": "scaled"}, type="NodePort")[4]
    targets = callers(cluster, called, "scaled")
    await_all(called, targets, before)
    with called.unfailing(*targets):
        for replicas in (5, 1):
            called.world.kubectl("scale", "deployment/scaled", f"--replicas={replicas}")
            called.world.kubectl("rollout", "status", "deployment/scaled", f"--timeout={90 * SLOWER:.0f}s")
            time.sleep(6.0)
    await_all(called, targets, called.pods("scaled"))
    called.world.kubectl("scale", "deployment/scaled", "--replicas=0")
    called.await_names(address, {"refused"}, count=1)
    called.world.kubectl("scale", "deployment/scaled", "--replicas=2")
    called.world.kubectl("rollout", "status", "deployment/scaled", f"--timeout={90 * SLOWER:.0f}s")
    await_all(called, targets, called.pods("scaled"))


def test_an_agent_is_killed_and_restarted_under_load(cluster: Cluster, called: Called) -> None:
    called.make("steady", WEB, type="NodePort")
    targets = callers(cluster, called, "steady")
    await_all(called, targets, ALL)
    nodes = [cluster.node(name) for name in ("node-a", "node-b")]
    with called.unfailing(*targets):
        for node in nodes:
            node.kill(AGENT, signal.SIGKILL)
        time.sleep(2.0)
        for node in nodes:
            node.start(AGENT)
        time.sleep(2.0)
    await_all(called, targets, ALL)


def test_an_agent_that_missed_changes_follows_them(cluster: Cluster, called: Called) -> None:
    gone = called.make("gone-meanwhile", WEB)
    changed = called.make("changed-meanwhile", WEB)
    for addresses in (gone, changed):
        called.await_names(addresses[4], ALL, sources=["client-a"])
    node = cluster.node("node-a")
    node.kill(AGENT, signal.SIGKILL)
    called.world.kubectl("delete", "service", "gone-meanwhile")
    called.patch("changed-meanwhile", {"spec": {"selector": {"app": "web-b"}}})
    new = called.make("new-meanwhile", WEB)
    node.start(AGENT)
    called.await_names(new[6], ALL)
    called.await_names(changed[6], {"web-b"})
    eventually(lambda: "error" in called.one("client-a", gone[4], seconds=1.0))


@pytest.fixture
def lasting_servers(called: Called) -> Iterator[tuple[Object, Object]]:
    """Servers beside the web servers, which answer what stays for long; ports for them."""
    with contextlib.ExitStack() as stack:
        for name in SERVERS:
            argv = [sys.executable, "-I", "-S", service_server.__file__, str(LASTING), name]
            command = called.cluster.command(called.place(name), argv)
            stack.enter_context(started(command, service_server.READY))
        port = {"port": 81, "targetPort": LASTING}
        yield {**port, "name": "held"}, {**port, "name": "stream", "protocol": "UDP"}


def test_the_api_server_is_away_for_a_minute_under_load(
    cluster: Cluster, called: Called, lasting_servers: tuple[Object, Object]
) -> None:
    """Not one new connection fails, nor one that is there, and not one datagram is lost."""
    inner = called.make("alone", WEB, TCP, *lasting_servers, type="NodePort")
    targets = callers(cluster, called, "alone")
    await_all(called, targets, ALL)
    hosts = {version: str(cluster.node("node-a").node.address(version)) for version in FAMILIES}
    streams = [
        (source, [*each.values()], called.node_port("alone", "stream") if source == "outside" else 81)
        for source, each in (("client-a", inner), ("node-c", inner), ("outside", hosts))
    ]
    held = [("client-a", inner[6], 81), ("node-b", inner[4], 81)]
    held += [("outside", host, called.node_port("alone", "held")) for host in hosts.values()]
    try:
        with called.lasting(streams, held), called.unfailing(*targets, gap=0.05):
            cluster.control.kill(plan.APISERVER)
            time.sleep(API_AWAY)
            cluster.control.start(plan.APISERVER)
            time.sleep(2.0)
    finally:
        # The controllers come back after a minute or two, and may take a node for lost, and its pods for not ready,
        # until its kubelet has spoken again; from then on it is as quick as ever.
        addresses = called.make("after", WEB)
        eventually(lambda: called.offers("after") == [ALL] * len(FAMILIES), 240)
    for address in addresses.values():
        called.await_names(address, ALL)


# other Services


def test_a_service_changes_its_ports(called: Called) -> None:
    addresses = called.make("ported", WEB)
    for address in addresses.values():
        called.await_names(address, ALL, sources=["client-a", "node-b"])
    called.patch("ported", {"spec": {"ports": [{**TCP, "port": 8888}, {**UDP, "port": 8888}]}})
    for address in addresses.values():
        for protocol in ("tcp", "udp"):
            called.await_names(address, ALL, 8888, protocol=protocol)
            called.await_names(address, {"refused"}, 80, protocol=protocol, count=1)


def test_a_service_that_is_deleted_serves_no_more(called: Called) -> None:
    addresses = called.make("deleted", WEB)
    for address in addresses.values():
        called.await_names(address, ALL)
    called.world.kubectl("delete", "service", "deleted")
    for address in addresses.values():
        for source in EVERYWHERE:
            eventually(lambda: "error" in called.one(source, address, seconds=1.0), AGE)  # noqa: B023


@pytest.mark.parametrize("label", ["service-proxy-name", "headless"])
def test_a_service_that_others_serve_is_left_alone(called: Called, label: str) -> None:
    name = f"others-{label}"
    addresses = called.make(name, WEB)
    called.await_names(addresses[4], ALL)
    called.world.kubectl("label", "service", name, f"service.kubernetes.io/{label}=another")
    for address in addresses.values():
        for source in EVERYWHERE:
            eventually(lambda: "error" in called.one(source, address, seconds=1.0), AGE)  # noqa: B023
    called.world.kubectl("label", "service", name, f"service.kubernetes.io/{label}-")
    for address in addresses.values():
        called.await_names(address, ALL)


def test_the_external_policy_is_changed_and_changed_back(cluster: Cluster, called: Called) -> None:
    called.make("policy", {"app": "web-a"}, type="NodePort")
    port = called.node_port("policy")
    nodes = [str(cluster.node(name).node.address(4)) for name in ("node-a", "node-b")]
    for policy, far in (("Cluster", "web-a"), ("Local", "timeout"), ("Cluster", "web-a")):
        called.patch("policy", {"spec": {"externalTrafficPolicy": policy}})
        called.await_names(nodes[0], {"web-a"}, port, ["outside"])
        called.await_names(nodes[1], {far}, port, ["outside"], count=2)


def test_servers_that_are_not_ready_are_published(called: Called) -> None:
    never = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    called.world.apply(server("unready", "node-b", readinessProbe=never))
    for address in called.make("unready", {"app": "unready"}, publishNotReadyAddresses=True).values():
        for protocol in ("tcp", "udp"):
            called.await_names(address, {"unready"}, protocol=protocol)


def test_datagrams_from_one_port_find_the_next_server(cluster: Cluster, called: Called) -> None:
    """Connections of UDP don't end by themselves as long as their client sends; this one does before anybody serves."""
    addresses = called.make("cycled", {"some": "cycled"}, type="NodePort")
    port, node = called.node_port("cycled", "udp"), cluster.node("node-a").node
    targets = [(source, addresses[4], 80) for source in ("client-a", "node-c")]
    targets += [("client-b", addresses[6], 80)]
    targets += [("outside", str(node.address(version)), port) for version in FAMILIES]
    options: dict[str, Any] = {
        "do": "nag",
        "protocol": "udp",
        "bind": ["", 40404],
        "seconds": 0.5,
        "gap": 0.1,
    }
    for name, place in (("first", "node-b"), ("second", "node-c")):
        with contextlib.ExitStack() as stack:
            loads = [stack.enter_context(called.going(*each, until=name, **options)) for each in targets]
            called.world.kubectl("delete", "pod", "--selector=some=cycled", "--grace-period=0", "--force")
            called.world.start(server(name, place, labels={"some": "cycled"}))
            eventually(lambda: all(load.over for load in loads), AGE)  # noqa: B023
            assert [load.stop()["heard"][-1] for load in loads] == [name] * len(targets)


# session affinity

TIMEOUT = 3
"""Seconds."""
AFFINE = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": TIMEOUT}}}
LOOSE = {"sessionAffinity": "None", "sessionAffinityConfig": None}


def test_a_client_stays_with_its_server(called: Called) -> None:
    address = called.make("affine", WEB, **AFFINE)[4]
    for protocol in ("tcp", "udp"):
        for source in EVERYWHERE:
            # Its node may follow later than others.
            eventually(lambda: called.names(source, address, protocol=protocol) <= ALL, AGE)  # noqa: B023
            assert len(called.names(source, address, protocol=protocol)) == 1, source


def learned(cluster: Cluster, address: str) -> list[float]:
    """Seconds for which node-a's switch has remembered clients of an address, one for each of its ports."""
    command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br-int", "table=37"]
    lines = cluster.node("node-a").run(command, check=True).stdout.splitlines()
    found = (re.search(rf"duration=([\d.]+)s.*_dst={re.escape(address)},", line) for line in lines)
    return [float(each[1]) for each in found if each]


def test_every_connection_renews_affinity(cluster: Cluster, called: Called) -> None:
    """A client that pauses for longer than the timeout is forgotten."""
    addresses = called.make("renewed", WEB, **AFFINE).values()
    targets = [(address, protocol) for address in addresses for protocol in ("tcp", "udp")]
    for address, protocol in targets:
        eventually(lambda: called.names("client-a", address, count=1, protocol=protocol) <= ALL, AGE)  # noqa: B023

    def renewed() -> bool:
        """False too if the machine stood still meanwhile, for as long as the timeout."""
        with contextlib.ExitStack() as stack:
            loads = [
                stack.enter_context(called.going("client-a", address, gap=0.5, protocol=protocol))
                for address, protocol in targets
            ]
            time.sleep(2 * TIMEOUT + 1)
            ages = [age for address in addresses for age in learned(cluster, address)]
            results = [load.stop() for load in loads]
        if len(ages) < len(targets) or min(ages) < 2 * TIMEOUT:
            return False
        assert [len(each["names"]) for each in results] == [1] * len(targets), results
        return True

    eventually(renewed, 60)
    eventually(lambda: not any(learned(cluster, address) for address in addresses), TIMEOUT + AGE)


def test_affinity_is_switched_on_and_off(cluster: Cluster, called: Called) -> None:
    address = called.make("switched", WEB, type="NodePort")[6]
    port, host = called.node_port("switched"), str(cluster.node("node-c").node.address(6))
    for change in (AFFINE, LOOSE, AFFINE):
        called.patch("switched", {"spec": change})
        several = change is LOOSE
        for source, target in (("client-a", address), ("node-b", address)):
            eventually(lambda: (len(called.names(source, target)) > 1) == several, AGE)  # noqa: B023
        eventually(lambda: (len(called.names("outside", host, port)) > 1) == several, AGE)  # noqa: B023
