"""A packet between two names as the text that `ofproto/trace` reads, and its verdict in words.

Pure. `endpoint` resolves a name (a pod, a peer, this node, a Service, or an address) against the objects; `past` says
what never comes to the bridge; `packet` writes the flow; `verdict` reads the answer. Called by `ovsnet trace` and
`ovsnet policy check`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from ovsnet import flowdump, pipeline
from ovsnet.errors import OvsnetError
from ovsnet.frontends import Frontend, ServiceObject
from ovsnet.model import Attached, Frozen, IPAddress, LocalNode, Peer, Pod
from ovsnet.nodeports import NodePortAddresses
from ovsnet.objects import Object
from ovsnet.render import kind_of

_ENDS = LocalNode | Peer | Pod | ServiceObject
_ANYWHERE = NodePortAddresses()
_NOWHERE = "no Service has this address and port"
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


def endpoint(name: str, objects: Sequence[Object], protocol: str = "", port: int = 0) -> Endpoint:
    """The object of that name or address; of several addresses the one that was named, if one was.

    protocol, port: that the packet goes to, as in `Packet`: of several Services that share the address the one that has
    the port is meant. Raises OvsnetError that lists what there is.
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _by_name(name, objects)
    found = [obj for obj in objects if address in _ips(obj)]
    if len(found) > 1 and isinstance(found[0], ServiceObject):
        having = [each for each in found if _has(each, address, protocol, port)]
        if not having:
            return Endpoint(title=str(address), ips=(address,), obj=found[0])
        found = having
    title = f"{kind_of(found[0])} {found[0].title}" if found else str(address)
    return Endpoint(title=title, ips=(address,), obj=found[0] if found else _owner(address, objects))


def _has(obj: Object, address: IPAddress, protocol: str, port: int) -> bool:
    """Whether it is a Service with this address and port."""
    return isinstance(obj, ServiceObject) and any(
        (each.address, each.protocol.value.lower(), each.port) == (address, protocol, port)
        for each in obj.frontends
    )


