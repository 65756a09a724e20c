"""What changed between two topologies, one line each, for the log. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ovsnet.state import PeerNode, Topology

_MANY = 20
"""More peers than this in one step are counted, not listed."""


def between(before: Topology | None, after: Topology) -> list[str]:
    """Lines such as "peer node-b added (vxlan to 192.0.2.12, 10.244.2.0/24)"."""
    old = {peer.name: peer for peer in before.peers} if before else {}
    new = {peer.name: peer for peer in after.peers}
    lines = list(_peers(old, new))
    if len(lines) > _MANY:
        lines = [f"{len(lines)} peers added, changed or removed; now {len(new)}"]
    if before is not None and before.mtu != after.mtu:
        lines.append(f"MTU of pods changed from {before.mtu} to {after.mtu}")
    if before is not None and before.cidrs != after.cidrs:
        lines.append(f"pod ranges changed to {', '.join(map(str, after.cidrs))}")
    return lines


def peers(before: Topology | None, after: Topology) -> set[str]:
    """Names of those that came, went or changed."""
    old = {peer.name: peer for peer in before.peers} if before else {}
    new = {peer.name: peer for peer in after.peers}
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _peers(old: dict[str, PeerNode], new: dict[str, PeerNode]) -> Iterator[str]:
    for name, peer in new.items():
        if name not in old:
            yield f"peer {name} added ({_words(peer)})"
        elif old[name] != peer:
            yield f"peer {name} changed ({_words(old[name])} -> {_words(peer)})"
    for name in old.keys() - new.keys():
        yield f"peer {name} removed"


def _words(peer: PeerNode) -> str:
    return f"{peer.encap.value} to {peer.remote}, {' '.join(map(str, peer.cidrs))}"
