"""The database's rows as plain Python values, kept up to date from monitor updates.

Pure. The IDL can keep such a copy too, with several objects for every string in it: reading a node
with 1,200 ports takes it 0.35 s and this 0.05 s. Knows columns, not what they are for.
Called by `ovsdb`, read by `cache`.

Format of updates: ovsdb-server(7), sections "Monitor_cond" to "Update3 notification".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ovsnet.switch.schema import TABLES, Kind

Row = dict[str, Any]
"""Every column that is monitored: str; None, str or int; frozenset of str; dict of str to str.
References are UUIDs as text. Values are replaced and never altered."""


class Change(NamedTuple):
    """One row that is different: before is None for a new row, after for one that is gone."""

    table: str
    uuid: str
    before: Row | None
    after: Row | None


class Replica:
    """All rows by table and UUID."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Row]] = {table: {} for table in TABLES}

    def clear(self) -> None:
        for rows in self.tables.values():
            rows.clear()

    def update(self, updates: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Change]:
        """Applies `<table-updates2>`. Raises KeyError, TypeError or ValueError when it is not one."""
        changes: list[Change] = []
        for table, rows in updates.items():
            known, kinds, defaults = self.tables[table], TABLES[table], _DEFAULTS[table]
            for uuid, update in rows.items():
                ((verb, columns),) = update.items()
                before = known.get(uuid)
                if verb == "delete":
                    known.pop(uuid, None)
                    changes.append(Change(table, uuid, before, None))
                    continue
                if verb == "modify":
                    after = dict(known[uuid])
                    for column, value in columns.items():
                        after[column] = _differing(kinds[column], after[column], _plain(kinds[column], value))
                else:
                    after = dict(defaults)
                    for column, value in columns.items():
                        after[column] = _plain(kinds[column], value)
                known[uuid] = after
                changes.append(Change(table, uuid, before, after))
        return changes


def _plain(kind: Kind, value: Any) -> Any:
    """A value off the wire (RFC 7047, section 5.1), as Python has it."""
    match kind:
        case Kind.TEXT | Kind.INTEGER:
            return value
        case Kind.MAP:
            return dict(value[1])
        case Kind.OPTIONAL_TEXT | Kind.OPTIONAL_INTEGER:
            return next(iter(value[1]), None) if isinstance(value, list) else value
        case Kind.TEXTS:
            return frozenset(value[1] if isinstance(value, list) else [value])
        case _:
            return frozenset(uuid for _, uuid in (value[1] if value[0] == "set" else [value]))


def _differing(kind: Kind, before: Any, difference: Any) -> Any:
    """What a column holds after a `modify`, which gives sets and maps as what changed."""
    match kind:
        case Kind.TEXT | Kind.INTEGER | Kind.OPTIONAL_TEXT | Kind.OPTIONAL_INTEGER:
            return difference
        case Kind.MAP:
            after = before | difference
            for key, value in difference.items():
                if before.get(key) == value:
                    del after[key]
            return after
        case _:
            return before ^ difference


def _default(kind: Kind) -> Any:
    match kind:
        case Kind.TEXT:
            return ""
        case Kind.INTEGER:
            return 0
        case Kind.MAP:
            return {}
        case Kind.OPTIONAL_TEXT | Kind.OPTIONAL_INTEGER:
            return None
        case _:
            return frozenset()


_DEFAULTS: dict[str, Row] = {
    table: {column: _default(kind) for column, kind in columns.items()} for table, columns in TABLES.items()
}
