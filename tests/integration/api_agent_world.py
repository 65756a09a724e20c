"""An agent whose store is a Kubernetes API, a scripted one on the loopback of its node; and what it tells there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import yaml
from cni_world import launch_agent
from lab_world import manifest
from scripted_api import NODES, Api

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.nsproc import setns

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


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


def nodes_of(lab: Lab) -> list[dict[str, Any]]:
    """The objects of the lab's nodes, the first one's first."""
    return [yaml.safe_load(manifest(lab, each.name).read_text()) for each in lab.nodes]


@contextlib.asynccontextmanager
async def followed(
    lab: Lab, nodes: Iterable[dict[str, Any]] | None = None, **settings: object
) -> AsyncIterator[Api]:
    """The first node's agent, which may not be ready yet, follows an API.

    nodes: what that has, by default the lab's. settings: of the agent, beside its store.
    """
    node, api = lab.nodes[0], Api()
    await api.start(await off_loop(listener, node))
    try:
        for each in nodes_of(lab) if nodes is None else nodes:
            await api.put(NODES, each)
        config = {
            "clusters": [{"name": "c", "cluster": {"server": api.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        node.private("/etc/ovsnet/kubeconfig").write_text(json.dumps(config))
        path = node.private("/etc/ovsnet/agent.yaml")
        store = {"kubernetes": {"kubeconfig": "/etc/ovsnet/kubeconfig"}}
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "store": store, **settings}))
        await off_loop(node.kill, AGENT)
        await off_loop(launch_agent, node)
        yield api
    finally:
        await api.stop()


def notes(api: Api, words: str = "") -> list[str]:
    """What the Events say that were created, as often as they were; of those with the words."""
    found = [json.loads(each.body)["note"] for each in api.log if (each.verb, each.path) == ("POST", EVENTS)]
    return [note for note in found if words in note]
