"""Changes as OVSDB operations (RFC 7047, section 5.2). Does no I/O. Called by `ovsdb`.

Sets and maps that others write too are mutated, never written as a whole, so no write of theirs is
lost and a change's size does not depend on how many ports there are. What must hold when the
transaction is carried out stands in front of it as `wait` operations. Refuses to touch a bridge or
port that is not ours, and a key that is not ours stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovsnet import names
from ovsnet.errors import OvsnetError
from ovsnet.rows import (
    PROTOCOL,
    AddPort,
    BridgeSpec,
    Change,
    Confirm,
    DeletePort,
    KeepDevices,
    PortRow,
    PortSpec,
    SetBridge,
    SetIdentity,
    SetPolicies,
    SetPort,
    SetReleased,
    SetRestoreWait,
)
from ovsnet.switch.cache import Cache

RESTORE_WAIT = "flow-restore-wait"
"""Key of other_config of the Open_vSwitch row (ovs-vswitchd.conf.db(5))."""

Operation = dict[str, Any]
Reference = list[str]
"""["uuid", ...] of a row that is there, ["named-uuid", ...] of one that this transaction makes."""


def build(changes: Sequence[Change], cache: Cache, bridge: str) -> list[Operation]:
    """The operations of one transaction; none when there is nothing to do.

    Raises OvsnetError for a row that is not ours or not there.
    """
    return _Builder(cache, bridge).build(changes)


class _Builder:
    def __init__(self, cache: Cache, bridge: str) -> None:
        self._cache = cache
        self._name = bridge
        self._bridge = _by_uuid(cache.bridge_uuid) if cache.bridge_uuid else None
        self._guards: dict[str, Operation] = {}
        self._operations: list[Operation] = []
        self._added: dict[str, Reference] = {}
        self._removed: dict[str, Reference] = {}

    def build(self, changes: Sequence[Change]) -> list[Operation]:
        for change in changes:
            match change:
                case SetBridge(spec=bridge):
                    self._set_bridge(bridge)
                case AddPort(spec=spec):
                    self._add_port(spec)
                case SetPort(spec=spec):
                    self._set_port(spec, self._ours(spec.name))
                case DeletePort(name=name):
                    self._delete_port(name)
                case SetIdentity(name=name, external_ids=external_ids, reclaim=reclaim):
                    self._set_identity(self._there(name) if reclaim else self._ours(name), external_ids)
                case _:
                    self._remember(change)
        self._move_ports()
        return [*self._guards.values(), *self._operations] if self._operations else []

    def _remember(self, change: SetReleased | SetPolicies | SetRestoreWait | Confirm | KeepDevices) -> None:
        """What is for later: the next agent or the next vswitchd."""
        match change:
            case SetReleased(value=value):
                self._set_released(value)
            case SetPolicies(bridge=policies, ports=ports):
                self._set_policies(policies, ports)
            case SetRestoreWait(wait=wait):
                self._set_restore_wait(wait)
            case Confirm():
                self._confirm()
            case KeepDevices(devices=devices):
                self._keep_devices(devices)

    def _set_bridge(self, spec: BridgeSpec) -> None:
        row, uuid = self._cache.bridge, self._cache.bridge_uuid
        if row is None or uuid is None:
            self._make_bridge(spec)
            return
        # Ports of ours on it tell of a bridge whose mark alone was removed.
        if names.OWNER not in row.external_ids and all(
            port.role is None for port in self._cache.ports.values()
        ):
            raise OvsnetError(
                f"bridge {row.name} exists and is not ovsnet's",
                f"hand it over: ovs-vsctl set bridge {row.name} external_ids:{names.OWNER}={names.ROLE_BRIDGE}; "
                "or choose another `bridge`",
            )
        columns: dict[str, Any] = {}
        if row.datapath_type != spec.datapath_type:
            columns["datapath_type"] = spec.datapath_type
        if row.fail_mode != spec.fail_mode:
            columns["fail_mode"] = spec.fail_mode
        self._guard("Bridge", uuid, row.name)
        self._update("Bridge", uuid, columns)
        mutations = _merge("other_config", row.other_config, spec.other_config)
        mutations += _merge("external_ids", row.external_ids, spec.external_ids)
        if not row.speaks:
            mutations.append(["protocols", "insert", ["set", [PROTOCOL]]])
        self._mutate("Bridge", _by_uuid(uuid), mutations)

    def _make_bridge(self, spec: BridgeSpec) -> None:
        self._bridge = ["named-uuid", "bridge"]
        self._operations.append(
            {
                "op": "insert",
                "table": "Bridge",
                "uuid-name": "bridge",
                "row": {
                    "name": spec.name,
                    "datapath_type": spec.datapath_type,
                    "fail_mode": spec.fail_mode,
                    "other_config": _map(spec.other_config),
                    "external_ids": _map(spec.external_ids),
                },
            }
        )
        local = PortSpec(name=spec.name, type="internal", external_ids={names.OWNER: names.ROLE_BRIDGE})
        if spec.name not in self._cache.uuids:
            self._insert_port(local)
        root = self._cache.root()
        if root is None:
            self._operations.append(
                {"op": "insert", "table": "Open_vSwitch", "row": {"bridges": self._bridge}}
            )
        else:
            self._mutate("Open_vSwitch", _by_uuid(root), [["bridges", "insert", ["set", [self._bridge]]]])

    def _add_port(self, spec: PortSpec) -> None:
        if spec.name in self._removed or spec.name not in self._cache.uuids:
            self._insert_port(spec)
        else:
            self._set_port(spec, self._ours(spec.name))

    def _insert_port(self, spec: PortSpec) -> None:
        if self._bridge is None:
            raise OvsnetError(
                f"bridge {self._name} does not exist", "the agent makes it at its next comparison"
            )
        if spec.name in self._added:
            raise OvsnetError(f"port {spec.name} is added twice in one change", "this is a bug in ovsnet")
        self._added[spec.name] = self._insert_rows(spec, str(len(self._added)))

    def _insert_rows(self, spec: PortSpec, label: str) -> Reference:
        """A Port and its Interface; label: unique in this transaction."""
        interface, port = f"interface{label}", f"port{label}"
        row: dict[str, Any] = {"name": spec.name, "type": spec.type, "options": _map(spec.options)}
        for column in ("mac", "mtu_request", "ofport_request"):
            if (value := getattr(spec, column)) is not None:
                row[column] = value
        self._operations += [
            {"op": "insert", "table": "Interface", "uuid-name": interface, "row": row},
            {
                "op": "insert",
                "table": "Port",
                "uuid-name": port,
                "row": {
                    "name": spec.name,
                    "interfaces": ["named-uuid", interface],
                    "external_ids": _map(spec.external_ids),
                },
            },
        ]
        return ["named-uuid", port]

    def _set_port(self, spec: PortSpec, row: PortRow) -> None:
        columns: dict[str, Any] = {}
        if row.type != spec.type:
            columns["type"] = spec.type
        if row.options != spec.options:
            columns["options"] = _map(spec.options)
        for column in ("mac", "mtu_request", "ofport_request"):
            value = getattr(spec, column)
            if value != getattr(row, column) and (value is not None or column != "ofport_request"):
                columns[column] = ["set", [] if value is None else [value]]
        if columns:
            self._guard("Port", self._cache.uuids[spec.name], spec.name)
            self._update("Interface", self._cache.interface(self._cache.uuids[spec.name]), columns)
        self._set_identity(row, spec.external_ids)

    def _set_identity(self, row: PortRow, external_ids: Mapping[str, str]) -> None:
        mutations = _replace("external_ids", row.external_ids, external_ids)
        if mutations:
            uuid = self._cache.uuids[row.name]
            self._guard("Port", uuid, row.name)
            self._mutate("Port", _by_uuid(uuid), mutations)

    def _delete_port(self, name: str) -> None:
        if name in self._cache.ports and name not in self._removed:
            self._ours(name)
            self._removed[name] = _by_uuid(self._cache.uuids[name])

    def _set_released(self, value: str) -> None:
        row, uuid = self._cache.bridge, self._cache.bridge_uuid
        if row is None or uuid is None:
            raise OvsnetError(
                f"bridge {self._name} does not exist", "the agent makes it at its next comparison"
            )
        before = {key: text for key, text in row.external_ids.items() if key == names.KEY_RELEASED}
        mutations = _replace("external_ids", before, {names.KEY_RELEASED: value} if value else {})
        if mutations:
            self._guard("Bridge", uuid, row.name)
            self._mutate("Bridge", _by_uuid(uuid), mutations)

    def _set_policies(self, bridge: str, ports: Mapping[str, str]) -> None:
        """Of rows that are there: one that has gone meanwhile needs it no more."""
        if bridge and self._cache.bridge_uuid is not None:
            self._mutate("Bridge", _by_uuid(self._cache.bridge_uuid), _policies(bridge))
        for name, value in ports.items():
            if (row := self._cache.ports.get(name)) is not None and row.role == names.ROLE_POD:
                self._mutate("Port", _by_uuid(self._cache.uuids[name]), _policies(value))

    def _set_restore_wait(self, wait: bool) -> None:
        root = self._cache.root()
        if root is None:
            raise OvsnetError("the database has no Open_vSwitch row", "ovs-vsctl init")
        # Deleted first in any case: to insert a key that is there changes nothing.
        mutations: list[list[Any]] = [["other_config", "delete", ["set", [RESTORE_WAIT]]]]
        if wait:
            mutations.append(["other_config", "insert", _map({RESTORE_WAIT: "true"})])
        self._mutate("Open_vSwitch", _by_uuid(root), mutations)
        if not wait:
            self._confirm()

    def _confirm(self) -> None:
        """vswitchd answers in cur_cfg when it has seen this."""
        root = self._cache.root()
        if root is not None:
            self._mutate("Open_vSwitch", _by_uuid(root), [["next_cfg", "+=", 1]])

    def _keep_devices(self, devices: frozenset[str]) -> None:
        """The names as those of Interfaces, in a bridge that vswitchd ignores for its own name's sake.

        A vswitchd that starts removes what it finds in the datapath, but for the names of all Interfaces. No
        bridge that it makes may have these: it would take the device for a port of its own.
        """
        root = self._cache.root()
        if root is None:
            return
        mutations: list[list[Any]] = []
        if (kept := self._cache.keeper()) is not None:
            mutations.append(["bridges", "delete", ["set", [_by_uuid(kept)]]])
        if devices:
            ports = [self._insert_rows(PortSpec(name=name), f"kept{n}") for n, name in enumerate(devices)]
            row = {
                "name": self._cache.keeper_name,
                "ports": ["set", ports],
                "external_ids": _map({names.OWNER: names.ROLE_KEEPER}),
            }
            self._operations.append({"op": "insert", "table": "Bridge", "uuid-name": "keeper", "row": row})
            mutations.append(["bridges", "insert", ["set", [["named-uuid", "keeper"]]]])
        self._mutate("Open_vSwitch", _by_uuid(root), mutations)

    def _move_ports(self) -> None:
        if not self._added and not self._removed:
            return
        if self._cache.bridge_uuid is not None:
            self._guard("Bridge", self._cache.bridge_uuid, self._name)
        # Rows of ports are garbage to the server as soon as no bridge refers to them.
        mutations: list[list[Any]] = []
        if self._removed:
            mutations.append(["ports", "delete", ["set", list(self._removed.values())]])
        if self._added:
            mutations.append(["ports", "insert", ["set", list(self._added.values())]])
        self._mutate("Bridge", self._bridge, mutations)

    def _ours(self, name: str) -> PortRow:
        row = self._there(name)
        if row.role is None:
            raise OvsnetError(
                f"port {name} exists on bridge {self._name} and is not ovsnet's",
                f"remove it: ovs-vsctl del-port {self._name} {name}",
            )
        return row

    def _there(self, name: str) -> PortRow:
        row = self._cache.ports.get(name)
        if row is None and name in self._cache.uuids:
            bridge = self._cache.bridge_of(name)
            raise OvsnetError(f"port {name} is in bridge {bridge}, not in {self._name}", "remove it there")
        if row is None:
            raise OvsnetError(f"bridge {self._name} has no port {name}", "it was removed by somebody else")
        return row

    def _guard(self, table: str, uuid: str, name: str) -> None:
        """The row must still be there: an operation on a row that is not succeeds, and does nothing."""
        self._guards[f"{table} {name}"] = {
            "op": "wait",
            "table": table,
            "timeout": 0,
            "where": _where(_by_uuid(uuid)),
            "columns": ["name"],
            "until": "==",
            "rows": [{"name": name}],
        }

    def _update(self, table: str, uuid: str, columns: Mapping[str, Any]) -> None:
        if columns:
            self._operations.append(
                {"op": "update", "table": table, "where": _where(_by_uuid(uuid)), "row": dict(columns)}
            )

    def _mutate(self, table: str, row: Reference | None, mutations: list[list[Any]]) -> None:
        if mutations and row is not None:
            self._operations.append(
                {"op": "mutate", "table": table, "where": _where(row), "mutations": mutations}
            )


def _merge(column: str, before: Mapping[str, str], wanted: Mapping[str, str]) -> list[list[Any]]:
    """Mutations after which a map has what is wanted, and everything else that it had."""
    return _replace(column, {key: before[key] for key in wanted if key in before}, wanted)


def _replace(column: str, before: Mapping[str, str], wanted: Mapping[str, str]) -> list[list[Any]]:
    """Mutations after which a map has what is wanted, and of keys that are ours nothing else."""
    stale = [
        key for key, value in before.items() if wanted.get(key) != value and (key in wanted or _is_ours(key))
    ]
    fresh = {key: value for key, value in wanted.items() if before.get(key) != value}
    mutations: list[list[Any]] = []
    if stale:
        mutations.append([column, "delete", ["set", stale]])
    if fresh:
        mutations.append([column, "insert", _map(fresh)])
    return mutations


def _policies(value: str) -> list[list[Any]]:
    # Deleted first in any case: to insert a key that is there changes nothing.
    return [
        ["external_ids", "delete", ["set", [names.KEY_POLICIES]]],
        ["external_ids", "insert", _map({names.KEY_POLICIES: value})],
    ]


def _is_ours(key: str) -> bool:
    return key == names.OWNER or key.startswith(f"{names.OWNER}-")


def _map(value: Mapping[str, str]) -> list[Any]:
    return ["map", [[key, text] for key, text in value.items()]]


def _by_uuid(uuid: str) -> Reference:
    return ["uuid", uuid]


def _where(row: Reference) -> list[list[Any]]:
    return [["_uuid", "==", row]]
