"""Names, cookies and addresses that follow from others."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovsnet import names


def test_a_cookie_is_the_same_for_ever() -> None:
    """Flows of an earlier version of ovsnet must still lead to their objects."""
    assert names.cookie("node", "node-a") == 0x1FB5AE9A06F0E3F
    assert names.cookie("pod", "node-a") != names.cookie("node", "node-a")


@settings(deadline=None)
@given(st.sampled_from(names.KINDS), st.text())
def test_a_cookie_tells_its_kind(kind: str, key: str) -> None:
    cookie = names.cookie(kind, key)
    assert names.kind_of(cookie) == kind
    assert 0 < cookie < 2**64


@pytest.mark.parametrize("cookie", [0, 1, 0xFF << 56, 2**64 - 1])
def test_a_foreign_cookie_has_no_kind(cookie: int) -> None:
    assert names.kind_of(cookie) is None


@settings(deadline=None)
@given(st.sampled_from(["vxlan", "geneve", "gre", "ip6gre"]), st.text(max_size=300))
def test_an_interface_name_fits_linux(encap: str, peer: str) -> None:
    name = names.tunnel_interface(encap, peer)
    assert name == names.tunnel_interface(encap, peer)
    assert 1 <= len(name) <= 15
    assert not set(name) & set("/: ")


def test_tunnels_of_many_addresses_have_many_names() -> None:
    addresses = [f"10.{a}.{b}.{c}" for a in range(2) for b in range(256) for c in range(256)]
    assert len({names.tunnel_interface("vxlan", address) for address in addresses}) == len(addresses)


def test_the_hosts_end_of_a_pair_is_named_by_its_token() -> None:
    assert names.host_interface("00c0ffee") == "pod-00c0ffee"
    assert names.token_of("pod-00c0ffee") == "00c0ffee"


@settings(deadline=None)
@given(st.ip_addresses())
def test_a_mac_is_local_and_unicast(address: names.IPAddress) -> None:
    octets = bytes.fromhex(names.mac_of(address).replace(":", ""))
    assert len(octets) == 6
    assert octets[0] & 0x03 == 0x02


def test_an_ipv4_mac_can_be_read() -> None:
    assert names.mac_of(ipaddress.ip_address("10.244.1.5")) == "0a:58:0a:f4:01:05"


@settings(deadline=None)
@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_two_ipv4_addresses_have_two_macs(one: names.IPAddress, other: names.IPAddress) -> None:
    assert (names.mac_of(one) == names.mac_of(other)) == (one == other)


def test_link_local_is_the_one_that_linux_makes() -> None:
    """RFC 4291, appendix A: 34-56-78-9A-BC-DE becomes 3656:78ff:fe9a:bcde."""
    assert names.link_local_of("34:56:78:9a:bc:de") == ipaddress.ip_address("fe80::3656:78ff:fe9a:bcde")
