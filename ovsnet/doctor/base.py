"""What most checks need, found once and side by side: configuration, rows, the agent's words, nodes, the uplink.

Each part may be missing, with the reason in words: whatever else is broken, the others are found. Called by `examine`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TypeVar

from ovsnet import config as configuration
from ovsnet import resources, state
from ovsnet.agent.hostside import HostSide
from ovsnet.agent.view import health
from ovsnet.config import Config
from ovsnet.errors import ConfigError, NotReady, OvsnetError
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import Uplink
from ovsnet.model import Frozen
from ovsnet.state import Topology
from ovsnet.store import Snapshot, choice
from ovsnet.switch import control, once
from ovsnet.switch.once import Rows

_PATIENCE = 2.5
"""Seconds for each part."""
_T = TypeVar("_T")


class Base(Frozen):
    """One look. What is None could not be found, and its `_error` says why."""

    path: str
    config: Config
    config_error: str | None
    config_problems: tuple[str, ...]
    name: str
    rows: Rows | None
    rows_error: str | None
    vswitchd: str | None
    """Its answer to "version"."""
    vswitchd_error: str | None
    health: Mapping[str, object] | None
    nodes: Snapshot | None
    nodes_error: str | None
    uplink: Uplink | None
    uplink_error: str | None
    topology: Topology | None
    topology_error: str | None

    @property
    def agent_runs(self) -> bool:
        return self.health is not None


async def look(path: Path) -> Base:
    config, error, problems = _configuration(path)
    name = config.node_name or socket.gethostname().lower()
    (rows, rows_error), (vswitchd, vswitchd_error), (said, _), (nodes, nodes_error) = await asyncio.gather(
        attempt(once.read(config.ovsdb, config.bridge)),
        attempt(control.appctl(config.ovsdb, "version")),
        attempt(health(config)),
        attempt(choice.look(config.store)),
    )
    own = nodes.nodes.get(name) if nodes else None
    host = HostSide(Ruleset(resources.templates_dir()))
    uplink, uplink_error = await attempt(host.uplink(config.node_address, own.addresses if own else ()))
    topology, topology_error = _topology(config, name, uplink, nodes)
    return Base(
        path=str(path),
        config=config,
        config_error=error,
        config_problems=problems,
        name=name,
        rows=rows,
        rows_error=rows_error,
        vswitchd=vswitchd,
        vswitchd_error=vswitchd_error,
        health=said,
        nodes=nodes,
        nodes_error=nodes_error,
        uplink=uplink,
        uplink_error=uplink_error,
        topology=topology,
        topology_error=topology_error,
    )


async def attempt(work: Awaitable[_T], seconds: float = _PATIENCE) -> tuple[_T | None, str | None]:
    """What came of it, and why nothing did."""
    try:
        async with asyncio.timeout(seconds):
            return await work, None
    except TimeoutError:
        return None, f"no answer within {seconds:g} s"
    except OvsnetError as error:
        return None, error.message
    except Exception as error:  # whatever it is, the rest of the node is looked at
        return None, f"{type(error).__name__}: {error}"


def _configuration(path: Path) -> tuple[Config, str | None, tuple[str, ...]]:
    try:
        return configuration.load(path), None, ()
    except ConfigError as error:
        return Config(), error.message, error.problems


def _topology(
    config: Config, name: str, uplink: Uplink | None, nodes: Snapshot | None
) -> tuple[Topology | None, str | None]:
    if uplink is None:
        return None, None  # the uplink's own fault says it all
    try:
        return state.topology(config, name, uplink.addresses, uplink.mtu, nodes.nodes if nodes else {}), None
    except NotReady as error:
        return None, f"{error.message}: {error.hint}"
