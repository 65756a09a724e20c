"""The objects of all files to one of each name, and the Nodes among them to those that go together.

Pure. Two nodes never share a name, a pod range or an address, and no pod range has a node's address in it: packets
for that node would go into a tunnel, the tunnel's own among them. Who was accepted before keeps what it has, in an
earlier run too where somebody remembers it; among newcomers the eldest by creationTimestamp wins, so that agents agree
whenever they start, and of those without one, who come last, the first file by name; of two files with one object that
which counted so far, but see `policies`. A node whose new manifest is refused keeps its old one as long as that goes
together with the others, so that a mistake in one file withdraws nothing. Which Service has what several claim is in
`frontends`. Called by the stores.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TypeVar

from msgspec.structs import replace

from ovsnet.model import Frozen, IPAddress, IPNetwork, Node
from ovsnet.policymodel import NetworkPolicy
from ovsnet.store.reading import Readable, key_of, kind_of

_Object = TypeVar("_Object", bound=Readable)

_APART = "pods' ranges and nodes' addresses must lie apart"


class Cluster(Frozen):
    """nodes: by name, in the order of their names. problems: lines by file."""

    nodes: dict[str, Node]
    problems: dict[str, tuple[str, ...]]


def combine(files: Mapping[str, Iterable[Node]], before: Mapping[str, Node]) -> Cluster:
    """files: Nodes by file. before: the nodes that were accepted last time."""
    wanted, problems = one_of_each(files, before)
    claims = _Claims()
    nodes: dict[str, Node] = {}
    refused: list[str] = []
    # Sorting is stable: files stay in the order of their names.
    for file, node in sorted(wanted.values(), key=lambda entry: _rank(entry[1], before)):
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


def recognised(files: Mapping[str, Iterable[Node]], remembered: Mapping[str, Node]) -> dict[str, Node]:
    """For `before` at a start: the nodes of these files that an earlier run had accepted.

    remembered: what is known of those, by name: ranges, addresses and encapsulation (`recall`). Of several files with
    one node that which says the same counts; where none does, the node had what is remembered.
    """
    copies: dict[str, list[Node]] = {}
    for file in sorted(files):
        for node in files[file]:
            if node.name in remembered:
                copies.setdefault(node.name, []).append(node)
    found: dict[str, Node] = {}
    for name, nodes in copies.items():
        old = remembered[name]
        found[name] = next(
            (node for node in nodes if _same(node, old)),
            replace(nodes[0], pod_cidrs=old.pod_cidrs, addresses=old.addresses, encap=old.encap),
        )
    return found


def one_of_each(
    files: Mapping[str, Iterable[_Object]], before: Mapping[str, _Object]
) -> tuple[dict[str, tuple[str, _Object]], dict[str, list[str]]]:
    """(file, object) by key, in the order of the files' names, and what is wrong by file. Of objects of one key that
    which is in `before` counts, else the first."""
    problems: dict[str, list[str]] = {}
    wanted: dict[str, tuple[str, _Object]] = {}
    spare: list[tuple[str, _Object]] = []
    for file in sorted(files):
        for item in files[file]:
            key = key_of(item)
            if wanted.setdefault(key, (file, item))[1] is item:
                continue
            if item is before.get(key):
                spare.append(wanted[key])
                wanted[key] = file, item
            else:
                spare.append((file, item))
    for file, item in spare:
        kind, key = kind_of(item), key_of(item)
        problems.setdefault(file, []).append(
            f"{kind} {key} stands in {wanted[key][1].source} too, which counts; remove one of both"
        )
    return wanted, problems


def policies(
    files: Mapping[str, Iterable[NetworkPolicy]], before: Mapping[str, NetworkPolicy]
) -> tuple[dict[str, NetworkPolicy], dict[str, list[str]]]:
    """NetworkPolicies by key, those of `before` themselves that say the same, and what is wrong by file.

    Nobody can tell which of several of one key is meant. Where they say different things each isolates whom it selects
    and none allows anything: that depends on the files alone, so that all nodes, commands, and agents that start later
    agree.
    """
    found: dict[str, NetworkPolicy] = {}
    problems: dict[str, list[str]] = {}
    for key, copies in _by_key(files).items():
        (path, first), *others = copies
        found[key] = first
        alike = all(replace(item, source="") == replace(first, source="") for _, item in others)
        if others and not alike:
            for file, item in copies:
                name = first.name if item is first else f"{item.name} in {PurePath(file).name}"
                one = _allowing_nothing(replace(item, name=name))
                found[one.key] = one
        for file, _ in others:
            what = "which counts" if alike else "and says something else there: neither allows anything"
            problems.setdefault(file, []).append(
                f"NetworkPolicy {key} stands in {path} too, {what}; remove one of both"
            )
    return {key: old if (old := before.get(key)) == item else item for key, item in found.items()}, problems


def _by_key(files: Mapping[str, Iterable[NetworkPolicy]]) -> dict[str, list[tuple[str, NetworkPolicy]]]:
    """(file, policy), in the order of the files' names."""
    found: dict[str, list[tuple[str, NetworkPolicy]]] = {}
    for file in sorted(files):
        for item in files[file]:
            found.setdefault(item.key, []).append((file, item))
    return found


