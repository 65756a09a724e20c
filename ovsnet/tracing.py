"""A packet between two names as the text that `ofproto/trace` reads, and its verdict in words.

Pure. `endpoint` resolves a name (a pod, a peer, this node, or an address) against the objects;
`packet` writes the flow; `verdict` reads the answer. Called by `ovsnet trace`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from ovsnet import flowdump, pipeline
from ovsnet.errors import OvsnetError
from ovsnet.frontends import ServiceObject
from ovsnet.model import Attached, Frozen, IPAddress, LocalNode, Peer, Pod
from ovsnet.objects import Object
from ovsnet.policyobjects import PolicyObject
from ovsnet.render import kind_of

_TRANSLATED = re.compile(r"^ *nat\(dst=([^)]+)\)$", re.MULTILINE)
_MANY = 20
"""So many names are told of those that there are."""


class Endpoint(Frozen):
    """One end of the packet. `obj` is None for an address that is nobody's here."""

    title: str
    ips: tuple[IPAddress, ...]
    obj: Object | None


class Packet(Frozen):
    """protocol: tcp, udp, sctp or icmp. port: destination, for all but ICMP."""

    source: Endpoint
    target: Endpoint
    protocol: str
    port: int


def endpoint(name: str, objects: Sequence[Object]) -> Endpoint:
    """The object of that name or address; of several addresses the one that was named, if one was.

    Raises OvsnetError that lists what there is.
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _by_name(name, objects)
    obj = next((obj for obj in objects if address in _ips(obj)), None)
    title = f"{kind_of(obj)} {obj.title}" if obj else str(address)
    return Endpoint(title=title, ips=(address,), obj=obj or _owner(address, objects))


def _by_name(name: str, objects: Sequence[Object]) -> Endpoint:
    ends = [obj for obj in objects if not isinstance(obj, PolicyObject)]
    for obj in ends:
        if name in _names(obj):
            return Endpoint(title=f"{kind_of(obj)} {obj.title}", ips=_ips(obj), obj=obj)
    titles = sorted(obj.title for obj in ends)
    more = f" and {len(titles) - _MANY} more" if len(titles) > _MANY else ""
    raise OvsnetError(
        f"{name} is no pod, node or address that this node knows",
        "a pod of another node is not known here: give its address; "
        f"known here: {', '.join(titles[:_MANY])}{more}",
    )


def _names(obj: Object) -> set[str]:
    names = {obj.title, getattr(obj, "name", obj.title)}
    return names | {obj.container, obj.port} if isinstance(obj, Pod) else names


def _ips(obj: Object) -> tuple[IPAddress, ...]:
    if isinstance(obj, Pod):
        return obj.ips
    if isinstance(obj, LocalNode):
        return obj.addresses + obj.gateways
    if isinstance(obj, ServiceObject):
        return tuple(dict.fromkeys(frontend.address for frontend in obj.frontends))
    return obj.addresses if isinstance(obj, Peer) else ()


def _owner(address: IPAddress, objects: Sequence[Object]) -> Object | None:
    """The peer in whose ranges an address is."""
    for obj in objects:
        if isinstance(obj, Peer) and any(
            address in cidr for cidr in obj.cidrs if cidr.version == address.version
        ):
            return obj
    return None


def packet(question: Packet, objects: Sequence[Object]) -> str:
    """The flow for ofproto/trace: as it enters this node's bridge.

    Raises OvsnetError when the two ends have no family in common.
    """
    pair = next(
        ((a, b) for a in question.source.ips for b in question.target.ips if a.version == b.version), None
    )
    if pair is None:
        raise OvsnetError(
            f"{question.source.title} and {question.target.title} have no address family in common",
            "give an address instead of a name",
        )
    src, dst = pair
    local = next(obj for obj in objects if isinstance(obj, LocalNode))
    source = question.source.obj
    if isinstance(source, Pod):
        port, mac, to_mac = source.ofport, source.mac, _next_hop(dst, local, objects)
    elif isinstance(source, Peer):
        port, mac, to_mac = source.ofport, pipeline.ROUTER.mac, pipeline.ROUTER.mac
    else:
        # This node, or the outside whose packets this node's kernel forwards.
        port, mac, to_mac = local.ofport, local.mac, pipeline.ROUTER.mac
    fields = [
        f"in_port={port}",
        f"dl_src={mac}",
        f"dl_dst={to_mac}",
        _protocol(question.protocol, src.version),
    ]
    if isinstance(source, Peer) and source.by_flow:
        prefix = "tun" if source.remote.version == 4 else "tun_ipv6"
        fields.append(f"{prefix}_src={source.remote}")
    layer = ("nw_src", "nw_dst") if src.version == 4 else ("ipv6_src", "ipv6_dst")
    fields += [f"{layer[0]}={src}", f"{layer[1]}={dst}", "nw_ttl=64"]
    if question.protocol == "icmp":
        fields += ["icmp_type=8,icmp_code=0" if src.version == 4 else "icmpv6_type=128,icmpv6_code=0"]
    else:
        fields += [f"{question.protocol}_src=40000", f"{question.protocol}_dst={question.port}"]
        # Of TCP, nothing else is the first packet of a connection.
        fields += ["tcp_flags=syn"] if question.protocol == "tcp" else []
    if question.target.obj is None or isinstance(question.target.obj, ServiceObject):
        # The datapath's hash of the connection, which chooses among the endpoints: any will do. What is nobody's here
        # may be the address of a Service that is not known, because the store can't be read.
        fields.append("dp_hash=1")
    return ",".join(fields)


def translated(text: str) -> str | None:
    """The endpoint that a Service's address became, in what `ofproto/trace` printed; None: it stayed what it was."""
    found = _TRANSLATED.findall(text)
    return found[-1] if found else None


