"""Agents whose store is a Kubernetes API: a scripted one, on the loopback of the node."""

from __future__ import annotations

import json

import pytest
import yaml
from api_agent_world import followed, off_loop
from lab_world import (
    agent_log,
    assert_green,
    dump,
    eventually,
    manifest,
    ovsnet_json,
    running,
    tunnels,
)
from scripted_api import NODES, SERVICES, service
from scripted_api import node as node_object

from ovsnet.lab.node import AGENT

pytestmark = pytest.mark.slow


async def test_an_agent_that_follows_an_api_server() -> None:
    with running(nodes=2, pods=1) as lab:
        node = lab.nodes[0]
        async with followed(lab) as api:
            await off_loop(eventually, lambda: ovsnet_json(node, "show")["healthy"])
            await off_loop(assert_green, lab)
            # What it tells of its node.
            await off_loop(eventually, lambda: api.count("PATCH") >= 2)
            said = {each.path: json.loads(each.body) for each in api.log if each.verb == "PATCH"}
            annotations = said[f"{NODES}/{node.name}"]["metadata"]["annotations"]
            shown = await off_loop(ovsnet_json, node, "show")
            assert annotations["ovsnet.io/mtu"] == str(shown["mtu"])
            assert (
                annotations["ovsnet.io/tunnel-address"]
                == yaml.safe_load(manifest(lab, node.name).read_text())["status"]["addresses"][0]["address"]
            )
            (condition,) = said[f"{NODES}/{node.name}/status"]["status"]["conditions"]
            assert (condition["type"], condition["status"]) == ("NetworkUnavailable", "False")
            # A node goes and comes back.
            other = api.objects[NODES][f"/{lab.nodes[1].name}"]
            await api.remove(NODES, f"/{lab.nodes[1].name}")
            await off_loop(eventually, lambda: not tunnels(node))
            await api.put(NODES, other)
            await off_loop(eventually, lambda: len(tunnels(node)) == 1)
            await api.put(SERVICES, service("web", 1))
            await off_loop(assert_green, lab)
            # The server goes: all stays, and a start goes by what OVSDB remembers.
            await api.stop()
            await off_loop(eventually, lambda: "nodes and 1 Services stay as they are" in agent_log(node))
            await off_loop(assert_green, lab)
            node.kill(AGENT)
            await off_loop(node.start, AGENT)
            await off_loop(
                eventually,
                lambda: "the store Kubernetes API is away; going by the 1 peers" in agent_log(node),
                30,
            )
            await off_loop(assert_green, lab)


async def test_a_node_that_can_not_be_read_keeps_no_other_that_is_gone() -> None:
    """One without ranges, when the agent starts: a node that is deleted then is no peer any more."""
    with running(nodes=2, pods=1) as lab:
        node, other = lab.nodes
        async with followed(lab) as api:
            await off_loop(eventually, lambda: ovsnet_json(node, "show")["healthy"])
            odd = {**node_object("node-c", 3), "spec": {}}
            await api.put(NODES, odd)
            node.kill(AGENT)
            await off_loop(node.start, AGENT)
            await off_loop(eventually, lambda: "Node node-c: spec.podCIDRs: is missing" in agent_log(node))
            await off_loop(assert_green, lab)
            assert set(tunnels(node)) == {other.name}
            await api.remove(NODES, f"/{other.name}")
            await off_loop(eventually, lambda: not tunnels(node))
            source = str(other.node.address(4))
            await off_loop(eventually, lambda: not [flow for flow in dump(node) if source in flow])
