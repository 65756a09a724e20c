"""What becomes of a Service's packets, table by table: whatever conntrack may say of them.

One row: what it shows, the packet, what conntrack says each time, where it must end. Connections as both ends see them
are in `test_service_connections`; here is what the datapath in user space does not do: SCTP's ports, and the state that
the kernel's conntrack gives answers.
"""

from __future__ import annotations

import pytest
from flow_world import A1, A2, NODE, SERVICES, TABLES, B, Bridge
from packets import ROUTER, entrance, mac_of
from service_world import API, HERE_ONLY, NOBODY, NOBODY_HERE, WEB, vip

from ovsnet.model import Attached, Frozen, LocalNode, Peer, Pod
from ovsnet.render import cookie_of
from ovsnet.servicemodel import Service

OBJECTS = {(type(each).__name__, each.key): each for each in SERVICES.objects}
NEW, DNAT = "trk,new", "trk,new,dnat"


def packet(
    source: Pod | Peer | LocalNode,
    src: str,
    dst: str,
    dport: int = 80,
    *,
    protocol: str = "tcp",
    sport: int = 40000,
    more: str = "",
) -> str:
    six = ":" in src
    fields = ("6", "ipv6_src", "ipv6_dst") if six else ("", "nw_src", "nw_dst")
    to_mac = NODE.mac if isinstance(source, Pod) else ROUTER.mac
    head = f"{entrance(source)},dl_src={mac_of(source)},dl_dst={to_mac},dp_hash=0x5a01"
    return (
        f"{head},{protocol}{fields[0]},{fields[1]}={src},{fields[2]}={dst},nw_ttl=64,"
        f"{protocol}_src={sport},{protocol}_dst={dport}{more}"
    )


class Row(Frozen):
    """to: the port that it leaves by; the same as it came by: with IN_PORT. None: dropped, in that table."""

    shows: str
    packet: str
    states: tuple[str, ...]
    to: Attached | None
    datapath: str = ""
    """What is among the actions of all passes."""
    table: str = ""
    priority: int = 0


A2_4, A2_6, B1_4, B1_6 = "10.244.1.3", "fd00:1::3", "10.244.2.5", "fd00:2::5"
GATEWAY, OUT = "10.244.1.1", "198.51.100.7"
NODE_PORT, LOCAL_NODE_PORT, BACK = "169.254.77.3", "169.254.77.4", "169.254.77.2"
PORT_CLIENT = "169.254.77.5"

ERROR = (
    f"{entrance(A2)},dl_src={A2.mac},dl_dst={NODE.mac},icmp,nw_src={A2_4},nw_dst=10.244.2.9,nw_ttl=64,"
    "icmp_type=3,icmp_code=4"
)

