"""Nodes as OVSDB rows remember them: for a start while the store is away or a manifest is broken.

Pure. `plan` puts a node's ranges and addresses into the external_ids of the port that leads to it (the
gateway port for this node itself); `nodes` reads them back. A tunnel port that peers share
(tunnels: flow) remembers nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from ovsnet import names
from ovsnet.model import Encap, IPAddress, IPNetwork, Node
from ovsnet.rows import PortRow

_ENCAP = {"vxlan": Encap.VXLAN, "geneve": Encap.GENEVE, "gre": Encap.GRE, "ip6gre": Encap.GRE}


def ids(name: str, cidrs: Iterable[IPNetwork], addresses: Iterable[IPAddress]) -> dict[str, str]:
    """What a port's external_ids say of the node behind it."""
    return {
        names.KEY_PEER: name,
        names.KEY_CIDRS: " ".join(map(str, cidrs)),
        names.KEY_ADDRESSES: " ".join(map(str, addresses)),
    }


def nodes(rows: Mapping[str, PortRow], known: Mapping[str, Node]) -> dict[str, Node]:
    """`known`, and the nodes that rows remember beside them and that do not contradict them."""
    found = dict(known)
    for row in rows.values():
        node = _node(row)
        if (
            node is not None
            and node.name not in found
            and not any(_clash(node, each) for each in known.values())
        ):
            found[node.name] = node
    return found


def _node(row: PortRow) -> Node | None:
    if row.role not in (names.ROLE_TUNNEL, names.ROLE_GATEWAY):
        return None
    try:
        return Node(
            name=row.external_ids[names.KEY_PEER],
            pod_cidrs=tuple(ipaddress.ip_network(text) for text in row.external_ids[names.KEY_CIDRS].split()),
            addresses=tuple(
                ipaddress.ip_address(text) for text in row.external_ids[names.KEY_ADDRESSES].split()
            ),
            encap=_ENCAP.get(row.type),
            source=f"port {row.name}",
        )
    except (KeyError, ValueError):
        return None


def _clash(a: Node, b: Node) -> bool:
    return (
        bool(set(a.addresses) & set(b.addresses))
        or any(
            one.version == other.version and one.overlaps(other)
            for one in a.pod_cidrs
            for other in b.pod_cidrs
        )
        or any(
            address in cidr
            for one, other in ((a, b), (b, a))
            for address in one.addresses
            for cidr in other.pod_cidrs
        )
    )
