"""Who may talk to whom in the tests of NetworkPolicies: places, ways between them, and tables of what is denied.

Owns the words that cases are written in; docs are in policies/README.md. Pure, and imports nothing of ovsnet. Called
by `policy_cases`, and by whoever probes.

A place is a pod as NAMESPACE/NAME, a node, or `outside`. What a way leads to may also be a Service of a pod:
`service:POD` is its cluster address, `port:POD@NODE` its node port on that node, and `local:POD@NODE` that of another
Service with externalTrafficPolicy Local.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

NODES = ("node-a", "node-b", "node-c")
NAMESPACES = ("x", "y", "z")
NAMES = ("a", "b", "c")
PODS = tuple(f"{namespace}/{name}" for namespace in NAMESPACES for name in NAMES)
HOSTS = {
    f"{namespace}/{name}": NODES[(row + column) % 3]
    for row, namespace in enumerate(NAMESPACES)
    for column, name in enumerate(NAMES)
}
"""On each node one pod of each namespace and of each name."""
OUTSIDE = "outside"
PORTS = (80, 81)
PROTOCOLS = ("TCP", "UDP")
FAMILIES = (4, 6)
RARE = ("PING", "SCTP")
"""Protocols that are asked about only where a case says so."""
SERVED = ("x/a", "x/b", "y/a")
"""Pods that have Services."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": (*PODS, *NODES, OUTSIDE),
    "pods": PODS,
    "nodes": NODES,
    OUTSIDE: (OUTSIDE,),
    **{each: tuple(pod for pod in PODS if pod.startswith(f"{each}/")) for each in NAMESPACES},
}


@dataclass(frozen=True, order=True)
class Way:
    """port: the pod's, through whatever Service; 0 of a ping."""

    source: str
    target: str
    protocol: str
    port: int
    family: int

    def __str__(self) -> str:
        port = f" {self.port}" if self.port else ""
        return f"{self.source} -> {self.target} {self.protocol}{port} IPv{self.family}"

    @property
    def kind(self) -> str:
        """Of Service that it leads through; "" is none."""
        kind, colon, _ = self.target.partition(":")
        return kind if colon else ""

    @property
    def end(self) -> str:
        """The place where it ends, behind whatever Service."""
        return self.target.rpartition(":")[2].partition("@")[0]

    @property
    def entry(self) -> str:
        """The node whose port it leads through."""
        return self.target.partition("@")[2]


@dataclass(frozen=True)
class Line:
    """`SOURCES -> TARGETS [PROTOCOL...] [PORT...] [IPv4|IPv6]`; what is not said is all of its kind."""

    sources: frozenset[str]
    targets: frozenset[str]
    protocols: tuple[str, ...]
    ports: tuple[int, ...]
    families: tuple[int, ...]

    def matches(self, way: Way) -> bool:
        return (
            way.source in self.sources
            and way.target in self.targets
            and (way.protocol in self.protocols or not self.protocols)
            and (way.port in self.ports or not self.ports)
            and way.family in (self.families or FAMILIES)
        )

    def ways(self) -> Iterator[Way]:
        """All of them, of which at least one end is a pod."""
        for source in sorted(self.sources):
            for target in sorted(self.targets):
                if source in PODS or target not in (*NODES, OUTSIDE):
                    yield from self._between(source, target)

    def _between(self, source: str, target: str) -> Iterator[Way]:
        for protocol in self.protocols or PROTOCOLS:
            for port in (0,) if protocol == "PING" else self.ports or PORTS:
                for family in self.families or FAMILIES:
                    yield Way(source, target, protocol, port, family)


def line(words: str) -> Line:
    """Raises ValueError."""
    before, arrow, after = words.partition("->")
    sources, rest = before.split(), after.split()
    if not (arrow and sources and rest):
        raise ValueError(f"{words!r}: write SOURCES -> TARGETS [PROTOCOL...] [PORT...] [IPv4|IPv6]")
    targets = [each for each in rest if not _is_detail(each)]
    if not targets or {"IPv4", "IPv6"} <= {*rest}:
        raise ValueError(f"{words!r}: name at least one target, and one family at most")
    return Line(
        sources=frozenset(_places(words, sources)),
        targets=frozenset(_targets(words, targets)),
        protocols=tuple(each for each in rest if each in (*PROTOCOLS, *RARE)),
        ports=tuple(int(each) for each in rest if each.isdecimal()),
        families=tuple(int(each[3]) for each in rest if each in ("IPv4", "IPv6")),
    )


def _is_detail(word: str) -> bool:
    return word.isdecimal() or word in (*PROTOCOLS, *RARE, "IPv4", "IPv6")


def _places(words: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name in GROUPS:
            yield from GROUPS[name]
        elif name in GROUPS["all"]:
            yield name
        else:
            raise ValueError(f"{words!r}: {name!r} is no place; {', '.join([*GROUPS, *GROUPS['all']])} are")


def _targets(words: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        kind, colon, rest = name.partition(":")
        if not colon:
            yield from _places(words, [name])
            continue
        pod, _, node = rest.partition("@")
        through = node in NODES if kind in ("port", "local") else not node
        if kind not in ("service", "port", "local") or pod not in SERVED or not through:
            known = f"service:POD, port:POD@NODE and local:POD@NODE with POD one of {', '.join(SERVED)}"
            raise ValueError(f"{words!r}: {name!r} is no Service; {known} are")
        yield name


MATRIX = tuple(way for way in line("all -> all").ways() if way.source != way.target)
"""What is asked in every case."""


def always(way: Way) -> bool:
    """Whatever policies say: a pod and itself, a pod and its own node. What comes in by another node's port comes from
    that node."""
    if way.entry and way.entry != HOSTS.get(way.source, way.source):
        return False
    return way.source == way.end or way.end == HOSTS.get(way.source) or way.source == HOSTS.get(way.end)


class Table:
    """Allowed is what no line denies; of two lines that say something of a way the later one counts."""

    def __init__(self, lines: Sequence[tuple[bool, Line]] = ()) -> None:
        self.lines = tuple(lines)

    def allows(self, way: Way) -> bool:
        said = [allowed for allowed, line in self.lines if line.matches(way)]
        return not said or said[-1] or always(way)

    def of(self, ways: Iterable[Way]) -> dict[Way, bool]:
        return {way: self.allows(way) for way in ways}


def table(lines: Sequence[Mapping[str, str]]) -> Table:
    """Of `denied: LINE` and `allowed: LINE`. Raises ValueError."""
    read = []
    for each in lines:
        (word, words), *more = each.items()
        if word not in ("allowed", "denied") or more:
            raise ValueError(f"{each}: write denied: LINE or allowed: LINE")
        read.append((word == "allowed", line(words)))
    return Table(read)