ROWS = (
    Row(
        shows="TCP",
        packet=packet(A2, A2_4, vip(14)[0]),
        states=(NEW, DNAT),
        to=B,
        datapath="nat(dst=10.244.2.5:8080)",
    ),
    Row(
        shows="UDP",
        packet=packet(A2, A2_4, vip(2)[0], protocol="udp"),
        states=(NEW, DNAT),
        to=B,
        datapath="nat(dst=10.244.2.5:8080)",
    ),
    Row(
        shows="SCTP",
        packet=packet(A2, A2_4, vip(3)[0], protocol="sctp"),
        states=(NEW, DNAT),
        to=B,
        datapath="nat(dst=10.244.2.5:8080)",
    ),
    Row(
        shows="SCTP, IPv6",
        packet=packet(A2, A2_6, vip(3)[1], protocol="sctp"),
        states=(NEW, DNAT),
        to=B,
        datapath="nat(dst=[fd00:2::5]:8080)",
    ),
    Row(
        shows="SCTP answered",
        packet=packet(B, B1_4, A2_4, 40000, protocol="sctp", sport=8080),
        states=("trk,est,rpl,snat",),
        to=A2,
        datapath="ct(zone=65500,nat)",
    ),
    Row(
        shows="node, new",
        packet=packet(NODE, GATEWAY, vip(14)[0]),
        states=(NEW, DNAT),
        to=B,
        datapath="nat(dst=10.244.2.5:8080)",
    ),
    Row(
        shows="node to itself",
        packet=packet(NODE, "10.244.1.1", vip(8)[0]),
        states=("trk,new,snat", NEW, DNAT, "trk,new,snat"),
        to=NODE,
        datapath="nat(src=169.254.77.2)",
    ),
    Row(
        shows="masqueraded",
        packet=packet(NODE, OUT, NODE_PORT, 30014),
        states=("trk,new,snat", NEW, DNAT),
        to=B,
        datapath="nat(src=10.244.1.1:1024-32767)",
    ),
    Row(
        shows="Local keeps the client",
        packet=packet(NODE, OUT, LOCAL_NODE_PORT, 30013),
        states=(NEW, DNAT),
        to=A1,
        datapath="nat(dst=10.244.1.2:8080)",
    ),
    Row(
        shows="another node by a port of this one is masqueraded too",
        packet=packet(NODE, PORT_CLIENT, NODE_PORT, 30014),
        states=("trk,new,snat", NEW, DNAT),
        to=B,
        datapath="nat(src=10.244.1.1:1024-32767)",
    ),
    Row(
        shows="it finds an endpoint elsewhere whatever the policy",
        packet=packet(NODE, PORT_CLIENT, LOCAL_NODE_PORT, 30015),
        states=("trk,new,snat", NEW, DNAT),
        to=B,
        datapath="nat(src=10.244.1.1:1024-32767)",
    ),
    Row(
        shows="answer to a masqueraded client, by the kernel's word",
        packet=packet(B, B1_4, GATEWAY, 1024, sport=8080),
        states=("trk,est,rpl,snat", "trk,est,rpl,dnat"),
        to=NODE,
        datapath="ct(zone=65501,nat)",
    ),
    Row(
        shows="the node's own answer to one, by the kernel's word",
        packet=packet(NODE, "192.0.2.11", BACK, 1024, sport=8080),
        states=("trk,est,rpl,dnat", "trk,est,rpl,snat", "trk,est,rpl,dnat"),
        to=NODE,
    ),
    Row(
        shows="an answer to a peer node's own connection",
        packet=packet(A1, "10.244.1.2", "192.0.2.12", 40000, sport=8080),
        states=("trk,inv",),
        to=B,
    ),
    Row(
        shows="the same, IPv6",
        packet=packet(A1, "fd00:1::2", "2001:db8::12", 40000, sport=8080),
        states=("trk,inv",),
        to=B,
    ),
    Row(shows="an ICMP error about no connection", packet=ERROR, states=("trk,inv",), to=B),
    Row(
        shows="invalid",
        packet=packet(B, B1_4, A2_4, 40000, sport=8080),
        states=("trk,inv",),
        to=None,
        table="service",
        priority=190,
    ),
    Row(shows="refused, a pod", packet=packet(A2, A2_4, vip(4)[0]), states=(), to=NODE),
    Row(
        shows="refused, the node",
        packet=packet(NODE, GATEWAY, vip(4)[0]),
        states=("trk,new,snat",),
        to=NODE,
        datapath="ct(commit,zone=65503,nat(src=169.254.77.6))",
    ),
    Row(
        shows="none here", packet=packet(A2, A2_4, vip(6)[0]), states=(), to=None, table="track", priority=105
    ),
    Row(
        shows="none here for outside",
        packet=packet(NODE, OUT, LOCAL_NODE_PORT, 30015),
        states=(),
        to=None,
        table="track",
        priority=110,
    ),
    Row(
        shows="outside of the source ranges",
        packet=packet(A2, A2_4, "203.0.113.80"),
        states=(),
        to=None,
        table="track",
        priority=115,
    ),
    Row(
        shows="a fragment that the datapath does not put together",
        packet=packet(A2, A2_4, vip(2)[0], protocol="udp", more=",nw_frag=first"),
        states=("trk,new", "trk,new", "trk,new"),
        to=NODE,
        datapath="ct(zone=65500),recirc",
    ),
    Row(
        shows="a fragment that no Service concerns",
        packet=packet(B, "10.244.2.9", A2_4, 9, protocol="udp", more=",nw_frag=first"),
        states=("trk,new", "trk,new", "trk,new"),
        to=A2,
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.shows))
def test_a_packet_of_a_service_ends_where_it_must(serving: Bridge, row: Row) -> None:
    answer = serving.trace(row.packet, *row.states)
    came = int(row.packet.partition("in_port=")[2].partition(",")[0])
    assert answer.flow.output != came, "it leaves by the port that it came from, but not by IN_PORT"
    if row.to is None:
        last = answer.flow.steps[-1]
        assert (TABLES[last.table], last.priority) == (row.table, row.priority), answer.text
        assert answer.flow.datapath_actions == "drop"
    elif row.to.ofport == came:
        assert answer.flow.answered, answer.text
    else:
        assert answer.flow.output == row.to.ofport, answer.text
    assert row.datapath in answer.text
    assert "nat(src=169.254.77.2)" not in answer.text or "169.254.77.2" in row.datapath, answer.text
    for one, other in zip(answer.flow.steps, answer.flow.steps[1:], strict=False):
        assert other.table > one.table or (one.table, other.table) in {(30, 30), (34, 34)}, "no loop"


@pytest.mark.parametrize(
    "service", [WEB, NOBODY, HERE_ONLY, NOBODY_HERE, API], ids=lambda service: str(service.name)
)
def test_a_services_cookie_leads_to_its_flows(serving: Bridge, service: Service) -> None:
    obj = OBJECTS["ServiceObject", service.key]
    assert [flow for flow in serving.dump() if flow.cookie == cookie_of(obj)]
