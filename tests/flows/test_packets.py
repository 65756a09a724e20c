"""What becomes of a packet: every path through the pipeline and every drop, on a real switch.

One row: what it shows, the packet as it enters the bridge, where it must end.
"""

from __future__ import annotations

import pytest
from flow_world import A1, A2, NODE, SPARE, B, Bridge, C, D, E
from packets import (
    BROADCAST,
    ROUTER,
    STRANGER,
    Answered,
    Dropped,
    Out,
    Verdict,
    arp,
    by_advertisement,
    by_arp,
    entrance,
    icmp6,
    ip,
    link_local,
    solicit,
)

GW4, GW6 = "10.244.1.1", "fd00:1::1"
A1_4, A1_6 = "10.244.1.2", "fd00:1::2"
A2_4, A2_6 = "10.244.1.3", "fd00:1::3"
OUTSIDE4, OUTSIDE6 = "198.51.100.7", "2001:db8:f00::7"
ROUTED = {"nw_ttl": "63", "dl_src": ROUTER.mac, "dl_dst": ROUTER.mac}
KEPT = {"nw_ttl": "64", "dl_src": A1.mac, "dl_dst": NODE.mac}

Row = tuple[str, str, Verdict]

WITHIN_THE_NODE: list[Row] = [
    (
        "pod to pod",
        ip(A1, A1_4, A2_4, A2.mac),
        Out(to=A2, final={"nw_ttl": "64", "dl_src": A1.mac, "dl_dst": A2.mac}),
    ),
    (
        "and back",
        ip(A2, A2_4, A1_4, A1.mac),
        Out(to=A1, final={"nw_ttl": "64", "dl_src": A2.mac, "dl_dst": A1.mac}),
    ),
    ("pod to pod, IPv6", ip(A1, A1_6, A2_6, A2.mac), Out(to=A2, final={"nw_ttl": "64", "dl_src": A1.mac})),
    ("and back, IPv6", ip(A2, A2_6, A1_6, A1.mac), Out(to=A1, final={"nw_ttl": "64", "dl_src": A2.mac})),
    ("pod to pod by the gateway's MAC", ip(A1, A1_4, A2_4, NODE.mac), Out(to=A2, final={"dl_dst": A2.mac})),
    ("pod to pod with TTL 1", ip(A1, A1_4, A2_4, A2.mac, ttl=1), Out(to=A2, final={"nw_ttl": "1"})),
    ("pod to gateway", ip(A1, A1_4, GW4, NODE.mac), Out(to=NODE, final=KEPT)),
    ("pod to gateway, IPv6", ip(A1, A1_6, GW6, NODE.mac), Out(to=NODE, final=KEPT)),
    ("pod to own node", ip(A1, A1_4, "192.0.2.11", NODE.mac), Out(to=NODE, final=KEPT)),
    ("pod to own node, IPv6", ip(A1, A1_6, "2001:db8::11", NODE.mac), Out(to=NODE, final=KEPT)),
    ("pod to outside", ip(A1, A1_4, OUTSIDE4, NODE.mac), Out(to=NODE, final=KEPT)),
    ("pod to outside, IPv6", ip(A1, A1_6, OUTSIDE6, NODE.mac), Out(to=NODE, final=KEPT)),
    ("gateway to pod", ip(NODE, GW4, A1_4, A1.mac), Out(to=A1, final={"nw_ttl": "64", "dl_src": NODE.mac})),
    ("gateway to pod, IPv6", ip(NODE, GW6, A1_6, A1.mac), Out(to=A1, final={"nw_ttl": "64"})),
    ("outside to pod", ip(NODE, OUTSIDE4, A1_4, A1.mac), Out(to=A1, final={"dl_dst": A1.mac})),
    (
        "unknown address of own range",
        ip(A1, A1_4, "10.244.1.99", NODE.mac),
        Dropped(table="route", priority=60),
    ),
    ("the same, IPv6", ip(A1, A1_6, "fd00:1::99", NODE.mac), Dropped(table="route", priority=60)),
    (
        "unknown address, from the gateway",
        ip(NODE, GW4, "10.244.1.99", A1.mac),
        Dropped(table="route", priority=60),
    ),
    ("the node's loopback", ip(A1, A1_4, "127.0.0.1", NODE.mac), Dropped(table="route", priority=200)),
    ("the node's loopback, IPv6", ip(A1, A1_6, "::1", NODE.mac), Dropped(table="route", priority=200)),
]

