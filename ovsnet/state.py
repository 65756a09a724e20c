"""From configuration, Node objects and OVSDB rows to the objects that are rendered.

Pure. `topology` says who this node and its peers are; `plan.ports` then makes the rows agree;
`objects` puts the OpenFlow port numbers of the rows in and gives what templates see. `identity`
and `pod` are each other's inverse: a pod is its Port row.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from ovsnet import encap, names
from ovsnet.config import Config
from ovsnet.errors import NotReady
from ovsnet.model import Encap, Frozen, IPAddress, IPNetwork, LocalNode, Node, Object, Peer, Pod, Tunnels
from ovsnet.rows import PortRow


class PeerNode(Frozen):
    """Another node as seen from this one, before it has a port."""

    name: str
    remote: IPAddress
    encap: Encap
    cidrs: tuple[IPNetwork, ...]
    addresses: tuple[IPAddress, ...]


class Topology(Frozen):
    """Who is who. `problems`: peers that can't be reached as they are described, in words."""

    name: str
    addresses: tuple[IPAddress, ...]
    cidrs: tuple[IPNetwork, ...]
    gateways: tuple[IPAddress, ...]
    mac: str
    mtu: int
    peers: tuple[PeerNode, ...]
    problems: tuple[str, ...] = ()


def topology(
    config: Config, name: str, addresses: Sequence[IPAddress], uplink_mtu: int, nodes: Mapping[str, Node]
) -> Topology:
    """Who this node and its peers are.

    addresses: this node's own, the tunnel's end first. Raises NotReady while this node's pod
    ranges are not known.
    """
    own = nodes.get(name)
    cidrs = config.pod_cidrs or (own.pod_cidrs if own else ())
    if not cidrs:
        raise NotReady(
            f"node {name} has no pod ranges",
            "set podCIDRs in the configuration or in the Node object of this name",
        )
    if not addresses:
        raise NotReady(f"node {name} has no address", "set nodeAddress in the configuration")
    own_addresses = tuple(dict.fromkeys((*addresses, *(own.addresses if own else ()))))
    for cidr in cidrs:
        for address in own_addresses:
            if address in cidr:
                raise NotReady(
                    f"{cidr} of node {name} contains its own address {address}", "give pods another range"
                )
    problems: list[str] = []
    peers: list[PeerNode] = []
    for node in sorted(nodes.values(), key=lambda node: node.name):
        if node.name != name and (problem := _conflict(node, cidrs, own_addresses, addresses)):
            problems.append(problem)
        elif node.name != name:
            remote = next(
                there for here in addresses for there in node.addresses if here.version == there.version
            )
            chosen = pair_encap(config.encapsulation, name, own.encap if own else None, node.name, node.encap)
            peers.append(
                PeerNode(
                    name=node.name,
                    remote=remote,
                    encap=chosen,
                    cidrs=node.pod_cidrs,
                    addresses=node.addresses,
                )
            )
    gateways = tuple(cidr.network_address + 1 for cidr in cidrs)
    derived = encap.pod_mtu(
        uplink_mtu,
        [(peer.encap, peer.remote) for peer in peers],
        (config.encapsulation, addresses[0].version),
    )
    return Topology(
        name=name,
        addresses=own_addresses,
        cidrs=tuple(cidrs),
        gateways=gateways,
        mac=names.mac_of(gateways[0]),
        mtu=derived if config.mtu == "auto" else config.mtu,
        peers=tuple(peers),
        problems=tuple(problems),
    )


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
        for ours in cidrs:
            if address in ours:
                return what + f"{address} of node {node.name} lies in this node's {ours}; ignored"
    if not {address.version for address in node.addresses} & {address.version for address in ends}:
        listing = ", ".join(map(str, ends))
        return what + f"node {node.name} has no address of a family of ours ({listing}); ignored"
    return None


def pair_encap(default: Encap, a: str, a_encap: Encap | None, b: str, b_encap: Encap | None) -> Encap:
    """The encapsulation between two nodes, the same whichever of them asks.

    An annotation on either decides; if both have one, that of the node whose name sorts first.
    """
    first, second = (a_encap, b_encap) if a < b else (b_encap, a_encap)
    return first or second or default


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
