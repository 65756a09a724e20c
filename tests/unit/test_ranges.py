"""Networks without some addresses, and the routes to Services that leave nodes' addresses out."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from ovsnet import ranges, state
from ovsnet.agent.hostside import gateway_spec
from ovsnet.config import Config
from ovsnet.model import Node
from ovsnet.services import Reach


@given(st.integers(24, 32), st.sets(st.integers(0, 300), max_size=6))
def test_all_but_these_is_covered_once(length: int, left_out: set[int]) -> None:
    network = IPv4Network(("10.0.0.0", length))
    base = int(network.network_address)
    found = list(ranges.without([network], [ip_address(base + number) for number in left_out]))
    covered = [int(address) - base for each in found for address in each]
    assert sorted(covered) == [number for number in range(network.num_addresses) if number not in left_out]


def test_a_network_with_none_of_them_stays_as_it_is() -> None:
    networks = [ip_network("10.96.0.0/16"), ip_network("fd00:10:96::/112")]
    assert list(ranges.without(networks, [ip_address("192.0.2.1"), ip_address("2001:db8::1")])) == networks
    parts = list(ranges.without(networks[1:], [ip_address("fd00:10:96::1")]))
    assert len(parts) == 16
    assert parts[0] == ip_network("fd00:10:96::/128")


def test_cluster_ips_around_nodes_draw_no_route_over_these() -> None:
    nodes = {
        name: Node(
            name=name,
            pod_cidrs=(ip_network(f"10.244.{number}.0/24"),),
            addresses=(ip_address(f"192.0.2.{number}"),),
        )
        for name, number in (("a", 11), ("b", 12))
    }
    topo = state.topology(Config(), "a", nodes["a"].addresses, 1500, nodes)
    routed = [each.cidr for each in gateway_spec(topo, Reach(networks=(ip_network("192.0.2.8/29"),))).routes]
    assert [str(cidr) for cidr in routed if str(cidr).startswith("192.0.2.")] == [
        "192.0.2.8/31",
        "192.0.2.10/32",
        "192.0.2.13/32",
        "192.0.2.14/31",
    ]
