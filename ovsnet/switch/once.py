"""The rows of the database read once by ovs-vsctl, for whoever must not wait for a server that is away.

Reads what `ovsdb` does not: the Open_vSwitch row's own settings, and errors of all ports. Called by the doctor.
"""

from __future__ import annotations

import json
from typing import Any

from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.model import Frozen
from ovsnet.rows import PortRow
from ovsnet.switch import command

_SECONDS = 4
_COLUMNS = {
    "Open_vSwitch": "ovs_version,datapath_types,other_config",
    "Bridge": "name,ports,datapath_type,external_ids",
    "Port": "_uuid,name,external_ids,interfaces",
    "Interface": "_uuid,name,type,ofport,error,options",
}


class Rows(Frozen):
    """One look. `ports`: those of the bridge that was asked for."""

    version: str | None
    datapath_types: tuple[str, ...]
    other_config: dict[str, str]
    bridge: dict[str, Any] | None
    ports: dict[str, PortRow]


async def read(remote: str, bridge: str) -> Rows:
    """Raises SwitchUnavailable with ovs-vsctl's words when the server does not answer."""
    argv = ["ovs-vsctl", f"--db={remote}", f"--timeout={_SECONDS}", "--no-wait", "--format=json"]
    parts = [["--", f"--columns={columns}", "list", table] for table, columns in _COLUMNS.items()]
    finished = await command.run([*argv, *(word for part in parts for word in part)])
    if finished.code:
        words = finished.err.strip().splitlines()
        raise SwitchUnavailable(
            words[-1] if words else f"no answer within {_SECONDS} s", "is ovsdb-server running?"
        )
    try:
        system, bridges, ports, interfaces = map(_table, finished.out.splitlines())
    except ValueError as error:
        raise OvsnetError(f"ovs-vsctl's answer can't be read: {error}") from error
    row = next((each for each in bridges if each["name"] == bridge), None)
    return Rows(
        version=(_first(system[0]["ovs_version"]) if system else None),
        datapath_types=tuple(map(str, _list(system[0]["datapath_types"]))) if system else (),
        other_config=system[0]["other_config"] if system else {},
        bridge=row,
        ports=_ports(row, ports, interfaces),
    )


def _ports(
    bridge: dict[str, Any] | None, ports: list[dict[str, Any]], interfaces: list[dict[str, Any]]
) -> dict[str, PortRow]:
    here = set(_list(bridge["ports"])) if bridge else set()
    by_id = {each["_uuid"]: each for each in interfaces}
    found = {}
    for port in ports:
        link = next((by_id[each] for each in _list(port["interfaces"]) if each in by_id), None)
        if port["_uuid"] in here and link is not None:
            found[port["name"]] = PortRow(
                name=port["name"],
                type=link["type"],
                options=link["options"],
                external_ids=port["external_ids"],
                ofport=_first(link["ofport"]),
                error=_first(link["error"]),
            )
    return found


def _table(line: str) -> list[dict[str, Any]]:
    document = json.loads(line)
    return [dict(zip(document["headings"], map(_value, row), strict=True)) for row in document["data"]]


def _value(cell: Any) -> Any:
    """RFC 7047, section 5.1: sets, maps and UUIDs are pairs of a word and what it is."""
    if not isinstance(cell, list):
        return cell
    kind, content = cell
    if kind == "map":
        return {_value(key): _value(value) for key, value in content}
    return [_value(each) for each in content] if kind == "set" else content


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _first(value: Any) -> Any:
    """An optional column's value."""
    return next(iter(_list(value)), None)
