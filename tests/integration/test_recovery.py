"""Rows that are gone when an agent starts: pods that run get them back from what the runtime keeps of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cni_world import Cni, launch_agent, new_container, path
from lab_world import agent_log, assert_green, dump, eventually, fetch, manifest, running, tunnels

from ovsnet import names, state
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node
from ovsnet.lab.state import write_atomically

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2) as lab:
        yield lab


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("node-a")


def lose_bridge(node: Node) -> None:
    node.run(["ovs-vsctl", "del-br", "br-int"], check=True)


def lose_database(node: Node) -> None:
    for daemon in (VSWITCHD, OVSDB):
        node.kill(daemon, signal.SIGKILL)
    node.private("/etc/openvswitch/conf.db").unlink()
    for daemon in (OVSDB, VSWITCHD):
        node.start(daemon)


def lose_a_row(node: Node) -> None:
    port = next(name for name, row in Cni(node).rows().items() if row.role == names.ROLE_POD)
    node.run(["ovs-vsctl", "del-port", "br-int", port], check=True)


def identities(node: Node) -> dict[str, dict[str, str]]:
    return {pod.port: state.identity(pod) for pod in state.pods(Cni(node).rows())}


def start_without_bridge(node: Node, before: dict[str, dict[str, str]]) -> None:
    """The agent, which makes everything as it was."""
    lose_bridge(node)
    node.start(AGENT)
    eventually(lambda: identities(node) == before, 20)
    node.await_agent(30)


@pytest.mark.parametrize("lose", [lose_bridge, lose_database, lose_a_row])
@pytest.mark.parametrize("agent", [True, False], ids=["with an agent", "without"])
def test_running_pods_get_their_rows_back(
    lab: Lab, node: Node, lose: Callable[[Node], None], agent: bool
) -> None:
    """The same addresses, MACs and tunnels; whether an agent sees it happen or starts afterwards."""
    before, flows, peers = identities(node), sorted(map(cookie, dump(node))), tunnels(node)
    if not agent:
        node.kill(AGENT, signal.SIGKILL)
    lose(node)
    if not agent:
        node.start(AGENT)
    eventually(lambda: identities(node) == before, 20)
    eventually(lambda: sorted(map(cookie, dump(node))) == flows, 20)
    node.await_agent(30)
    assert tunnels(node) == peers
    assert_green(lab)
    for pod in lab.pods:
        assert pod.attached()
    Cni(node).assert_nothing_leaked()
    with Cni(node).pod() as (_, answer):
        taken = {ip for ids in before.values() for ip in ids[names.KEY_IPS].split()}
        assert not taken & set(answer.addresses)


def test_entries_that_are_none_keep_no_pod_from_its_row(lab: Lab, node: Node) -> None:
    before, mark = identities(node), len(agent_log(node))
    folder = node.private("/var/lib/cni/results")
    bad = [folder / name for name in ("0-pipe", "0-link", "0-text")]
    node.kill(AGENT, signal.SIGKILL)
    os.mkfifo(bad[0])
    bad[1].symlink_to("/dev/zero")
    bad[2].write_text("{")
    try:
        start_without_bridge(node, before)
    finally:
        for path in bad:
            path.unlink()
    told = [line for line in agent_log(node)[mark:].splitlines() if "gives no pod its row back" in line]
    assert len(told) == len(bad), told
    assert_green(lab)


def address_of_nobody(entry: dict[str, Any]) -> None:
    entry["result"]["ips"][0]["address"] = "10.244.1.99/24"


def mac_of_nobody(entry: dict[str, Any]) -> None:
    for interface in entry["result"]["interfaces"]:
        interface["mac"] = "0a:58:0a:f4:01:63"


def another_container(entry: dict[str, Any]) -> None:
    entry["containerId"] = "other"
    address_of_nobody(entry)


def the_nodes_namespace(entry: dict[str, Any]) -> None:
    entry |= {"containerId": "other", "netns": "/proc/1/ns/net"}
    for interface in entry["result"]["interfaces"]:
        if interface.get("sandbox"):
            interface["sandbox"] = "/proc/1/ns/net"


@pytest.mark.parametrize("lie", [address_of_nobody, mac_of_nobody, another_container, the_nodes_namespace])
def test_a_lying_entry_is_refuted_by_the_pod(
    lab: Lab, node: Node, lie: Callable[[dict[str, Any]], None]
) -> None:
    """Beside the true one, which counts."""
    before, mark = identities(node), len(agent_log(node))
    folder = node.private("/var/lib/cni/results")
    entry = json.loads(next(path for path in sorted(folder.iterdir())).read_text())
    lie(entry)
    (folder / "0-lie").write_text(json.dumps(entry))
    node.kill(AGENT, signal.SIGKILL)
    try:
        start_without_bridge(node, before)
    finally:
        (folder / "0-lie").unlink()
    assert "by the runtime's cached result" in agent_log(node)[mark:]
    assert_green(lab)


def test_a_row_that_lost_its_mark_while_no_agent_ran_gets_it_back(lab: Lab, node: Node) -> None:
    before = identities(node)
    port = next(iter(before))
    node.kill(AGENT, signal.SIGKILL)
    node.run(["ovs-vsctl", "clear", "Port", port, "external_ids"], check=True)
    node.start(AGENT)
    eventually(lambda: identities(node) == before, 20)
    assert_green(lab)


def test_a_bridge_that_may_not_speak_our_openflow_may_again(lab: Lab, node: Node) -> None:
    allowed = ["ovs-vsctl", "get", "Bridge", "br-int", "protocols"]
    node.run(["ovs-vsctl", "set", "Bridge", "br-int", "protocols=OpenFlow10"], check=True)
    eventually(lambda: node.run(allowed).stdout == "[OpenFlow10, OpenFlow15]\n")
    node.await_agent(30)
    assert_green(lab)


def cookie(flow: str) -> str:
    """Port numbers may be others."""
    return flow.split(",")[0]


def test_what_the_runtime_does_not_know_goes(lab: Lab, node: Node) -> None:
    """An interface without a row and without an entry is left of an interrupted request."""
    cni, container = Cni(node), new_container()
    with cni.namespaces(container):
        cni.add(container)
        node.kill(AGENT, signal.SIGKILL)
        port = next(pod.port for pod in state.pods(cni.rows()) if pod.container == container)
        node.run(["ovs-vsctl", "del-port", "br-int", port], check=True)
        mark = len(agent_log(node))
        node.start(AGENT)
        cni.assert_nothing_leaked()
        assert port not in cni.links()
        assert "removing 1 interfaces that belong to no pod" in agent_log(node)[mark:]
        assert cni.call("ADD", container, netns=path(container)).status == 0
    assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"


def test_a_pod_that_lost_its_row_ends_on_a_node_whose_object_is_gone(lab: Lab, node: Node) -> None:
    """Its interface goes with DEL: the agent would give it its row back once the object is there again."""
    cni, container, file = Cni(node), new_container(), manifest(lab, node.name)
    before, results = file.read_text(), node.private("/var/lib/cni/results")
    entry = json.loads(next(path for path in sorted(results.iterdir())).read_text())
    with cni.namespaces(container):
        result = cni.add(container).document
        port = result["interfaces"][0]["name"]
        node.kill(AGENT, signal.SIGKILL)
        lost = {**entry, "containerId": container, "netns": path(container), "result": result}
        (results / "0-lost").write_text(json.dumps(lost))
        node.run(["ovs-vsctl", "del-port", "br-int", port], check=True)
        file.unlink()
        launch_agent(node)
        try:
            eventually(lambda: "has no pod ranges" in cni.call("STATUS").words, 20)
            assert port in cni.links()
            cni.delete(container)
            assert port not in cni.links()
        finally:
            (results / "0-lost").unlink()
            write_atomically(file, before)
        node.await_agent(30)
        cni.assert_nothing_leaked()
