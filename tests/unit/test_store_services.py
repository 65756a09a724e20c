"""Manifests to Services: what is read, left alone, or told with which words; and both kinds at their limits."""

from __future__ import annotations

import copy
import json
import time
from ipaddress import ip_address
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from service_manifests import EXPECTED, EXPECTED_SLICE, SERVICE, SLICE, changed, contents, services, slices

from ovsnet.servicemodel import Service, ServicePort
from ovsnet.store import manifest
from ovsnet.store.services import HEADLESS, OTHER_PROXY, ServiceReader
from ovsnet.store.slices import SERVICE_NAME, SliceReader


def service(path: str, value: object) -> Service:
    """The Service with one field changed; nothing to say about it."""
    found = contents(changed(SERVICE, path, value))
    assert not found.problems
    assert not found.remarks
    return services(found)[0]


def test_a_service_and_a_slice_are_read() -> None:
    assert manifest.read(SERVICE, "a.yaml") == manifest.Contents(objects={"Service": {"shop/web": EXPECTED}})
    assert manifest.read(SLICE, "a.yaml") == manifest.Contents(
        objects={"EndpointSlice": {"shop/web-x7k2p": EXPECTED_SLICE}}
    )


def test_lists_and_json_are_read() -> None:
    one, other = yaml.safe_load(SERVICE), yaml.safe_load(SLICE)
    found = contents({"kind": "List", "items": [one, other, {"kind": "Secret"}]})
    assert (services(found)[0].key, slices(found)[0].key) == ("shop/web", "shop/web-x7k2p")
    assert services(found)[0].source == "a.yaml, items[0]"
    del one["kind"], other["kind"]
    for kind, item in (("ServiceList", one), ("EndpointSliceList", other)):
        found = manifest.read(json.dumps({"kind": kind, "items": [item]}), "a.yaml")
        assert len(services(found) + slices(found)) == 1
        assert not found.problems


@pytest.mark.parametrize("label", [OTHER_PROXY, HEADLESS])
def test_what_belongs_to_others_by_its_label_is_left_alone(label: str) -> None:
    labels = {label: "", SERVICE_NAME: "web"}
    assert contents(changed(SERVICE, "metadata/labels", labels)) == manifest.Contents()
    assert contents(changed(SLICE, "metadata/labels", labels)) == manifest.Contents()


def test_services_without_a_cluster_ip_are_left_alone() -> None:
    document = yaml.safe_load(SERVICE)
    document["spec"]["clusterIPs"] = ["None"]
    document["spec"]["clusterIP"] = "None"
    assert contents(document) == manifest.Contents()
    del document["spec"]["clusterIPs"]
    assert contents(document) == manifest.Contents()
    assert contents(changed(SERVICE, "spec/type", "ExternalName")) == manifest.Contents()


