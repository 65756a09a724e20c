"""Which addresses no Service can have: pods' ranges, and nodes' own addresses.

Pure. The API server gives no ClusterIP of these out, but a folder of manifests may, and anybody who may make a Service
names any external address (CVE-2020-8554). A Service that had a pod's address would take what is for that pod; so it
has none of a range of pods, neither as ClusterIP nor outside. The address of a node is a ClusterIP of nobody in a
folder; of the API server's Nodes each kubelet writes its own, and one in wrong hands must not take a ClusterIP that the
server gave. As an external or load balancer's address it is usual, and takes the Service's ports alone. Addresses that
nobody can have (loopback, link-local, multicast) never come so far: the reader leaves them out. One question is one
search in a sorted list, and a change of nodes tells which addresses it concerns. Called by `frontends`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ovsnet.mappings import different
from ovsnet.model import Frozen, IPAddress, IPNetwork, Node
from ovsnet.nodeports import PortRange

_CONFIGURED = "in the agent's configuration"


class Limits(Frozen):
    """What this node's configuration says about Services and the addresses that are none."""

    pod_cidrs: tuple[IPNetwork, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    node_ports: PortRange | None = None
    """None: any, as the API server has looked at them already."""
    given: bool = False
    """ClusterIPs are the API server's: they go before what Nodes have as addresses."""


NO_LIMITS = Limits()


class Span(NamedTuple):
    """Addresses from `first` to `last`, in numbers, and whose they are: words that follow the address in a message."""

    family: int
    first: int
    last: int
    words: str
    of_pods: bool


class Spans:
    """Any number of them, for the question whether one has an address."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._firsts: dict[int, list[int]] = {4: [], 6: []}
        self._lasts: dict[int, list[int]] = {4: [], 6: []}
        for family, first, last, *_ in sorted(spans):
            firsts, lasts = self._firsts[family], self._lasts[family]
            if lasts and first <= lasts[-1]:
                lasts[-1] = max(last, lasts[-1])
            else:
                firsts.append(first)
                lasts.append(last)

    def __bool__(self) -> bool:
        return bool(self._firsts[4] or self._firsts[6])

    def have(self, family: int, number: int) -> bool:
        index = bisect.bisect_right(self._firsts[family], number) - 1
        return index >= 0 and number <= self._lasts[family][index]


class Taken:
    """What nodes have, as of the last `follow`."""

    def __init__(self, limits: Limits) -> None:
        self._nodes: Mapping[str, Node] = {}
        self._spans: dict[str, tuple[Span, ...]] = {}
        """What each of them has: to make all anew for each node that comes would stop the loop in a large cluster."""
        self._given = limits.given
        self._own = [
            *(_span(each, f"lies in podCIDRs {each} {_CONFIGURED}") for each in limits.pod_cidrs),
            *(_at(each, f"is nodeAddress {_CONFIGURED}") for each in limits.addresses),
        ]
        self._ranges: dict[int, list[Span]] = {4: [], 6: []}
        self._firsts: dict[int, list[int]] = {4: [], 6: []}
        """Of the ranges, which are disjoint."""
        self._addresses: dict[tuple[int, int], str] = {}

    def follow(self, nodes: Mapping[str, Node]) -> Spans:
        """Takes in the nodes that there are now, whose ranges lie apart; the addresses that are others' than before."""
        before, self._nodes = self._nodes, nodes
        were: set[Span] = set()
        are: set[Span] = set()
        for name in different(before, nodes):
            were.update(self._spans.pop(name, ()))
            if (node := nodes.get(name)) is not None:
                are.update(found := tuple(_spans(node)))
                self._spans[name] = found
        if were != are:
            self._sort()
        return Spans(were ^ are)

    def words(self, address: IPAddress, *, outside: bool) -> str | None:
        """Whose the address is, as "is ..." or "lies in ..."; None for one that a Service can have.

        outside: as external or load balancer's address, which may be a node's.
        """
        family, number = address.version, int(address)
        index = bisect.bisect_right(self._firsts[family], number) - 1
        if index >= 0 and number <= (span := self._ranges[family][index]).last:
            return span.words
        for own in self._own:
            if own.family == family and own.first <= number <= own.last and (own.of_pods or not outside):
                return own.words
        return None if outside or self._given else self._addresses.get((family, number))

    def _sort(self) -> None:
        spans = [span for name in self._nodes for span in self._spans[name]]
        for family in self._ranges:
            found = sorted(span for span in spans if span.of_pods and span.family == family)
            self._ranges[family], self._firsts[family] = found, [span.first for span in found]
        self._addresses = {(span.family, span.first): span.words for span in spans if not span.of_pods}


def _spans(node: Node) -> Iterator[Span]:
    whose = f"node {node.name}{f' ({node.source})' if node.source else ''}"
    for cidr in node.pod_cidrs:
        yield _span(cidr, f"lies in {cidr}, a range of pods of {whose}")
    for address in (*node.addresses, *node.others):
        yield _at(address, f"is an address of {whose}")


def _span(cidr: IPNetwork, words: str) -> Span:
    return Span(cidr.version, int(cidr.network_address), int(cidr.broadcast_address), words, of_pods=True)


def _at(address: IPAddress, words: str) -> Span:
    return Span(address.version, int(address), int(address), words, of_pods=False)
