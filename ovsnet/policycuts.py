"""Connections that policies have allowed, as conntrack tells them, and whether the policies of today deny them.

Pure. A connection is judged in the direction in which conntrack knows it, under the pods' own addresses and ports. One
that nobody saw begin (conntrack's mark tells, see table 48) may have been begun at its other end: it is denied if it
would be either way. Called by `agent.cutting`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping

from ovsnet.model import Frozen, IPAddress
from ovsnet.policies import Policies
from ovsnet.policymodel import Direction
from ovsnet.policyobjects import CutConnection
from ovsnet.servicemodel import Protocol

_TUPLE = re.compile(
    r"(tcp|udp|sctp|icmp|icmpv6),orig=\(src=([0-9a-f.:]+),dst=([0-9a-f.:]+)(?:,sport=(\d+),dport=(\d+))?"
)
_MARK = re.compile(r"[,)]mark=(0x[0-9a-f]+|\d+)")
_OF_TIERS = re.compile(r"\bpriority=\d{4,}")
"""Only those have such priorities."""
_PROTOCOLS = {each.value.lower(): each for each in Protocol}
_UNSEEN = 1
"""The bit of the mark: the first packet was not the first of the connection."""


class Known(Frozen):
    """A connection. protocol None: a ping, which has no ports. unseen: nobody saw it begin."""

    source: IPAddress
    target: IPAddress
    protocol: Protocol | None = None
    source_port: int = 0
    port: int = 0
    unseen: bool = False

    @property
    def key(self) -> Known:
        """The same, whoever saw it begin."""
        return self.reverse.reverse

    @property
    def reverse(self) -> Known:
        return Known(
            source=self.target,
            target=self.source,
            protocol=self.protocol,
            source_port=self.port,
            port=self.source_port,
        )

    @property
    def cut(self) -> CutConnection:
        """Its end, as it is rendered."""
        return CutConnection(
            source=self.source,
            target=self.target,
            protocol=self.protocol,
            source_port=self.source_port,
            port=self.port,
        )


def known(line: str) -> Known | None:
    """What a line of `dpctl/dump-conntrack` says. None: it has another protocol, or no ports though its protocol has,
    as SCTP in user space: nobody can tell then what it is."""
    found = _TUPLE.match(line)
    if found is None:
        return None
    word, source, target, source_port, port = found.groups()
    protocol = _PROTOCOLS.get(word)
    if protocol is not None and not int(port or 0):
        return None
    mark = _MARK.search(line)
    return Known(
        source=ipaddress.ip_address(source),
        target=ipaddress.ip_address(target),
        protocol=protocol,
        source_port=int(source_port or 0) if protocol else 0,
        port=int(port or 0) if protocol else 0,
        unseen=protocol is not None and mark is not None and bool(int(mark[1], 0) & _UNSEEN),
    )


class CutJudge:
    """pods: the key of this node's pod at an address. own: the node's addresses, which its pods always reach. senders:
    those that always reach its pods, which may be more."""

    def __init__(
        self,
        policies: Policies,
        pods: Mapping[IPAddress, str],
        own: Collection[IPAddress],
        senders: Collection[IPAddress],
    ) -> None:
        self._policies = policies
        self._pods = pods
        self._free = {Direction.EGRESS: own, Direction.INGRESS: senders}

    def denied(self, connection: Known) -> tuple[str, Direction] | None:
        """The pod whose policies deny it, and in which direction; None: it may go on."""
        found = self._denied(connection)
        if found is not None and connection.unseen and self._denied(connection.reverse) is None:
            return None
        return found

    def _denied(self, connection: Known) -> tuple[str, Direction] | None:
        source, target = self._pods.get(connection.source), self._pods.get(connection.target)
        if source == target:
            return None
        for pod, direction, other in (
            (source, Direction.EGRESS, connection.target),
            (target, Direction.INGRESS, connection.source),
        ):
            if pod is None or other in self._free[direction]:
                continue
            if self._policies.denies(pod, direction, other, connection.protocol, connection.port):
                return pod, direction
        return None


def denies_more(before: Collection[str], after: Collection[str]) -> bool:
    """Whether an object's flows may deny what they did not before: there is a drop more, or on a list it is no more, or
    anything is different about rules of ClusterNetworkPolicies, which may deny as well as allow."""
    if any(map(_OF_TIERS.search, set(before) ^ set(after))):
        return True
    return bool(_drops(after) - _drops(before) or _lists(before) - _lists(after))


def _drops(lines: Collection[str]) -> set[str]:
    return {line for line in lines if line.endswith("actions=drop")}


def _lists(lines: Collection[str]) -> set[tuple[str, str]]:
    """What lets packets pass: each with its match."""
    found: set[tuple[str, str]] = set()
    for line in lines:
        match, _, actions = line.partition(" actions=")
        if actions != "drop":
            found.update((match, each) for each in re.split(r"(?<=\)),", actions))
    return found
