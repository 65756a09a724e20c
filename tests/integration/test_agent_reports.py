"""What an agent tells of its node: as Events what it waits for, what peers do otherwise, and ranges that are full; and
ports and Pods that do not go together, where an operator looks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_agent_world import followed, nodes_of, notes, off_loop
from cni_world import Cni, new_container, path
from doctor_world import ask
from lab_world import agent_log, eventually, ovsnet_json, running, tunnels
from scripted_api import NODES, PODS, Api, pod
from scripted_api import node as node_object

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT

pytestmark = pytest.mark.slow

TOLD = 30.0
"""Seconds within which what lasts is an Event: ten until it counts as that."""
METRICS = 9479
SCRAPE = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode())
"""
LEFT = "is left over: the API server has no Pod of that name on this node"


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


def figures(cni: Cni) -> list[float]:
    """Of ports without a Pod, and of Pods without a port; none while nobody can say."""
    lines = cni.tool(sys.executable, "-I", "-S", "-c", SCRAPE, str(METRICS)).splitlines()
    found = dict(each.split(" ", 1) for each in lines if not each.startswith("#") and " " in each)
    names = ("ovsnet_leftover_pods", "ovsnet_unattached_pods")
    return [float(found[name]) for name in names if name in found]


async def until_figures(api: Api, cni: Cni, wanted: list[float]) -> None:
    """The server says meanwhile that there is nothing new."""
    end = time.monotonic() + TOLD
    while (found := await off_loop(figures, cni)) != wanted:
        assert time.monotonic() < end, found
        await api.bookmark(PODS, api.version)
        await asyncio.sleep(0.1)


async def attach(cni: Cni, name: str) -> list[str]:
    """The addresses of the Pod of that name in the namespace default."""
    variables = {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}"}
    answer = await off_loop(lambda: cni.add(name, variables=variables))
    addresses: list[str] = answer.addresses
    return addresses


async def test_ports_without_a_pod_and_pods_without_a_port(lab: Lab) -> None:
    node = lab.nodes[0]
    cni, before = Cni(node), len(agent_log(node))
    store = {"kubernetes": {"kubeconfig": "/etc/ovsnet/kubeconfig", "leftoverAfter": 1}}

    def here(name: str, address: str) -> dict[str, Any]:
        return {**pod(name, address), "spec": {"nodeName": node.name}}

    with cni.namespaces("gone", "there"):
        async with followed(lab, store=store, metrics={"port": METRICS}) as api:
            await off_loop(node.await_agent, TOLD)
            await api.put(PODS, here("there", ""))
            await api.put(PODS, here("there", *await attach(cni, "there")))
            # Its Pod was deleted by force, and DEL never came; and another network has attached one.
            (address,) = await attach(cni, "gone")
            await api.put(PODS, here("other", "198.51.100.7"))
            await until_figures(api, cni, [1, 1])
            shown = await off_loop(ask, node, "show", "-o", "json")
            said = json.loads(shown.stdout)
            left = {each["who"]: each["leftOver"] for each in said["ports"] if each["role"] == "pod"}
            assert left == {"default/gone": True, "default/there": False}
            gone, other = sorted(each for each in said["troubles"] if "pod default/" in each)
            assert f" with {address} {LEFT}" in gone
            assert other.startswith(
                "pod default/other runs on this node with 198.51.100.7 by the API server's word"
            )
            # By hand, as the documents say.
            await off_loop(lambda: cni.delete("gone", netns=""))
            await api.remove(PODS, "default/other")
            await until_figures(api, cni, [0, 0])
            log = agent_log(node)[before:]
            assert [log.count(each) for each in (LEFT, "pod default/other runs on", "in order again")] == [
                1,
                1,
                2,
            ]
            # Nobody is accused by a server that is away.
            await api.stop()
            await until_figures(api, cni, [])
