"""What `ovsnet manifest` prints, before a real API server: it takes every object, and an agent gets no further."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api import Api, Refused

from ovsnet.cli.manifest import rendered

NAMESPACE = f"manifest-test-{uuid.uuid4().hex[:6]}"
NODES = ("manifest-test-a", "manifest-test-b")
OWN, OTHER = (f"api/v1/nodes/{name}" for name in NODES)
CONDITION = {"type": "NetworkUnavailable", "status": "False", "reason": "Test", "message": "test"}


def documents(*settings: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered((f"namespace={NAMESPACE}", *settings), None)))


@pytest.fixture(scope="module")
def admin(cluster: Any) -> Iterator[Api]:
    """With all that agents may do in place. No DaemonSet: the cluster's nodes have agents."""

    def run(command: list[str], text: str) -> str:
        return str(cluster.control.run(command, input=text, check=True).stdout)

    api = Api(cluster.control.pki.folder / "admin.kubeconfig", run)
    access = [each for each in documents() if each["kind"] not in ("DaemonSet", "ConfigMap")]
    nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in NODES]
    made = [*access, *nodes]
    try:
        for document in made:
            api.apply(document)
        for path in (OWN, OTHER):
            api.patch(
                path,
                {"metadata": {"labels": {"zone": "1"}, "annotations": {"somebody.example/x": "1"}}},
            )
            ready = {"type": "Ready", "status": "True"}
            # None that the cluster's agents would make a tunnel to.
            addresses = [{"type": "Hostname", "address": "nowhere"}]
            api.patch(f"{path}/status", {"status": {"addresses": addresses, "conditions": [ready]}})
        yield api
    finally:
        for document in reversed(made):
            with contextlib.suppress(Refused):
                api.remove(document)


@pytest.fixture(scope="module")
def agent(admin: Api) -> Iterator[Api]:
    """With a token such as the kubelet gets for an agent's pod on the first node."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": NAMESPACE},
        "spec": {
            "nodeName": NODES[0],
            "serviceAccountName": "ovsnet-agent",
            "containers": [{"name": "agent", "image": "localhost/none"}],
        },
    }
    uid = admin.apply(pod)["metadata"]["uid"]
    yield admin.with_token(token(admin, {"kind": "Pod", "apiVersion": "v1", "name": "agent", "uid": uid}))
    admin.remove(pod)


def token(admin: Api, bound: dict[str, str] | None) -> str:
    path = f"api/v1/namespaces/{NAMESPACE}/serviceaccounts/ovsnet-agent/token"
    spec = {"boundObjectRef": bound} if bound else {}
    answer = admin.call(
        "POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    )
    return str(answer["status"]["token"])


def eventually_refused(api: Api, path: str, change: dict[str, Any]) -> str:
    """A policy takes a moment to come into force."""
    for _ in range(100):
        try:
            api.patch(path + "?dryRun=All", change)
        except Refused as refused:
            return str(refused)
    raise AssertionError(f"{path} may be changed: {change}")


@pytest.mark.parametrize("openvswitch", ["daemonset", "node"])
def test_the_api_server_takes_every_object(openvswitch: str, admin: Api, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("datapath: netdev\nlog: {format: json}\n")
    settings = (f"namespace={NAMESPACE}", f"openvswitch={openvswitch}", "apiServer=https://192.0.2.1:6443")
    taken = []
    for document in yaml.safe_load_all(rendered(settings, config)):
        admin.apply(document, "&dryRun=All")
        taken.append(document["kind"])
    assert taken.count("DaemonSet") == (2 if openvswitch == "daemonset" else 1)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (OWN, {"metadata": {"annotations": {"ovsnet.io/encapsulation": "geneve"}}}),
        (f"{OWN}/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}, CONDITION]}}),
    ],
)
def test_an_agent_may_change_what_is_its_own(agent: Api, path: str, change: dict[str, Any]) -> None:
    agent.patch(path, change)


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        (
            OTHER,
            {"metadata": {"annotations": {"ovsnet.io/encapsulation": "gre"}}},
            "the Node it runs on only",
        ),
        (f"{OTHER}/status", {"status": {"conditions": [CONDITION]}}, "the Node it runs on only"),
        (OWN, {"spec": {"unschedulable": True}}, "spec, labels"),
        (OWN, {"metadata": {"labels": {"zone": "2"}}}, "spec, labels"),
        (OWN, {"metadata": {"labels": None}}, "spec, labels"),
        (OWN, {"metadata": {"finalizers": ["example.org/x"]}}, "spec, labels"),
        (OWN, {"metadata": {"annotations": {"somebody.example/x": "2"}}}, "begin with ovsnet.io/"),
        (OWN, {"metadata": {"annotations": {"somebody.example/x": None}}}, "begin with ovsnet.io/"),
        (OWN, {"metadata": {"annotations": {"somebody.example/y": "1"}}}, "begin with ovsnet.io/"),
        (f"{OWN}/status", {"metadata": {"labels": {"zone": "2"}}}, "spec, labels"),
        (f"{OWN}/status", {"status": {"addresses": []}}, "NetworkUnavailable only"),
        (
            f"{OWN}/status",
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            "NetworkUnavailable only",
        ),
        (f"{OWN}/status", {"status": {"capacity": {"pods": "1"}}}, "NetworkUnavailable only"),
    ],
)
def test_an_agent_may_change_nothing_else(agent: Api, path: str, change: dict[str, Any], words: str) -> None:
    assert words in eventually_refused(agent, path, change)


def test_a_token_that_names_no_node_changes_none(admin: Api) -> None:
    unbound = admin.with_token(token(admin, None))
    change = {"metadata": {"annotations": {"ovsnet.io/encapsulation": "gre"}}}
    assert "names none" in eventually_refused(unbound, OWN, change)


def test_others_are_not_held_to_it(admin: Api) -> None:
    admin.patch(OTHER, {"metadata": {"labels": {"zone": "3"}}})


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "api/v1/nodes", 200),
        ("GET", "api/v1/services", 200),
        ("GET", "apis/discovery.k8s.io/v1/endpointslices", 200),
        ("GET", "api/v1/secrets", 403),
        ("GET", "api/v1/pods", 403),
        ("GET", f"api/v1/namespaces/{NAMESPACE}/configmaps", 403),
        ("DELETE", OWN, 403),
    ],
)
def test_what_an_agent_may_see(agent: Api, method: str, path: str, code: int) -> None:
    try:
        agent.call(method, path)
        found = 200
    except Refused as refused:
        found = refused.code
    assert found == code
