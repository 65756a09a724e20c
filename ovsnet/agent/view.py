"""The node's state as any program can derive it, with the agent running or not.

Reads what the agent reads (configuration, store, OVSDB) and renders what it renders, so that a
cookie on the switch leads to its object. Changes nothing. Called by the inspection commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping

from ovsnet import names, plan, resources, state
from ovsnet.agent.hostside import HostSide
from ovsnet.cni import framing
from ovsnet.config import Config
from ovsnet.endpoints import Here
from ovsnet.errors import SwitchUnavailable
from ovsnet.host.nft import Ruleset
from ovsnet.model import Attached, Frozen, LocalNode
from ovsnet.objects import Object
from ovsnet.render import Renderer, cookie_of
from ovsnet.rows import BridgeRow, PortRow
from ovsnet.services import Reach, Services
from ovsnet.state import Topology
from ovsnet.store import choice
from ovsnet.switch.ovsdb import Ovsdb

_WAIT = 5.0
"""Seconds to wait for ovsdb-server, or for the agent's answer."""


class View(Frozen):
    """One look at the node. health: the agent's own words; None when it does not answer."""

    config: Config
    topology: Topology
    bridge: BridgeRow | None
    rows: dict[str, PortRow]
    objects: tuple[Object, ...]
    reach: Reach
    tables: dict[int, str]
    health: dict[str, object] | None
    problems: dict[str, str]
    """Manifests or objects that are wrong, by file or name."""

    @property
    def by_cookie(self) -> dict[int, Object]:
        return {cookie_of(obj): obj for obj in self.objects}

    @property
    def by_port(self) -> Mapping[str, Object]:
        with_port = [obj for obj in self.objects if isinstance(obj, Attached)]
        return {names.GATEWAY if isinstance(obj, LocalNode) else obj.port: obj for obj in with_port}


async def look(config: Config) -> View:
    """Looks once. Raises SwitchUnavailable when ovsdb-server does not answer, or what `state` raises."""
    snapshot = await choice.look(config.store)
    name = config.node_name or socket.gethostname().lower()
    own = snapshot.nodes.get(name)
    host = HostSide(Ruleset(resources.templates_dir()))
    uplink = await host.uplink(config.node_address, own.addresses if own else ())
    topo = state.topology(config, name, uplink.addresses, uplink.mtu, snapshot.nodes)
    bridge, rows = await _database(config)
    numbers = plan.ports(plan.desired_ports(config, topo), rows).numbers
    services = Services()
    here = Here(node=name, zone=own.zone if own else "", addresses=topo.internal)
    services.update(snapshot.services, snapshot.slices, here)
    objects = [*state.objects(topo, config.tunnels, numbers, state.pods(rows)), *services.objects]
    renderer = Renderer(resources.flows_dir())
    return View(
        config=config,
        topology=topo,
        bridge=bridge,
        rows=rows,
        objects=tuple(objects),
        reach=services.reach,
        tables={table.number: table.name for table in renderer.tables},
        health=await health(config),
        problems=dict(snapshot.problems),
    )


async def _database(config: Config) -> tuple[BridgeRow | None, dict[str, PortRow]]:
    ovsdb = Ovsdb(config.ovsdb, config.bridge)
    driver = asyncio.create_task(ovsdb.run())
    try:
        async with asyncio.timeout(_WAIT):
            await ovsdb.wait_connected()
        return ovsdb.bridge(), dict(ovsdb.ports())
    except TimeoutError:
        raise SwitchUnavailable(
            f"ovsdb-server at {config.ovsdb} does not answer", "is openvswitch-switch running on this node?"
        ) from None
    finally:
        driver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await driver


async def health(config: Config) -> dict[str, object] | None:
    """What the agent says of itself; None when it does not answer."""
    return await ask(config, "health")


async def ask(config: Config, what: str) -> dict[str, object] | None:
    """The agent's answer to a question of ours: "health", or "audit" after having compared and repaired.

    None when it does not answer.
    """
    try:
        async with asyncio.timeout(_WAIT):
            reader, writer = await asyncio.open_unix_connection(config.cni_socket)
            writer.write(framing.frame({"OVSNET_COMMAND": what}))
            writer.write_eof()
            answer = await reader.read()
            writer.close()
        _, body = framing.unframe_reply(answer)
        said = json.loads(body)
        return said if isinstance(said, dict) else None
    except (OSError, TimeoutError, ValueError, framing.Malformed):
        return None