def _protocol(protocol: str, version: int) -> str:
    return protocol if version == 4 else f"{protocol}6"


def _next_hop(dst: IPAddress, local: LocalNode, objects: Sequence[Object]) -> str:
    """The MAC that a pod's kernel finds for the destination: a neighbour's own, else the gateway's."""
    for obj in objects:
        if isinstance(obj, Pod) and dst in obj.ips:
            return obj.mac
    return local.mac


def verdict(
    answer: flowdump.Trace,
    objects: Sequence[Object],
    tables: Mapping[int, str],
    reasons: Mapping[tuple[int, int], str],
) -> tuple[bool, str]:
    """Whether the packet leaves the bridge, and where to, or what dropped it.

    reasons: why a flow drops, by table and priority.
    """
    by_port = {obj.ofport: obj for obj in objects if isinstance(obj, Attached)}
    if answer.answered:
        return True, "ANSWERED by the switch"
    if answer.failure:
        return (
            False,
            f"LOST at the tunnel: {answer.failure}; does a bridge of Open vSwitch have the peer's network?",
        )
    if answer.output is None:
        return False, f"DROPPED{_why(answer, tables, reasons)}"
    if any(tables.get(step.table) == "refuse" for step in answer.steps):
        return False, "REFUSED by the kernel of this node: the Service has no endpoint"
    obj = by_port.get(answer.output)
    if isinstance(obj, Pod):
        return True, f"DELIVERED to pod {obj.title} by port {obj.port} ({answer.output})"
    if isinstance(obj, Peer):
        return True, f"SENT to node {obj.name} by {obj.encap.value} tunnel {obj.port} ({answer.output})"
    if isinstance(obj, LocalNode):
        return True, f"HANDED to the kernel of node {obj.name} by the gateway port ({answer.output})"
    return True, f"SENT out of port {answer.output}, which is no port of ovsnet's"


def _why(answer: flowdump.Trace, tables: Mapping[int, str], reasons: Mapping[tuple[int, int], str]) -> str:
    if answer.missed is not None:
        name = tables.get(answer.missed, "of this number, not ovsnet's")
        return f": no flow in table {name} ({answer.missed}) matches; flows are missing"
    if not answer.steps:
        return " before any table"
    last = answer.steps[-1]
    reason = reasons.get((last.table, last.priority))
    return f" in table {tables.get(last.table, str(last.table))}" + (f": {reason}" if reason else "")
