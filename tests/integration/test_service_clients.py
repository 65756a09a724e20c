"""Clients that stay with their endpoint: when policies change, and among others that nobody has ever seen."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cni_world import Cni
from lab_world import SLOWER, agent_log, eventually
from services_world import Cluster, assert_clean, cluster_of, outer, vip

from ovsnet.frontends import CLIENTS

NUMBER = 20
NODE_PORT = 30020
AFFINE = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3600}}}
MADE_UP = """
import socket, struct, sys, time
host, port = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for number in range(int(sys.argv[3])):
    ends = socket.inet_aton(f"198.18.{number >> 8}.{number & 255}") + socket.inet_aton(host)
    datagram = struct.pack("!HHHH", 40000, port, 8, 0)
    sock.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + ends + datagram, (host, 0))
    if number % 50 == 49:
        time.sleep(0.02)
"""
"""A datagram from each of so many addresses that nobody has."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of() as cluster:
        yield cluster
        assert_clean(cluster.lab)


def test_policy_local_comes_before_what_was_learned_of_clients(cluster: Cluster) -> None:
    outside, inside = outer(NUMBER, 4), vip(NUMBER, 4)
    asked: dict[str, Any] = {"node_port": NODE_PORT, "externalIPs": [outside], **AFFINE}
    targets = (
        ("outside", outside, 80),
        ("outside", cluster.address("node-a", 4), NODE_PORT),
        ("a2", inside, 80),
    )

    def meet(place: str, *targets: tuple[str, str, int]) -> None:
        for source, host, port in targets:
            eventually(lambda: cluster.names(source, host, port, count=2, seconds=0.5) == {place})  # noqa: B023
            assert cluster.names(source, host, port, count=12) == {place}, (source, host)

    cluster.put("web", ["b1"], NUMBER, **asked)
    meet("b1", *targets)
    cluster.put("web", ["a1", "b1"], NUMBER, externalTrafficPolicy="Local", **asked)
    meet("a1", *targets[:2])
    meet("b1", targets[2])
    cluster.put(
        "web",
        ["a1", "b1"],
        NUMBER,
        externalTrafficPolicy="Local",
        internalTrafficPolicy="Local",
        **asked,
    )
    meet("a1", *targets)


def test_clients_that_are_made_up_fill_no_table_and_keep_nobody_out(cluster: Cluster) -> None:
    """What the switch learns, much or little, is neither news nor a difference to the agent."""
    node, host = cluster.lab.node("node-a"), cluster.address("node-a", 4)
    mark = len(agent_log(node))

    def learned() -> int:
        tool = ("ovs-ofctl", "-O", "OpenFlow15", "dump-aggregate", "br-int", "table=37")
        found = re.search(r"flow_count=(\d+)", Cni(node).tool(*tool))
        assert found is not None
        return int(found[1]) - 1

    def flood() -> int:
        argv = [sys.executable, "-I", "-S", "-c", MADE_UP, host, str(NODE_PORT), str(CLIENTS + 500)]
        done = cluster.lab.run("outside", argv, timeout=60 * SLOWER)
        assert done.returncode == 0, done.stderr
        return learned()

    cluster.put("web", ["a1", "b1"], NUMBER, node_port=NODE_PORT, **AFFINE)
    eventually(lambda: cluster.names("a2", vip(NUMBER, 4), count=1, seconds=0.5) <= {"a1", "b1"})
    before = learned()
    eventually(lambda: flood() >= CLIENTS + before, 120)
    flood()
    assert learned() == CLIENTS + before
    for protocol in ("udp", "tcp"):
        assert cluster.names("outside", host, NODE_PORT, count=30, protocol=protocol) <= {"a1", "b1"}
        assert len(cluster.names("a2", vip(NUMBER, 4), count=12, protocol=protocol)) == 1
    assert_clean(cluster.lab)
    assert "by someone else" not in agent_log(node)[mark:]
    cluster.remove("web")
    eventually(lambda: learned() == 0)
