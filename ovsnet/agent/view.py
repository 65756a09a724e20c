"""The node's state as any program can derive it, with the agent running or not.

Reads what the agent reads (configuration, store, OVSDB) and renders what it renders, so that a
cookie on the switch leads to its object. Where the store can't be read it goes by what OVSDB remembers, as the agent
does, and says so. Changes nothing. Called by the inspection commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator, Mapping

import msgspec

from ovsnet import config as configuration
from ovsnet import pipeline, plan, policies, recall, resources, state
from ovsnet.agent.hostside import HostSide
from ovsnet.cni import framing
from ovsnet.config import Config
from ovsnet.endpoints import Here
from ovsnet.errors import HostFailure, NotReady, OvsnetError, StoreError, SwitchUnavailable
from ovsnet.host.nft import Ruleset
from ovsnet.model import Frozen, Node
from ovsnet.objects import Object
from ovsnet.policies import Floor, Policies
from ovsnet.render import cookie_of
from ovsnet.rows import BridgeRow, PortRow
from ovsnet.services import Reach, Services
from ovsnet.state import Topology
from ovsnet.store import Snapshot, choice
from ovsnet.switch.ovsdb import Ovsdb

_WAIT = 5.0
"""Seconds to wait for ovsdb-server, or for the agent's answer."""
_STORE_WAIT = 4.0
"""Seconds to wait for a store that says nothing."""


class View(Frozen):
    """One look at the node. health: the agent's own words; None when it does not answer."""

    config: Config
    name: str
    topology: Topology | None
    """None: not even what OVSDB remembers makes one; `trouble` says why."""
    trouble: OvsnetError | None
    """Why this node can't be what store and configuration say. A topology that is there then is an earlier one."""
    unread: StoreError | None
    """Why the store can't be read: nodes are those that OVSDB remembers, and nobody knows Services and policies."""
    bridge: BridgeRow | None
    rows: dict[str, PortRow]
    objects: tuple[Object, ...]
    reach: Reach
    snapshot: Snapshot | None
    """What the store says; None while it can't be read."""
    policies: Policies
    """What is derived of it for this node's pods."""
    tables: dict[int, str]
    health: dict[str, object] | None
    problems: dict[str, str]
    """Manifests or objects that are wrong, by file or name."""

    @property
    def by_cookie(self) -> dict[int, Object]:
        return {cookie_of(obj): obj for obj in self.objects}

    @property
    def known(self) -> Topology:
        """The topology, for who can do nothing without. Raises OvsnetError when there is none."""
        if self.topology is None:
            raise self.trouble or NotReady(f"nothing is known of node {self.name}", "ovsnet doctor")
        return self.topology

    @property
    def outdated(self) -> bool:
        """Whether the agent runs with another configuration than this."""
        return outdated(self.config, self.health)

    def warnings(self) -> Iterator[tuple[str, str, str]]:
        """What of the answer is not as usual: why, what is therefore missing, what to do."""
        if self.outdated:
            yield f"{configuration.OUTDATED}: {configuration.RESTART}", "", ""
        peers = 0 if self.topology is None else len(self.topology.peers)
        remembered = (
            "of node and peers nothing is known, of pods what the ports of {bridge} say"
            if self.topology is None
            else f"this node and {peers} peers are as the ports of {{bridge}} remember them"
        ).format(bridge=self.config.bridge)
        if self.unread is not None:
            missing = f"the store can't be read; {remembered}; Services and policies are not known"
            yield self.unread.message, missing, self.unread.hint
        if self.trouble is not None:
            yield self.trouble.message, "" if self.unread else remembered, self.trouble.hint


