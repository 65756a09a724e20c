"""From configuration, Node objects and OVSDB rows to the objects that are rendered.

Pure. `topology` says who this node and its peers are; `plan.ports` then makes the rows agree;
`objects` puts the OpenFlow port numbers of the rows in and gives what templates see. `identity`
and `pod` are each other's inverse: a pod is its Port row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ovsnet import encap, names, pairs
from ovsnet.config import Config
from ovsnet.errors import NotReady, Waiting
from ovsnet.model import Encap, Frozen, IPAddress, IPNetwork, LocalNode, Node, Peer, Pod, Tunnels
from ovsnet.objects import Object
from ovsnet.rows import PortRow


class PeerNode(Frozen):
    """Another node as seen from this one, before it has a port."""

    name: str
    remote: IPAddress
    """The tunnel's far end."""
    local: IPAddress
    """The tunnel's end on this node, of the same family."""
    encap: Encap
    cidrs: tuple[IPNetwork, ...]
    addresses: tuple[IPAddress, ...]
    wants: Encap | None = None
    """What its annotation asks for."""


class Topology(Frozen):
    """Who is who. `problems`: what can't work as it is described, in words."""

    name: str
    addresses: tuple[IPAddress, ...]
    """All that this node has: the ends of its tunnels, and those of its Node object."""
    internal: tuple[IPAddress, ...]
    """InternalIPs as the peers know them, in their order; this node's own word while it has no Node object."""
    cidrs: tuple[IPNetwork, ...]
    gateways: tuple[IPAddress, ...]
    mac: str
    mtu: int
    encaps: tuple[Encap, ...]
    """Encapsulations in use, and the configured one, which the next peer will use."""
    tunnel_ports: tuple[int, ...]
    """Their UDP ports."""
    peers: tuple[PeerNode, ...]
    wants: Encap | None = None
    """What this node's annotation asks for."""
    problems: tuple[str, ...] = ()
    ends: tuple[IPAddress, ...] = ()
    """Where tunnels end here, the preferred address first."""


def topology(
    config: Config, name: str, addresses: Sequence[IPAddress], uplink_mtu: int, nodes: Mapping[str, Node]
) -> Topology:
    """Who this node and its peers are.

    addresses: those of this node that tunnels can end at, the preferred one first. Raises NotReady while
    there are no pod ranges (Waiting), or none that could be used.
    """
    own = nodes.get(name, Node(name=name))
    cidrs = config.pod_cidrs or own.pod_cidrs
    everything = tuple(dict.fromkeys((*addresses, *own.addresses)))
    _require(name, cidrs, addresses, everything)
    internal = own.addresses or tuple(addresses)
    # Peers see only what the Node object says: both ends are to choose from the same.
    ends = tuple(address for address in internal if address in addresses) or tuple(addresses)
    problems = _unreachable(own, addresses) if name in nodes else []
    peers: list[PeerNode] = []
    for node in sorted(nodes.values(), key=lambda node: node.name):
        if node.name == name:
            continue
        if problem := _conflict(node, cidrs, everything, ends):
            problems.append(problem)
        else:
            peers.append(_peer(config, own, ends, node))
    everyone = {**nodes, name: replace(own, addresses=internal)}.values()
    mtu = _mtu(config, cidrs, everyone, uplink_mtu, ends[0].version)
    gateways = tuple(cidr.network_address + 1 for cidr in cidrs)
    encaps = sorted({config.encapsulation, *(peer.encap for peer in peers)})
    udp_ports = {encap.udp_port(each, config.encapsulation, config.udp_port) for each in encaps}
    return Topology(
        name=name,
        addresses=everything,
        internal=internal,
        cidrs=tuple(cidrs),
        gateways=gateways,
        mac=names.mac_of(gateways[0]),
        mtu=mtu,
        encaps=tuple(encaps),
        tunnel_ports=tuple(sorted(port for port in udp_ports if port is not None)),
        peers=tuple(peers),
        wants=own.encap,
        problems=tuple(problems),
        ends=ends,
    )


