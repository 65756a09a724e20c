"""What load balancers are told of a node by its agent, from outside: /healthz, /livez and healthCheckNodePort."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from lab_world import eventually, manifest, ovsnet_json, reconfigure
from services_world import Cluster, assert_clean, cluster_of

from ovsnet.configaddresses import HEALTHZ_PORT
from ovsnet.lab.node import VSWITCHD
from ovsnet.lab.spec import OUTSIDE
from ovsnet.lab.state import write_atomically

CHECKED = 30900
ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=5)
connection.request("GET", sys.argv[3])
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""
LISTEN = """
import socket, time
taken = socket.create_server(("0.0.0.0", %d))
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of(nodes=1, pods=1, agent={"healthz": {"port": HEALTHZ_PORT}}) as cluster:
        cluster.put(
            "web", ["a1"], 20, node_port=30020, externalTrafficPolicy="Local", healthCheckNodePort=CHECKED
        )
        yield cluster


def ask(
    cluster: Cluster, path: str, port: int = HEALTHZ_PORT, version: int = 4, source: str = OUTSIDE
) -> tuple[int, Any]:
    """Status and body; (0, why) if there is no answer."""
    host = cluster.address("node-a", version)
    done = cluster.lab.exec(source, [sys.executable, "-I", "-S", "-c", ASK, host, str(port), path])
    if done.returncode:
        return 0, done.stderr
    status, _, body = done.stdout.partition(" ")
    return int(status), json.loads(body)


def told(cluster: Cluster, source: str = OUTSIDE) -> tuple[int, int, int]:
    """What /healthz, /livez and the Service's own check say."""
    asked = (("/healthz", HEALTHZ_PORT), ("/livez", HEALTHZ_PORT), ("/", CHECKED))
    first, second, third = (ask(cluster, path, port, source=source)[0] for path, port in asked)
    return first, second, third


@pytest.mark.parametrize("version", [4, 6])
def test_a_node_that_serves_says_so_on_all_its_addresses(cluster: Cluster, version: int) -> None:
    eventually(lambda: told(cluster) == (200, 200, 200))
    status, body = ask(cluster, "/healthz", version=version)
    assert (status, body["nodeEligible"], body["healthy"]) == (200, True, True)


def test_a_node_without_flows_gets_nothing_new(cluster: Cluster) -> None:
    """Asked from the node itself: in user space its uplink needs ovs-vswitchd as well."""
    node = cluster.lab.node("node-a")
    node.kill(VSWITCHD, signal.SIGKILL)
    try:
        eventually(lambda: told(cluster, "node-a") == (503, 503, 503))
        body = ask(cluster, "/", CHECKED, source="node-a")[1]
        assert (body["serviceProxyHealthy"], body["localEndpoints"]) == (False, 1)
    finally:
        node.start(VSWITCHD)
    eventually(lambda: told(cluster) == (200, 200, 200), 20)


@pytest.mark.parametrize(
    "going",
    [
        {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}},
        {"metadata": {"deletionTimestamp": "2026-01-31T12:00:00Z"}},
    ],
)
def test_a_node_that_is_about_to_go_gets_nothing_new_and_serves_what_it_has(
    cluster: Cluster, going: dict[str, dict[str, object]]
) -> None:
    path = manifest(cluster.lab, "node-a")
    before = path.read_text()
    document = yaml.safe_load(before)
    for section, fields in going.items():
        document[section] = {**document[section], **fields}
    try:
        write_atomically(path, yaml.safe_dump(document))
        # As kube-proxy: whoever asks for one Service alone is told of that.
        eventually(lambda: told(cluster) == (503, 200, 200))
        assert not ask(cluster, "/healthz")[1]["nodeEligible"]
        assert cluster.names("outside", cluster.address("node-a", 4), 30020, count=5) == {"a1"}
    finally:
        write_atomically(path, before)
    eventually(lambda: told(cluster) == (200, 200, 200))
    assert_clean(cluster.lab)


def test_beside_a_kube_proxy_the_agent_works_and_complains(cluster: Cluster) -> None:
    node = cluster.lab.node("node-a")
    reconfigure(node, healthz={"port": 0})
    eventually(lambda: ask(cluster, "/healthz")[0] == 0)
    node.launch("kube-proxy", [sys.executable, "-I", "-S", "-c", LISTEN % HEALTHZ_PORT])
    try:
        reconfigure(node, healthz={"port": HEALTHZ_PORT})
        eventually(lambda: ovsnet_json(node, "show")["agent"]["ready"])
        eventually(
            lambda: any("kube-proxy" in each for each in ovsnet_json(node, "show")["agent"]["complaints"])
        )
        assert any("kube-proxy" in each for each in ovsnet_json(node, "show")["troubles"])
    finally:
        node.kill("kube-proxy")
    eventually(lambda: told(cluster) == (200, 200, 200), 30)
    eventually(lambda: not ovsnet_json(node, "show")["agent"]["complaints"])
