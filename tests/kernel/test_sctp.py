"""Services over SCTP, which Open vSwitch's datapath in user space does not translate, and pods without Services.

An association differs from a TCP connection: in the first packets each side tells the other all addresses of its
socket, which nobody translates there, and some seconds later they are tried. So sockets that stay have one each.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lab_world import SLOWER
from services_world import FAMILIES, OTHER_PORT, PORT, Cluster, assert_clean, cluster_of, outer, vip

from ovsnet.host.datapath import kernel_has_openvswitch

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not kernel_has_openvswitch(), reason="this kernel has no openvswitch; see --in-kernel"
    ),
]
VERSIONS = pytest.mark.parametrize("version", FAMILIES)
SCTP: dict[str, Any] = {"protocol": "sctp"}
WEB, ITSELF, NOBODY, STICKY, LEAST = range(1, 6)
ALL = {"a1", "b1"}
ENOUGH = 25
"""Connections of which each of two endpoints has one, but for once in sixteen million."""
FAST = 0.5
"""Seconds within which a refusal is there, of three that a client would wait."""
TRIED = 8.0
"""Seconds after which Linux has tried a peer's other addresses: a retransmission timeout, 3 s, and half of one more."""
ENDING = {"conditions": {"ready": False, "serving": True, "terminating": True}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of(protocols=("TCP", "SCTP"), datapath="system") as cluster:
        outers = [outer(WEB, version) for version in FAMILIES]
        cluster.put("web", sorted(ALL), WEB, node_port=30001, externalIPs=outers)
        cluster.put("itself", ["a1"], ITSELF, node_port=30002)
        cluster.put("nobody", [], NOBODY, node_port=30003)
        cluster.put("sticky", ["a1", "a2", "b1", "b2"], STICKY, sessionAffinity="ClientIP")
        cluster.put("least", ["b1"], LEAST)
        cluster.choose("least", "b1")
        yield cluster
        assert_clean(cluster.lab)


@VERSIONS
def test_pods_and_nodes_without_a_service(cluster: Cluster, version: int) -> None:
    """On a port that no Service knows, and on one that is an endpoint's."""
    for source in ("a1", "node-a"):
        for target in ("a2", "b1"):
            for port in (OTHER_PORT, PORT):
                found = cluster.one(source, cluster.address(target, version), port, **SCTP)
                assert found.get("name") == target, (source, target, port, found)
                if source == "a1":
                    assert found["client"] == cluster.address("a1", version)


@VERSIONS
def test_cluster_ips(cluster: Cluster, version: int) -> None:
    """Endpoints on this node and on the other one, which see a pod's own address."""
    for source in ("a2", "b2", "node-a", "node-b"):
        found = cluster.ask(source, vip(WEB, version), count=ENOUGH, **SCTP)
        assert {each.get("name") for each in found} == ALL, (source, found)
        if source in ("a2", "b2"):
            assert {each["client"] for each in found} == {cluster.address(source, version)}
    assert cluster.names("a2", vip(WEB, version), count=ENOUGH) == ALL, "TCP on the same port"


@VERSIONS
def test_node_ports_and_external_addresses(cluster: Cluster, version: int) -> None:
    for source in ("outside", "a2", "b1", "node-a"):
        for node in ("node-a", "node-b"):
            address = cluster.address(node, version)
            assert cluster.names(source, address, 30001, count=ENOUGH, **SCTP) == ALL, (source, node)
    assert cluster.names("outside", outer(WEB, version), count=ENOUGH, **SCTP) == ALL


@VERSIONS
def test_a_pod_reaches_itself(cluster: Cluster, version: int) -> None:
    assert cluster.names("a1", vip(ITSELF, version), count=3, **SCTP) == {"a1"}
    for node in ("node-a", "node-b"):
        assert cluster.names("a1", cluster.address(node, version), 30002, count=3, **SCTP) == {"a1"}


@VERSIONS
def test_without_endpoints_clients_are_refused_at_once(cluster: Cluster, version: int) -> None:
    """With ABORT, which the node's kernel sends: none of the ICMP errors that nft makes ends an attempt of SCTP."""
    targets = [("a1", vip(NOBODY, version), 80), ("node-a", vip(NOBODY, version), 80)]
    targets += [(each, cluster.address("node-a", version), 30003) for each in ("a1", "b1", "outside")]
    targets += [("a1", vip(WEB, version), 99)]
    for source, address, port in targets:
        found = cluster.one(source, address, port, **SCTP)
        assert found.get("error") == "refused", (source, address, found)
        assert found["seconds"] < FAST * SLOWER, (source, address, found)


@VERSIONS
def test_a_client_stays_with_its_endpoint(cluster: Cluster, version: int) -> None:
    for client in ("a1", "b2", "node-a"):
        names = cluster.names(client, vip(STICKY, version), count=12, **SCTP)
        assert len(names) == 1, names
        assert names <= {"a1", "a2", "b1", "b2"}


def test_an_association_goes_on_with_an_endpoint_that_terminates(cluster: Cluster) -> None:
    """New ones go to the others. Held for longer than it takes a host to try other addresses of its peer."""
    gateway = cluster.lab.node("node-a").node.gateway
    sources = [("a1", version, cluster.address("a1", version)) for version in FAMILIES]
    sources += [("node-a", version, str(gateway(version))) for version in FAMILIES]
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(
                cluster.going("hold", source, vip(LEAST, version), bind=(address, 43000 + version), **SCTP)
            )
            for source, version, address in sources
        ]
        begun = time.monotonic()
        cluster.put("least", [{"place": "b1", **ENDING}, "a2"], LEAST)
        cluster.choose("least", "a2")
        for version in FAMILIES:
            assert cluster.names("a1", vip(LEAST, version), count=3, **SCTP) == {"a2"}
        time.sleep(max(0.0, begun + TRIED - time.monotonic()))
        ended = dict(zip(sources, (each.stop() for each in held), strict=True))
    for source, done in ended.items():
        assert (done["name"], done.get("error")) == ("b1", None), (source, ended)
        assert done["count"] > 10


def test_connections_are_shown(cluster: Cluster) -> None:
    with cluster.going("hold", "a1", vip(ITSELF, 4), **SCTP) as client:
        node = cluster.lab.node("node-a")
        shown = node.run(["/run/ovsnet/bin/ovsnet", "conntrack"], check=True).stdout
        assert client.stop().get("error") is None
    line = next((each for each in shown.splitlines() if vip(ITSELF, 4) in each), "")
    assert "SCTP" in line.upper(), shown
    assert "default/itself" in line, shown
    assert "ESTABLISHED" in line.upper(), shown
