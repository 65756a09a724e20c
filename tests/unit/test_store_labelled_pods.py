"""Manifests to Pods and Namespaces, as far as policies mind: addresses, named ports, labels."""

from __future__ import annotations

import copy
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
import yaml
from policy_manifests import namespace, pods, problems

from ovsnet.policymodel import LabelledPod, NamedPort, Namespace
from ovsnet.servicemodel import Protocol
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.namespaces import NAME

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web-0.a
  namespace: shop
  uid: 3f6e
  labels: {app: web, empty: ""}
  annotations: {note: x}
spec:
  nodeName: node-a
  hostNetwork: false
  initContainers:
  - name: once
    ports: [{name: setup, containerPort: 1}]
  - name: sidecar
    restartPolicy: Always
    ports: [{name: mesh, containerPort: 15000}]
  containers:
  - name: web
    ports:
    - {name: http, containerPort: 8080, hostPort: 80, protocol: TCP}
    - {name: http, containerPort: 8443, protocol: UDP}
    - {containerPort: 9999}
  - name: other
    ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: http, containerPort: 8080}]
  - name: none
status:
  phase: Running
  podIP: 10.244.1.5
  podIPs: [{ip: 10.244.1.5}, {ip: "fd00:10:244:1::5"}]
"""
EXPECTED = LabelledPod(
    namespace="shop",
    name="web-0.a",
    uid="3f6e",
    labels={"app": "web", "empty": ""},
    node="node-a",
    ips=(ip_address("10.244.1.5"), ip_address("fd00:10:244:1::5")),
    ports=(
        NamedPort(name="dns", port=53, protocol=Protocol.UDP),
        NamedPort(name="http", port=8080),
        NamedPort(name="http", port=8443, protocol=Protocol.UDP),
        NamedPort(name="mesh", port=15000),
    ),
    source="a.yaml",
)
GONE = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The Pod with one field set, or without it (GONE)."""
    document: dict[str, Any] = yaml.safe_load(POD)
    at: Any = document
    *way, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    for step in way:
        at = at[step]
    if value is GONE:
        del at[last]
    else:
        at[last] = copy.deepcopy(value)
    return document


def test_a_pod_is_read() -> None:
    assert pods(yaml.safe_load(POD)) == ([EXPECTED], [])


def test_a_pod_of_the_fields_that_are_decoded_is_the_same() -> None:
    """Of what an API server tells, no others are decoded."""
    text = msgspec.json.encode(yaml.safe_load(POD))
    reader = PodReader(msgspec.json.decode(text, type=PodReader.shape), "", "a.yaml")
    assert reader.read() == EXPECTED
    for path in ("spec", "status", "spec/initContainers", "metadata/labels"):
        value = changed(path, None)
        few = msgspec.json.decode(msgspec.json.encode(value), type=PodReader.shape)
        assert PodReader(few, "", "").read() == PodReader(value, "", "").read()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_none(phase: str) -> None:
    assert pods(changed("status/phase", phase)) == ([], [])


@pytest.mark.parametrize("phase", ["Pending", "Unknown", "", "Later", None, 5])
def test_any_other_is_one(phase: object) -> None:
    assert pods(changed("status/phase", phase)) == ([EXPECTED], [])


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        ("metadata/uid", GONE, "uid", ""),
        ("metadata/labels", GONE, "labels", {}),
        ("metadata/labels", None, "labels", {}),
        ("spec/nodeName", GONE, "node", ""),
        ("spec/hostNetwork", True, "host_network", True),
        ("status/podIPs", GONE, "ips", EXPECTED.ips[:1]),
        ("status/podIPs", [], "ips", EXPECTED.ips[:1]),
        ("status", {}, "ips", ()),
        ("status", None, "ips", ()),
        ("status/podIPs", [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}], "ips", (ip_address("10.0.0.1"),)),
        ("spec/containers", None, "ports", EXPECTED.ports[3:]),
        ("spec/initContainers", GONE, "ports", EXPECTED.ports[:3]),
        ("spec/initContainers/1/restartPolicy", "OnFailure", "ports", EXPECTED.ports[:3]),
    ],
)
def test_what_is_left_out_has_its_default(path: str, value: object, field: str, expected: object) -> None:
    found, remarks = pods(changed(path, value))
    assert (found, remarks) == ([msgspec.structs.replace(EXPECTED, **{field: expected})], [])


@pytest.mark.parametrize(
    ("path", "value", "remark", "ips"),
    [
        ("status/podIPs/0/ip", "10.244.1.300", "status.podIPs[0]: '10.244.1.300' is not an IP address", 1),
        ("status/podIPs/1", "fd00::5/64", "status.podIPs[1]: 'fd00::5/64' is not an IP address", 1),
        ("status/podIPs/1/ip", 5, "status.podIPs[1]: a number is not an IP address", 1),
        ("status/podIPs/0/ip", "127.0.0.1", "status.podIPs[0]: 127.0.0.1 is loopback", 1),
        ("status/podIPs", {"ip": "10.0.0.1"}, "status.podIPs: must be a list, is a mapping", 0),
    ],
)
def test_an_address_that_is_none_is_left_out(path: str, value: object, remark: str, ips: int) -> None:
    (found,), (line,) = pods(changed(path, value))
    assert len(found.ips) == ips
    assert line.startswith(f"Pod shop/web-0.a: {remark}")