def differences(config: Config, topo: Topology, nodes: Mapping[str, Node]) -> list[str]:
    """Where peers do not agree with this node, by what they publish, in words: for a moment after every change."""
    own = nodes.get(topo.name, Node(name=topo.name))
    return [
        words
        for peer in topo.peers
        for words in pairs.differences(own, config.encapsulation, topo.mtu, nodes[peer.name], peer.remote)
    ]


def _require(
    name: str, cidrs: Sequence[IPNetwork], addresses: Sequence[IPAddress], everything: Iterable[IPAddress]
) -> None:
    """Raises NotReady when this node lacks what it needs to be one of the cluster."""
    if not cidrs:
        raise Waiting(
            f"node {name} has no pod ranges",
            "the agent waits for podCIDRs in the Node object of this name, as kube-controller-manager gives them with"
            " --allocate-node-cidrs, or in the configuration",
        )
    if not addresses:
        raise NotReady(f"node {name} has no address", "set nodeAddress in the configuration")
    for cidr in cidrs:
        for address in everything:
            if address in cidr:
                raise NotReady(
                    f"{cidr} of node {name} contains its own address {address}", "give pods another range"
                )


def _unreachable(own: Node, addresses: Iterable[IPAddress]) -> list[str]:
    """In words: addresses that peers take for this node's end of tunnels and that are not."""
    what = f"{own.source or own.name}: "
    if not own.addresses:
        return [
            what + f"node {own.name} has no InternalIP: no peer can send to it; give it {_list(addresses)}"
        ]
    found = []
    for version in dict.fromkeys(address.version for address in own.addresses):
        told = next(address for address in own.addresses if address.version == version)
        here = [address for address in addresses if address.version == version]
        if told not in here:
            found.append(
                what
                + f"peers send to {told}, the first InternalIP of that family of node {own.name}, but its tunnels "
                f"end at {_list(here or addresses)}; correct the Node object or nodeAddress"
            )
    return found


def _conflict(
    node: Node, cidrs: Iterable[IPNetwork], addresses: Iterable[IPAddress], ends: Sequence[IPAddress]
) -> str | None:
    """Why a node can't be a peer of this one, in words; None if it can. ends: where tunnels can end here."""
    what = f"{node.source or node.name}: "
    for cidr in node.pod_cidrs:
        for ours in cidrs:
            if cidr.version == ours.version and cidr.overlaps(ours):
                return what + f"{cidr} of node {node.name} overlaps this node's {ours}; ignored"
        for address in addresses:
            if address in cidr:
                return what + f"{cidr} of node {node.name} contains this node's {address}; ignored"
    for address in node.addresses:
        if address in addresses:
            return what + f"{address} of node {node.name} is this node's own; ignored"
        if ours_with := [ours for ours in cidrs if address in ours]:
            return what + f"{address} of node {node.name} lies in this node's {ours_with[0]}; ignored"
    if not {address.version for address in node.addresses} & {address.version for address in ends}:
        return what + f"node {node.name} has no address of a family of ours ({_list(ends)}); ignored"
    return None


def _list(addresses: Iterable[IPAddress]) -> str:
    return ", ".join(map(str, addresses))


def _peer(config: Config, own: Node, ends: Sequence[IPAddress], node: Node) -> PeerNode:
    version = pairs.family(own.name, ends, node.name, node.addresses)
    return PeerNode(
        name=node.name,
        remote=_first_of(version, node.addresses),
        local=_first_of(version, ends),
        encap=pairs.encap(config.encapsulation, own.name, own.encap, node.name, node.encap),
        cidrs=node.pod_cidrs,
        addresses=node.addresses,
        wants=node.encap,
    )


def _first_of(version: int, addresses: Iterable[IPAddress]) -> IPAddress:
    return next(address for address in addresses if address.version == version)


