"""How an agent is, in words and figures: for `ovsnet show` and for `metrics`.

Only looks. Called by the server of requests and by whoever fetches metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

from ovsnet.agent.agent import Agent


def report(agent: Agent) -> dict[str, object]:
    """How the agent is, for `ovsnet show`."""
    trouble = agent.trouble()
    return {
        "node": agent.name,
        "ready": trouble is None,
        "trouble": str(trouble) if trouble else "",
        "complaints": agent.complaints.current(),
        "pods": len(agent.pods.all()),
        "peers": len(agent.topology.peers) if agent.topology else 0,
        "flows": sum(map(len, agent.installer.installed.values())),
        "modifications": agent.installer.modifications,
        "drift": dict(agent.auditor.counts),
        "mtu": agent.topology.mtu if agent.topology else 0,
    }


def figures(agent: Agent) -> dict[str, float | Mapping[str, float]]:
    """What `metrics` tells; names are those of its GAUGES and COUNTERS."""
    return {
        "ready": float(agent.trouble() is None),
        "pods": len(agent.pods.all()),
        "peers": len(agent.topology.peers) if agent.topology else 0,
        "flows": sum(map(len, agent.installer.installed.values())),
        "mtu_bytes": agent.topology.mtu if agent.topology else 0,
        "flow_modifications": agent.installer.modifications,
        "drift": agent.auditor.counts,
        **agent.serving.figures(),
        **agent.store.figures(),
    }