def test_what_is_left_out_has_its_default() -> None:
    text = "kind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}\n"
    (found,) = services(manifest.read(text, "x"))
    assert found == Service(
        namespace="default",
        name="a",
        cluster_ips=(ip_address("10.96.0.1"),),
        ports=(ServicePort(port=443),),
        source="x",
    )
    assert service("spec/sessionAffinityConfig", None).affinity == 10800
    assert service("spec/clusterIP", None).cluster_ips == EXPECTED.cluster_ips
    assert service("spec/internalTrafficPolicy", "Local").internal_local
    assert service("metadata/namespace", None).key == "default/web"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("metadata/name", "Web", "metadata.name: 'Web' is not a Service name"),
        ("metadata/name", None, "metadata.name: is missing; every Service has a name"),
        ("metadata/namespace", "a.b", "metadata.namespace: 'a.b' is not a namespace"),
        ("spec/clusterIP", "10.96.0.11", "'10.96.0.11' is not the first of clusterIPs ('10.96.0.10')"),
        ("spec/clusterIPs", ["10.96.0.10", "10.96.0.11"], "10.96.0.11 is the second address of its family"),
        ("spec/clusterIPs", ["10.96.0.10", "ff02::1"], "spec.clusterIPs[1]: ff02::1 is multicast"),
        ("spec/clusterIPs", ["10.96.0.10", "::"], "spec.clusterIPs[1]: :: is unspecified"),
        ("spec/clusterIPs", ["10.96.0.10", "::1"], "spec.clusterIPs[1]: ::1 is loopback"),
        ("spec/clusterIPs", ["10.96.0.10", "None"], "spec.clusterIPs[1]: 'None' is not an IP address"),
        ("spec/ports", [], "spec.ports: is missing"),
        ("spec/ports/0", 80, "spec.ports[0]: must be a mapping"),
        ("spec/ports/0/port", "80", "spec.ports[0].port: must be a whole number from 1 to 65535, is '80'"),
        ("spec/ports/0/port", 65536, "spec.ports[0].port: 65536 is out of range"),
        ("spec/ports/0/port", True, "spec.ports[0].port: must be a whole number"),
        ("spec/ports/0/port", None, "spec.ports[0].port: is missing"),
        ("spec/ports/0/nodePort", 2**70, "Service shop/web: spec.ports[0].nodePort:"),
        ("spec/ports/0/nodePort", 65536, "Service shop/web: spec.ports[0].nodePort: 65536 is out of range"),
        ("spec/ports/0/nodePort", -1, "Service shop/web: spec.ports[0].nodePort: -1 is out of range"),
        ("spec/ports/1/name", "http", "the name 'http' is another port's too"),
        ("spec/ports/1", {"name": "b", "port": 80}, "spec.ports[1]: TCP port 80 stands twice"),
        (
            "spec/loadBalancerSourceRanges",
            ["10.0.0.1"],
            "loadBalancerSourceRanges[0]: '10.0.0.1' is not a range",
        ),
        ("spec/sessionAffinityConfig/clientIP/timeoutSeconds", 86401, "86401 is out of range: 1 to 86400"),
        ("metadata/labels", [], "metadata.labels: must be a mapping, is a list"),
        ("spec/externalIPs", "192.0.2.80", "spec.externalIPs: must be a list"),
    ],
)
def test_a_service_with_a_mistake_is_refused(path: str, value: object, expected: str) -> None:
    found = contents(changed(SERVICE, path, value), yaml.safe_load(SLICE))
    assert expected in found.problems[0]
    assert services(found) == ()
    assert [each.key for each in slices(found)] == ["shop/web-x7k2p"]


def test_a_service_without_an_address_is_refused() -> None:
    text = "kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 443}]}\n"
    (problem,) = manifest.read(text, "x").problems
    assert problem.startswith("Service default/a: spec.clusterIP: is missing")


@pytest.mark.parametrize(
    ("path", "value", "expected", "differs"),
    [
        ("spec/ports/1/protocol", "QUIC", "spec.ports[1].protocol: 'QUIC' is unknown here", "ports"),
        ("spec/externalTrafficPolicy", "Near", "'Near' is unknown here (Cluster, Local)", "external_local"),
        ("spec/sessionAffinity", "Cookie", "'Cookie' is unknown here (None, ClientIP)", "affinity"),
        ("spec/externalIPs", ["192.0.2.080"], "externalIPs[0]: '192.0.2.080' is not an IP", "external_ips"),
        ("spec/externalIPs", ["fe80::1"], "externalIPs[0]: fe80::1 is link-local", "external_ips"),
        ("spec/externalIPs", ["169.254.169.254"], "[0]: 169.254.169.254 is link-local", "external_ips"),
        ("spec/externalIPs", ["127.0.0.1"], "externalIPs[0]: 127.0.0.1 is loopback", "external_ips"),
        ("spec/externalIPs", ["224.0.0.1"], "externalIPs[0]: 224.0.0.1 is multicast", "external_ips"),
        ("spec/externalIPs", ["fd6f:7673:6e65::3"], "[0]: fd6f:7673:6e65::3 is ovsnet's own", "external_ips"),
        ("spec/externalIPs", ["2001:db8::1%1"], "'2001:db8::1%1' has a zone", "external_ips"),
        ("status/loadBalancer/ingress/1/ipMode", "Tunnel", "'Tunnel' is unknown here", "load_balancer_ips"),
        ("status/loadBalancer/ingress/1/ip", "::1", "ingress[1].ip: ::1 is loopback", "load_balancer_ips"),
        ("status/loadBalancer/ingress/1/ip", "x", "ingress[1].ip: 'x' is not an IP", "load_balancer_ips"),
    ],
)
def test_of_what_a_newer_api_brings_the_rest_works(
    path: str, value: object, expected: str, differs: str
) -> None:
    found = contents(changed(SERVICE, path, value))
    assert found.problems == ()
    (remark,) = found.remarks
    assert remark.startswith("Service shop/web: ")
    assert expected in remark
    (read,) = services(found)
    fields = set(Service.__struct_fields__)
    assert {each for each in fields if getattr(read, each) != getattr(EXPECTED, each)} == {differs}