async def look(config: Config) -> View:
    """Looks once. Raises SwitchUnavailable when ovsdb-server does not answer."""
    name = config.node_name or socket.gethostname().lower()
    (bridge, rows), said = await asyncio.gather(_database(config), health(config))
    # Not beside these: to read a large folder takes the loop for so long that their time would be over.
    snapshot, unread = await _store(config, rows)
    topo, trouble = await _derive(config, name, rows, snapshot)
    services = Services()
    if snapshot is not None:
        own = snapshot.nodes.get(name)
        here = Here(node=name, zone=own.zone if own else "", addresses=topo.internal if topo else ())
        services.update(snapshot.services, snapshot.slices, here)
    policed = _policed(rows, snapshot, name, _floor(said))
    return View(
        config=config,
        name=name,
        topology=topo,
        trouble=trouble,
        unread=unread,
        bridge=bridge,
        rows=rows,
        objects=(*_attached(config, topo, rows), *services.objects, *policed.objects),
        reach=services.reach,
        snapshot=snapshot,
        policies=policed,
        tables={table.number: table.name for table in pipeline.tables(resources.flows_dir())},
        health=said,
        problems=dict(snapshot.problems) if snapshot else {},
    )


async def _store(config: Config, rows: Mapping[str, PortRow]) -> tuple[Snapshot | None, StoreError | None]:
    """The store's snapshot, or why there is none."""

    async def memory() -> Mapping[str, Node]:
        return recall.nodes(rows, {})

    try:
        return await choice.look(config, _STORE_WAIT, memory), None
    except StoreError as error:
        return None, error


async def _derive(
    config: Config, name: str, rows: Mapping[str, PortRow], snapshot: Snapshot | None
) -> tuple[Topology | None, OvsnetError | None]:
    """What the agent derives; where it can't, what it derived last, as rows remember it, and why it can't."""
    remembered = recall.nodes(rows, {})
    if snapshot is None:
        if name not in remembered and not config.pod_cidrs:
            return None, NotReady(
                f"no port of bridge {config.bridge} remembers node {name}",
                "its pod ranges come from the store; the agent writes them on its ports once it was ready",
            )
        nodes: Mapping[str, Node] = remembered
    else:
        nodes = recall.nodes(rows, snapshot.nodes, snapshot.unread_nodes)
    try:
        return await _topology(config, name, nodes), None
    except (NotReady, HostFailure) as error:
        trouble = error
    with contextlib.suppress(NotReady, HostFailure):
        return await _topology(config, name, remembered), trouble
    return None, trouble


async def _topology(config: Config, name: str, nodes: Mapping[str, Node]) -> Topology:
    own = nodes.get(name)
    host = HostSide(Ruleset(resources.templates_dir()))
    uplink = await host.uplink(config.node_address, own.addresses if own else ())
    return state.topology(config, name, uplink.addresses, uplink.mtu, nodes)


def _attached(config: Config, topo: Topology | None, rows: Mapping[str, PortRow]) -> list[Object]:
    """Node, peers and pods; without a topology the pods that have a port."""
    pods = state.pods(rows)
    if topo is None:
        return [pod for pod in pods if pod.ofport > 0]
    numbers = plan.ports(plan.desired_ports(config, topo), rows).numbers
    return state.objects(topo, config.tunnels, numbers, pods)


def _floor(said: Mapping[str, object] | None) -> dict[str, Floor]:
    """How far pods are closed since the agent could not read all policies, as it says itself."""
    try:
        return msgspec.convert((said or {}).get("closed", {}), dict[str, Floor])
    except msgspec.ValidationError:
        return {}


def _policed(
    rows: Mapping[str, PortRow], snapshot: Snapshot | None, node: str, floor: Mapping[str, Floor]
) -> Policies:
    found = Policies()
    if snapshot is not None:
        found.update(
            snapshot.policies,
            snapshot.namespaces,
            snapshot.pods,
            policies.addresses(state.pods(rows)),
            policies.node_addresses(snapshot.nodes),
            snapshot.cluster_policies,
            node,
            floor,
        )
    return found


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


def outdated(config: Config, said: Mapping[str, object] | None) -> bool:
    """Whether the agent runs with another configuration than this one. said: its health; False if nobody can tell."""
    runs_with = (said or {}).get("configuration")
    return runs_with is not None and runs_with != configuration.digest(config)


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