BETWEEN_NODES: list[Row] = [
    ("to a peer's pod", ip(A1, A1_4, "10.244.2.5", NODE.mac), Out(to=B, final=ROUTED)),
    ("to a peer's pod, IPv6", ip(A1, A1_6, "fd00:2::5", NODE.mac), Out(to=B, final=ROUTED)),
    ("over IPv6", ip(A1, A1_4, "10.244.3.5", NODE.mac), Out(to=C, final=ROUTED)),
    ("IPv6 over IPv6", ip(A1, A1_6, "fd00:3::5", NODE.mac), Out(to=C, final=ROUTED)),
    ("by flow", ip(A1, A1_4, "10.244.4.5", NODE.mac), Out(to=D, final={**ROUTED, "tun_dst": "192.0.2.14"})),
    (
        "IPv6 by flow",
        ip(A1, A1_6, "fd00:4::5", NODE.mac),
        Out(to=D, final={**ROUTED, "tun_dst": "192.0.2.14"}),
    ),
    (
        "by flow over IPv6",
        ip(A1, A1_4, "10.244.5.5", NODE.mac),
        Out(to=E, final={"tun_ipv6_dst": "2001:db8::15"}),
    ),
    (
        "IPv6 by flow over IPv6",
        ip(A1, A1_6, "fd00:5::5", NODE.mac),
        Out(to=E, final={"tun_ipv6_dst": "2001:db8::15"}),
    ),
    ("to a peer's node", ip(A1, A1_4, "192.0.2.12", NODE.mac), Out(to=B, final=ROUTED)),
    ("to a peer's node, IPv6", ip(A1, A1_6, "2001:db8::13", NODE.mac), Out(to=C, final=ROUTED)),
    ("to a node by flow", ip(A1, A1_4, "192.0.2.14", NODE.mac), Out(to=D, final={"tun_dst": "192.0.2.14"})),
    (
        "node to a peer's pod",
        ip(NODE, GW4, "10.244.2.5", ROUTER.mac),
        Out(to=B, final={**ROUTED, "nw_ttl": "64"}),
    ),
    ("the same, IPv6", ip(NODE, GW6, "fd00:2::5", ROUTER.mac), Out(to=B, final={**ROUTED, "nw_ttl": "64"})),
    (
        "node's packet with TTL 1",
        ip(NODE, GW4, "10.244.2.5", ROUTER.mac, ttl=1),
        Out(to=B, final={"nw_ttl": "1"}),
    ),
    ("TTL 2", ip(A1, A1_4, "10.244.2.5", NODE.mac, ttl=2), Out(to=B, final={"nw_ttl": "1"})),
    (
        "TTL 1: the kernel answers",
        ip(A1, A1_4, "10.244.2.5", NODE.mac, ttl=1),
        Out(to=NODE, final={"nw_ttl": "1"}),
    ),
    ("TTL 1, IPv6", ip(A1, A1_6, "fd00:2::5", NODE.mac, ttl=1), Out(to=NODE, final={"nw_ttl": "1"})),
    ("TTL 0", ip(A1, A1_4, "10.244.2.5", NODE.mac, ttl=0), Out(to=NODE, final={"nw_ttl": "0"})),
    (
        "from a peer's pod",
        ip(B, "10.244.2.5", A1_4, ROUTER.mac),
        Out(to=A1, final={"dl_dst": A1.mac, "nw_ttl": "64"}),
    ),
    ("from a peer's pod, IPv6", ip(C, "fd00:3::5", A1_6, ROUTER.mac), Out(to=A1, final={"dl_dst": A1.mac})),
    ("from a peer by flow", ip(D, "10.244.4.5", A1_4, ROUTER.mac), Out(to=A1, final={"dl_src": ROUTER.mac})),
    ("from a peer by flow over IPv6", ip(E, "fd00:5::5", A1_6, ROUTER.mac), Out(to=A1)),
    (
        "peer's pod to this gateway",
        ip(B, "10.244.2.5", GW4, ROUTER.mac),
        Out(to=NODE, final={"dl_dst": NODE.mac}),
    ),
    ("peer's pod to this node", ip(B, "10.244.2.5", "192.0.2.11", ROUTER.mac), Out(to=NODE)),
    ("peer's pod to this node, IPv6", ip(C, "fd00:3::5", "2001:db8::11", ROUTER.mac), Out(to=NODE)),
    (
        "no transit to another peer",
        ip(B, "10.244.2.5", "10.244.3.5", ROUTER.mac),
        Dropped(table="route", priority=80),
    ),
    ("no transit, IPv6", ip(D, "fd00:4::5", "fd00:2::5", ROUTER.mac), Dropped(table="route", priority=80)),
    (
        "no transit to a node",
        ip(B, "10.244.2.5", "192.0.2.13", ROUTER.mac),
        Dropped(table="route", priority=80),
    ),
    ("no transit to outside", ip(B, "10.244.2.5", OUTSIDE4, ROUTER.mac), Dropped(table="route", priority=80)),
    (
        "no transit to outside, IPv6",
        ip(C, "fd00:3::5", OUTSIDE6, ROUTER.mac),
        Dropped(table="route", priority=80),
    ),
    ("peer to no pod", ip(B, "10.244.2.5", "10.244.1.99", ROUTER.mac), Dropped(table="route", priority=80)),
    (
        "a shared tunnel's sender that is no peer",
        f"in_port={D.ofport},tun_src=192.0.2.99,dl_src={ROUTER.mac},ip,nw_src=10.244.4.5,nw_dst={A1_4}",
        Dropped(table="classify", priority=0),
    ),
    (
        "the same over IPv6",
        f"in_port={D.ofport},tun_ipv6_src=2001:db8::99,dl_src={ROUTER.mac},ip,nw_src=10.244.4.5,nw_dst={A1_4}",
        Dropped(table="classify", priority=0),
    ),
]

