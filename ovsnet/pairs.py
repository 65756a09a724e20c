"""What two nodes agree on without talking: how the tunnel between them is made.

Pure. All but `differences` give the same answer on both nodes, because they go by their Node objects alone. Called by
`state`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovsnet.model import Encap, IPAddress, Node


def encap(default: Encap, a: str, a_encap: Encap | None, b: str, b_encap: Encap | None) -> Encap:
    """The encapsulation between two nodes, the same whichever of them asks.

    An annotation on either decides; if both have one, that of the node whose name sorts first.
    """
    first, second = (a_encap, b_encap) if a < b else (b_encap, a_encap)
    return first or second or default


def family(a: str, a_addresses: Iterable[IPAddress], b: str, b_addresses: Iterable[IPAddress]) -> int:
    """The family of the tunnel between two nodes that have one in common, the same whichever of them asks.

    The first address of the node whose name sorts first decides, if the other has that family.
    """
    first, second = (a_addresses, b_addresses) if a < b else (b_addresses, a_addresses)
    there = {address.version for address in second}
    return next(address.version for address in first if address.version in there)


def tunnels(default: Encap, nodes: Iterable[Node]) -> set[tuple[Encap, int]]:
    """Encapsulation and outer version of every tunnel in the cluster, those between two others as well."""
    # Nodes that want the same are one group, so that the cost does not grow with the square of the cluster.
    groups: dict[tuple[Encap | None, tuple[int, ...]], tuple[str, str]] = {}
    for node in nodes:
        group = node.encap, tuple(dict.fromkeys(address.version for address in node.addresses))
        low, high = groups.get(group, (node.name, node.name))
        groups[group] = min(low, node.name), max(high, node.name)
    return {
        (a_encap or b_encap or default, next(version for version in a_versions if version in b_versions))
        for (a_encap, a_versions), (first, _) in groups.items()
        for (b_encap, b_versions), (_, last) in groups.items()
        if first < last and set(a_versions) & set(b_versions)
    }


def differences(own: Node, default: Encap, mtu: int, peer: Node, remote: IPAddress) -> list[str]:
    """Where a peer does not agree after all, by what its agent publishes, in words.

    default: the encapsulation that this node is configured for. mtu: of its pods, in bytes. remote: where it sends
    packets for the peer. In every change that several nodes follow there are some for a moment.
    """
    said, found = peer.published, []
    ours = encap(default, own.name, own.encap, peer.name, peer.encap)
    theirs = encap(said.encap or default, own.name, own.encap, peer.name, peer.encap)
    if theirs is not ours:
        found.append(
            f"node {peer.name} publishes {theirs.value} as its encapsulation, node {own.name} sends {ours.value}:"
            " nothing passes between them; give both agents the same `encapsulation`"
        )
    if said.mtu not in (None, mtu):
        found.append(
            f"node {peer.name} publishes {said.mtu} as the MTU of its pods, those of node {own.name} have {mtu}:"
            " what is larger than one of both gets lost; give both nodes the same `mtu`, or uplinks of one MTU"
        )
    if said.address is not None and said.address.version == remote.version and said.address != remote:
        found.append(
            f"node {peer.name} publishes {said.address} as its tunnels' end, node {own.name} sends to {remote}, the"
            " first InternalIP of that family: nothing arrives; correct the Node object or the agent's nodeAddress"
        )
    return found