def _mtu(
    config: Config, cidrs: Iterable[IPNetwork], nodes: Iterable[Node], uplink_mtu: int, version: int
) -> int:
    """The pods' MTU in bytes. Raises NotReady for one that IP can't live with (RFC 791, RFC 8200).

    It is the same on all nodes with the same uplink: a pod does not take what is larger than its own MTU,
    and nobody would tell the sender.
    """
    derived = encap.pod_mtu(
        uplink_mtu, pairs.tunnels(config.encapsulation, nodes), (config.encapsulation, version)
    )
    mtu = derived if config.mtu == "auto" else config.mtu
    least = 1280 if any(cidr.version == 6 for cidr in cidrs) else 576
    if mtu < least:
        source = f"uplink {uplink_mtu} less the tunnel's overhead" if config.mtu == "auto" else "configured"
        raise NotReady(
            f"an MTU of {mtu} ({source}) is too small for IPv{6 if least == 1280 else 4} pods, "
            f"which need at least {least}",
            "raise the MTU of the uplink and of the network behind it",
        )
    return mtu


def identity(pod: Pod) -> dict[str, str]:
    """The external_ids of a pod's Port row."""
    return {
        names.OWNER: names.ROLE_POD,
        names.KEY_NAMESPACE: pod.namespace,
        names.KEY_POD: pod.name,
        names.KEY_CONTAINER: pod.container,
        names.KEY_IFNAME: pod.ifname,
        names.KEY_NETNS: pod.netns,
        names.KEY_NETWORK: pod.network,
        names.KEY_IPS: " ".join(map(str, pod.ips)),
        names.KEY_MAC: pod.mac,
    }


def pod(row: PortRow) -> Pod | None:
    """The pod that a row identifies; None for a row that is no pod's or has lost its identity."""
    ids = row.external_ids
    if row.role != names.ROLE_POD:
        return None
    try:
        return Pod(
            namespace=ids[names.KEY_NAMESPACE],
            name=ids[names.KEY_POD],
            container=ids[names.KEY_CONTAINER],
            ifname=ids[names.KEY_IFNAME],
            netns=ids[names.KEY_NETNS],
            network=ids[names.KEY_NETWORK],
            port=row.name,
            ofport=row.number or 0,
            mac=ids[names.KEY_MAC],
            ips=tuple(ipaddress.ip_address(text) for text in ids[names.KEY_IPS].split()),
        )
    except (KeyError, ValueError):
        return None


def pods(rows: Mapping[str, PortRow]) -> list[Pod]:
    """All pods of this node's rows."""
    return [found for row in rows.values() if (found := pod(row)) is not None]


def local_node(topo: Topology, ofport: int) -> LocalNode:
    return LocalNode(
        name=topo.name,
        addresses=topo.addresses,
        cidrs=topo.cidrs,
        gateways=topo.gateways,
        mac=topo.mac,
        ofport=ofport,
    )


def tunnel_port(peer: PeerNode, tunnels: Tunnels) -> str:
    """The port that leads to a peer.

    It belongs to the address, not to the node: when peers swap addresses, or a new node has that of
    one that is gone, the port stays and only its owner changes. vswitchd refuses a port that is
    like another one, and one that is removed in the same step still counts.
    """
    kind = encap.interface_type(peer.encap, peer.remote.version)
    return names.tunnel_interface(kind, "" if tunnels is Tunnels.FLOW else str(peer.remote))


def objects(
    topo: Topology, tunnels: Tunnels, numbers: Mapping[str, int], pods: Iterable[Pod]
) -> list[Object]:
    """What is rendered. numbers: OpenFlow port by port name; what has none yet is left out."""
    found: list[Object] = []
    if names.GATEWAY in numbers:
        found.append(local_node(topo, numbers[names.GATEWAY]))
    for peer in topo.peers:
        port = tunnel_port(peer, tunnels)
        if port in numbers:
            found.append(
                Peer(
                    name=peer.name,
                    remote=peer.remote,
                    encap=peer.encap,
                    cidrs=peer.cidrs,
                    addresses=peer.addresses,
                    port=port,
                    ofport=numbers[port],
                    by_flow=tunnels is Tunnels.FLOW,
                )
            )
    found.extend(pod for pod in pods if pod.ofport > 0)
    return found
