"""Nodes as OVSDB rows remember them: for a start while the store is away or a manifest is broken.

Pure. `plan` puts a node's ranges, addresses and annotation into the external_ids of the port that leads to it (the
gateway port for this node itself, one key for each peer on a port that peers share); `nodes` reads them back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ovsnet import names
from ovsnet.model import Encap, IPAddress, IPNetwork, Node
from ovsnet.rows import PortRow
from ovsnet.state import PeerNode


def ids(
    name: str, cidrs: Iterable[IPNetwork], addresses: Iterable[IPAddress], wants: Encap | None
) -> dict[str, str]:
    """What a port's external_ids say of the node behind it."""
    return {
        names.KEY_PEER: name,
        names.KEY_CIDRS: _text(cidrs),
        names.KEY_ADDRESSES: _text(addresses),
        names.KEY_ENCAP: _word(wants),
    }


def shared_ids(peers: Iterable[PeerNode]) -> dict[str, str]:
    """What the external_ids of a port that peers share say of them: a key for each, so that a change is one key's."""
    return {
        names.KEY_PEERS + peer.name: f"{_text(peer.cidrs)}|{_text(peer.addresses)}|{_word(peer.wants)}"
        for peer in peers
    }


def nodes(
    rows: Mapping[str, PortRow], known: Mapping[str, Node], missing: Collection[str] | None = None
) -> dict[str, Node]:
    """`known`, and the nodes that rows remember beside them and that do not contradict them.

    missing: names of those that may be there and are not known; None: any may. All others are gone.
    """
    found = dict(known)
    if missing is not None and not missing:
        return found
    for row in rows.values():
        for name, words in _remembered(row):
            if name in found or (missing is not None and name not in missing):
                continue
            node = _node(row, name, words)
            if node is not None and not any(_clash(node, each) for each in known.values()):
                found[name] = node
    return found


def _remembered(row: PortRow) -> Iterator[tuple[str, Sequence[str]]]:
    """Each node that the row tells of: its name; its ranges, addresses and annotation."""
    ids = row.external_ids
    if row.role not in (names.ROLE_TUNNEL, names.ROLE_GATEWAY):
        return
    if names.KEY_PEER in ids:
        keys = (names.KEY_CIDRS, names.KEY_ADDRESSES, names.KEY_ENCAP)
        yield ids[names.KEY_PEER], [ids.get(key, "") for key in keys]
    for key, value in ids.items():
        if key.startswith(names.KEY_PEERS):
            yield key.removeprefix(names.KEY_PEERS), value.split("|")


def _node(row: PortRow, name: str, words: Sequence[str]) -> Node | None:
    """None for what is not as we write it."""
    try:
        cidrs, addresses, wants = words
        node = Node(
            name=name,
            pod_cidrs=tuple(map(ipaddress.ip_network, cidrs.split())),
            addresses=tuple(map(ipaddress.ip_address, addresses.split())),
            encap=Encap(wants) if wants else None,
            source=f"port {row.name}",
        )
    except ValueError:
        return None
    return node if node.pod_cidrs and node.addresses else None


def _word(wants: Encap | None) -> str:
    return wants.value if wants else ""


def _text(what: Iterable[IPAddress | IPNetwork]) -> str:
    return " ".join(map(str, what))


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
