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
from ovsnet import recall, resources, state
from ovsnet.agent.hostside import HostSide
from ovsnet.agent.view import health
from ovsnet.config import Config
from ovsnet.errors import ConfigError, NotReady, OvsnetError
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import Uplink
from ovsnet.model import Frozen, Node
from ovsnet.state import Topology
from ovsnet.store import Snapshot, choice
from ovsnet.switch import control, once
from ovsnet.switch.once import Rows

_PATIENCE = 2.5
"""Seconds for each part."""
_STORE_WAIT = 2.0
"""Seconds to wait for a store that says nothing."""
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
    """By the nodes that OVSDB remembers, while the store can't be read."""
    topology_error: str | None

    @property
    def agent_runs(self) -> bool:
        return self.health is not None


async def look(path: Path) -> Base:
    config, error, problems = _configuration(path)
    name = config.node_name or socket.gethostname().lower()
    reading = asyncio.create_task(attempt(once.read(config.ovsdb, config.bridge)))

    async def memory() -> Mapping[str, Node]:
        found, _ = await asyncio.shield(reading)
        return recall.nodes(found.ports, {}) if found else {}

    (rows, rows_error), (vswitchd, vswitchd_error), (said, _), (nodes, nodes_error) = await asyncio.gather(
        reading,
        attempt(control.appctl(config.ovsdb, "version")),
        attempt(health(config)),
        attempt(choice.look(config, _STORE_WAIT, memory)),
    )
    known = _known(rows, nodes)
    own = known.get(name)
    host = HostSide(Ruleset(resources.templates_dir()))
    uplink, uplink_error = await attempt(host.uplink(config.node_address, own.addresses if own else ()))
    topology, topology_error = _topology(config, name, uplink, known, nodes is not None)
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
        nodes_error=_named(choice.title(config.store), nodes_error),
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


def _known(rows: Rows | None, snapshot: Snapshot | None) -> Mapping[str, Node]:
    """The nodes that the agent goes by: the store's; what OVSDB remembers fills in what can't be read."""
    ports = rows.ports if rows else {}
    return recall.nodes(ports, snapshot.nodes, snapshot.unread_nodes) if snapshot else recall.nodes(ports, {})


def _named(store: str, error: str | None) -> str | None:
    """error with the store's name, which it may have already."""
    return error if error is None or store in error else f"{store}: {error}"


def _topology(
    config: Config, name: str, uplink: Uplink | None, nodes: Mapping[str, Node], store_read: bool
) -> tuple[Topology | None, str | None]:
    if not store_read and name not in nodes and not config.pod_cidrs:
        return None, None  # the store's own fault says it all
    if uplink is None:
        return None, None  # the uplink's own fault says it all
    try:
        return state.topology(config, name, uplink.addresses, uplink.mtu, nodes), None
    except NotReady as error:
        return None, f"{error.message}: {error.hint}"
