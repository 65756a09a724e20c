"""The rows of our bridge, kept as `BridgeRow` and `PortRow` while the replica changes.

Pure. Knows which port each changed row belongs to, so one change costs one row however many ports
there are. Called by `ovsdb`; `operations` looks rows up here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovsnet import names
from ovsnet.rows import BridgeRow, PortRow
from ovsnet.switch.replica import Change, Replica, Row


class Cache:
    """What the database says, as of the last `settle` or `rebuild`. UUIDs are text."""

    def __init__(self, replica: Replica, bridge: str) -> None:
        self._tables = replica.tables
        self._name = bridge
        self.bridge: BridgeRow | None = None
        self.bridge_uuid: str | None = None
        self.ports: dict[str, PortRow] = {}
        """Our bridge's. A new dict after every change, in which what did not change is the same object."""
        self.uuids: dict[str, str] = {}
        """Of every Port in the database: names are unique across bridges."""
        self._members: frozenset[str] = frozenset()
        self._port_of: dict[str, str] = {}

    def rebuild(self) -> None:
        """Forgets everything and reads every row: the connection is new."""
        self.uuids.clear()
        self._port_of.clear()
        for uuid, row in self._tables["Port"].items():
            self._learn(uuid, row)
        self._find_bridge()
        before, self.ports = self.ports, {}
        self._translate(self._members, before)

    def settle(self, changes: Iterable[Change]) -> None:
        """Follows what changed since the last time."""
        dirty: set[str] = set()
        gone: set[str] = set()
        members = self._members
        for change in changes:
            if change.table == "Interface":
                dirty.add(self._port_of.get(change.uuid, ""))
            elif change.table == "Port":
                dirty.add(change.uuid)
                if change.before is not None:
                    gone.add(change.before["name"])
                    self._forget(change.uuid, change.before)
                if change.after is not None:
                    self._learn(change.uuid, change.after)
            elif change.table == "Bridge":
                self._find_bridge()
        left = members - self._members
        if left:
            gone |= {row["name"] for uuid in left if (row := self._tables["Port"].get(uuid)) is not None}
        dirty |= self._members - members
        before = self.ports
        self.ports = {name: row for name, row in before.items() if name not in gone} if gone else dict(before)
        self._translate(dirty & self._members, before)

    def interface(self, port: str) -> str:
        """The UUID of a port's Interface; of one of them for a bond, which is never ours."""
        return str(next(iter(self._tables["Port"][port]["interfaces"])))

    def bridge_of(self, port: str) -> str | None:
        """The name of the bridge that has a port."""
        uuid = self.uuids.get(port)
        return next((row["name"] for row in self._tables["Bridge"].values() if uuid in row["ports"]), None)

    @property
    def keeper_name(self) -> str:
        """The bridge that names devices for vswitchd to keep. With a slash in its name vswitchd ignores it."""
        return f"{self._name}/kept"

    def keeper(self) -> str | None:
        """The UUID of that bridge's row; None when there is none."""
        return next(
            (
                uuid
                for uuid, row in self._tables["Bridge"].items()
                if row["name"] == self.keeper_name
                and row["external_ids"].get(names.OWNER) == names.ROLE_KEEPER
            ),
            None,
        )

    def root(self) -> str | None:
        """The UUID of the one row of Open_vSwitch; None before `ovs-vsctl init`."""
        return next(iter(self._tables["Open_vSwitch"]), None)

    def system(self) -> Row | None:
        """The one row of Open_vSwitch."""
        return next(iter(self._tables["Open_vSwitch"].values()), None)

    def _learn(self, uuid: str, row: Row) -> None:
        self.uuids[row["name"]] = uuid
        for interface in row["interfaces"]:
            self._port_of[interface] = uuid

    def _forget(self, uuid: str, row: Row) -> None:
        # A port may be removed and made again, with another UUID, in one transaction.
        if self.uuids.get(row["name"]) == uuid:
            del self.uuids[row["name"]]
        for interface in row["interfaces"]:
            if self._port_of.get(interface) == uuid:
                del self._port_of[interface]

    def _find_bridge(self) -> None:
        for uuid, row in self._tables["Bridge"].items():
            if row["name"] == self._name:
                self.bridge_uuid, self.bridge, self._members = uuid, _bridge_row(row), row["ports"]
                return
        self.bridge_uuid, self.bridge, self._members = None, None, frozenset()

    def _translate(self, dirty: Iterable[str], before: Mapping[str, PortRow]) -> None:
        ports, interfaces = self._tables["Port"], self._tables["Interface"]
        for uuid in dirty:
            port = ports[uuid]
            row = _port_row(port, interfaces[next(iter(port["interfaces"]))])
            known = before.get(row.name)
            self.ports[row.name] = known if known is not None and known == row else row


def _bridge_row(row: Row) -> BridgeRow:
    return BridgeRow(
        name=row["name"],
        datapath_type=row["datapath_type"],
        fail_mode=row["fail_mode"] or "",
        protocols=row["protocols"],
        other_config=row["other_config"],
        external_ids=row["external_ids"],
    )


def _port_row(port: Row, interface: Row) -> PortRow:
    return PortRow(
        name=port["name"],
        type=interface["type"],
        options=interface["options"],
        external_ids=port["external_ids"],
        ofport_request=interface["ofport_request"],
        mac=interface["mac"],
        mtu_request=interface["mtu_request"],
        ofport=interface["ofport"],
        error=interface["error"],
    )
