"""From nodes and rows to what is rendered: who is a peer, by which encapsulation, and whose row it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ovsnet import encap, names, pairs, state
from ovsnet.config import Config
from ovsnet.errors import NotReady
from ovsnet.model import Attached, Encap, IPAddress, LocalNode, Node, Peer, Pod, Tunnels
from ovsnet.rows import PortRow

OWN = (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))


def node(name: str, *addresses: str, cidrs: Sequence[str] = (), encap: Encap | None = None) -> Node:
    return Node(
        name=name,
        pod_cidrs=tuple(ipaddress.ip_network(cidr) for cidr in cidrs),
        addresses=tuple(ipaddress.ip_address(address) for address in addresses),
        encap=encap,
        source=f"{name}.yaml",
    )


A = node("a", "192.0.2.1", "2001:db8::1", cidrs=["10.244.1.0/24", "fd00:1::/64"])
B = node("b", "192.0.2.2", cidrs=["10.244.2.0/24", "fd00:2::/64"])
C = node("c", "2001:db8::3", cidrs=["10.244.3.0/24"])


def derive(
    *nodes: Node, config: Config | None = None, addresses: Sequence[IPAddress] = OWN
) -> state.Topology:
    return state.topology(config or Config(), "a", addresses, 1500, {each.name: each for each in nodes})


def test_who_this_node_is() -> None:
    topo = derive(C, A, B)
    assert topo.gateways == (ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("fd00:1::1"))
    assert topo.mac == names.mac_of(topo.gateways[0])
    assert topo.addresses == OWN
    assert [(peer.name, peer.remote) for peer in topo.peers] == [("b", B.addresses[0]), ("c", C.addresses[0])]
    assert topo.problems == ()


def test_own_addresses_of_the_node_object_count_as_well() -> None:
    more = node("a", "192.0.2.1", "203.0.113.1", cidrs=["10.244.1.0/24"])
    assert derive(more).addresses == (*OWN, ipaddress.ip_address("203.0.113.1"))


def test_the_configurations_ranges_come_first() -> None:
    config = Config(pod_cidrs=(ipaddress.ip_network("10.9.0.0/24"),))
    assert derive(A, config=config).gateways == (ipaddress.ip_address("10.9.0.1"),)
    assert derive(config=config).cidrs == config.pod_cidrs, "a Node object is not needed then"


def test_a_node_without_ranges_or_address_is_not_ready() -> None:
    with pytest.raises(NotReady, match="node a has no pod ranges"):
        derive(B)
    with pytest.raises(NotReady, match="node a has no pod ranges"):
        derive(node("a", "192.0.2.1"))
    with pytest.raises(NotReady, match="node a has no address"):
        derive(A, addresses=())


def test_a_node_in_its_own_range_is_not_ready() -> None:
    config = Config(pod_cidrs=(ipaddress.ip_network("192.0.2.0/24"),))
    with pytest.raises(NotReady, match=r"192\.0\.2\.0/24 of node a contains its own address 192\.0\.2\.1"):
        derive(A, config=config)


def both_ends(a: Node, b: Node) -> tuple[state.PeerNode, state.PeerNode]:
    """Each node's view of the other; their kernels have what their objects say, in another order."""
    known = {each.name: each for each in (a, b)}
    to_b, to_a = (
        state.topology(Config(), each.name, each.addresses[::-1], 1500, known).peers[0] for each in (a, b)
    )
    return to_b, to_a


FOUR_SIX, SIX_FOUR = ["192.0.2.{}", "2001:db8::{}"], ["2001:db8::{}", "192.0.2.{}"]


@pytest.mark.parametrize("a", [FOUR_SIX, SIX_FOUR, FOUR_SIX[:1], SIX_FOUR[:1]])
@pytest.mark.parametrize("b", [FOUR_SIX, SIX_FOUR])
def test_both_ends_of_a_tunnel_agree_on_its_addresses(a: list[str], b: list[str]) -> None:
    first = node("a", *(text.format(1) for text in a), cidrs=["10.244.1.0/24"])
    second = node("b", *(text.format(2) for text in b), cidrs=["10.244.2.0/24"])
    to_b, to_a = both_ends(first, second)
    assert (to_b.local, to_b.remote) == (to_a.remote, to_a.local)
    assert to_b.local == first.addresses[0], "the node whose name sorts first decides"
    to_a, to_b = both_ends(replace(second, name="a"), replace(first, name="b"))
    assert (to_b.local, to_b.remote) == (to_a.remote, to_a.local)


def test_a_family_that_only_one_end_has_is_not_chosen() -> None:
    both = node("a", "2001:db8::1", "192.0.2.1", cidrs=["10.244.1.0/24"])
    to_b, to_a = both_ends(both, B)
    assert str(to_b.remote) == "192.0.2.2"
    assert str(to_a.remote) == "192.0.2.1"