@pytest.mark.parametrize(
    ("path", "value", "remark", "left"),
    [
        (
            "spec/containers/1/ports/1/containerPort",
            8081,
            "spec.containers: TCP port 'http' has several numbers; no rule allows it by that name, give each a name",
            ("dns", "http", "http", "http", "mesh"),
        ),
        (
            "spec/initContainers/1/ports/0/name",
            "http",
            "spec.containers: TCP port 'http' has several numbers",
            ("dns", "http", "http", "http"),
        ),
        (
            "spec/containers/1/ports/0/containerPort",
            0,
            "spec.containers[1].ports[0].containerPort: is not a number from 1 to 65535",
            ("http", "http", "mesh"),
        ),
        (
            "spec/containers/1/ports/0/containerPort",
            "53",
            "spec.containers[1].ports[0].containerPort: is not a number",
            ("http", "http", "mesh"),
        ),
        (
            "spec/containers/1/ports/0/name",
            53,
            "spec.containers[1].ports[0].name: must be text, is a number; the port is left out",
            ("http", "http", "mesh"),
        ),
        (
            "spec/containers/1/ports/0/protocol",
            "QUIC",
            "spec.containers[1].ports[0].protocol: 'QUIC' is unknown here; the port is left out",
            ("http", "http", "mesh"),
        ),
        ("spec/containers/2", 5, "spec.containers[2]: must be a mapping", ("dns", "http", "http", "mesh")),
        ("spec/containers", "web", "spec.containers: must be a list, is 'web'", ("mesh",)),
        (
            "spec/containers/1/ports",
            {"name": "dns"},
            "spec.containers[1].ports: must be a list, is a mapping",
            ("http", "http", "mesh"),
        ),
    ],
)
def test_a_named_port_that_is_none_is_left_out(path: str, value: object, remark: str, left: object) -> None:
    (found,), (line,) = pods(changed(path, value))
    assert tuple(each.name for each in found.ports) == left
    assert line.startswith(f"Pod shop/web-0.a: {remark}")
    assert found == msgspec.structs.replace(EXPECTED, ports=found.ports)


def test_a_name_of_several_numbers_keeps_them_all() -> None:
    (found,), _ = pods(changed("spec/containers/1/ports/1/containerPort", 80))
    assert found.ports[1:4] == (
        NamedPort(name="http", port=80, several=True),
        NamedPort(name="http", port=8080, several=True),
        NamedPort(name="http", port=8443, protocol=Protocol.UDP),
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("metadata/name", "Web", "metadata.name: 'Web' is not a name of a Pod"),
        ("metadata/name", GONE, "metadata.name: is missing; every Pod has a name"),
        ("metadata/namespace", "a.b", "metadata.namespace: 'a.b' is not a namespace"),
        ("metadata/labels", ["app"], "metadata.labels: must be a mapping, is a list"),
        ("metadata/labels/app", 5, "metadata.labels.app: must be text, is a number; put it in quotes"),
        ("metadata/uid", 5, "metadata.uid: must be text"),
        ("spec/hostNetwork", "yes", "spec.hostNetwork: must be true or false, is 'yes'"),
        ("spec/nodeName", ["a"], "spec.nodeName: must be text"),
        ("spec", [], "spec: must be a mapping"),
        ("status", "Running", "status: must be a mapping"),
    ],
)
def test_who_a_pod_is_has_to_be_certain(path: str, value: object, expected: str) -> None:
    assert expected in problems(changed(path, value))[0]


def test_a_namespace_has_its_name_as_a_label() -> None:
    assert namespace({"name": "shop"}) == Namespace(name="shop", labels={NAME: "shop"}, source="a.yaml")
    # The API server gives it whatever there was.
    metadata = {"name": "shop", "labels": {"team": "a", NAME: "other"}}
    assert namespace(metadata).labels == {"team": "a", NAME: "shop"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"name": "a.b"}, "metadata.name: 'a.b' is not a name of a Namespace"),
        ({}, "metadata.name: is missing; every Namespace has a name"),
        (
            {"name": "a", "labels": {"team": 1}},
            "Namespace a: metadata.labels.team: must be text, is a number",
        ),
        ({"name": "a", "labels": []}, "metadata.labels: must be a mapping"),
        ("a", "metadata: must be a mapping"),
    ],
)
def test_a_namespace_with_a_mistake_is_refused(metadata: object, expected: str) -> None:
    assert expected in problems({"kind": "Namespace", "metadata": metadata})[0]
