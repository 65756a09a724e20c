"""The tables and columns of the Open_vSwitch database that ovsnet reads or writes.

Pure. A part of ovs-vswitchd's vswitch.ovsschema, kept here so that the IDL can be made before the
server answers and without the file, which a container with the agent alone does not have. The IDL
monitors exactly these columns. Called by `ovsdb` and `replica`.
"""

from __future__ import annotations

import enum
from typing import Any

DATABASE = "Open_vSwitch"


class Kind(enum.Enum):
    """What a column holds; the value is the OVSDB type (RFC 7047, section 3.2)."""

    TEXT = "string"
    INTEGER = "integer"
    OPTIONAL_TEXT = {"key": "string", "min": 0, "max": 1}
    OPTIONAL_INTEGER = {"key": "integer", "min": 0, "max": 1}
    TEXTS = {"key": "string", "min": 0, "max": "unlimited"}
    MAP = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}
    BRIDGES = {"key": {"type": "uuid", "refTable": "Bridge"}, "min": 0, "max": "unlimited"}
    PORTS = {"key": {"type": "uuid", "refTable": "Port"}, "min": 0, "max": "unlimited"}
    INTERFACES = {"key": {"type": "uuid", "refTable": "Interface"}, "min": 1, "max": "unlimited"}


TABLES: dict[str, dict[str, Kind]] = {
    "Open_vSwitch": {
        "bridges": Kind.BRIDGES,
        "datapath_types": Kind.TEXTS,
        "other_config": Kind.MAP,
        "next_cfg": Kind.INTEGER,
        "cur_cfg": Kind.INTEGER,
    },
    "Bridge": {
        "name": Kind.TEXT,
        "ports": Kind.PORTS,
        "datapath_type": Kind.TEXT,
        "fail_mode": Kind.OPTIONAL_TEXT,
        "protocols": Kind.TEXTS,
        "other_config": Kind.MAP,
        "external_ids": Kind.MAP,
    },
    "Port": {
        "name": Kind.TEXT,
        "interfaces": Kind.INTERFACES,
        "external_ids": Kind.MAP,
    },
    "Interface": {
        "name": Kind.TEXT,
        "type": Kind.TEXT,
        "options": Kind.MAP,
        "mac": Kind.OPTIONAL_TEXT,
        "mtu_request": Kind.OPTIONAL_INTEGER,
        "ofport": Kind.OPTIONAL_INTEGER,
        "ofport_request": Kind.OPTIONAL_INTEGER,
        "error": Kind.OPTIONAL_TEXT,
    },
}


def document() -> dict[str, Any]:
    """The schema as the IDL wants it."""
    tables = {
        name: {
            "columns": {column: {"type": kind.value} for column, kind in columns.items()},
            "isRoot": name == "Open_vSwitch",
        }
        for name, columns in TABLES.items()
    }
    return {"name": DATABASE, "version": "8.0.0", "tables": tables}