NOT_THEIRS = {peer.name: Dropped(table="tunnel_guard", priority=50, by=peer) for peer in (B, C, D, E)}

TUNNEL_GUARD: list[Row] = [
    ("a peer's node to a pod", ip(B, "192.0.2.12", A1_4, ROUTER.mac), Out(to=A1)),
    ("a peer's node to a pod, IPv6", ip(C, "2001:db8::13", A1_6, ROUTER.mac), Out(to=A1)),
    ("a peer's node to this node", ip(D, "192.0.2.14", "192.0.2.11", ROUTER.mac), Out(to=NODE)),
    ("a peer's gateway to a pod by flow", ip(E, "fd00:5::1", A1_6, ROUTER.mac), Out(to=A1)),
    ("as a pod of this node", ip(B, A2_4, A1_4, ROUTER.mac), NOT_THEIRS["node-b"]),
    ("as a pod of this node, IPv6", ip(C, A2_6, A1_6, ROUTER.mac), NOT_THEIRS["node-c"]),
    ("as a pod of this node by flow", ip(D, A2_4, A1_4, ROUTER.mac), NOT_THEIRS["node-d"]),
    ("as this node's gateway", ip(B, GW4, A1_4, ROUTER.mac), NOT_THEIRS["node-b"]),
    ("as this node", ip(B, "192.0.2.11", A1_4, ROUTER.mac), NOT_THEIRS["node-b"]),
    ("as this node by flow, IPv6", ip(E, "2001:db8::11", GW6, ROUTER.mac), NOT_THEIRS["node-e"]),
    ("as another peer's pod", ip(B, "10.244.3.5", A1_4, ROUTER.mac), NOT_THEIRS["node-b"]),
    ("as a pod of a peer on the same port", ip(D, "10.244.5.5", A1_4, ROUTER.mac), NOT_THEIRS["node-d"]),
    ("as another peer's node", ip(C, "2001:db8::12", A1_6, ROUTER.mac), NOT_THEIRS["node-c"]),
    ("from outside through a peer", ip(B, OUTSIDE4, A1_4, ROUTER.mac), NOT_THEIRS["node-b"]),
    ("from outside through a peer, IPv6", ip(E, OUTSIDE6, A1_6, ROUTER.mac), NOT_THEIRS["node-e"]),
    (
        "ARP from a peer",
        f"{entrance(B)},dl_src={ROUTER.mac},arp,arp_op=1,arp_tpa={A1_4}",
        NOT_THEIRS["node-b"],
    ),
    (
        "neither IP nor ARP from a peer",
        f"{entrance(D)},dl_src={ROUTER.mac},dl_type=0x88cc",
        NOT_THEIRS["node-d"],
    ),
]

FORGED = Dropped(table="spoof_guard", priority=50, by=A1)
NO_NEIGHBOUR_OF_OURS = Dropped(table="spoof_guard", priority=105)
HEAD = f"{entrance(A1)},dl_src={A1.mac},dl_dst={A2.mac}"

