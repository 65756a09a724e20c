"""Connections that policies have allowed: whether the policies of today deny them.

Pure. A connection is judged in the direction in which conntrack knows it, under the pods' own addresses and ports. One
that nobody saw begin (conntrack's mark tells, see table 48) may have been begun at its other end: it is denied if it
would be either way. Called by `agent.cutting`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ovsnet import pipeline
from ovsnet.conntrack import Known
from ovsnet.model import IPAddress
from ovsnet.policies import Policies
from ovsnet.policymodel import Direction
from ovsnet.policyobjects import CutConnection

_OF_TIERS = re.compile(r"\bpriority=\d{4,}")
"""Only those have such priorities."""


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


def cut(connection: Known) -> CutConnection:
    """Its end, as it is rendered."""
    return CutConnection(
        source=connection.source,
        target=connection.target,
        protocol=connection.protocol,
        source_port=connection.source_port,
        port=connection.port,
    )


def denies_more(before: Collection[str], after: Collection[str]) -> bool:
    """Whether an object's flows may deny what they did not before: there is a drop more, or on a list it is no more, or
    anything is different about rules of ClusterNetworkPolicies, which may deny as well as allow."""
    if any(map(_OF_TIERS.search, set(before) ^ set(after))):
        return True
    return bool(_drops(after) - _drops(before) or _lists(before) - _lists(after))


def _drops(lines: Collection[str]) -> set[str]:
    return {line for line in lines if pipeline.is_drop(line.partition(" actions=")[2])}


def _lists(lines: Collection[str]) -> set[tuple[str, str]]:
    """What lets packets pass: each with its match."""
    found: set[tuple[str, str]] = set()
    for line in lines:
        match, _, actions = line.partition(" actions=")
        if not pipeline.is_drop(actions):
            found.update((match, each) for each in re.split(r"(?<=\)),", actions))
    return found
