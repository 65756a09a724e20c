"""Policies while connections are under way, pods come and daemons go: what is denied never passes, the rest goes on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml
from lab_world import SLOWER, agent_log, dump, eventually, reconfigure
from policies_world import API, DB, GUEST, WEB, Pair, Policed, app, policed_cluster, port
from services_world import FAMILIES, PORT, Load, vip

from ovsnet.lab.cni_runner import CniError
from ovsnet.lab.node import AGENT, VSWITCHD
from ovsnet.lab.pods import new_container

KERNEL = pytest.mark.kernel
FROM_API: dict[str, Any] = {"from": [{"podSelector": app("api")}], "ports": [port(PORT), port(PORT, "UDP")]}
TO_WEB: dict[str, Any] = {"to": [{"podSelector": app("web")}], "ports": [port(PORT), port(PORT, "UDP")]}
CLOSED_BUT_FOR_API: tuple[dict[str, Any], ...] = (
    {"ingress": [], "egress": []},
    {"podSelector": app("web"), "ingress": [FROM_API]},
    {"podSelector": app("api"), "egress": [TO_WEB]},
)
"""Of all in the namespace shop nothing but connections of api to web, to one port."""
ALLOWED: tuple[Pair, ...] = (("a-api", "a-web"), ("a-api", "b-web"), ("b-api", "a-web"))
DENIED: tuple[Pair, ...] = (("a-db", "a-web"), ("b-guest", "a-web"), ("a-api", "b-db"), ("a-web", "b-guest"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        yield cluster


FLOODED = "a-web"
"""What others send to while daemons go: its counters tell whether any of it came, answered or not."""


def settled(cluster: Policed) -> None:
    """The policies of `CLOSED_BUT_FOR_API` are in force on both nodes."""
    for web in WEB:
        cluster.expect(web, (*API, *DB, *GUEST), API)
    cluster.expect("b-guest", (*WEB, *API), ())
    cluster.expect("a-guest", (*WEB, *API), ())


# --- connections that are older than policies ----------------------------------------------------


@contextlib.contextmanager
def connections(cluster: Policed, do: str, pairs: Sequence[Pair], **options: Any) -> Iterator[list[Load]]:
    """One of each pair in both families."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(cluster.going(do, source, cluster.address(target, version), PORT, **options))
            for source, target in pairs
            for version in FAMILIES
        ]


def went_on(load: Load) -> None:
    done = load.stop()
    assert done.get("error") is None, done
    assert done["count"] > 20, done
    assert done["longest"] < 1.5 * SLOWER, done


OF_DB: tuple[Pair, ...] = (("a-db", "b-web"), ("a-db", "a-web"))


@KERNEL
def test_a_connection_that_was_allowed_goes_on_when_a_policy_denies_new_ones(cluster: Policed) -> None:
    with cluster.policies({"podSelector": app("web"), "ingress": [{"ports": [port(PORT)]}]}):
        for web in WEB:
            cluster.expect(web, ["a-db"], ["a-db"], protocols=["tcp"])
            cluster.expect(web, ["a-db"], [], protocols=["udp"])
        with connections(cluster, "hold", OF_DB, up=3000, down=3000) as held:
            time.sleep(0.5)
            cluster.allow("p0", podSelector=app("web"), ingress=[])
            for web in WEB:
                cluster.expect(web, ["a-db"], ())
            time.sleep(1.0)
            for each in held:
                went_on(each)


def test_one_of_pods_that_had_no_policy_goes_on_until_neither_of_its_directions_is_allowed(
    cluster: Policed,
) -> None:
    """Nobody has followed it. Its packets may be answers in what the pod itself began, as long as that is allowed."""
    with connections(cluster, "hold", OF_DB, up=3000, down=3000) as held:
        time.sleep(0.5)
        with cluster.policies({"podSelector": app("web"), "ingress": []}):
            for web in WEB:
                cluster.expect(web, ["a-db"], ())
            time.sleep(1.0)
            for each in held:
                went_on(each)
    with (
        connections(cluster, "hold", OF_DB, up=3000, down=3000, seconds=1.0) as held,
        cluster.policies({"podSelector": app("web"), "ingress": [], "egress": []}),
    ):
        for web in WEB:
            cluster.expect(web, ["a-db"], ())
        time.sleep(3.0 * SLOWER)
        for each in held:
            assert each.stop()["error"] == "timed out"


def test_a_connection_that_is_allowed_goes_on_when_both_ends_are_isolated(cluster: Policed) -> None:
    with (
        connections(cluster, "hold", ALLOWED, up=3000, down=3000) as held,
        connections(cluster, "late", ALLOWED, down=200_000, delay=4.0 * SLOWER) as late,
    ):
        time.sleep(0.3)
        with cluster.policies(*CLOSED_BUT_FOR_API):
            settled(cluster)
            for each in held:
                went_on(each)
            for each in late:
                # The first packet that meets the policies is the server's.
                done = each.stop()
                assert done.get("error") is None, done
                assert {done["first"]["name"], done["last"]["name"]} <= set(WEB), done