def test_an_address_that_peers_do_not_know_ends_no_tunnel() -> None:
    six_unknown = node("a", "192.0.2.1", cidrs=["10.244.1.0/24"])
    topo = derive(six_unknown, C, B)
    assert [peer.name for peer in topo.peers] == ["b"]
    assert topo.internal == six_unknown.addresses


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            ["192.0.2.7"],
            "peers send to 192.0.2.7, the first InternalIP of that family of node a, "
            "but its tunnels end at 192.0.2.1; ",
        ),
        (["192.0.2.7", "192.0.2.1"], "peers send to 192.0.2.7"),
        (["192.0.2.1", "2001:db8::7"], "peers send to 2001:db8::7"),
        ([], "node a has no InternalIP: no peer can send to it; give it 192.0.2.1, 2001:db8::1"),
    ],
)
def test_peers_that_send_elsewhere_are_a_problem(told: list[str], words: str) -> None:
    (problem,) = derive(node("a", *told, cidrs=["10.244.1.0/24"])).problems
    assert problem.startswith("a.yaml: ")
    assert words in problem


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            node("x", "192.0.2.9", cidrs=["10.244.0.0/16"]),
            "x.yaml: 10.244.0.0/16 of node x overlaps this node's 10.244.1",
        ),
        (node("x", "192.0.2.1", cidrs=["10.244.9.0/24"]), "192.0.2.1 of node x is this node's own"),
        (
            node("x", "192.0.2.200", cidrs=["192.0.2.0/25"]),
            "192.0.2.0/25 of node x contains this node's 192.0.2.1",
        ),
        (node("x", "198.51.100.2", cidrs=["203.0.113.0/24"]), "contains this node's 203.0.113.1"),
        (
            node("x", "10.244.1.7", cidrs=["10.244.9.0/24"]),
            "10.244.1.7 of node x lies in this node's 10.244.1.0/24",
        ),
        (node("x", cidrs=["10.244.9.0/24"]), "node x has no address of a family of ours"),
    ],
)
def test_a_node_that_can_be_no_peer_is_told_and_left_out(other: Node, words: str) -> None:
    topo = derive(node("a", "192.0.2.1", "203.0.113.1", cidrs=["10.244.1.0/24"]), B, other)
    assert [peer.name for peer in topo.peers] == ["b"]
    (problem,) = topo.problems
    assert words in problem


def test_no_family_in_common() -> None:
    topo = derive(replace(A, addresses=OWN[:1]), B, C, addresses=OWN[:1])
    assert [peer.name for peer in topo.peers] == ["b"]
    assert "192.0.2.1" in topo.problems[0]


def test_mtu_is_the_least_over_all_peers() -> None:
    assert derive(A).mtu == 1450
    assert derive(A, B).mtu == 1450
    assert derive(A, B, C).mtu == 1430
    assert derive(A, B, C, config=Config(mtu=1300)).mtu == 1300


SORTS = st.tuples(
    st.sampled_from([None, *Encap]), st.sampled_from([FOUR_SIX, SIX_FOUR, FOUR_SIX[:1], SIX_FOUR[:1]])
)


@settings(deadline=None)
@given(st.lists(SORTS, min_size=2, max_size=6))
def test_all_nodes_derive_the_same_mtu_from_all_tunnels(sorts: list[tuple[Encap | None, list[str]]]) -> None:
    """A pod with a lesser MTU would not take the packets of one with a larger."""
    known = {
        f"n{at}": node(
            f"n{at}", *(text.format(at) for text in texts), cidrs=[f"10.244.{at}.0/24"], encap=kind
        )
        for at, (kind, texts) in enumerate(sorts, 1)
    }
    views = [state.topology(Config(), name, each.addresses, 1500, known) for name, each in known.items()]
    tunnels = [(peer.encap, peer.remote.version) for view in views for peer in view.peers]
    if tunnels:
        reached = [view for view in views if view.peers]
        assert {view.mtu for view in reached} == {1500 - max(encap.overhead(*each) for each in tunnels)}


@pytest.mark.parametrize(
    ("uplink", "cidr", "config", "least"),
    [
        (1320, "fd00:1::/64", Config(), 1280),
        (600, "10.244.1.0/24", Config(), 576),
        (1500, "fd00:1::/64", Config(mtu=1279), 1280),
    ],
)
def test_an_mtu_that_ip_can_not_live_with_is_refused(
    uplink: int, cidr: str, config: Config, least: int
) -> None:
    own = node("a", "192.0.2.1", cidrs=[cidr])
    with pytest.raises(NotReady, match=f"an MTU of .* is too small .* need at least {least}"):
        state.topology(config, "a", OWN[:1], uplink, {"a": own})
    enough = state.topology(replace(config, mtu="auto"), "a", OWN[:1], least + 50, {"a": own})
    assert enough.mtu == least


ENCAPS = st.sampled_from([None, *Encap])


