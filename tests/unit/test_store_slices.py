"""Manifests to EndpointSlices: conditions, endpoints and ports that are left out, and what is told of them."""

from __future__ import annotations

import copy

import pytest
from service_manifests import EXPECTED_SLICE, SLICE, changed, contents, slices

from ovsnet.servicemodel import Endpoint


def endpoints(*entries: object) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    found = contents(changed(SLICE, "endpoints", list(entries)))
    assert not found.problems
    return slices(found)[0].endpoints, found.remarks


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"serving": False}, (True, False, False)),
    ],
)
def test_conditions_mean_what_the_api_says(conditions: object, expected: tuple[bool, bool, bool]) -> None:
    (found,), _ = endpoints({"addresses": ["10.0.0.1"], "conditions": conditions})
    assert (found.ready, found.serving, found.terminating) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"addresses": ["2001:db8::1"]}, "2001:db8::1 is not of the slice's addressType, IPv4"),
        ({"addresses": ["10.0.0"]}, "'10.0.0' is not an IP address"),
        ({"addresses": ["127.0.0.1"]}, "127.0.0.1 is loopback"),
        ({"addresses": []}, "has no addresses"),
        ({"addresses": [5]}, "a number is not an IP address"),
        ("10.0.0.1", "must be a mapping"),
    ],
)
def test_an_endpoint_that_nothing_can_be_sent_to_is_left_out(entry: object, expected: str) -> None:
    found, (remark,) = endpoints({"addresses": ["10.0.0.1"]}, entry, {"addresses": ["10.0.0.2"]})
    assert [str(each.address) for each in found] == ["10.0.0.1", "10.0.0.2"]
    assert remark.startswith("EndpointSlice shop/web-x7k2p: endpoints[1]: ")
    assert expected in remark


def test_an_address_counts_once_and_the_better_endpoint() -> None:
    """Pods on their node's network succeed one another at one address."""
    one = {"addresses": ["10.0.0.1"]}
    gone = {"addresses": ["10.0.0.1"], "conditions": {"ready": False, "terminating": True}, "nodeName": "a"}
    for order in ([one, gone], [gone, one]):
        (found,), remarks = endpoints(*order)
        assert (found.ready, remarks) == (True, ())
    (_,), (remark,) = endpoints(one, copy.deepcopy(one))
    assert "endpoints[1]: 10.0.0.1 stands twice; it counts once" in remark


def test_many_bad_endpoints_are_counted() -> None:
    found, remarks = endpoints(*({"addresses": ["nothing"]} for _ in range(1000)))
    assert found == ()
    assert len(remarks) == 6
    assert remarks[-1].endswith("and 995 more that are left out or stand twice")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("addressType", "FQDN", ""),
        ("metadata/labels", {}, ""),
        ("addressType", "IPv7", "addressType: 'IPv7' is unknown here (IPv4, IPv6); the slice is left out"),
    ],
)
def test_slices_that_nobody_uses_are_left_out(path: str, value: object, expected: str) -> None:
    found = contents(changed(SLICE, path, value))
    assert (slices(found), found.problems) == ((), ())
    assert [expected in each for each in found.remarks] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("ports/0/port", None, "ports[0].port: no number, which means all ports; it is left out"),
        ("ports/0/protocol", "QUIC", "ports[0].protocol: 'QUIC' is unknown here; the port is left out"),
    ],
)
def test_a_port_that_can_not_be_used_is_left_out(path: str, value: object, expected: str) -> None:
    found = contents(changed(SLICE, path, value))
    assert [expected in each for each in found.remarks] == [True]
    assert [each.name for each in slices(found)[0].ports] == ["dns"]
    assert slices(found)[0].endpoints == EXPECTED_SLICE.endpoints