@KERNEL
def test_through_a_service_it_goes_on_as_well(cluster: Policed) -> None:
    cluster.put("web", ["b-web"], 1)
    cluster.choose("web", "b-web")
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.remove, "web")
        held, late = (
            [stack.enter_context(cluster.going(do, source, vip(1, version), **options))
             for source in API for version in FAMILIES]
            for do, options in (
                ("hold", {"up": 3000, "down": 3000}), ("late", {"down": 200_000, "delay": 4.0 * SLOWER})
            )
        )  # fmt: skip
        time.sleep(0.3)
        with cluster.policies(*CLOSED_BUT_FOR_API):
            settled(cluster)
            for each in held:
                went_on(each)
            for each in late:
                done = each.stop()
                assert done.get("error") is None, done


# --- pods come -----------------------------------------------------------------------------------


@pytest.mark.parametrize("denied", [True, False])
def test_a_pod_that_comes_is_isolated_from_its_first_moment(cluster: Policed, denied: bool) -> None:
    """Without the policy the same packets arrive, so that it is known that they would be seen."""
    node = cluster.lab.node("node-a").node
    counts = []
    with cluster.policies({"ingress": []}):
        cluster.expect("a-web", ("a-free", "b-free"), ())
        for number in range(5 if denied else 1):
            ips = [str(node.pod_range(version)[100 + number]) for version in FAMILIES]
            with cluster.flood("a-free", ips), cluster.flood("b-free", ips):
                time.sleep(0.1)
                cluster.lab.add_pod("node-a", "fresh", namespace="shop" if denied else "free", ips=ips)
                time.sleep(0.7)
                counts.append(cluster.received("fresh"))
                cluster.lab.remove_pod("fresh")
    assert counts == [0] * 5 if denied else counts[0] > 100, counts


def test_a_pod_that_goes_is_isolated_until_its_last_moment(cluster: Policed) -> None:
    """What conntrack hands back when the policies were taken away is for nobody either: not a packet gets out."""
    targets = {name: cluster.received(name) for name in ("a-free", "b-free")}
    hosts = [cluster.address(name, version) for name in targets for version in FAMILIES]
    with cluster.policies({"ingress": [], "egress": []}):
        cluster.expect("a-web", ["a-free"], ())
        for _ in range(8):
            cluster.lab.add_pod("node-a", "gone", namespace="shop")
            with cluster.flood("gone", hosts):
                time.sleep(0.5)
                cluster.lab.remove_pod("gone")
        assert {name: cluster.received(name) for name in targets} == targets


@KERNEL
def test_what_a_pod_was_allowed_goes_with_it(cluster: Policed) -> None:
    """Its addresses are another pod's soon."""
    node = cluster.lab.node("node-a").node
    ips = [str(node.pod_range(version)[120]) for version in FAMILIES]
    with cluster.policies(
        {"podSelector": app("short"), "ingress": [{"from": [{"podSelector": app("api")}]}]}
    ):
        cluster.lab.add_pod("node-a", "short", namespace="shop", labels={"app": "short"}, ips=ips)
        with cluster.flood("b-api", ips), cluster.flood("b-db", ips):
            eventually(lambda: all(cluster.connections("node-a", "zone=65502", ip) for ip in ips))
        assert not any(
            cluster.connections("node-a", "zone=65502", ip, cluster.address("b-db", version))
            for ip, version in zip(ips, FAMILIES, strict=True)
        )
        cluster.lab.remove_pod("short")

        def left() -> list[str]:
            found = [each for ip in ips for each in cluster.connections("node-a", "zone=65502", ip)]
            return [each for each in found if not each.startswith("icmp")]

        eventually(lambda: left() == [])


def test_a_pod_that_nobody_knows_waits_and_is_refused(cluster: Policed) -> None:
    """Whether a policy selects it depends on labels that the store does not tell."""
    node = cluster.lab.node("node-a")
    container, netns = new_container(), f"/run/netns/ghost-{new_container()[:6]}"
    args = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "ghost"}
    with cluster.policies({"podSelector": app("web"), "ingress": []}):
        cluster.expect("a-web", ["b-api"], ())
        node.run(["ip", "netns", "add", netns.rpartition("/")[2]], check=True)
        before = dump(node), sorted(node.interfaces())
        begun = time.monotonic()
        try:
            with pytest.raises(
                CniError, match=r"shop/ghost.*NetworkPolicy shop/p0 selects by labels"
            ) as caught:
                node.runner.add(container, netns, "eth0", args)
            assert caught.value.code == 11
            assert time.monotonic() - begun > 9
            assert (dump(node), sorted(node.interfaces())) == before
            assert node.run(["ip", "-o", "link"], netns=netns, check=True).stdout.count("\n") == 1
            # In another namespace nobody asks for labels.
            node.runner.add(container, netns, "eth0", {**args, "K8S_POD_NAMESPACE": "free"})
        finally:
            node.runner.delete(container, netns, "eth0")
            node.run(["ip", "netns", "delete", netns.rpartition("/")[2]])


