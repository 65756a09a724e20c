"""Overhead, MTU and OVSDB options of encapsulations."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ovsnet import encap
from ovsnet.model import Encap

V4, V6 = ip_address("192.0.2.12"), ip_address("2001:db8::12")


@pytest.mark.parametrize(
    ("kind", "version", "expected"),
    [
        (Encap.VXLAN, 4, 50),
        (Encap.VXLAN, 6, 70),
        (Encap.GENEVE, 4, 50),
        (Encap.GENEVE, 6, 70),
        (Encap.GRE, 4, 42),
        (Encap.GRE, 6, 62),
    ],
)
def test_overhead(kind: Encap, version: int, expected: int) -> None:
    assert encap.overhead(kind, version) == expected


def test_mtu_is_the_least_over_all_tunnels() -> None:
    assert encap.pod_mtu(1500, [(Encap.GRE, 4), (Encap.VXLAN, 6), (Encap.VXLAN, 4)], (Encap.GRE, 4)) == 1430
    assert encap.pod_mtu(9000, iter([(Encap.GRE, 4)]), (Encap.VXLAN, 6)) == 8958


def test_mtu_without_tunnels_is_that_of_the_default() -> None:
    assert encap.pod_mtu(1500, [], (Encap.VXLAN, 6)) == 1430


@pytest.mark.parametrize(
    ("kind", "version", "expected"),
    [(Encap.VXLAN, 6, "vxlan"), (Encap.GENEVE, 4, "geneve"), (Encap.GRE, 4, "gre"), (Encap.GRE, 6, "ip6gre")],
)
def test_interface_type(kind: Encap, version: int, expected: str) -> None:
    assert encap.interface_type(kind, version) == expected


def test_options_of_a_port_per_peer() -> None:
    local = ip_address("192.0.2.11")
    assert encap.options(Encap.VXLAN, V4, local, 77, None) == {
        "remote_ip": "192.0.2.12",
        "local_ip": "192.0.2.11",
        "key": "77",
    }


def test_udp_port_is_named_only_where_ovs_would_take_another() -> None:
    assert "dst_port" not in encap.options(Encap.VXLAN, V4, None, 1, 4789)
    assert encap.options(Encap.VXLAN, V4, None, 1, 6081)["dst_port"] == "6081"
    assert "dst_port" not in encap.options(Encap.GENEVE, V4, None, 1, 6081)
    assert "dst_port" not in encap.options(Encap.GRE, V4, None, 1, 8472)


def test_the_configured_udp_port_is_one_encapsulations() -> None:
    assert encap.udp_port(Encap.VXLAN, Encap.VXLAN, 8472) == 8472
    assert encap.udp_port(Encap.GENEVE, Encap.VXLAN, 8472) == 6081
    assert encap.udp_port(Encap.VXLAN, Encap.VXLAN, None) == 4789
    assert encap.udp_port(Encap.GRE, Encap.VXLAN, 8472) is None


def test_udp_over_ipv6_has_checksums() -> None:
    assert encap.options(Encap.GENEVE, V6, None, 1, None)["csum"] == "true"
    assert "csum" not in encap.options(Encap.GRE, V6, None, 1, None)
    assert "csum" not in encap.options(Encap.VXLAN, V4, None, 1, None)


def test_options_of_the_shared_port() -> None:
    assert encap.options(Encap.GENEVE, None, None, 77, None) == {"remote_ip": "flow", "key": "77"}
    assert encap.options(Encap.GENEVE, None, None, 77, None, 4) == {"remote_ip": "flow", "key": "77"}
    assert encap.options(Encap.GENEVE, None, None, 77, None, 6)["csum"] == "true"