def _allowing_nothing(policy: NetworkPolicy) -> NetworkPolicy:
    return replace(
        policy,
        ingress=None if policy.ingress is None else (),
        egress=None if policy.egress is None else (),
    )


def _rank(node: Node, before: Mapping[str, Node]) -> tuple[bool, bool, str]:
    """Sorts those first that have the better claim."""
    return not _keeps(node, before), not node.created, node.created


def _keeps(node: Node, before: Mapping[str, Node]) -> bool:
    """Whether the node was accepted before with all that it claims now."""
    old = before.get(node.name)
    return old is node or (
        old is not None
        and set(node.pod_cidrs) <= set(old.pod_cidrs)
        and set(node.addresses) <= set(old.addresses)
    )


def _same(node: Node, old: Node) -> bool:
    return (node.pod_cidrs, node.addresses) == (old.pod_cidrs, old.addresses)


class _Claims:
    """What the accepted nodes have: their ranges, sorted and disjoint, and their addresses, sorted as well."""

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int, Node]]] = {4: [], 6: []}
        self._addresses: dict[int, list[tuple[int, IPAddress, Node]]] = {4: [], 6: []}

    def add(self, node: Node) -> None:
        for cidr in node.pod_cidrs:
            entry = (int(cidr.network_address), int(cidr.broadcast_address), node)
            bisect.insort(self._ranges[cidr.version], entry, key=_first)
        for address in node.addresses:
            bisect.insort(self._addresses[address.version], (int(address), address, node), key=_first)

    def conflict(self, node: Node) -> str | None:
        """Why the node can't be accepted as well, and what to do; None if it can."""
        for cidr in node.pod_cidrs:
            if (other := self._touching(cidr.version, *_ends(cidr))) is not None:
                return (
                    f"{cidr} overlaps a range of node {other.name} ({other.source}); give each node its own"
                )
            if (held := self._inside(cidr)) is not None:
                address, holder = held
                return f"{cidr} contains {address}, the address of node {holder.name} ({holder.source}); {_APART}"
            for address in node.addresses:
                if address in cidr:
                    return f"{cidr} contains the node's own address {address}; {_APART}"
        for address in node.addresses:
            number, version = int(address), address.version
            addresses = self._addresses[version]
            index = bisect.bisect_left(addresses, number, key=_first)
            if index < len(addresses) and addresses[index][0] == number:
                holder = addresses[index][2]
                return f"{address} is node {holder.name}'s ({holder.source}) already; give each node its own"
            if (other := self._touching(version, number, number)) is not None:
                return f"{address} lies in a range of node {other.name} ({other.source}); {_APART}"
        return None

    def _touching(self, version: int, first: int, last: int) -> Node | None:
        """The node with a range that has one of these addresses."""
        ranges = self._ranges[version]
        # Of ranges that are disjoint, only the last that begins before this one's end can touch it.
        index = bisect.bisect_right(ranges, last, key=_first) - 1
        return ranges[index][2] if index >= 0 and ranges[index][1] >= first else None

    def _inside(self, cidr: IPNetwork) -> tuple[IPAddress, Node] | None:
        """A node's address in the range, and the node."""
        addresses = self._addresses[cidr.version]
        first, last = _ends(cidr)
        index = bisect.bisect_left(addresses, first, key=_first)
        return addresses[index][1:] if index < len(addresses) and addresses[index][0] <= last else None


def _ends(cidr: IPNetwork) -> tuple[int, int]:
    return int(cidr.network_address), int(cidr.broadcast_address)


def _first(entry: tuple[int, object, object]) -> int:
    return entry[0]