# --- daemons go ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_its_agent_a_node_enforces_what_it_has(cluster: Policed) -> None:
    nodes = cluster.lab.nodes
    with cluster.policies(*CLOSED_BUT_FOR_API):
        settled(cluster)
        with cluster.watching(ALLOWED, DENIED), cluster.flooding(("a-free", "b-db"), FLOODED):
            for node in nodes:
                node.kill(AGENT, signal.SIGKILL)
            time.sleep(1.0)
            for node in nodes:
                node.start(AGENT)
            time.sleep(1.0)
        settled(cluster)


@pytest.mark.slow
def test_an_agent_without_its_store_goes_on_with_what_there_is(cluster: Policed) -> None:
    node = cluster.lab.node("node-a")
    folder = node.private("/etc/ovsnet/elsewhere")
    try:
        with cluster.policies(*CLOSED_BUT_FOR_API):
            settled(cluster)
            with cluster.watching(ALLOWED, DENIED), cluster.flooding(("a-free", "b-db"), FLOODED):
                reconfigure(node, store={"file": "/etc/ovsnet/elsewhere"})
                assert "policies stay as an earlier agent has installed them" in agent_log(node)
                time.sleep(1.0)
                beside = folder.with_name("beside")
                shutil.copytree(cluster.lab.folder.path / "cluster", beside)
                # Half a folder is another state, and a busy machine may stop in the middle.
                beside.rename(folder)
                time.sleep(2.0)
            settled(cluster)
            cluster.allow(
                "p1", podSelector=app("web"), folder=folder, ingress=[{"from": [{"podSelector": app("db")}]}]
            )
            eventually(lambda: cluster.reaching("a-web", API) == set())
            cluster.allow("p1", podSelector=app("web"), folder=folder, ingress=[FROM_API])
            cluster.expect("a-web", API, API)
    finally:
        reconfigure(node, store={"file": "/etc/ovsnet/cluster"})
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_when_the_switch_is_back_it_enforces_from_its_first_moment(cluster: Policed) -> None:
    node = cluster.lab.node("node-a")
    with cluster.policies(*CLOSED_BUT_FOR_API):
        settled(cluster)
        with (
            connections(cluster, "hold", ALLOWED, up=3000, down=3000, seconds=20.0) as held,
            cluster.watching((), DENIED, gap=0.003),
            cluster.flooding(("a-free", "b-db"), FLOODED),
        ):
            time.sleep(0.5)
            node.kill(VSWITCHD, signal.SIGKILL)
            node.start(VSWITCHD)
            settled(cluster)
            time.sleep(1.0)
            for each in held:
                done = each.stop()
                assert (done.get("error"), done["count"] > 20) == (None, True), done


@pytest.mark.slow
def test_a_node_that_starts_without_its_store_opens_nothing(cluster: Policed) -> None:
    """The switch has lost its flows, and nobody can say what the policies are: OVSDB tells who was isolated."""
    node = cluster.lab.node("node-a")
    folder = node.private("/etc/ovsnet/elsewhere")
    container, netns = new_container(), f"/run/netns/new-{new_container()[:6]}"
    args = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "free", "K8S_POD_NAME": "new"}
    config = node.private("/etc/ovsnet/agent.yaml")
    before = config.read_text()
    node.run(["ip", "netns", "add", netns.rpartition("/")[2]], check=True)
    try:
        with cluster.policies(*CLOSED_BUT_FOR_API):
            settled(cluster)
            with (
                cluster.watching((), DENIED, gap=0.003),
                cluster.flooding(("a-free", "b-db"), FLOODED),
            ):
                node.kill(AGENT, signal.SIGKILL)
                node.kill(VSWITCHD, signal.SIGKILL)
                config.write_text(
                    yaml.safe_dump({**yaml.safe_load(before), "store": {"file": "/etc/ovsnet/elsewhere"}})
                )
                node.start(VSWITCHD)
                node.start(AGENT)
                node.await_agent(30 * SLOWER)
                assert "reach nobody but this node until the store is there" in agent_log(node)
                # Whoever was free is, and whoever was isolated is so from all but its node.
                cluster.expect("a-free", ("b-free", "node-b"), ("b-free", "node-b"))
                cluster.expect("a-web", (*API, *DB, *GUEST), ())
                cluster.expect("b-web", ("a-api", "b-api"), ("b-api",))
                cluster.expect("a-db", ("node-a", "node-b"), ())
                with pytest.raises(CniError, match="the store is away, and there were policies") as caught:
                    node.runner.add(container, netns, "eth0", args)
                assert caught.value.code == 11
                beside = folder.with_name("beside")
                shutil.copytree(cluster.lab.folder.path / "cluster", beside)
                beside.rename(folder)
                settled(cluster)
                assert node.runner.add(container, netns, "eth0", args)
                node.runner.delete(container, netns, "eth0")
    finally:
        config.write_text(before)
        node.kill(AGENT)
        node.start(AGENT)
        node.await_agent(30 * SLOWER)
        node.run(["ip", "netns", "delete", netns.rpartition("/")[2]])
        shutil.rmtree(folder, ignore_errors=True)
    bridge = ["ovs-vsctl", "get", "Bridge", "br-int", "external_ids:ovsnet-policies"]
    eventually(lambda: node.run(bridge, check=True).stdout.strip() == "none", 40)
