"""What this node should be: from the store, or what OVSDB remembers of it, and the node's own addresses.

Owns what is said of nodes and ports that can't be served. Changes nothing but what the notices look out for. Called by
the agent's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ovsnet import recall, state
from ovsnet.agent.complaints import Complaints, Lasting
from ovsnet.agent.hostside import HostSide
from ovsnet.config import Config
from ovsnet.endpoints import Here
from ovsnet.errors import NotReady, SwitchUnavailable, Waiting
from ovsnet.host.notices import Notices
from ovsnet.model import Node
from ovsnet.state import Topology
from ovsnet.store import Snapshot, choice
from ovsnet.switch.ovsdb import Ovsdb

_MANY = 5
"""Differences with peers that are told one by one; a peer has three at most. Of more a line says that they are many,
always the same one: which they are changes as agents follow a change."""


class Deriving:
    """For the node `name`."""

    def __init__(
        self,
        config: Config,
        name: str,
        *,
        ovsdb: Ovsdb,
        host: HostSide,
        notices: Notices,
        complaints: Complaints,
        lasting: Lasting | None = None,
    ) -> None:
        """lasting: which differences with peers are told."""
        self._config = config
        self._name = name
        self._ovsdb = ovsdb
        self._host = host
        self._notices = notices
        self._complaints = complaints
        self._lasting = lasting or Lasting()
        self._compared: tuple[Topology, Mapping[str, Node]] | None = None
        """What was derived last, and of which nodes."""
        self._look: asyncio.TimerHandle | None = None
        """At differences with peers, which may last."""
        self.here = Here(node=name)
        """Where the node is, as `topology` saw it last."""

    async def topology(self, snapshot: Snapshot | None) -> Topology:
        """What follows from a snapshot of the store. Raises SwitchUnavailable, NotReady or HostFailure."""
        if not self._ovsdb.connected:
            raise SwitchUnavailable(
                f"ovsdb-server at {self._config.ovsdb} does not answer", "start Open vSwitch on this node"
            )
        nodes = self._nodes(snapshot)
        own, own_source = nodes.get(self._name), f"Node {self._name}"
        lacks = snapshot.problems.get(own_source, "") if snapshot and snapshot.lacks(self._name) else ""
        uplink = await self._host.uplink(self._config.node_address, own.addresses if own else ())
        self._notices.uplink = uplink.interface
        try:
            topo = state.topology(self._config, self._name, uplink.addresses, uplink.mtu, nodes)
        except Waiting as error:
            hint = f"the agent waits for a Node object that has some: {lacks}" if lacks else error.hint
            raise Waiting(error.message, hint) from None
        if lacks:
            self._complaints.about("own node", f"{own_source}: {lacks}", waits=True)
        else:
            self._complaints.over("own node")
        self.here = Here(node=self._name, zone=own.zone if own else "", addresses=topo.internal)
        self._notices.mtu = topo.mtu
        self._complaints.only("topology", topo.problems)
        self._compared = topo, nodes
        self._compare()
        failed = [row for row in self._ovsdb.ports().values() if row.role is not None and row.ofport == -1]
        self._complaints.only("port", [f"port {row.name} does not work: {row.error}" for row in failed])
        return topo

    def compare(self, snapshot: Snapshot) -> None:
        """What peers publish by now, where nothing else of the nodes that were there is different."""
        if self._compared is not None:
            topo, nodes = self._compared
            self._compared = topo, {**nodes, **snapshot.nodes}
            self._compare()

    def _compare(self) -> None:
        """Tells of differences with peers that last: agents follow a change one after the other."""
        if self._compared is None:
            return
        lasting = self._lasting.of(state.differences(self._config, *self._compared))
        more = [
            f"many peers publish what node {self._name} does not do; their Nodes' annotations ovsnet.io/mtu,"
            " ovsnet.io/tunnel-encapsulation and ovsnet.io/tunnel-address have it"
        ]
        self._complaints.only("peer", lasting if len(lasting) <= _MANY else more)
        if self._look is not None:
            self._look.cancel()
        due = self._lasting.due()
        self._look = None if due is None else asyncio.get_running_loop().call_later(due, self._compare)

    def _nodes(self, snapshot: Snapshot | None) -> Mapping[str, Node]:
        """The store's nodes; what rows remember fills in what the store could not read yet.

        Raises NotReady when neither says enough to go by: nothing is withdrawn then.
        """
        if snapshot is not None:
            self._complaints.over("store")
            return recall.nodes(self._ovsdb.ports(), snapshot.nodes, snapshot.unread_nodes)
        remembered = recall.nodes(self._ovsdb.ports(), {})
        if self._name not in remembered:
            raise NotReady(
                f"the store {choice.title(self._config.store)} has not been read yet",
                choice.hint(self._config.store),
            )
        self._complaints.about(
            "store",
            f"the store {choice.title(self._config.store)} is away; "
            f"going by the {len(remembered) - 1} peers of an earlier run",
        )
        return remembered