@settings(deadline=None)
@given(st.sampled_from(Encap), ENCAPS, ENCAPS)
def test_both_ends_choose_the_same_encapsulation(default: Encap, a: Encap | None, b: Encap | None) -> None:
    chosen = pairs.encap(default, "a", a, "b", b)
    assert chosen == pairs.encap(default, "b", b, "a", a)
    assert chosen in {a, b} - {None} or (a is None and b is None and chosen is default)


# Rows.

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    return Pod(
        namespace=draw(WORDS),
        name=draw(WORDS),
        container=draw(WORDS),
        ifname=draw(WORDS),
        netns=draw(WORDS),
        network=draw(WORDS),
        port="pod-00c0ffee",
        ofport=draw(st.integers(1, 65000)),
        mac="0a:58:0a:f4:01:05",
        ips=tuple(draw(st.lists(st.ip_addresses(), max_size=3))),
    )


@settings(deadline=None)
@given(pods())
def test_a_pod_is_its_row(pod: Pod) -> None:
    row = PortRow(name=pod.port, external_ids={**state.identity(pod), "others": "too"}, ofport=pod.ofport)
    assert state.pod(row) == pod
    assert state.pods({row.name: row, "eth7": PortRow(name="eth7")}) == [pod]


def identity(**changed: str | None) -> dict[str, str]:
    pod = Pod(
        namespace="default",
        name="web",
        container="c0ffee",
        ifname="eth0",
        netns="/run/netns/web",
        network="ovsnet",
        port="",
        ofport=0,
        mac="0a:58:0a:f4:01:05",
        ips=(ipaddress.ip_address("10.244.1.5"),),
    )
    ids: dict[str, str | None] = {**state.identity(pod), **changed}
    return {key: value for key, value in ids.items() if value is not None}


@pytest.mark.parametrize(
    "ids",
    [
        {},
        {"note": "someone else's"},
        identity(**{names.OWNER: names.ROLE_TUNNEL}),
        identity(**{names.OWNER: None}),
        identity(**{names.KEY_IPS: None}),
        identity(**{names.KEY_IPS: "10.244.1.5 nonsense"}),
        identity(**{names.KEY_MAC: None}),
    ],
)
def test_a_row_that_is_no_pods_or_has_lost_its_identity(ids: dict[str, str]) -> None:
    assert state.pod(PortRow(name="pod-00c0ffee", external_ids=ids, ofport=16)) is None


@pytest.mark.parametrize(
    ("ofport", "request_", "number"), [(20, 16, 20), (None, 16, 16), (-1, 16, 16), (None, None, 0)]
)
def test_the_number_is_what_vswitchd_gave_or_will_give(
    ofport: int | None, request_: int | None, number: int
) -> None:
    pod = state.pod(PortRow(name="p", external_ids=identity(), ofport=ofport, ofport_request=request_))
    assert pod is not None
    assert pod.ofport == number


# Objects.


def test_objects_with_the_numbers_of_their_ports() -> None:
    topo = derive(A, B, C)
    port_b, port_c = (state.tunnel_port(peer, Tunnels.PORTS) for peer in topo.peers)
    pod = state.pod(PortRow(name="pod-1", external_ids=identity(), ofport=16))
    assert pod is not None
    unnumbered = replace(pod, container="other", ofport=0)
    found = state.objects(topo, Tunnels.PORTS, {names.GATEWAY: 1, port_b: 20000}, [pod, unnumbered])
    assert [type(obj) for obj in found] == [LocalNode, Peer, Pod]
    assert [obj.ofport for obj in found if isinstance(obj, Attached)] == [1, 20000, 16]
    assert port_c != port_b
    assert state.objects(topo, Tunnels.PORTS, {}, []) == []


def test_by_flow_all_peers_share_a_port() -> None:
    topo = derive(A, B, node("d", "192.0.2.4", cidrs=["10.244.4.0/24"]))
    (name,) = {state.tunnel_port(peer, Tunnels.FLOW) for peer in topo.peers}
    peers = [obj for obj in state.objects(topo, Tunnels.FLOW, {name: 20000}, []) if isinstance(obj, Peer)]
    assert [(peer.name, peer.ofport, peer.by_flow) for peer in peers] == [
        ("b", 20000, True),
        ("d", 20000, True),
    ]


def test_a_peer_that_moves_gets_another_port() -> None:
    (before,) = derive(A, B).peers
    after = replace(before, remote=ipaddress.ip_address("192.0.2.22"))
    assert state.tunnel_port(before, Tunnels.PORTS) != state.tunnel_port(after, Tunnels.PORTS)
    assert state.tunnel_port(before, Tunnels.FLOW) == state.tunnel_port(after, Tunnels.FLOW)


def test_a_tunnel_port_stays_with_its_address() -> None:
    (before,) = derive(A, B).peers
    successor = replace(before, name="b2")
    assert state.tunnel_port(successor, Tunnels.PORTS) == state.tunnel_port(before, Tunnels.PORTS)
