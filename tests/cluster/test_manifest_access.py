"""What `ovsnet manifest` prints, before a real API server: it takes every object, and an agent gets no further."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api import Api, Refused

from ovsnet.cli.manifest import rendered

NAMESPACE = "manifest-test"
NODES = ("manifest-test-a", "manifest-test-b")
OWN, OTHER = (f"api/v1/nodes/{name}" for name in NODES)
CONDITION = {"type": "NetworkUnavailable", "status": "False", "reason": "Test", "message": "test"}
STATUS: dict[str, tuple[Any, Any]] = {
    # None that the cluster's agents would make a tunnel to.
    "addresses": (
        [{"type": "Hostname", "address": "nowhere"}],
        [{"type": "InternalIP", "address": "192.0.2.66"}],
    ),
    "allocatable": ({"pods": "4"}, {"pods": "500"}),
    "capacity": ({"pods": "5"}, {"example.org/device": "1"}),
    "daemonEndpoints": ({"kubeletEndpoint": {"Port": 10250}}, {"kubeletEndpoint": {"Port": 22}}),
    "features": ({"supplementalGroupsPolicy": True}, {"supplementalGroupsPolicy": False}),
    "images": (
        [{"names": ["a.example/a:1"], "sizeBytes": 1}],
        [{"names": ["a.example/a:1", "b"], "sizeBytes": 1}],
    ),
    "nodeInfo": ({"kubeletVersion": "v1.34.0"}, {"machineID": "1"}),
    "phase": ("Running", "Terminated"),
    "runtimeHandlers": ([{"name": "a"}], [{"name": "b"}]),
    "volumesAttached": ([{"name": "v", "devicePath": "p"}], [{"name": "w", "devicePath": "p"}]),
    "volumesInUse": (["v"], ["v", "w"]),
}
"""Fields of a Node's status but for its conditions: one value, and another."""
ALWAYS_THERE = {"allocatable", "daemonEndpoints", "nodeInfo"}
"""The API server gives them where nobody does, the first as the capacity is."""
UNUSED = {"config": {"error": "test"}}
"""Fields that the API server drops, whoever gives them."""


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
            status = {field: there for field, (there, _) in STATUS.items()}
            api.patch(f"{path}/status", {"status": {**status, "conditions": [ready]}})
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


def set_condition(agent: Api, admin: Api) -> None:
    """To something new. The other conditions stay: Kubernetes changes those of a node that no kubelet speaks for."""
    mine = {**CONDITION, "message": uuid.uuid4().hex}
    while True:
        there = admin.call("GET", OWN)["status"]["conditions"]
        conditions = [each for each in there if each["type"] != CONDITION["type"]]
        try:
            agent.patch(f"{OWN}/status", {"status": {"conditions": [*conditions, mine]}})
        except Refused:
            if there != admin.call("GET", OWN)["status"]["conditions"]:
                continue  # changed in between
            raise
        return


def test_an_agent_may_change_what_is_its_own(agent: Api, admin: Api) -> None:
    agent.patch(OWN, {"metadata": {"annotations": {"ovsnet.io/encapsulation": "geneve"}}})
    set_condition(agent, admin)


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
        (
            f"{OWN}/status",
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            "NetworkUnavailable only",
        ),
        (
            f"{OWN}/status",
            {
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}, {"type": "x", "status": "True"}]
                }
            },
            "NetworkUnavailable only",
        ),
        (f"{OWN}/status", {"status": {"conditions": []}}, "NetworkUnavailable only"),
    ],
)
def test_an_agent_may_change_nothing_else(agent: Api, path: str, change: dict[str, Any], words: str) -> None:
    assert words in eventually_refused(agent, path, change)


@pytest.mark.parametrize("field", STATUS)
def test_an_agent_may_change_none_of_its_nodes_status(agent: Api, admin: Api, field: str) -> None:
    """Neither what is there, nor by giving it or by taking it away. The first of two is what there is."""
    there, other = STATUS[field]
    for change in ({field: other}, {field: None}):
        assert "NetworkUnavailable only" in eventually_refused(agent, f"{OWN}/status", {"status": change})
    admin.patch(f"{OWN}/status", {"status": {field: None}})
    try:
        assert field not in admin.call("GET", OWN)["status"] or field in ALWAYS_THERE
        refused = eventually_refused(agent, f"{OWN}/status", {"status": {field: other}})
        assert "NetworkUnavailable only" in refused
        set_condition(agent, admin)
    finally:
        admin.patch(f"{OWN}/status", {"status": {field: there}})


def test_the_policy_is_understood_and_a_large_status_is_no_obstacle(agent: Api, admin: Api) -> None:
    """What the API server can't make sense of, it tells there; what would take it too long, it refuses."""
    large: dict[str, list[Any]] = {
        "images": [
            {
                "names": [f"registry.example/{number:03}/{each}" + 80 * "x" for each in range(5)],
                "sizeBytes": 1,
            }
            for number in range(50)
        ],
        "volumesInUse": [f"kubernetes.io/csi/{number:03}" + 200 * "x" for number in range(150)],
    }
    admin.patch(f"{OWN}/status", {"status": large})
    try:
        set_condition(agent, admin)
        large["images"][-1] = {"names": ["b"], "sizeBytes": 1}
        assert "NetworkUnavailable only" in eventually_refused(agent, f"{OWN}/status", {"status": large})
    finally:
        admin.patch(f"{OWN}/status", {"status": {field: STATUS[field][0] for field in large}})
    place = "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    checking: dict[str, Any] = {}
    for _ in range(100):
        found = admin.call("GET", f"{place}/{NAMESPACE}-agent").get("status", {})
        if "typeChecking" in found:
            checking = found["typeChecking"]
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the API server has not looked at the policy")
    assert checking.get("expressionWarnings", []) == []


def test_every_field_of_a_nodes_status_is_tried(admin: Api) -> None:
    """Those of the schema that this API server publishes, and those that kubelets write."""
    schemas = admin.call("GET", "openapi/v3/api/v1")["components"]["schemas"]
    known = set(schemas["io.k8s.api.core.v1.NodeStatus"]["properties"])
    assert known - UNUSED.keys() == {*STATUS, "conditions"}
    nodes = admin.call("GET", "api/v1/nodes")["items"]
    assert {field for node in nodes for field in node["status"]} <= known
    answer = admin.patch(f"{OWN}/status?dryRun=All", {"status": UNUSED})
    assert not UNUSED.keys() & answer["status"].keys()


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
        ("GET", "apis/networking.k8s.io/v1/networkpolicies", 200),
        # There is none: they may ask.
        ("GET", "apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies", 404),
        ("GET", "api/v1/namespaces", 200),
        ("GET", "api/v1/pods", 200),
        ("GET", f"api/v1/namespaces/{NAMESPACE}/pods/agent", 403),
        ("GET", f"api/v1/namespaces/{NAMESPACE}/pods/agent/log", 403),
        ("DELETE", f"api/v1/namespaces/{NAMESPACE}/pods/agent", 403),
        ("GET", f"api/v1/namespaces/{NAMESPACE}", 403),
        ("DELETE", f"apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies/any", 403),
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
