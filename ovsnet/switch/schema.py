"""The tables and columns of the Open_vSwitch database that ovsnet reads or writes.

Pure. A part of ovs-vswitchd's vswitch.ovsschema, kept here so that the IDL can be made before the
server answers and without the file, which a container with the agent alone does not have. The IDL
monitors exactly these columns. Called by `ovsdb`.
"""

from __future__ import annotations

from typing import Any

DATABASE = "Open_vSwitch"

_STRING: dict[str, Any] = {"type": "string"}
_OPTIONAL_STRING: dict[str, Any] = {"type": {"key": "string", "min": 0, "max": 1}}
_OPTIONAL_INTEGER: dict[str, Any] = {"type": {"key": "integer", "min": 0, "max": 1}}
_STRINGS: dict[str, Any] = {"type": {"key": "string", "min": 0, "max": "unlimited"}}
_MAP: dict[str, Any] = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}


def _references(table: str, least: int = 0) -> dict[str, Any]:
    return {"type": {"key": {"type": "uuid", "refTable": table}, "min": least, "max": "unlimited"}}


TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "Open_vSwitch": {
        "bridges": _references("Bridge"),
        "ovs_version": _OPTIONAL_STRING,
        "datapath_types": _STRINGS,
        "iface_types": _STRINGS,
    },
    "Bridge": {
        "name": _STRING,
        "ports": _references("Port"),
        "datapath_type": _STRING,
        "fail_mode": _OPTIONAL_STRING,
        "other_config": _MAP,
        "external_ids": _MAP,
    },
    "Port": {
        "name": _STRING,
        "interfaces": _references("Interface", least=1),
        "external_ids": _MAP,
    },
    "Interface": {
        "name": _STRING,
        "type": _STRING,
        "options": _MAP,
        "mac": _OPTIONAL_STRING,
        "mtu_request": _OPTIONAL_INTEGER,
        "ofport": _OPTIONAL_INTEGER,
        "ofport_request": _OPTIONAL_INTEGER,
        "error": _OPTIONAL_STRING,
    },
}


def document() -> dict[str, Any]:
    """The schema as the IDL wants it: a new copy, for the IDL keeps and alters it."""
    tables = {
        name: {
            "columns": {column: dict(kind) for column, kind in columns.items()},
            "isRoot": name == "Open_vSwitch",
        }
        for name, columns in TABLES.items()
    }
    return {"name": DATABASE, "version": "8.0.0", "tables": tables}