@pytest.mark.parametrize("seconds", [1, 65536, 86400])
def test_an_affinity_lasts_as_long_as_the_service_says(seconds: int) -> None:
    found = contents(changed(SERVICE, "spec/sessionAffinityConfig/clientIP/timeoutSeconds", seconds))
    assert (found.problems, found.remarks) == ((), ())
    assert services(found)[0].affinity == seconds


def test_names_and_sizes_at_their_limits() -> None:
    document = changed(SERVICE, "metadata/name", "a" * 63)
    document["metadata"]["namespace"] = "b" * 63
    document["metadata"]["annotations"] = {"note": "x" * 2**20}
    assert services(contents(document))[0].key == f"{'b' * 63}/{'a' * 63}"
    document["metadata"]["name"] = "a" * 64
    assert "63 at most" in contents(document).problems[0]
    part = changed(SLICE, "metadata/name", ".".join(["a" * 50] * 4 + ["a" * 49]))
    part["endpoints"] = [{"addresses": [f"10.0.{n // 250}.{n % 250 + 1}"]} for n in range(1000)]
    part["ports"] = [{"name": f"p{n}", "port": n + 1} for n in range(100)]
    (found,) = slices(contents(part))
    assert (len(found.name), len(found.endpoints), len(found.ports)) == (253, 1000, 100)


def test_a_large_cluster_is_read_in_a_moment() -> None:
    """10,000 Services and 100,000 endpoints: 1 s of a slow processor."""
    services: list[Any] = []
    for n in range(10_000):
        document = yaml.safe_load(SERVICE) if not services else copy.deepcopy(services[0])
        document["metadata"]["name"] = f"web-{n}"
        services.append(document)
    parts: list[Any] = []
    for n in range(1000):
        entries = [{"addresses": [f"10.{n // 250}.{n % 250}.{m}"], "nodeName": "a"} for m in range(100)]
        parts.append(yaml.safe_load(SLICE) if not parts else {**parts[0]})
        parts[-1]["endpoints"] = entries
    started = time.process_time()
    found = [ServiceReader(each, "", "").read() for each in services]
    slices = [SliceReader(each, "", "").read() for each in parts]
    took = time.process_time() - started
    assert len({each.key for each in found if each}) == 10_000
    assert sum(len(each.endpoints) for each in slices if each) == 100_000
    assert took < 3


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["TCP", "10.96.0.1", "IPv4", "None", "a", "Local", "fd00::1", "10.0.0.0/8"])
)


def _arbitrary(text: str) -> st.SearchStrategy[Any]:
    """The object of a manifest in which any value may have become anything else."""

    def around(value: object) -> st.SearchStrategy[Any]:
        if isinstance(value, dict):
            whole: st.SearchStrategy[Any] = st.fixed_dictionaries({k: around(v) for k, v in value.items()})
        elif isinstance(value, list):
            whole = st.tuples(*map(around, value)).map(list)
        else:
            return st.just(value) | _LEAVES
        return whole | _LEAVES | st.just([]) | st.just({})

    return around(yaml.safe_load(text))


@given(_arbitrary(SERVICE), _arbitrary(SLICE))
def test_nothing_raises_and_nothing_goes_without_a_word(one: object, other: object) -> None:
    for reader in (ServiceReader(one, "", "x"), SliceReader(other, "", "x")):
        found = reader.read()
        assert found is None or not reader.problems
        if found is not None:
            assert found.source == "x"
