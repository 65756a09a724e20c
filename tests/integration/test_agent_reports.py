"""What an agent tells as Events of its Node: what it waits for, what peers do otherwise, and ranges that are full."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_agent_world import followed, nodes_of, notes, off_loop
from cni_world import Cni, new_container, path
from lab_world import agent_log, eventually, ovsnet_json, running, tunnels
from scripted_api import NODES
from scripted_api import node as node_object

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT

pytestmark = pytest.mark.slow

TOLD = 30.0
"""Seconds within which what lasts is an Event: ten until it counts as that."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=0, families="4", underlay="4") as lab:
        yield lab


def troubles(lab: Lab, words: str) -> list[str]:
    """Those of the agent's complaints with the words."""
    return [each for each in ovsnet_json(lab.nodes[0], "show")["agent"]["complaints"] if words in each]


async def test_the_own_node_has_no_ranges_yet(lab: Lab) -> None:
    """One line, one Event, and what peers read is not there before the node is."""
    node, objects = lab.nodes[0], nodes_of(lab)
    node.kill(AGENT)
    node.run(["ovs-vsctl", "del-br", "br-int"], check=True)  # which remembers what ranges it had
    before, started = len(agent_log(node)), time.monotonic()
    async with followed(lab, [{**objects[0], "spec": {}}, *objects[1:]]) as api:
        await off_loop(eventually, lambda: notes(api, "podCIDRs"), TOLD)
        (note,) = notes(api, "podCIDRs")
        assert time.monotonic() - started > 10, "most often it passes within seconds"
        assert note.startswith(f"node {node.name} has no pod ranges (the agent waits for "), note
        # Whatever comes meanwhile: it waits for the same.
        await api.put(NODES, node_object("node-w", 100))
        await asyncio.sleep(0.5)
        assert api.count("PATCH") == 0
        await api.put(NODES, objects[0])
        await off_loop(node.await_agent, TOLD)
        await off_loop(eventually, lambda: api.count("PATCH", f"{NODES}/{node.name}/status"))
        assert notes(api, "podCIDRs") == [note]
        said = [line for line in agent_log(node)[before:].splitlines() if "podCIDRs" in line]
        assert len(said) == 1, said
        assert "spec.podCIDRs: is missing" in said[0]


def published(node: dict[str, Any], **said: str) -> dict[str, Any]:
    """The object as the node's agent left it."""
    annotations = {f"ovsnet.io/{key.replace('_', '-')}": value for key, value in said.items()}
    return {**node, "metadata": {**node["metadata"], "annotations": annotations}}


async def test_peers_that_do_otherwise(lab: Lab) -> None:
    """One publishes something else than this node does, one can't be read, one claims another's range, one has none."""
    node, (own, peer) = lab.nodes[0], nodes_of(lab)
    odd = published(node_object("node-x", 101), encapsulation="pigeons")
    greedy = {**node_object("node-y", 102), "spec": {"podCIDR": peer["spec"]["podCIDR"]}}
    bare = {**node_object("node-z", 103), "spec": {}}
    other = published(peer, tunnel_encapsulation="geneve", mtu="1400", tunnel_address="192.0.2.77")
    async with followed(lab, [own, other, odd, greedy, bare]) as api:
        await off_loop(node.await_agent, TOLD)
        shown = await off_loop(ovsnet_json, node, "show")
        wanted = [
            f"node {peer['metadata']['name']} publishes geneve as its encapsulation, node {node.name} sends vxlan",
            f"node {peer['metadata']['name']} publishes 1400 as the MTU of its pods, those of node {node.name} have"
            f" {shown['mtu']}",
            f"node {peer['metadata']['name']} publishes 192.0.2.77 as its tunnels' end, node {node.name} sends to",
            "Node node-x: metadata.annotations.ovsnet.io/encapsulation: 'pigeons' is unknown; one of vxlan, geneve,",
            f"Node node-y: {peer['spec']['podCIDR']} overlaps a range of node {peer['metadata']['name']}",
            "Node node-z: spec.podCIDRs: is missing",
        ]
        await off_loop(eventually, lambda: all(len(notes(api, words)) == 1 for words in wanted), TOLD)
        said = await off_loop(agent_log, node)
        assert all(words in said for words in wanted)
        # Nothing is withdrawn for that.
        assert set(tunnels(node)) == {peer["metadata"]["name"]}
        assert len(await off_loop(troubles, lab, "publishes")) == 3
        await api.put(NODES, published(peer, tunnel_encapsulation="vxlan", mtu=str(shown["mtu"])))
        await off_loop(eventually, lambda: not troubles(lab, "publishes"), TOLD)


async def test_a_range_that_is_full(lab: Lab) -> None:
    """It is told once, however often runtimes try."""
    node, (own, *others) = lab.nodes[0], nodes_of(lab)
    small = own["spec"]["podCIDR"].replace("/24", "/29")
    own["spec"] = {"podCIDR": small, "podCIDRs": [small]}
    cni = Cni(node)
    async with followed(lab, [own, *others], reuseAfter=0) as api:
        await off_loop(node.await_agent, TOLD)
        await off_loop(exhaust, cni, lab, lambda: notes(api, "range exhausted"))
        (note,) = notes(api, "range exhausted")
        assert small in note
        assert 1 <= agent_log(node).count(note) < 4, "as many as there were ADDs"


def exhaust(cni: Cni, lab: Lab, told: Callable[[], object]) -> None:
    """Until a pod of many gets an address."""
    with contextlib.ExitStack() as stack, cni.namespaces("last"):
        pods = [stack.enter_context(cni.pod(new_container())) for _ in range(5)]
        for _ in range(3):
            assert cni.call("ADD", "last", netns=path("last")).code == 11
        eventually(told)
        assert cni.call("ADD", "last", netns=path("last")).code == 11
        cni.delete(pods[0][0])
        cni.add("last")
        assert not troubles(lab, "range exhausted")
