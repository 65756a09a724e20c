"""What `kubectl describe node` says of the network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab_world import eventually

from ovsnet.lab.kubernetes.cluster import Cluster

NAME, KEY = f"pigeons.{'p' * 191}.{'p' * 53}", "ovsnet.io/encapsulation"
"""The longest name that there is; after 200 characters of it, those of the Event's own, stands a dot."""


@pytest.fixture
def mistaken(cluster: Cluster) -> Iterator[str]:
    """What is wrong with a Node whose annotation can't be read; there is no machine of that name."""
    metadata = {"name": NAME, "annotations": {KEY: "pigeons"}}
    text = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    cluster.kubectl("create", "--filename=-", input=text)
    try:
        yield f"Node {NAME}: metadata.annotations.{KEY}: 'pigeons' is unknown; one of vxlan, geneve, gre"
    finally:
        cluster.kubectl("delete", "node", NAME, "--wait=false")


def test_a_node_says_how_it_is_and_what_is_wrong_with_others(cluster: Cluster, mistaken: str) -> None:
    said = [""]

    def told() -> bool:
        said[:] = [cluster.kubectl("describe", "node", NAME).stdout]
        return mistaken in said[0]

    eventually(told, 40)
    # Of all agents one.
    (event,) = [line for line in said[0].splitlines() if mistaken in line]
    assert event.split()[:2] == ["Warning", "NetworkProblem"], event
    own = cluster.kubectl("describe", "node", "node-b").stdout
    (condition,) = [line for line in own.splitlines() if line.split()[:1] == ["NetworkUnavailable"]]
    assert condition.split()[1] == "False"
    address = cluster.node("node-b").node.address(4)
    for words in ("tunnel-encapsulation: vxlan", f"tunnel-address: {address}", "mtu: "):
        assert f"ovsnet.io/{words}" in own
