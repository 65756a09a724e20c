"""What an agent writes to the API: annotations and a condition of its own Node, and Events."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any, cast

import pytest
from api_store_world import (
    EVENTS,
    NODES,
    Cluster,
    cluster,
    node,
)
from msgspec.structs import replace

from ovsnet.model import Encap, Published
from ovsnet.store import Facts
from ovsnet.store.kubernetes.client import Client, Unreachable
from ovsnet.store.kubernetes.events import Events
from ovsnet.store.kubernetes.writer import OwnNode
from ovsnet.store.nodes import MTU, TUNNEL_ADDRESS, TUNNEL_ENCAPSULATION

__all__ = ["cluster"]
ADDRESS = ipaddress.ip_address("192.0.2.7")
OURS = "regarding.name={},reason=NetworkProblem"
"""Events of a Node that are agents': the node controller has some of its own to tell."""


async def test_what_the_agent_publishes_on_its_node(cluster: Cluster) -> None:
    name = cluster.name
    await cluster.create(NODES, node(name, 1))
    status = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x", "message": "y"}]}}
    await cluster.patch(f"{NODES}/{name}/status", status)
    await cluster.until(lambda: name in cluster.now.nodes)
    assert cluster.now.nodes[name].encap is Encap.GENEVE
    before = cluster.now
    facts: list[Facts | None] = [None]
    task = asyncio.create_task(
        OwnNode(cluster.admin, name, lambda: facts[0], lambda: (True, cluster.now.nodes.get(name))).run()
    )
    try:
        await asyncio.sleep(0.5)
        assert cluster.admin.requests["patch"] == 1
        facts[0] = Facts(encap=Encap.GENEVE, address="192.0.2.7", mtu=1450)
        await cluster.until(lambda: cluster.admin.requests["patch"] == 3)
        await asyncio.sleep(3)
        assert cluster.admin.requests["patch"] == 3
    finally:
        task.cancel()
    found = await cluster.get(f"{NODES}/{name}")
    annotations = found["metadata"]["annotations"]
    assert (annotations[TUNNEL_ADDRESS], annotations[MTU]) == ("192.0.2.7", "1450")
    assert annotations[TUNNEL_ENCAPSULATION] == "geneve"
    assert annotations["ovsnet.io/encapsulation"] == "geneve"
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions == {"Ready": "False", "NetworkUnavailable": "False"}
    # Peers read it, and the node is to them what it was.
    told = Published(encap=Encap.GENEVE, address=ADDRESS, mtu=1450)
    await cluster.until(lambda: cluster.now.nodes[name] == replace(before.nodes[name], published=told))


async def events_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Those that the Node's own agent wrote; the cluster's have something to say of a Node that they don't know."""
    found = await cluster.get(EVENTS, fieldSelector=OURS.format(name))
    return [each for each in found["items"] if each["reportingInstance"] == name]


async def test_a_problem_that_flaps_is_one_event(cluster: Cluster) -> None:
    name = cluster.name
    await cluster.create(NODES, node(name, 2))
    wrong: list[str] = []
    clock = [1000.0]
    events = Events(cluster.admin, name, lambda: wrong, clock=lambda: clock[0])
    for second in range(600):
        clock[0] += 1
        wrong[:] = ["tunnel to node-b is down"] if second % 2 else []
        events.look()
        await events.write()
    writes = cluster.admin.requests["create"] + cluster.admin.requests["patch"] - 1  # the Node itself
    assert writes <= 5
    clock[0] += 2000
    await events.write()
    (event,) = await events_of(cluster, name)
    assert event["note"] == "tunnel to node-b is down"
    assert event["series"]["count"] == 300
    assert event["regarding"]["kind"] == "Node"
    await cluster.delete(f"{EVENTS}/{event['metadata']['name']}")
    wrong[:] = [f"another thing {number}" for number in range(500)]
    before = cluster.admin.requests["create"]
    events.look()
    await events.write()
    assert cluster.admin.requests["create"] - before <= 10
    for event in await events_of(cluster, name):
        await cluster.delete(f"{EVENTS}/{event['metadata']['name']}")


@pytest.mark.parametrize(("kind", "namespace"), [("NetworkPolicy", "default/"), ("ClusterNetworkPolicy", "")])
async def test_what_is_wrong_with_a_policy_is_one_event_of_its_own(
    cluster: Cluster, kind: str, namespace: str
) -> None:
    """Whichever nodes say so, and however long: it is there again when the API server has forgotten it."""
    policy = f"{cluster.name}-policy"
    note = f"{kind} {namespace}{policy}: spec.ingress[0].ports: no such port"
    clock = [1000.0]
    nodes = [Events(cluster.admin, f"node-{each}", lambda: [note], clock=lambda: clock[0]) for each in "abc"]

    async def tell() -> list[dict[str, Any]]:
        for _ in range(3):
            for each in nodes:
                each.look()
                await each.write()
            clock[0] += 100
        found = await cluster.get(EVENTS, fieldSelector=f"regarding.name={policy}")
        return list(found["items"])

    (event,) = await tell()
    assert (event["note"], event["regarding"]["kind"]) == (note, kind)
    assert event["metadata"]["namespace"] == "default"
    assert event["regarding"].get("namespace", "") == namespace.rstrip("/")
    assert event.get("series") is None
    assert cluster.admin.requests["patch"] == 0
    await cluster.delete(f"{EVENTS}/{event['metadata']['name']}")
    assert await tell() == []
    clock[0] += 3000
    (again,) = await tell()
    assert again["note"] == note
    await cluster.delete(f"{EVENTS}/{again['metadata']['name']}")


class LosesAnswers:
    """A client whose first so many requests are answered, and nobody hears it."""

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        self.count = count

    async def send(self, *arguments: Any) -> bytes:
        answer = await self._client.send(*arguments)
        if self.count > 0:
            self.count -= 1
            raise Unreachable("the answer was lost", "")
        return answer


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
async def test_a_lost_answer_makes_no_second_event(cluster: Cluster, again: bool) -> None:
    """again: the problem has come back meanwhile."""
    name = cluster.name
    await cluster.create(NODES, node(name, 3))
    wrong = ["tunnel to node-b is down"]
    clock = [1000.0]
    client = LosesAnswers(cluster.admin, 1)
    events = Events(cast(Any, client), name, lambda: wrong, clock=lambda: clock[0])
    for there in (True, not again, True):
        wrong[:] = ["tunnel to node-b is down"] if there else []
        events.look()
    for _ in range(5):
        await events.write()
        clock[0] += 2000
    (event,) = await events_of(cluster, name)
    assert event.get("series", {}).get("count", 1) == (2 if again else 1)
    await cluster.delete(f"{EVENTS}/{event['metadata']['name']}")
