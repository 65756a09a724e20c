"""Packets in the words of `ofproto/trace`, and what must become of them."""

from __future__ import annotations

import ipaddress

from flow_world import NODE, TABLES, Answer

from ovsnet import names, pipeline
from ovsnet.model import Attached, Frozen, LocalNode, Peer, Pod
from ovsnet.render import cookie_of

ROUTER = pipeline.ROUTER
BROADCAST = "ff:ff:ff:ff:ff:ff"
STRANGER = "0a:58:de:ad:be:ef"


def entrance(source: Pod | Peer | LocalNode) -> str:
    """Where a packet of the source comes in; the tunnel's far end for a shared tunnel port."""
    text = f"in_port={source.ofport}"
    if isinstance(source, Peer) and source.by_flow:
        prefix = "tun" if source.remote.version == 4 else "tun_ipv6"
        text += f",{prefix}_src={source.remote}"
    return text


def mac_of(source: Pod | Peer | LocalNode) -> str:
    return ROUTER.mac if isinstance(source, Peer) else source.mac


def ip(
    source: Pod | Peer | LocalNode, src: str, dst: str, to_mac: str, *, ttl: int = 64, mac: str = ""
) -> str:
    """A TCP packet. mac: another source than the sender's own."""
    four = ipaddress.ip_address(src).version == 4
    layers = f"tcp,nw_src={src},nw_dst={dst}" if four else f"tcp6,ipv6_src={src},ipv6_dst={dst}"
    head = f"{entrance(source)},dl_src={mac or mac_of(source)},dl_dst={to_mac}"
    return f"{head},{layers},nw_ttl={ttl},tp_src=40000,tp_dst=80"


def icmp6(source: Pod | LocalNode, kind: int, src: str, dst: str, rest: str = "", *, mac: str = "") -> str:
    """An ICMPv6 packet to a multicast group or a neighbour, as neighbour discovery sends them."""
    head = f"{entrance(source)},dl_src={mac or source.mac},dl_dst=33:33:00:00:00:01"
    return f"{head},icmp6,ipv6_src={src},ipv6_dst={dst},nw_ttl=255,icmpv6_type={kind},icmpv6_code=0{rest}"


def solicit(source: Pod | LocalNode, src: str, target: str, *, mac: str = "", link: str | None = None) -> str:
    """A neighbour solicitation. link: the source-link-layer address, the sender's own unless given."""
    sll = f",nd_sll={link or source.mac}" if src != "::" else ""
    return icmp6(source, 135, src, "ff02::1:ff00:0", f",nd_target={target}{sll}", mac=mac)


def arp(
    source: Pod | LocalNode, sender: str, target: str, *, op: int = 1, mac: str = "", sha: str = ""
) -> str:
    addresses = f"arp_spa={sender},arp_tpa={target},arp_sha={sha or source.mac}"
    return f"{entrance(source)},dl_src={mac or source.mac},dl_dst={BROADCAST},arp,arp_op={op},{addresses}"


class Out(Frozen):
    """It leaves by the port of `to`. final: fields of the packet as it leaves."""

    to: Attached
    final: dict[str, str] = {}

    def check(self, answer: Answer) -> None:
        assert answer.flow.output == self.to.ofport, answer.text
        assert self.final.items() <= answer.final.items(), answer.text


class Answered(Frozen):
    """It goes back where it came from. final: fields of the answer; actions: what the datapath is told."""

    final: dict[str, str] = {}
    actions: tuple[str, ...] = ()

    def check(self, answer: Answer) -> None:
        assert answer.flow.answered, answer.text
        assert answer.flow.output is None, answer.text
        assert self.final.items() <= answer.final.items(), answer.text
        for action in self.actions:
            assert action in answer.flow.datapath_actions, answer.text


class Dropped(Frozen):
    """It ends in that table, by a flow of that object with that priority."""

    table: str
    priority: int
    by: Attached = NODE

    def check(self, answer: Answer) -> None:
        last = answer.flow.steps[-1]
        assert answer.flow.output is None, answer.text
        assert not answer.flow.answered, answer.text
        assert answer.flow.datapath_actions == "drop", answer.text
        assert (TABLES[last.table], last.priority, last.cookie) == (
            self.table,
            self.priority,
            cookie_of(self.by),
        ), answer.text


Verdict = Out | Answered | Dropped


def by_arp(asker: str, asker_ip: str, holder: str, holder_ip: str) -> Answered:
    """The holder's ARP reply: operation 2, unicast."""
    return Answered(
        final={
            "arp_op": "2",
            "dl_src": holder,
            "dl_dst": asker,
            "arp_sha": holder,
            "arp_spa": holder_ip,
            "arp_tha": asker,
            "arp_tpa": asker_ip,
        }
    )


def by_advertisement(asker: str, asker_ip: str, holder: str, target: str, flags: int) -> Answered:
    """The holder's neighbour advertisement. flags: router 8, solicited 4, override 2 (RFC 4861, section 4.4).

    asker_ip: `::` for a duplicate address probe, whose answer goes to all nodes.
    """
    return Answered(
        final={
            "icmp_type": "136",
            "icmp_code": "0",
            "dl_src": holder,
            "dl_dst": asker,
            "ipv6_src": target,
            "ipv6_dst": "ff02::1" if asker_ip == "::" else asker_ip,
            "nw_ttl": "255",
            "nd_target": target,
            "nd_tll": holder,
        },
        actions=(f"nd_ext(nd_reserved=0x{flags:x}0000000,nd_options_type=2)",),
    )


def link_local(obj: Pod) -> str:
    return str(names.link_local_of(obj.mac))
