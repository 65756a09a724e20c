"""Policies as they are rendered: pods that they concern, rules, and the two sides that rules have.

Pure. A rule allows whoever is on its list of pods, to or from whoever is on its list of addresses, on its list of
ports: three lists of flows, of which a packet must be on all (conjunctive matches, ovs-fields(7)). So there are as many
flows as entries in the lists, and never their product; what stands in the lists of several rules is one flow. Made by
`policies`, seen by templates.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovsnet import names
from ovsnet.model import Frozen, IPAddress, IPNetwork, Namespaced
from ovsnet.policymodel import Action, Direction, Tier
from ovsnet.servicemodel import Protocol

NETWORK_POLICY = 100
"""OpenFlow priority of all rules of NetworkPolicies: which of them allows something is all the same."""


class Clause(Frozen):
    """That an entry is on a list of a rule. rule: its number. place: which of its `lists` it is, counted from 1."""

    rule: int
    place: int
    lists: int


class Isolation(Frozen):
    """What becomes of a pod's connections in one direction. clauses: of the rules that apply to it."""

    clauses: tuple[Clause, ...] = ()


class TierRules(Frozen):
    """Rules of a ClusterNetworkPolicy that apply to a pod, all of one OpenFlow priority."""

    direction: Direction
    tier: Tier
    priority: int
    clauses: tuple[Clause, ...]


class PolicedPod(Namespaced):
    """A pod of this node that policies concern. None: none isolates it in that direction, or a rule allows all.

    tiers: what else it is asked by, of the Admin tier before that, of the Baseline tier where it is not isolated.
    """

    ips: tuple[IPAddress, ...]
    ingress: Isolation | None = None
    egress: Isolation | None = None
    tiers: tuple[TierRules, ...] = ()

    def has_baseline(self, direction: str) -> bool:
        return any(each.tier is Tier.BASELINE and each.direction.value == direction for each in self.tiers)


class OlderConnections(Namespaced):
    """Those of a pod that has not been isolated for long. seconds: for which its packets may be answers in some."""

    ips: tuple[IPAddress, ...]
    seconds: int


class CutConnection(Frozen):
    """One that was allowed and is no more. protocol None: pings, which have no ports."""

    source: IPAddress
    target: IPAddress
    protocol: Protocol | None = None
    source_port: int = 0
    port: int = 0

    @property
    def key(self) -> str:
        protocol = self.protocol.value if self.protocol else "ping"
        return f"{protocol}/{self.source}/{self.source_port}/{self.target}/{self.port}"

    @property
    def title(self) -> str:
        if self.protocol is None:
            return f"pings of {self.source} to {self.target}"
        ends = names.socket(self.source, self.source_port), names.socket(self.target, self.port)
        return f"{self.protocol.value} {ends[0]} to {ends[1]}"

    @property
    def matches(self) -> Iterator[str]:
        """Of its packets, in both directions: a ping's answers alone would keep conntrack from forgetting it."""
        version = self.source.version
        field = "nw" if version == 4 else "ipv6"
        if self.protocol is None:
            name, asks, answers = ("icmp", 8, 0) if version == 4 else ("icmp6", 128, 129)
            yield f"{name},icmp_type={asks},{field}_src={self.source},{field}_dst={self.target}"
            yield f"{name},icmp_type={answers},{field}_src={self.target},{field}_dst={self.source}"
            return
        name = self.protocol.value.lower() + ("" if version == 4 else "6")
        ends = (self.source, self.source_port), (self.target, self.port)
        for (source, source_port), (target, port) in (ends, ends[::-1]):
            yield (f"{name},{field}_src={source},{field}_dst={target},tp_src={source_port},tp_dst={port}")

    @property
    def timeouts(self) -> str:
        """As long as an end may still try to go on: TCP for a quarter of an hour, with pauses of up to two minutes."""
        if self.protocol in (None, Protocol.UDP):
            return "hard_timeout=60"
        return "idle_timeout=180,hard_timeout=1200"


class Rule(Frozen):
    """What the rules of one or several policies say. text: what it allows, the same for all of them."""

    number: int
    direction: Direction
    text: str

    @property
    def key(self) -> str:
        return self.text

    @property
    def title(self) -> str:
        return self.text


class ClusterRule(Frozen):
    """A rule of a ClusterNetworkPolicy. numbers: of what it comes to for pods, whose ports by name may differ.

    key: lockdown ingress[0]; title: the same with its kind.
    """

    key: str
    title: str
    direction: Direction
    tier: Tier
    action: Action
    priority: int
    numbers: tuple[int, ...]


class RuleAddress(Frozen):
    """An address or network on the lists of rules of one direction and priority."""

    direction: Direction
    network: IPNetwork
    clauses: tuple[Clause, ...]
    priority: int = NETWORK_POLICY

    @property
    def key(self) -> str:
        return f"{self.direction.value}/{_at(self.priority)}{self.network}"

    @property
    def title(self) -> str:
        return f"{self.network} in {self.direction.value.lower()} rules{_of(self.priority)}"


class PortRange(Frozen):
    """Ports of one protocol, both ends included."""

    protocol: Protocol
    first: int = 0
    last: int = 65535

    @property
    def text(self) -> str:
        which = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.protocol.value} {'all' if (self.first, self.last) == (0, 65535) else which}"

    @property
    def blocks(self) -> Iterator[PortBlock]:
        """The same as aligned blocks, as few as there can be."""
        first, end = self.first, self.last + 1
        while first < end:
            # The largest aligned block that begins here and does not end beyond.
            size = first & -first or 1 << 16
            while first + size > end:
                size >>= 1
            yield PortBlock(protocol=self.protocol, first=first, size=size)
            first += size


class PortBlock(Frozen):
    """Ports of one protocol that one match means. size: how many, a power of two that `first` is a multiple of."""

    protocol: Protocol
    first: int
    size: int

    @property
    def text(self) -> str:
        return PortRange(protocol=self.protocol, first=self.first, last=self.first + self.size - 1).text

    @property
    def match(self) -> str:
        """Of a destination port: exact, masked, or "" for all."""
        if self.size == 1:
            return f"tp_dst={self.first}"
        return f"tp_dst=0x{self.first:x}/0x{0x10000 - self.size:x}" if self.size < 1 << 16 else ""


class RulePorts(Frozen):
    """Ports on the lists of rules of one direction and priority. Ranges that overlap have blocks in common: each is
    there once."""

    direction: Direction
    ports: PortBlock
    clauses: tuple[Clause, ...]
    priority: int = NETWORK_POLICY

    @property
    def key(self) -> str:
        return f"{self.direction.value}/{_at(self.priority)}{self.ports.text}"

    @property
    def title(self) -> str:
        return f"{self.ports.text} in {self.direction.value.lower()} rules{_of(self.priority)}"


def _at(priority: int) -> str:
    return "" if priority == NETWORK_POLICY else f"{priority}/"


def _of(priority: int) -> str:
    return "" if priority == NETWORK_POLICY else f" of ClusterNetworkPolicies, priority {priority}"


PolicyObject = PolicedPod | OlderConnections | CutConnection | Rule | ClusterRule | RuleAddress | RulePorts
