"""Peers come and go with their manifests while everything runs; a mistake in one withdraws nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from lab_world import (
    agent_log,
    assert_green,
    dump,
    eventually,
    fetch,
    manifest,
    reconfigure,
    running,
    seen,
    tunnels,
)

from ovsnet.lab import files
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.spec import node_spec
from ovsnet.lab.state import write_atomically

ENCAPSULATION = "ovsnet.io/encapsulation"
# The agents take their address from their own Node object, so that a manifest can move a node.
BY_MANIFEST: dict[str, Any] = {"nodeAddress": {}}
LONG_ENOUGH = 0.5
"""Seconds in which the agents would have acted on a file."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=3, pods=1, agent=BY_MANIFEST) as lab:
        assert_green(lab)
        yield lab


def edit(lab: Lab, node: str, change: Callable[[dict[str, Any]], None]) -> None:
    document = yaml.safe_load(manifest(lab, node).read_text())
    change(document)
    write_atomically(manifest(lab, node), yaml.safe_dump(document))


def remote(node: Node, peer: str) -> str | None:
    """Where the node's tunnel to the peer ends."""
    return tunnels(node).get(peer, {}).get("remote_ip")


@contextlib.contextmanager
def edited(lab: Lab, node: str, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """A manifest changed for a while."""
    before = manifest(lab, node).read_text()
    edit(lab, node, change)
    try:
        yield
    finally:
        write_atomically(manifest(lab, node), before)


@contextlib.contextmanager
def nothing_withdrawn(node: Node) -> Iterator[None]:
    """Fails if a flow is removed from br-int meanwhile, be it for a moment only."""
    command = node.command(["ovs-ofctl", "monitor", "br-int", "watch:!initial"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield
        finally:
            process.terminate()
            said = process.communicate()[0]
    assert "DELETED" not in said


def unchanged(node: Node) -> Callable[[], bool]:
    before = dump(node), tunnels(node), routes(node)
    return lambda: before == (dump(node), tunnels(node), routes(node))


def routes(node: Node) -> list[str]:
    found = []
    for family in ("-4", "-6"):
        done = node.run(["ip", family, "route", "show", "dev", "ovsnet0"], check=True)
        found += sorted(line.split()[0] for line in done.stdout.splitlines())
    return found


def interface_errors(node: Node) -> list[str]:
    """What ovs-vswitchd could not do."""
    done = node.run(["ovs-vsctl", "--bare", "--columns=error", "find", "Interface", "error!=[]"], check=True)
    return done.stdout.splitlines()


def said(node: Node, *words: str) -> list[str]:
    """The lines of the agent's log with all these words."""
    return [line for line in agent_log(node).splitlines() if all(word in line for word in words)]


def knows(node: Node, text: str) -> bool:
    return any(text in flow for flow in dump(node))


@pytest.mark.slow
def test_a_node_comes_and_goes(lab: Lab) -> None:
    node = lab.nodes[0]
    as_before = unchanged(node)
    added = lab.add_node()
    lab.add_pod(added.name)
    assert_green(lab)
    assert added.name in tunnels(node)
    lab.remove_node(added.name)
    eventually(as_before)
    eventually(lambda: said(node, f"peer {added.name} removed"))


def test_tunnels_follow_an_annotation_on_both_sides(lab: Lab) -> None:
    a, b, c = lab.nodes

    def between() -> tuple[str, str, str]:
        return tuple(  # type: ignore[return-value]  # three nodes, three kinds
            tunnels(here).get(there.name, {}).get("type", "") for here, there in ((a, b), (b, a), (a, c))
        )

    with edited(lab, "node-b", lambda n: n["metadata"].update(annotations={ENCAPSULATION: "geneve"})):
        eventually(lambda: between() == ("geneve", "geneve", "vxlan"))
        assert_green(lab)
    eventually(lambda: between() == ("vxlan", "vxlan", "vxlan"))
    assert_green(lab)


@pytest.mark.slow
def test_a_node_moves_to_another_address(lab: Lab) -> None:
    a, b, c = lab.nodes
    as_before = unchanged(a)

    def move(node: dict[str, Any]) -> None:
        node["status"]["addresses"][0]["address"] = "192.0.2.52"

    b.ip([f"address add 192.0.2.52/24 dev {b.uplink}"])
    with edited(lab, "node-b", move):
        eventually(lambda: {remote(other, "node-b") for other in (a, c)} == {"192.0.2.52"})
        eventually(lambda: tunnels(b).get("node-a", {}).get("local_ip") == "192.0.2.52")
        assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
        assert seen(lab, "b1", lab.pod("c1").address(6)) == str(lab.pod("b1").address(6))
        assert seen(lab, "a1", "192.0.2.52") == str(lab.pod("a1").address(4))
        assert not knows(a, "192.0.2.12")
    eventually(as_before)
    b.ip([f"address delete 192.0.2.52/24 dev {b.uplink}"])
    assert_green(lab)


@pytest.mark.slow
def test_a_node_gets_another_range(lab: Lab) -> None:
    a = lab.nodes[0]
    as_before = unchanged(a)

    def change(node: dict[str, Any]) -> None:
        node["spec"].update(podCIDR="10.244.99.0/24", podCIDRs=["10.244.99.0/24", "fd00:10:244:99::/64"])

    with edited(lab, "node-b", change):
        eventually(lambda: knows(a, "10.244.99.0/24") and knows(a, "fd00:10:244:99::/64"))
        assert not knows(a, "10.244.2.0/24")
        eventually(lambda: {"10.244.99.0/24", "fd00:10:244:99::/64"} <= set(routes(a)))
        eventually(lambda: "10.244.2.0/24" not in routes(a))
        pod = lab.add_pod("node-b")
        assert str(pod.address(4)).startswith("10.244.99.")
        for version in (4, 6):
            assert seen(lab, pod.name, lab.pod("a1").address(version)) == str(pod.address(version))
        lab.remove_pod(pod.name)
    eventually(as_before)
    assert_green(lab)


def exchange(lab: Lab, first: str, second: str) -> None:
    """Two nodes get each other's IPv4 address, on the segment and then in their manifests, one by one."""
    one, other = lab.node(first), lab.node(second)
    documents = {name: yaml.safe_load(manifest(lab, name).read_text()) for name in (first, second)}
    was = {name: document["status"]["addresses"][0]["address"] for name, document in documents.items()}
    for node, old in ((one, was[first]), (other, was[second])):
        node.ip([f"address delete {old}/24 dev {node.uplink}"])
    for node, new in ((one, was[second]), (other, was[first])):
        device = node.uplink
        node.ip([f"address add {new}/24 dev {device}", f"route replace default via 192.0.2.1 dev {device}"])
    # As if the time had passed after which neighbours are asked again. Purging too: vswitchd learns from answers
    # that it sees itself, not from those for which the datapath still has a flow of a moment ago.
    for node in lab.nodes:
        node.run(["ip", "neighbour", "flush", "all"], check=True)
        if node.datapath == "netdev":
            node.run(["ovs-appctl", "tnl/neigh/flush"], check=True)
            node.run(["ovs-appctl", "revalidator/purge"], check=True)
    for name, address in ((first, was[second]), (second, was[first])):
        documents[name]["status"]["addresses"][0]["address"] = address
        write_atomically(manifest(lab, name), yaml.safe_dump(documents[name]))


@pytest.mark.slow
def test_two_nodes_swap_addresses(lab: Lab) -> None:
    a = lab.nodes[0]
    as_before = unchanged(a)
    exchange(lab, "node-b", "node-c")
    try:
        there = [lab.node(name) for name in ("node-a", "node-b")]
        eventually(lambda: {remote(node, "node-c") for node in there} == {"192.0.2.12"})
        remotes = {peer: options["remote_ip"] for peer, options in tunnels(a).items()}
        assert remotes == {"node-b": "192.0.2.13", "node-c": "192.0.2.12"}
        assert [error for node in lab.nodes for error in interface_errors(node)] == []
        for source, target in (("a1", "b1"), ("a1", "c1"), ("b1", "c1"), ("c1", "a1")):
            answer = fetch(lab, source, lab.pod(target).address(4))
            assert answer["name"] == target
            assert answer["client"] == str(lab.pod(source).address(4))
        assert fetch(lab, "a1", "192.0.2.13")["name"] == "node-b"
    finally:
        exchange(lab, "node-b", "node-c")
    eventually(as_before)
    assert_green(lab)


def test_a_new_node_has_the_address_of_one_that_is_gone(lab: Lab) -> None:
    a = lab.nodes[0]
    as_before, path = unchanged(a), manifest(lab, "node-x")
    text = files.manifest(lab.state.spec, node_spec(20, "node-x"))
    write_atomically(path, text)
    try:
        eventually(lambda: "node-x" in tunnels(a))
        write_atomically(path, text.replace("node-x", "node-y"))
        eventually(lambda: "node-y" in tunnels(a) and "node-x" not in tunnels(a))
        eventually(lambda: knows(a, "10.244.21.0/24"))
        assert interface_errors(a) == []
    finally:
        path.unlink()
    eventually(as_before)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_half_written_file_of_a_new_node_counts_when_it_is_whole(lab: Lab, closed: bool) -> None:
    a = lab.nodes[0]
    as_before = unchanged(a)
    path, text = manifest(lab, "node-x"), files.manifest(lab.state.spec, node_spec(20, "node-x"))
    with nothing_withdrawn(a):
        try:
            with path.open("w") as file:
                file.write(text[: len(text) // 2])
                file.flush()
                if not closed:
                    time.sleep(LONG_ENOUGH)
                    assert as_before()
                    file.write(text[len(text) // 2 :])
            if closed:
                time.sleep(LONG_ENOUGH)
                assert as_before()
                path.write_text(text)
            eventually(lambda: knows(a, "10.244.21.0/24"))
            assert tunnels(a)["node-x"]["remote_ip"] == "192.0.2.31"
        except BaseException:
            path.unlink()
            raise
    path.unlink()
    eventually(as_before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "node-b.yaml", id="not YAML"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("apiVersion: v1\nkind: Node\nmetadata: {name: node-b}\n", "podCIDR", id="no range"),
    ],
)
def test_a_mistake_in_a_file_is_named_once_and_withdraws_nothing(lab: Lab, text: str, words: str) -> None:
    a = lab.nodes[0]
    as_before, path = unchanged(a), manifest(lab, "node-b")
    good, known = path.read_text(), len(said(a, "warning", "node-b.yaml", words))
    with nothing_withdrawn(a):
        path.write_text(text)
        try:
            eventually(lambda: len(said(a, "warning", "node-b.yaml", words)) == known + 1)
            # Another change makes the agent look again; there is nothing new to say about this one.
            with edited(lab, "node-c", lambda node: node["metadata"].update(labels={"a": "b"})):
                assert as_before()
            assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
        finally:
            path.write_text(good)
        eventually(lambda: "in order again" in said(a, "node-b.yaml")[-1])
    assert len(said(a, "warning", "node-b.yaml", words)) == known + 1
    assert as_before()


@pytest.mark.parametrize("taken", ["10.244.2.128/25", "10.244.1.0/24", "10.244.0.0/16"])
def test_an_overlapping_range_is_refused_and_named(lab: Lab, taken: str) -> None:
    a = lab.nodes[0]
    as_before, path = unchanged(a), manifest(lab, "node-x")
    document = yaml.safe_load(files.manifest(lab.state.spec, node_spec(20, "node-x")))
    document["spec"] = {"podCIDR": taken, "podCIDRs": [taken]}
    with nothing_withdrawn(a):
        write_atomically(path, yaml.safe_dump(document))
        try:
            eventually(lambda: said(a, "warning", "node-x", taken, "overlap"))
            assert as_before()
        finally:
            path.unlink()
    assert as_before()


@pytest.mark.slow
def test_a_folder_that_is_away_withdraws_nothing(lab: Lab) -> None:
    a = lab.nodes[0]
    folder = a.private("/etc/ovsnet/copy")
    shutil.copytree(lab.folder.path / "cluster", folder)
    reconfigure(a, store={"file": "/etc/ovsnet/copy"})
    try:
        as_before = unchanged(a)
        with nothing_withdrawn(a):
            folder.rename(folder.with_name("away"))
            eventually(lambda: said(a, "warning", "/etc/ovsnet/copy", "stay as they are"))
            assert as_before()
            # An empty folder where a full one is to be mounted is no order to remove everything.
            folder.mkdir()
            eventually(lambda: said(a, "warning", "/etc/ovsnet/copy", "empty"))
            assert as_before()
            assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
            folder.rmdir()
            folder.with_name("away").rename(folder)
            eventually(lambda: said(a, "info", "/etc/ovsnet/copy is there"))
            assert as_before()
        (folder / "node-c.yaml").unlink()
        eventually(lambda: "node-c" not in tunnels(a))
    finally:
        reconfigure(a, store={"file": "/etc/ovsnet/cluster"})
    eventually(lambda: "node-c" in tunnels(a))


@pytest.mark.parametrize("kind", ["flow", pytest.param("ports", marks=pytest.mark.slow)])
def test_a_start_with_a_broken_manifest_remembers_the_peer(kind: str) -> None:
    """The rows know it, whether it has a port of its own or shares one."""
    with running(nodes=3, pods=1, tunnels=kind, families="4", agent=BY_MANIFEST) as lab:
        a = lab.nodes[0]
        as_before, path = unchanged(a), manifest(lab, "node-b")
        good, mark = path.read_text(), len(agent_log(a))
        with nothing_withdrawn(a):
            path.write_text("{")
            a.kill(AGENT)
            a.start(AGENT)
            eventually(lambda: "node node-a is ready" in agent_log(a)[mark:])
            assert as_before()
            assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
            path.write_text(good)
            eventually(lambda: "in order again" in agent_log(a)[mark:])
            assert as_before()
        path.unlink()
        eventually(lambda: not knows(a, "10.244.2.0/24"))
        assert fetch(lab, "a1", lab.pod("c1").address(4))["name"] == "c1"


def test_a_range_with_the_nodes_in_it_is_refused_and_named(lab: Lab) -> None:
    """Else the tunnels' own packets would go into the tunnel."""
    a = lab.nodes[0]
    as_before, path = unchanged(a), manifest(lab, "node-x")
    document = yaml.safe_load(files.manifest(lab.state.spec, node_spec(20, "node-x")))
    document["spec"] = {"podCIDR": "192.0.2.0/25", "podCIDRs": ["192.0.2.0/25"]}
    with nothing_withdrawn(a):
        write_atomically(path, yaml.safe_dump(document))
        try:
            eventually(
                lambda: said(
                    a, "warning", "node-x", "192.0.2.0/25 contains 192.0.2.11, the address of node node-a"
                )
            )
            assert as_before()
        finally:
            path.unlink()
    assert as_before()


@pytest.mark.slow
def test_nodes_with_both_families_agree_on_one_in_whichever_order_they_stand() -> None:
    """Each node's tunnel ends where the other's begins; nothing arrives otherwise."""
    with running(nodes=3, pods=1, underlay="dual", agent=BY_MANIFEST) as lab:
        a, b, c = lab.nodes

        def turn(node: dict[str, Any]) -> None:
            node["status"]["addresses"].reverse()

        def ends(here: Node, there: Node) -> tuple[str, str]:
            tunnel = tunnels(here)[there.name]
            return tunnel["local_ip"], tunnel["remote_ip"]

        with edited(lab, "node-b", turn):
            eventually(lambda: ":" in ends(b, c)[0] and ":" in ends(c, b)[0])
            assert ends(b, c) == ends(c, b)[::-1]
            assert ends(a, b) == ends(b, a)[::-1] == ("192.0.2.11", "192.0.2.12"), "node-a sorts first"
            assert_green(lab)
        eventually(lambda: ends(b, c) == ends(c, b)[::-1] == ("192.0.2.12", "192.0.2.13"))
        assert_green(lab)
