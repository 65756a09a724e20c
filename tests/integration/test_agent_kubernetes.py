"""Agents whose store is a Kubernetes API: a scripted one, on the loopback of the node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from lab_world import (
    agent_log,
    assert_green,
    dump,
    eventually,
    manifest,
    ovsnet_json,
    reconfigure,
    running,
    tunnels,
)
from scripted_api import NODES, SERVICES, Api, service
from scripted_api import node as node_object

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.nsproc import setns

pytestmark = pytest.mark.slow


def listener(node: Node, port: int = 0) -> socket.socket:
    """A socket on the loopback of the node."""
    descriptor = os.open(f"/proc/{node.held().pid}/ns/net", os.O_RDONLY)
    try:
        setns(descriptor)
        sock = socket.socket(socket.AF_INET)
    finally:
        os.close(descriptor)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def off_loop(work: Callable[..., Any], *arguments: Any) -> Any:
    """Whatever blocks; the API server answers meanwhile. Each time in a thread of its own: some change namespace."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        return await loop.run_in_executor(pool, work, *arguments)


@contextlib.asynccontextmanager
async def followed(lab: Lab) -> AsyncIterator[Api]:
    """The first node's agent follows an API that has the lab's nodes."""
    node, api = lab.nodes[0], Api()
    await api.start(await off_loop(listener, node))
    try:
        for each in lab.nodes:
            await api.put(NODES, yaml.safe_load(manifest(lab, each.name).read_text()))
        config = {
            "clusters": [{"name": "c", "cluster": {"server": api.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        node.private("/etc/ovsnet/kubeconfig").write_text(json.dumps(config))
        kubernetes = {"kubeconfig": "/etc/ovsnet/kubeconfig"}
        await off_loop(lambda: reconfigure(node, store={"kubernetes": kubernetes}))
        yield api
    finally:
        await api.stop()


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
