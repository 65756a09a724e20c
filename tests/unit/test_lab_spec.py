"""Names and addresses of a lab."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsnet.lab import spec
from ovsnet.lab.spec import LabError, LabSpec
from ovsnet.model import Encap


@pytest.mark.parametrize(
    ("index", "text"), [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba"), (701, "zz"), (702, "aaa")]
)
def test_letters_count_like_spreadsheet_columns(index: int, text: str) -> None:
    assert spec.letters(index) == text


def test_the_addresses_of_a_node_read_alike_in_both_families() -> None:
    node = spec.node_spec(0)
    assert (node.name, str(node.address(4)), str(node.address(6))) == (
        "node-a",
        "192.0.2.11",
        "2001:db8:0:1::11",
    )
    assert (str(node.pod_range(4)), str(node.pod_range(6))) == ("10.244.1.0/24", "fd00:10:244:1::/64")
    assert (str(node.gateway(4)), str(node.gateway(6))) == ("10.244.1.1", "fd00:10:244:1::1")
    assert str(node.interface(4)) == "192.0.2.11/24"


@given(
    st.lists(st.integers(0, spec.MAX_NODES - 1), unique=True, min_size=2, max_size=8), st.sampled_from([4, 6])
)
def test_no_two_nodes_share_anything(indices: list[int], version: int) -> None:
    nodes = [spec.node_spec(index) for index in indices]
    addresses = {node.address(version) for node in nodes} | {spec.outside_interface(version).ip}
    assert len(addresses) == len(nodes) + 1
    assert all(address in spec.UNDERLAY_RANGES[version] for address in addresses)
    assert len({node.mac for node in nodes}) == len(nodes)
    ranges = [node.pod_range(version) for node in nodes]
    assert len(set(ranges)) == len(nodes)
    assert not any(
        isinstance(one, ipaddress.IPv4Network) and one.overlaps(spec.UNDERLAY_RANGES[4]) for one in ranges
    )


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a" * 33, "a.b", "a/b"])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="not usable"):
        spec.check_name(name, "pod", set())


@pytest.mark.parametrize("name", ["outside", "underlay", "localhost", "a1"])
def test_taken_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="taken"):
        spec.check_name(name, "pod", {"a1"})


@pytest.mark.parametrize("options", [{"nodes": 0}, {"nodes": 201}, {"pods": -1}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(LabError, match="not possible"):
        msgspec.convert(options, LabSpec)


def test_differences_are_told_as_options() -> None:
    difference = LabSpec(encap=Encap.GRE, nodes=2).describe_difference(LabSpec())
    assert difference == "--nodes 2 (not 3), --encap gre (not vxlan)"


def test_tunnels_run_over_ipv4_where_there_is_ipv4() -> None:
    assert [LabSpec(underlay=families).tunnel_family for families in ("4", "6", "dual")] == [4, 6, 4]