SPOOF_GUARD: list[Row] = [
    ("another's MAC", ip(A1, A1_4, A2_4, A2.mac, mac=A2.mac), FORGED),
    ("an unknown MAC, IPv6", ip(A1, A1_6, A2_6, A2.mac, mac=STRANGER), FORGED),
    ("another's address", ip(A1, A2_4, GW4, NODE.mac), FORGED),
    ("the gateway's address", ip(A1, GW4, A2_4, A2.mac), FORGED),
    ("an outside address", ip(A1, OUTSIDE4, A2_4, A2.mac), FORGED),
    ("another's IPv6 address", ip(A1, A2_6, GW6, NODE.mac), FORGED),
    ("its link-local address, not for discovery", ip(A1, link_local(A1), GW6, NODE.mac), FORGED),
    ("ARP with another's address", arp(A1, A2_4, GW4), FORGED),
    ("ARP with the gateway's address", arp(A1, GW4, A2_4), FORGED),
    ("ARP with another's hardware address", arp(A1, A1_4, GW4, sha=A2.mac), FORGED),
    ("ARP in a frame with another's MAC", arp(A1, A1_4, GW4, mac=A2.mac), FORGED),
    ("ARP probe with another's hardware address", arp(A1, "0.0.0.0", GW4, sha=A2.mac), FORGED),
    ("an ARP reply", arp(A1, A1_4, GW4, op=2), FORGED),
    (
        "solicitation with another's link-layer address",
        solicit(A1, A1_6, GW6, link=A2.mac),
        NO_NEIGHBOUR_OF_OURS,
    ),
    ("solicitation with another's address", solicit(A1, A2_6, GW6), NO_NEIGHBOUR_OF_OURS),
    ("solicitation with another's link-local", solicit(A1, link_local(A2), GW6), NO_NEIGHBOUR_OF_OURS),
    ("solicitation in a frame with another's MAC", solicit(A1, A1_6, GW6, mac=A2.mac), NO_NEIGHBOUR_OF_OURS),
    ("probe in a frame with another's MAC", solicit(A1, "::", GW6, mac=A2.mac), NO_NEIGHBOUR_OF_OURS),
    ("router solicitation", icmp6(A1, 133, A1_6, "ff02::2"), NO_NEIGHBOUR_OF_OURS),
    ("router advertisement", icmp6(A1, 134, A1_6, "ff02::1"), NO_NEIGHBOUR_OF_OURS),
    (
        "neighbour advertisement",
        icmp6(A1, 136, A1_6, A2_6, f",nd_target={GW6},nd_tll={A1.mac}"),
        NO_NEIGHBOUR_OF_OURS,
    ),
    ("redirect", icmp6(A1, 137, A1_6, A2_6), NO_NEIGHBOUR_OF_OURS),
    ("a VLAN tag", f"{ip(A1, A1_4, A2_4, A2.mac)},dl_vlan=5", FORGED),
    ("a VLAN tag, IPv6", f"{ip(A1, A1_6, A2_6, A2.mac)},dl_vlan=5", FORGED),
    ("a priority tag", f"{ip(A1, A1_4, A2_4, A2.mac)},dl_vlan=0,dl_vlan_pcp=3", FORGED),
    ("ARP behind a VLAN tag", f"{arp(A1, A1_4, GW4)},dl_vlan=5", FORGED),
    ("neither IP nor ARP", f"{HEAD},dl_type=0x88cc", FORGED),
    ("MPLS", f"{HEAD},dl_type=0x8847", FORGED),
    ("RARP", f"{HEAD},dl_type=0x8035", FORGED),
    ("DHCP", ip(A1, "0.0.0.0", "255.255.255.255", BROADCAST), FORGED),
    (
        "a port that no pod has",
        f"in_port={SPARE},dl_src={A1.mac},ip,nw_src={A1_4}",
        Dropped(table="classify", priority=0),
    ),
]

GROUPS = Dropped(table="route", priority=200)

MULTICAST: list[Row] = [
    ("multicast", ip(A1, A1_4, "224.0.0.251", "01:00:5e:00:00:fb"), GROUPS),
    ("multicast, IPv6", ip(A1, A1_6, "ff05::2", "33:33:00:00:00:02"), GROUPS),
    ("broadcast", ip(A1, A1_4, "255.255.255.255", BROADCAST), GROUPS),
    ("directed broadcast", ip(A1, A1_4, "10.244.1.255", BROADCAST), Dropped(table="route", priority=60)),
    ("multicast of the node", ip(NODE, GW4, "224.0.0.22", "01:00:5e:00:00:16"), GROUPS),
    ("multicast of the node, IPv6", ip(NODE, GW6, "ff02::16", "33:33:00:00:00:16"), GROUPS),
    ("multicast from a peer", ip(B, "10.244.2.5", "224.0.0.251", "01:00:5e:00:00:fb"), GROUPS),
    ("broadcast from a peer", ip(D, "10.244.4.5", "255.255.255.255", BROADCAST), GROUPS),
    (
        "a kernel's report of its groups",
        icmp6(A1, 143, link_local(A1), "ff02::16"),
        Dropped(table="spoof_guard", priority=60),
    ),
]