def _by_name(name: str, objects: Sequence[Object]) -> Endpoint:
    ends = [obj for obj in objects if isinstance(obj, _ENDS)]
    for obj in ends:
        if name in _names(obj):
            return Endpoint(title=f"{kind_of(obj)} {obj.title}", ips=_ips(obj), obj=obj)
    titles = sorted(obj.title for obj in ends)
    more = f" and {len(titles) - _MANY} more" if len(titles) > _MANY else ""
    raise OvsnetError(
        f"{name} is no pod, node, Service or address that this node knows",
        "of a pod of another node, or of what is outside, give the address; "
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


def _pair(question: Packet) -> tuple[IPAddress, IPAddress]:
    """Source and destination. Raises OvsnetError when the two ends have no family in common."""
    for src in question.source.ips:
        for dst in question.target.ips:
            if src.version == dst.version:
                return src, dst
    raise OvsnetError(
        f"{question.source.title} and {question.target.title} have no address family in common",
        "give an address instead of a name",
    )


def _local(objects: Sequence[Object]) -> LocalNode:
    return next(obj for obj in objects if isinstance(obj, LocalNode))


def _by_underlay(question: Packet) -> bool:
    """Whether a peer itself sends to this node, which no tunnel carries."""
    source, target = question.source.obj, question.target.obj
    src, dst = _pair(question)
    if not (isinstance(source, Peer) and isinstance(target, LocalNode)):
        return False
    return src in source.addresses and dst in target.addresses


def node_port(
    question: Packet, objects: Sequence[Object], answering: NodePortAddresses = _ANYWHERE
) -> tuple[ServiceObject, Frontend] | None:
    """The Service of whose node port on this node the packet is; the frontend has the address that the node's kernel
    gives the packet for the bridge. answering: where node ports do. Raises as `packet` does."""
    _, dst = _pair(question)
    if not isinstance(question.target.obj, LocalNode) or not answering.include(dst):
        return None
    stand_ins = [pipeline.NODE_PORTS.of(dst.version)]
    if question.source.obj is None or _by_underlay(question):
        stand_ins.insert(0, pipeline.LOCAL_NODE_PORTS.of(dst.version))
    services = [obj for obj in objects if isinstance(obj, ServiceObject)]
    for stand_in in stand_ins:
        for service in services:
            for each in service.frontends:
                if each.address == stand_in and _is(each, question):
                    return service, each
    return None


def _is(frontend: Frontend, question: Packet) -> bool:
    return (frontend.protocol.value.lower(), frontend.port) == (question.protocol, question.port)


def _claimed(question: Packet, dst: IPAddress, objects: Sequence[Object]) -> bool:
    """Whether a Service has this address and port, of a node for one, as an external address."""
    return any(_has(obj, dst, question.protocol, question.port) for obj in objects)


def past(question: Packet, objects: Sequence[Object], answering: NodePortAddresses = _ANYWHERE) -> str | None:
    """What becomes of a packet that never comes to the bridge, as it is between the node's kernel and something that
    is no pod's and no Service's, in words; None: it comes. Raises as `packet` does."""
    local, target = _local(objects), question.target.obj
    _, dst = _pair(question)
    if isinstance(target, Pod) and target is question.source.obj:
        return f"KEPT by pod {target.title}, whose own address it is"
    if isinstance(question.source.obj, Pod | Peer) and not _by_underlay(question):
        return None
    if node_port(question, objects, answering) is not None:
        return None
    if isinstance(target, LocalNode):
        return f"TAKEN by the kernel of node {local.name}, to which it is addressed: it does not come to the bridge"
    if isinstance(target, ServiceObject):
        found = [each for each in target.frontends if each.address == dst]
        comes = any(not each.external or _is(each, question) for each in found)
    else:
        ranges = target.cidrs if isinstance(target, Peer) else local.cidrs
        comes = isinstance(target, Pod) or any(dst in cidr for cidr in ranges if cidr.version == dst.version)
        comes = comes or _claimed(question, dst, objects)
    return None if comes else f"SENT by the kernel of node {local.name}, by its own routes, past the bridge"


def packet(question: Packet, objects: Sequence[Object], answering: NodePortAddresses = _ANYWHERE) -> str:
    """The flow for ofproto/trace: as it enters this node's bridge. answering: where node ports do.

    Raises OvsnetError when the two ends have no family in common.
    """
    src, dst = _pair(question)
    local = _local(objects)
    source = question.source.obj
    # What is nobody's here may be the address of a Service that is not known, because the store can't be read.
    chosen = question.target.obj is None or isinstance(question.target.obj, ServiceObject)
    chosen = chosen or _claimed(question, dst, objects)
    if isinstance(source, Pod):
        port, mac, to_mac = source.ofport, source.mac, _next_hop(dst, local, objects)
    elif isinstance(source, Peer) and not _by_underlay(question):
        port, mac, to_mac = source.ofport, pipeline.ROUTER.mac, pipeline.ROUTER.mac
    else:
        # This node, or the outside whose packets this node's kernel forwards.
        port, mac, to_mac = local.ofport, local.mac, pipeline.ROUTER.mac
        if (found := node_port(question, objects, answering)) is not None:
            dst, chosen = found[1].address, True
            # Its kernel has the answer come back that way.
            src = pipeline.PORT_CLIENT.of(dst.version) if isinstance(source, Peer) else src
    fields = [
        f"in_port={port}",
        f"dl_src={mac}",
        f"dl_dst={to_mac}",
        _protocol(question.protocol, src.version),
    ]
    if isinstance(source, Peer) and source.by_flow and not _by_underlay(question):
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
    if chosen:
        # The datapath's hash of the connection, which chooses among the endpoints: any will do.
        fields.append("dp_hash=1")
    return ",".join(fields)


def translated(answer: flowdump.Trace) -> str | None:
    """The endpoint that a Service's address became; None: it stayed what it was."""
    return next((became for what, became in reversed(answer.translations) if what == "dst"), None)


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
    question: Packet | None = None,
    answering: NodePortAddresses = _ANYWHERE,
) -> tuple[bool, str]:
    """Whether the packet arrives or leaves, and where, or what dropped or refuses it.

    reasons: why a flow drops, by table and priority. question: what was asked, to tell what the node's kernel does
    with a packet that it gets. answering: where node ports do.
    """
    by_port = {obj.ofport: obj for obj in objects if isinstance(obj, Attached)}
    if answer.failure:
        return (
            False,
            f"LOST at the tunnel: {answer.failure}; does a bridge of Open vSwitch have the peer's network?",
        )
    if answer.output is None and not answer.answered:
        return False, f"DROPPED{_why(answer, tables, reasons)}"
    if (why := _refusal(answer, tables, question)) is not None:
        return False, f"REFUSED by the kernel of this node: {why}"
    if answer.answered:
        return True, _back(answer, by_port)
    obj = by_port.get(answer.output or 0)
    if isinstance(obj, Pod):
        return True, f"DELIVERED to pod {obj.title} by port {obj.port} ({answer.output})"
    if isinstance(obj, Peer):
        return True, f"SENT to node {obj.name} by {obj.encap.value} tunnel {obj.port} ({answer.output})"
    if isinstance(obj, LocalNode):
        words = f"HANDED to the kernel of node {obj.name} by the gateway port ({answer.output})"
        if question is not None and (found := node_port(question, objects, answering)) is not None:
            words += f", which sends it back for node port {question.port} of service {found[0].title}"
        return True, words
    return True, f"SENT out of port {answer.output}, which is no port of ovsnet's"


def _refusal(answer: flowdump.Trace, tables: Mapping[int, str], question: Packet | None) -> str | None:
    """Why the node's kernel refuses what it gets; None: it does not."""
    if any(tables.get(step.table) == "refuse" for step in answer.steps):
        return "the Service has no endpoint"
    if any(("src", str(client)) in answer.translations for client in pipeline.REFUSED.addresses):
        return _NOWHERE
    target = question.target.obj if question else None
    if question is None or not isinstance(target, ServiceObject) or translated(answer) is not None:
        return None
    # Its routes to ClusterIPs lead back to the bridge.
    _, dst = _pair(question)
    inside = any(each.address == dst and not each.external for each in target.frontends)
    return _NOWHERE if inside else None


def _back(answer: flowdump.Trace, by_port: Mapping[int, Attached]) -> str:
    """Where a packet arrives that leaves by the port that it came by."""
    obj, end = by_port.get(answer.came or 0), translated(answer)
    if end is not None and isinstance(obj, Pod):
        return f"DELIVERED to pod {obj.title} itself, which is the endpoint {end}, by port {obj.port} ({obj.ofport})"
    if end is not None and isinstance(obj, LocalNode):
        return f"HANDED back to the kernel of node {obj.name} by the gateway port ({obj.ofport}), for endpoint {end}"
    return "ANSWERED by the switch"


def _why(answer: flowdump.Trace, tables: Mapping[int, str], reasons: Mapping[tuple[int, int], str]) -> str:
    if answer.missed is not None:
        name = tables.get(answer.missed, "of this number, not ovsnet's")
        return f": no flow in table {name} ({answer.missed}) matches; flows are missing"
    if not answer.steps:
        return " before any table"
    last = answer.steps[-1]
    reason = reasons.get((last.table, last.priority))
    return f" in table {tables.get(last.table, str(last.table))}" + (f": {reason}" if reason else "")
