"""Results and errors in every version of the specification."""

from __future__ import annotations

import inspect
import ipaddress
import json
from typing import Any

import pytest

from ovsnet import errors
from ovsnet.cni import netconf, result
from ovsnet.cni.result import AddResult, Dns, Interface, Previous, Route

NETNS = "/run/netns/a"
HOST = Interface(name="pod-0123abcd")
EARLIER: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "lo", "sandbox": NETNS, "metadata": {"by": "another"}}],
    "ips": [
        {"version": "4", "address": "127.0.0.1/8", "interface": 0},
        {"address": "::1/128", "interface": 0},
    ],
    "routes": [{"dst": "127.0.0.0/8"}],
    "dns": {"domain": "earlier.example"},
}


def made() -> AddResult:
    container = Interface(name="eth0", mac="0a:58:0a:f4:01:05", sandbox=NETNS, mtu=1450)
    ips = [
        (ipaddress.ip_interface("10.244.1.5/24"), ipaddress.ip_address("10.244.1.1")),
        (ipaddress.ip_interface("fd00::5/64"), None),
    ]
    return result.attachment(
        HOST, container, ips, [Route(dst=ipaddress.ip_network("0.0.0.0/0"), gw=ips[0][1], mtu=1400)]
    )


def rendered(version: str, previous: dict[str, Any] | None = None, dns: Dns | None = None) -> dict[str, Any]:
    given = None
    if previous is not None:
        text = json.dumps({"cniVersion": version, "name": "n", "prevResult": previous})
        given = netconf.previous(netconf.decode(text.encode()))
        assert isinstance(given, Previous)
    document = json.loads(result.render(made(), version, given, dns))
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_before_1_an_address_says_its_family(version: str) -> None:
    assert rendered(version) == {
        "cniVersion": version,
        "interfaces": [
            {"name": "pod-0123abcd"},
            {"name": "eth0", "mac": "0a:58:0a:f4:01:05", "sandbox": NETNS},
        ],
        "ips": [
            {"version": "4", "address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 1},
            {"version": "6", "address": "fd00::5/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}],
    }


@pytest.mark.parametrize(("version", "more"), [("1.0.0", {}), ("1.1.0", {"mtu": 1450})])
def test_from_1_on(version: str, more: dict[str, int]) -> None:
    route = {"mtu": 1400} if more else {}
    assert rendered(version) == {
        "cniVersion": version,
        "interfaces": [
            {"name": "pod-0123abcd"},
            {"name": "eth0", "mac": "0a:58:0a:f4:01:05", "sandbox": NETNS, **more},
        ],
        "ips": [
            {"address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 1},
            {"address": "fd00::5/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", **route}],
    }


@pytest.mark.parametrize("version", result.VERSIONS)
def test_an_earlier_plugins_result_stays_and_indices_stay_right(version: str) -> None:
    document = rendered(version, EARLIER)
    assert document["interfaces"][0] == EARLIER["interfaces"][0]
    assert [ip["interface"] for ip in document["ips"]] == [0, 0, 2, 2]
    families = ["4", "6", "4", "6"] if version < "1" else [None] * 4
    assert [ip.get("version") for ip in document["ips"]] == families
    assert [route["dst"] for route in document["routes"]] == ["127.0.0.0/8", "0.0.0.0/0"]
    assert document["dns"] == {"domain": "earlier.example"}


def test_the_configurations_dns_goes_before_an_earlier_plugins() -> None:
    dns = Dns(nameservers=("10.96.0.10",), search=("svc.cluster.local",))
    expected = {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]}
    assert rendered("1.0.0", EARLIER, dns)["dns"] == expected
    assert rendered("0.4.0", None, dns)["dns"] == expected


def test_an_empty_earlier_result_changes_nothing() -> None:
    assert rendered("1.0.0", {}) == rendered("1.0.0")


CODES = {
    "OvsnetError": 999,
    "ConfigError": 7,
    "RequestError": 999,
    "IncompatibleVersion": 1,
    "UnsupportedField": 2,
    "UnknownContainer": 3,
    "BadEnvironment": 4,
    "DecodeFailure": 6,
    "BadNetworkConfig": 7,
    "AlreadyAttached": 100,
    "AddressUnavailable": 101,
    "AttachmentBroken": 102,
    "HostFailure": 5,
    "RouteRefused": 5,
    "TryAgain": 11,
    "RangeExhausted": 11,
    "SwitchUnavailable": 11,
    "NotReady": 50,
    "Waiting": 50,
    "LimitedConnectivity": 51,
    "StoreError": 999,
    "MeterRefused": 999,
}


def test_every_error_has_its_code() -> None:
    kinds = dict(
        inspect.getmembers(errors, lambda it: inspect.isclass(it) and issubclass(it, errors.OvsnetError))
    )
    assert {name: kind.cni_code for name, kind in kinds.items()} == CODES


@pytest.mark.parametrize("version", result.VERSIONS)
def test_an_error_has_the_specifications_shape(version: str) -> None:
    error = errors.RangeExhausted("10.244.1.0/24: 253 of 253 in use", "delete pods")
    assert json.loads(result.render_error(error, version)) == {
        "cniVersion": version,
        "code": 11,
        "msg": "10.244.1.0/24: 253 of 253 in use",
        "details": "delete pods",
    }
    assert "details" not in json.loads(result.render_error(errors.HostFailure("x"), version))
