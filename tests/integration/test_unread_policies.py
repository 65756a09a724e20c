"""An agent that starts while a manifest can't be read: what was denied stays so, and no pod is added."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_world import OVSNET, SLOWER, agent_log, eventually
from policies_world import API, DB, GUEST, Policed, app, policed_cluster

from ovsnet.lab.cni_runner import CniError
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.pods import new_container

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        yield cluster


@contextlib.contextmanager
def newcomer(node: Node) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """What an ADD of a pod of namespace free takes."""
    container, netns = new_container(), f"/run/netns/late-{new_container()[:6]}"
    node.run(["ip", "netns", "add", netns.rpartition("/")[2]], check=True)
    try:
        yield container, netns, "eth0", {"K8S_POD_NAMESPACE": "free", "K8S_POD_NAME": "late"}
    finally:
        node.runner.delete(container, netns, "eth0")
        node.run(["ip", "netns", "delete", netns.rpartition("/")[2]], check=True)


def spoil(path: Path, text: str, node: Node) -> None:
    """The running agent keeps what it knew, and says so."""
    path.write_text(text)
    eventually(lambda: path.name in agent_log(node))


def restart(node: Node) -> None:
    node.kill(AGENT)
    node.start(AGENT)
    node.await_agent(30 * SLOWER)


def ask(node: Node, *arguments: str) -> tuple[int, Any]:
    done = node.run([*OVSNET, *arguments, "-o", "json"])
    return done.returncode, json.loads(done.stdout)


def stays_closed(cluster: Policed, path: Path, text: str, denied: str) -> None:
    """From before the agent's restart until the file is mended; denied: who may not speak to a-web."""
    node, good = cluster.lab.node("node-a"), path.read_text()
    with newcomer(node) as wanted:
        try:
            spoil(path, text, node)
            cluster.expect("a-web", (*API, *DB, *GUEST), API)
            with cluster.watching((), [(denied, "a-web")]):
                restart(node)
                cluster.expect("a-web", (*API, *DB, *GUEST), ())
                # Whose agent was not started anew goes on as before, and who was free is.
                cluster.expect("b-web", API, API)
                cluster.expect("a-free", ("b-free", "a-api"), ("b-free", "a-api"))
                assert ask(node, "audit")[0] == 0
                code, said = ask(node, "policy", "check", denied, "a-web", "--tcp", "80")
                assert (code, said["allowed"]) == (1, False)
                assert all(each["trace"]["agrees"] for each in said["connections"] if each["trace"])
                shown = ask(node, "policy", "show", "a-web")[1]
                assert shown["directions"]["ingress"]["unread"] is True
                with pytest.raises(CniError, match=rf"{path.name} could not be read") as caught:
                    node.runner.add(*wanted)
                assert caught.value.code == 11
                restart(node)
                cluster.expect("a-web", (*API, *DB, *GUEST), ())
        finally:
            path.write_text(good)
        cluster.expect("a-web", (*API, *DB, *GUEST), API)
        eventually(lambda: ask(node, "show")[1]["healthy"])
        assert node.runner.add(*wanted)


def test_a_policy_that_is_half_edited(cluster: Policed) -> None:
    with cluster.policies({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}):
        cluster.expect("a-web", (*API, *DB, *GUEST), API)
        path = cluster.file("p0")
        stays_closed(cluster, path, path.read_text()[:-20], "b-db")


def test_a_cluster_policy_whose_spec_is_misspelt(cluster: Policed) -> None:
    """NetworkPolicies that can be read allow what it denied: it comes before them."""
    peers: list[dict[str, Any]] = [
        {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}}
    ]
    peers += [{"namespaces": {"matchLabels": {"team": "blue"}}}]
    with cluster.policies({"podSelector": {}, "ingress": [{}]}):
        cluster.decree(
            "lock",
            "Admin",
            1,
            {"kubernetes.io/metadata.name": "shop"},
            ingress=[{"action": "Deny", "from": peers}],
        )
        cluster.expect("a-web", (*API, *DB, *GUEST), API)
        path = cluster.file("lock", "cluster")
        stays_closed(cluster, path, path.read_text().replace('"spec"', '"spce"'), "b-guest")


def test_a_service_that_is_wrong_closes_nothing(cluster: Policed) -> None:
    node = cluster.lab.node("node-a")
    path = cluster.file("odd", "service")
    document = {
        "kind": "Service",
        "metadata": {"name": "odd"},
        "spec": {"clusterIP": "nowhere", "ports": [{"port": 80}]},
    }
    with (
        cluster.policies({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}),
        newcomer(node) as wanted,
    ):
        spoil(path, json.dumps(document), node)
        cluster.expect("a-web", (*API, *DB), API)
        restart(node)
        cluster.expect("a-web", (*API, *DB), API)
        assert node.runner.add(*wanted)