NO_ANSWER = Dropped(table="neighbour", priority=0)
NO_ADVERTISEMENT = Dropped(table="neighbour", priority=90)
R4, R6 = str(ROUTER.ipv4), str(ROUTER.ipv6)

NEIGHBOURS: list[Row] = [
    ("ARP for the gateway", arp(A1, A1_4, GW4), by_arp(A1.mac, A1_4, NODE.mac, GW4)),
    ("ARP for another pod", arp(A1, A1_4, A2_4), by_arp(A1.mac, A1_4, A2.mac, A2_4)),
    ("ARP from the gateway for a pod", arp(NODE, GW4, A1_4), by_arp(NODE.mac, GW4, A1.mac, A1_4)),
    ("ARP from the gateway for the router", arp(NODE, GW4, R4), by_arp(NODE.mac, GW4, ROUTER.mac, R4)),
    ("ARP for an unknown address", arp(A1, A1_4, "10.244.1.99"), NO_ANSWER),
    ("ARP from the gateway for an unknown address", arp(NODE, GW4, "10.244.1.99"), NO_ANSWER),
    ("ARP for a peer's pod", arp(A1, A1_4, "10.244.2.5"), NO_ANSWER),
    ("ARP reply of the gateway", arp(NODE, GW4, A1_4, op=2), NO_ANSWER),
    (
        "solicitation for the gateway",
        solicit(A1, A1_6, GW6),
        by_advertisement(A1.mac, A1_6, NODE.mac, GW6, 0xE),
    ),
    (
        "solicitation for another pod",
        solicit(A1, A1_6, A2_6),
        by_advertisement(A1.mac, A1_6, A2.mac, A2_6, 0x6),
    ),
    (
        "solicitation by link-local address",
        solicit(A1, link_local(A1), A2_6),
        by_advertisement(A1.mac, link_local(A1), A2.mac, A2_6, 0x6),
    ),
    (
        "solicitation of the gateway",
        solicit(NODE, GW6, A1_6),
        by_advertisement(NODE.mac, GW6, A1.mac, A1_6, 0x6),
    ),
    (
        "solicitation of the gateway for the router",
        solicit(NODE, GW6, R6),
        by_advertisement(NODE.mac, GW6, ROUTER.mac, R6, 0xE),
    ),
    ("solicitation for an unknown address", solicit(A1, A1_6, "fd00:1::99"), NO_ADVERTISEMENT),
    (
        "solicitation of the gateway for an unknown address",
        solicit(NODE, GW6, "fd00:1::99"),
        NO_ADVERTISEMENT,
    ),
    (
        "ARP probe for its own address",
        arp(A1, "0.0.0.0", A1_4),
        Dropped(table="spoof_guard", priority=100, by=A1),
    ),
    ("ARP probe for another's", arp(A1, "0.0.0.0", A2_4), by_arp(A1.mac, "0.0.0.0", A2.mac, A2_4)),
    ("ARP probe for the gateway's", arp(A1, "0.0.0.0", GW4), by_arp(A1.mac, "0.0.0.0", NODE.mac, GW4)),
    ("ARP probe for a free address", arp(A1, "0.0.0.0", "10.244.1.99"), NO_ANSWER),
    ("probe for its own address", solicit(A1, "::", A1_6), Dropped(table="spoof_guard", priority=110, by=A1)),
    ("probe for its link-local address", solicit(A1, "::", link_local(A1)), NO_ADVERTISEMENT),
    ("probe for another's", solicit(A1, "::", A2_6), by_advertisement(A1.mac, "::", A2.mac, A2_6, 0x2)),
    ("probe for the gateway's", solicit(A1, "::", GW6), by_advertisement(A1.mac, "::", NODE.mac, GW6, 0xA)),
    ("probe for a free address", solicit(A1, "::", "fd00:1::99"), NO_ADVERTISEMENT),
]


def params(group: str, rows: list[Row]) -> list[object]:
    return [pytest.param(packet, verdict, id=f"{group}: {shows}") for shows, packet, verdict in rows]


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        *params("within the node", WITHIN_THE_NODE),
        *params("between nodes", BETWEEN_NODES),
        *params("tunnel guard", TUNNEL_GUARD),
        *params("spoof guard", SPOOF_GUARD),
        *params("multicast", MULTICAST),
        *params("neighbours", NEIGHBOURS),
    ],
)
def test_a_packet_ends_where_it_must(bridge: Bridge, packet: str, verdict: Verdict) -> None:
    answer = bridge.trace(packet)
    verdict.check(answer)
    if not isinstance(verdict, Answered):
        assert "recirc" not in answer.flow.datapath_actions, "conntrack or a second pass"
