"""How wide the datapath's cache entries are: what they don't match, they serve for all connections at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flow_world import A1, A2, NODE, B, Bridge, C, D, E, make_bridge, pod
from ovs_sandbox import Sandbox
from packets import ROUTER, ip

from ovsnet.model import Peer, Pod

PODS = [pod(f"p{number}", number, 14 + number) for number in range(2, 52)]
FIRST, LAST = PODS[0], PODS[-1]


@pytest.fixture(scope="module")
def crowded(ovs: Sandbox) -> Iterator[Bridge]:
    """A node with 50 pods."""
    made = make_bridge(ovs, "br-many", PODS)
    made.install((NODE, *PODS))
    yield made
    ovs.vsctl("del-br", "br-many")


def without_ports(megaflow: dict[str, str]) -> bool:
    return not any(name.startswith(("tp_", "ct_", "tcp_", "udp_")) for name in megaflow)


def pair(one: Pod, other: Pod, family: int) -> str:
    return ip(one, str(one.ips[family]), str(other.ips[family]), other.mac)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("one", "other"), [(A1, A2), (A2, A1)], ids=["there", "back"])
def test_a_plain_pair_has_one_entry_each_way(bridge: Bridge, one: Pod, other: Pod, family: int) -> None:
    """Neither ports nor conntrack nor a change to the packet: any number of connections share the entry."""
    answer = bridge.trace(pair(one, other, family))
    assert without_ports(answer.megaflow), answer.text
    assert answer.megaflow["recirc_id"] == "0"
    assert answer.flow.datapath_actions.isdigit(), "nothing but an output"


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("one", "other"), [(FIRST, LAST), (LAST, FIRST)], ids=["there", "back"])
def test_so_it_is_among_fifty_pods(crowded: Bridge, one: Pod, other: Pod, family: int) -> None:
    answer = crowded.trace(pair(one, other, family))
    assert answer.flow.output == other.ofport
    assert without_ports(answer.megaflow), answer.text
    assert answer.flow.datapath_actions.isdigit()


@pytest.mark.parametrize(
    "packet",
    [
        ip(A1, "10.244.1.2", "10.244.2.5", NODE.mac),
        ip(A1, "fd00:1::2", "fd00:2::5", NODE.mac),
        ip(B, "10.244.2.5", "10.244.1.2", ROUTER.mac),
        ip(B, "fd00:2::5", "fd00:1::2", ROUTER.mac),
        ip(A1, "10.244.1.2", "198.51.100.7", NODE.mac),
        ip(NODE, "198.51.100.7", "10.244.1.2", A1.mac),
    ],
    ids=["to a peer", "to a peer, IPv6", "from a peer", "from a peer, IPv6", "to outside", "from outside"],
)
def test_no_path_matches_ports(bridge: Bridge, packet: str) -> None:
    answer = bridge.trace(packet)
    assert answer.flow.output is not None
    assert without_ports(answer.megaflow), answer.text


def test_a_peers_whole_range_shares_an_entry(bridge: Bridge) -> None:
    answer = bridge.trace(ip(A1, "10.244.1.2", "10.244.2.5", NODE.mac))
    assert answer.megaflow["nw_dst"] == "10.244.2.0/24"


@pytest.mark.parametrize(
    ("peer", "source", "target", "shared"),
    [
        (B, "10.244.2.5", "10.244.1.2", "10.244.2.0/24"),
        (B, "fd00:2::5", "fd00:1::2", "fd00:2::/64"),
        (C, "10.244.3.5", "10.244.1.2", "10.244.3.0/24"),
        (D, "10.244.4.5", "10.244.1.2", "10.244.4.0/24"),
        (E, "fd00:5::5", "fd00:1::2", "fd00:5::/64"),
    ],
)
def test_all_that_comes_from_a_peers_range_shares_an_entry(
    bridge: Bridge, peer: Peer, source: str, target: str, shared: str
) -> None:
    """The guard compares the source with the range and looks no closer."""
    answer = bridge.trace(ip(peer, source, target, ROUTER.mac))
    assert answer.flow.output == A1.ofport
    assert answer.megaflow["ipv6_src" if ":" in source else "nw_src"] == shared, answer.text
