"""How an agent is, in words and figures: for `ovsnet show`, for `metrics` and for Events.

Only looks. Called by the server of requests, by whoever fetches metrics, by what writes Events, and for the answers to
load balancers.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ovsnet import config as configuration
from ovsnet.agent.agent import Agent
from ovsnet.agent.complaints import Lasting

_LATE = 60.0
"""Seconds for which changes may fail to come into force; kube-proxy takes as many."""


def report(agent: Agent) -> dict[str, object]:
    """How the agent is, for `ovsnet show`."""
    trouble = agent.trouble()
    return {
        "node": agent.name,
        "configuration": configuration.digest(agent.config),
        "ready": trouble is None,
        "trouble": str(trouble) if trouble else "",
        "complaints": agent.complaints.current(),
        "pods": len(agent.pods.all()),
        "peers": len(agent.topology.peers) if agent.topology else 0,
        "flows": sum(map(len, agent.installer.installed.values())),
        "modifications": agent.installer.modifications,
        "drift": dict(agent.auditor.counts),
        "logsDenied": agent.renderer.tells,
        "closed": msgspec.to_builtins(agent.policing.doubts.floor),
        "mtu": agent.topology.mtu if agent.topology else 0,
        "strays": agent.leftovers.report() if agent.leftovers is not None else None,
    }


class Wrong:
    """What is wrong now, for Events: with policies and Nodes as well, of which the store tells the log. A Node that has
    no ranges yet, this one or another, is news only when it goes on."""

    def __init__(self, agent: Agent, lasting: Lasting | None = None) -> None:
        self._agent = agent
        self._lasting = lasting or Lasting()

    def __call__(self) -> list[str]:
        complaints = self._agent.complaints
        waiting = complaints.waiting()
        snapshot = self._agent.store.snapshot()
        problems = snapshot.problems if snapshot else {}
        if snapshot is not None and snapshot.lacks(self._agent.name):
            # Among the complaints.
            problems = {each: text for each, text in problems.items() if each != f"Node {self._agent.name}"}
        return [
            *(each for each in complaints.current() if each not in waiting),
            *_of(problems, "NetworkPolicy ", "ClusterNetworkPolicy "),
            *self._lasting.of([*waiting, *_of(problems, "Node ")]),
        ]


def _of(problems: Mapping[str, str], *kinds: str) -> list[str]:
    return [f"{source}: {text}" for source, text in problems.items() if source.startswith(kinds)]


def in_force(agent: Agent) -> bool:
    """Whether the node serves Services as the cluster asks, for load balancers. What keeps nothing but pods from being
    added does not count, nor does a store that is away: what was known of it stays."""
    return (
        agent.topology is not None
        and not agent.installer.stale
        and not agent.openflow.silent
        and agent.complaints.lasting("sync") < _LATE
    )


def eligible(agent: Agent) -> bool:
    """Whether the node is to get new connections from load balancers: not one that is about to go (KEP-3836)."""
    snapshot = agent.store.snapshot()
    if snapshot is None:
        return True
    own = snapshot.nodes.get(agent.name)
    return own is not None and not own.leaving


def figures(agent: Agent) -> dict[str, float | Mapping[str, float]]:
    """What `metrics` tells; names are those of its GAUGES and COUNTERS."""
    return {
        "ready": float(agent.trouble() is None),
        "in_force": float(in_force(agent)),
        "pods": len(agent.pods.all()),
        "peers": len(agent.topology.peers) if agent.topology else 0,
        "flows": sum(map(len, agent.installer.installed.values())),
        "mtu_bytes": agent.topology.mtu if agent.topology else 0,
        "flow_modifications": agent.installer.modifications,
        "drift": agent.auditor.counts,
        **agent.pods.figures(),
        **agent.serving.figures(),
        **agent.policing.figures(),
        **({"cut_connections": agent.cutting.count} if agent.cutting is not None else {}),
        **(agent.denial_log.counts if agent.denial_log is not None else {}),
        **(agent.leftovers.figures() if agent.leftovers is not None else {}),
        **agent.store.figures(),
    }
