"""The rows of our bridge, kept as `BridgeRow` and `PortRow` while the IDL's copy changes.

Owns the translation from the library's rows and knows which port each changed row belongs to, so one
change costs one row however many ports there are. Never writes. Called by `ovsdb`; `operations`
looks rows up here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

from ovs.db import idl

from ovsnet.rows import BridgeRow, PortRow


class Cache:
    """What the database says, as of the last `settle` or `rebuild`."""

    def __init__(self, tables: Mapping[str, Any], bridge: str) -> None:
        self._tables = tables
        self._name = bridge
        self.bridge: BridgeRow | None = None
        self.bridge_uuid: UUID | None = None
        self.ports: dict[str, PortRow] = {}
        """Our bridge's. A new dict after every change, in which what did not change is the same object."""
        self.uuids: dict[str, UUID] = {}
        """Of every Port in the database: names are unique across bridges."""
        self._members: frozenset[UUID] = frozenset()
        self._port_of: dict[UUID, UUID] = {}
        self._names: dict[UUID, str] = {}
        self._dirty: set[UUID] = set()
        self._bridge_dirty = False

    def note(self, event: str, row: Any) -> None:
        """One row was created, changed or deleted; `settle` looks at it when the batch is complete."""
        table = row._table.name
        if table == "Interface":
            port = self._port_of.get(row.uuid)
            if port is not None:
                self._dirty.add(port)
        elif table == "Port":
            self._dirty.add(row.uuid)
            if event == idl.ROW_DELETE:
                self._forget(row)
            else:
                self._learn(row)
        elif table == "Bridge":
            self._bridge_dirty = True

    def settle(self) -> None:
        """Translates the rows that were noted."""
        if self._bridge_dirty:
            self._bridge_dirty = False
            before, uuid = self._members, self.bridge_uuid
            self._find_bridge()
            self._dirty |= before ^ self._members
            if uuid != self.bridge_uuid:
                self._dirty |= before | self._members
        if self._dirty:
            self.ports = self._translated(self._dirty, self.ports)
            self._dirty.clear()

    def rebuild(self) -> None:
        """Forgets everything and reads every row: the connection is new."""
        self._dirty.clear()
        self._bridge_dirty = False
        for known in (self.uuids, self._port_of, self._names):
            known.clear()
        for row in self._tables["Port"].rows.values():
            self._learn(row)
        self._find_bridge()
        before = self.ports
        fresh = self._translated(self._members, {})
        self.ports = {name: before[name] if before.get(name) == row else row for name, row in fresh.items()}

    def interface(self, port: UUID) -> UUID:
        """The UUID of a port's Interface: the first, of a bond, which is never ours."""
        return next(_uuids(self._tables["Port"].rows[port], "interfaces"))

    def bridge_of(self, port: str) -> str | None:
        """The name of the bridge that has a port."""
        uuid = self.uuids.get(port)
        for row in self._tables["Bridge"].rows.values():
            if uuid in list(_uuids(row, "ports")):
                return _text(row, "name")
        return None

    def root(self) -> UUID | None:
        """The UUID of the one row of Open_vSwitch; None before `ovs-vsctl init`."""
        return next(iter(self._tables["Open_vSwitch"].rows.keys()), None)

    def system(self, column: str) -> list[str]:
        """A column of strings of the Open_vSwitch row; empty before there is one."""
        uuid = self.root()
        return [] if uuid is None else _list(self._tables["Open_vSwitch"].rows[uuid], column)

    def _learn(self, row: Any) -> None:
        name = _text(row, "name")
        self.uuids[name] = row.uuid
        self._names[row.uuid] = name
        for interface in _uuids(row, "interfaces"):
            self._port_of[interface] = row.uuid

    def _forget(self, row: Any) -> None:
        # A port may have been removed and made again in one transaction, with another UUID.
        if self.uuids.get(_text(row, "name")) == row.uuid:
            del self.uuids[_text(row, "name")]
        for interface in _uuids(row, "interfaces"):
            self._port_of.pop(interface, None)

    def _find_bridge(self) -> None:
        for row in self._tables["Bridge"].rows.values():
            if _text(row, "name") == self._name:
                self.bridge_uuid, self.bridge = row.uuid, _bridge_row(row)
                self._members = frozenset(_uuids(row, "ports"))
                return
        self.bridge_uuid, self.bridge, self._members = None, None, frozenset()

    def _translated(self, dirty: Iterable[UUID], before: Mapping[str, PortRow]) -> dict[str, PortRow]:
        ports = dict(before)
        rows, interfaces = self._tables["Port"].rows, self._tables["Interface"].rows
        dirty = list(dirty)
        for uuid in dirty:
            if uuid not in self._members or uuid not in rows:
                ports.pop(self._names.get(uuid, ""), None)
                if uuid not in rows:
                    self._names.pop(uuid, None)
        for uuid in dirty:
            if uuid in self._members and uuid in rows:
                port = rows[uuid]
                row = _port_row(port, interfaces.get(next(_uuids(port, "interfaces"), None)))
                if before.get(row.name) != row or row.name not in ports:
                    ports[row.name] = row
        return ports


def _bridge_row(row: Any) -> BridgeRow:
    return BridgeRow(
        name=_text(row, "name"),
        datapath_type=_text(row, "datapath_type"),
        fail_mode=next(iter(_list(row, "fail_mode")), ""),
        other_config=_map(row, "other_config"),
        external_ids=_map(row, "external_ids"),
    )


def _port_row(port: Any, interface: Any) -> PortRow:
    name, external_ids = _text(port, "name"), _map(port, "external_ids")
    if interface is None:
        return PortRow(name=name, external_ids=external_ids)
    return PortRow(
        name=name,
        external_ids=external_ids,
        type=_text(interface, "type"),
        options=_map(interface, "options"),
        ofport_request=_optional(interface, "ofport_request"),
        mac=_optional(interface, "mac"),
        mtu_request=_optional(interface, "mtu_request"),
        ofport=_optional(interface, "ofport"),
        error=_optional(interface, "error"),
    )


# Through the row's data and not its attributes: reading an attribute converts the value three times,
# which for a node with 1,200 ports takes as long as receiving them.


def _values(row: Any, column: str) -> dict[Any, Any]:
    values: dict[Any, Any] = row._data[column].values
    return values


def _text(row: Any, column: str) -> str:
    return str(next(iter(_values(row, column))).value)


def _optional(row: Any, column: str) -> Any:
    for atom in _values(row, column):
        return atom.value
    return None


def _list(row: Any, column: str) -> list[str]:
    return [atom.value for atom in _values(row, column)]


def _map(row: Any, column: str) -> dict[str, str]:
    return {key.value: value.value for key, value in _values(row, column).items()}


def _uuids(row: Any, column: str) -> Iterator[UUID]:
    return (atom.value for atom in _values(row, column))
