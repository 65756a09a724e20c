"""What a Service adds to opening a connection, by where the client is and what kind of Service it is.

On a lab of two nodes, against direct connections between the same ends, in turns; and how soon a client is refused
whose Service has no endpoint. Called by `bench_services`.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

from connect_on_node import Connecting
from figures import Figure, figure
from services_world import PORT, Cluster, cluster_of, outer, vip

from ovsnet.lab.spec import OUTSIDE

ROUNDS, OPENED = 9, 100
"""Of the connections of a round the median is one sample."""
FAR, NEAR, LOCAL, STICKY, ITSELF, NOBODY = range(1, 7)
NODE_PORT = 30000
_CLOSED = 9
"""A port that nobody listens on."""
Target = tuple[str, int]


class Case(NamedTuple):
    """direct: what the same client is compared with; its name in `against`."""

    name: str
    source: str
    service: Target
    against: str
    direct: Target
    refused: bool = False


def run(say: Callable[[str], None], rounds: int, opened: int) -> Iterator[Figure]:
    with cluster_of(protocols=("TCP",)) as cluster, contextlib.ExitStack() as stack:
        put(cluster)
        found = cases(cluster)
        clients = {
            source: stack.enter_context(Connecting(cluster.lab, source))
            for source in {each.source for each in found}
        }

        def once(each: Case, target: Target) -> float:
            return statistics.median(clients[each.source].ms(*target, opened, each.refused))

        samples: dict[tuple[str, Target], list[float]] = {}
        # The first round is for the datapath's flows and neighbours' addresses.
        for number in range(rounds + 1):
            say(f"connections by case: round {number} of {rounds}")
            for each in found:
                for target in (each.service, each.direct)[:: 1 if number % 2 else -1]:
                    taken = once(each, target)
                    if number:
                        samples.setdefault((each.name, target), []).append(taken)
        for each in found:
            ours, theirs = (samples[each.name, target] for target in (each.service, each.direct))
            yield figure(each.name, "ms", ours, theirs, each.against)


def put(cluster: Cluster) -> None:
    """Each with one endpoint, so that a direct connection has the same ends."""
    ranges = [cluster.lab.node(name).node.pod_range(4) for name in ("node-a", "node-b")]
    addresses = [cluster.address(name, 4) for name in ("node-a", "node-b")]
    cluster.lab.outside.ip(
        [f"route add {pods} via {address}" for pods, address in zip(ranges, addresses, strict=True)]
    )
    cluster.put("far", ["b1"], FAR)
    external = [outer(NEAR, version) for version in (4, 6)]
    cluster.put("near", ["a1"], NEAR, node_port=NODE_PORT + NEAR, externalIPs=external)
    cluster.put("local", ["a1"], LOCAL, node_port=NODE_PORT + LOCAL, externalTrafficPolicy="Local")
    cluster.put("sticky", ["b1"], STICKY, sessionAffinity="ClientIP")
    cluster.put("nobody", [], NOBODY, node_port=NODE_PORT + NOBODY)
    cluster.put("itself", ["a1"], ITSELF)
    cluster.choose("itself", "a1")


def cases(cluster: Cluster) -> list[Case]:
    a1, a2, b1, node = (cluster.address(place, 4) for place in ("a1", "a2", "b1", "node-a"))

    def service(number: int) -> Target:
        return vip(number, 4), 80

    def node_port(number: int) -> Target:
        return node, NODE_PORT + number

    direct = "direct"
    return [
        Case("pod to a ClusterIP, endpoint on the other node", "a1", service(FAR), direct, (b1, PORT)),
        Case("the same, sessionAffinity: ClientIP", "a1", service(STICKY), direct, (b1, PORT)),
        Case("pod to a ClusterIP, endpoint on its node", "a2", service(NEAR), direct, (a1, PORT)),
        Case(
            "pod to a ClusterIP whose endpoint it is itself", "a1", service(ITSELF), "to another pod of the node",
            (a2, PORT),
        ),
        Case("node to a ClusterIP, endpoint on the other node", "node-a", service(FAR), direct, (b1, PORT)),
        Case("outside to a node port, endpoint on that node", OUTSIDE, node_port(NEAR), direct, (a1, PORT)),
        Case("the same, externalTrafficPolicy: Local", OUTSIDE, node_port(LOCAL), direct, (a1, PORT)),
        Case("outside to an external IP, endpoint on the node", OUTSIDE, (outer(NEAR, 4), 80), direct, (a1, PORT)),
        *refusals(service(NOBODY), node_port(NOBODY), b1),
    ]  # fmt: skip


def refusals(service: Target, node_port: Target, pod: str) -> list[Case]:
    against = "by a pod of the other node, port closed"
    return [
        Case(f"no endpoints: {source} is refused", place, target, against, (pod, _CLOSED), refused=True)
        for source, place, target in (
            ("a pod", "a1", service),
            ("the node", "node-a", service),
            ("the outside, at a node port,", OUTSIDE, node_port),
        )
    ]
