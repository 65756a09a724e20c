"""The Nodes of all files to the nodes of one cluster: those that go together.

Pure. Two nodes never share a name, a pod range or an address. Who was accepted before keeps what it has; among
newcomers the first file by name wins. A node whose new manifest is refused keeps its old one as long as that goes
together with the others, so that a mistake in one file withdraws nothing. Called by `file`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping

from ovsnet.model import Frozen, IPAddress, Node


class Cluster(Frozen):
    """nodes: by name, in the order of their names. problems: lines by file."""

    nodes: dict[str, Node]
    problems: dict[str, tuple[str, ...]]


def combine(files: Mapping[str, Iterable[Node]], before: Mapping[str, Node]) -> Cluster:
    """files: Nodes by file. before: the nodes that were accepted last time."""
    problems: dict[str, list[str]] = {}
    wanted: dict[str, tuple[str, Node]] = {}
    for file in sorted(files):
        for node in files[file]:
            if node.name in wanted:
                problems.setdefault(file, []).append(
                    f"Node {node.name} stands in {wanted[node.name][1].source} too, which counts; remove one of both"
                )
            else:
                wanted[node.name] = (file, node)
    claims = _Claims()
    nodes: dict[str, Node] = {}
    refused: list[str] = []
    # Sorting is stable: files stay in the order of their names.
    for file, node in sorted(wanted.values(), key=lambda entry: not _keeps(entry[1], before)):
        conflict = claims.conflict(node)
        if conflict is None:
            claims.add(node)
            nodes[node.name] = node
        else:
            refused.append(node.name)
            problems.setdefault(file, []).append(f"Node {node.name}: {conflict}")
    for name in refused:
        old = before.get(name)
        if old is not None and claims.conflict(old) is None:
            claims.add(old)
            nodes[name] = old
    return Cluster(
        nodes={name: nodes[name] for name in sorted(nodes)},
        problems={file: tuple(lines) for file, lines in problems.items()},
    )


def _keeps(node: Node, before: Mapping[str, Node]) -> bool:
    """Whether the node was accepted before with all that it claims now."""
    old = before.get(node.name)
    return old is node or (
        old is not None
        and set(node.pod_cidrs) <= set(old.pod_cidrs)
        and set(node.addresses) <= set(old.addresses)
    )


class _Claims:
    """What the accepted nodes have: their ranges, sorted and disjoint, and their addresses."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int, Node]]] = {4: [], 6: []}
        self._addresses: dict[IPAddress, Node] = {}

    def add(self, node: Node) -> None:
        for cidr in node.pod_cidrs:
            entry = (int(cidr.network_address), int(cidr.broadcast_address), node)
            bisect.insort(self._ranges[cidr.version], entry, key=_first)
        for address in node.addresses:
            self._addresses[address] = node

    def conflict(self, node: Node) -> str | None:
        """Why the node can't be accepted as well, and what to do; None if it can."""
        for cidr in node.pod_cidrs:
            ranges = self._ranges[cidr.version]
            last = int(cidr.broadcast_address)
            # Of ranges that are disjoint, only the last that begins before this one's end can touch it.
            index = bisect.bisect_right(ranges, last, key=_first) - 1
            if index >= 0 and ranges[index][1] >= int(cidr.network_address):
                other = ranges[index][2]
                return (
                    f"{cidr} overlaps a range of node {other.name} ({other.source}); give each node its own"
                )
        for address in node.addresses:
            if (holder := self._addresses.get(address)) is not None:
                return f"{address} is node {holder.name}'s ({holder.source}) already; give each node its own"
        return None


def _first(entry: tuple[int, int, Node]) -> int:
    return entry[0]
