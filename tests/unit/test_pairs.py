"""Where two nodes do not agree, by what the agent of the other publishes."""

from __future__ import annotations

import ipaddress

import pytest
from msgspec.structs import replace

from ovsnet import pairs, state
from ovsnet.config import Config
from ovsnet.model import Encap, Node, Published

A = Node(
    name="a",
    pod_cidrs=(ipaddress.ip_network("10.244.1.0/24"),),
    addresses=(ipaddress.ip_address("192.0.2.1"),),
)
B = Node(
    name="b",
    pod_cidrs=(ipaddress.ip_network("10.244.2.0/24"),),
    addresses=(ipaddress.ip_address("192.0.2.2"), ipaddress.ip_address("2001:db8::2")),
)
SAME = Published(encap=Encap.VXLAN, address=B.addresses[0], mtu=1450)


def differences(a: Node, b: Node, **said: object) -> list[str]:
    """What node a says of b, whose agent publishes this beside what is right."""
    b = replace(b, published=replace(SAME, **said))
    return pairs.differences(a, Encap.VXLAN, 1450, b, b.addresses[0])


def test_who_publishes_the_same_or_nothing_agrees() -> None:
    assert differences(A, B) == []
    assert differences(A, B, encap=None, address=None, mtu=None) == []


def test_a_difference_names_both_nodes_both_values_and_what_to_do() -> None:
    other = ipaddress.ip_address("192.0.2.7")
    encapsulation, mtu, address = differences(A, B, encap=Encap.GENEVE, address=other, mtu=1430)
    assert encapsulation == (
        "node b publishes geneve as its encapsulation, node a sends vxlan: nothing passes between them; give both"
        " agents the same `encapsulation`"
    )
    assert mtu == (
        "node b publishes 1430 as the MTU of its pods, those of node a have 1450: what is larger than one of both gets"
        " lost; give both nodes the same `mtu`, or uplinks of one MTU"
    )
    assert address == (
        "node b publishes 192.0.2.7 as its tunnels' end, node a sends to 192.0.2.2, the first InternalIP of that"
        " family: nothing arrives; correct the Node object or the agent's nodeAddress"
    )


def test_an_end_of_the_other_family_says_nothing_of_this_one() -> None:
    assert differences(A, B, address=ipaddress.ip_address("2001:db8::7")) == []


@pytest.mark.parametrize("a", [None, Encap.GRE, Encap.VXLAN])
@pytest.mark.parametrize("b", [None, Encap.GRE, Encap.GENEVE])
def test_annotations_decide_for_both_whatever_they_are_configured_for(
    a: Encap | None, b: Encap | None
) -> None:
    """b is configured for geneve, a for vxlan: they differ where neither Node asks for any."""
    found = differences(replace(A, encap=a), replace(B, encap=b), encap=b or Encap.GENEVE)
    assert bool(found) == (a is None and b is None)


def test_a_difference_withdraws_nothing() -> None:
    wrong = Published(encap=Encap.GRE, address=ipaddress.ip_address("192.0.2.7"), mtu=9000)
    same, other = (
        state.topology(Config(), "a", A.addresses, 1500, {"a": A, "b": b})
        for b in (replace(B, published=SAME), replace(B, published=wrong))
    )
    nodes = {"a": A, "b": replace(B, published=wrong)}
    assert not state.differences(Config(), same, {"a": A, "b": replace(B, published=SAME)})
    assert len(state.differences(Config(), other, nodes)) == 3
    assert other == same


def test_what_is_published_is_what_peers_compare() -> None:
    """Of a node whose tunnels end elsewhere than its Node object says."""
    topo = state.topology(Config(), "b", [ipaddress.ip_address("192.0.2.7")], 1500, {"a": A, "b": B})
    assert topo.ends[0] == ipaddress.ip_address("192.0.2.7")
    (words,) = differences(A, B, address=topo.ends[0])
    assert "its tunnels' end" in words
