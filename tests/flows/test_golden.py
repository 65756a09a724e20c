"""Every table's flows for the representative state, as text that people read.

A change of a template shows here as a difference; `pytest tests/flows --update-golden` accepts it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from flow_world import NODE, RENDERER, WITH_SERVICES

from ovsnet.pipeline import Table
from ovsnet.render import kind_of

GOLDEN = Path(__file__).parent / "golden"


def text_of(table: Table) -> str:
    """The lines of one table, object by object."""
    parts = []
    for obj in WITH_SERVICES:
        lines = [line for line in RENDERER.object(obj) if line.split(",")[1] == f"table={table.number}"]
        if lines:
            parts.append("\n".join([f"# {kind_of(obj)} {obj.title}", *lines, ""]))
    return "\n".join(parts)


@pytest.mark.parametrize("table", RENDERER.tables, ids=lambda table: str(table.name))
def test_a_table_is_rendered_as_agreed(table: Table, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{table.path.name.removesuffix('.flows.j2')}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text_of(table), encoding="utf-8")
    assert text_of(table) == path.read_text(encoding="utf-8"), (
        f"{path}: pytest tests/flows --update-golden accepts it"
    )


def test_every_golden_file_belongs_to_a_table() -> None:
    tables = {table.path.name.removesuffix(".flows.j2") for table in RENDERER.tables}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == tables


@pytest.mark.parametrize("word", ["NORMAL", "FLOOD", "flood", "ALL", "learn", "CONTROLLER"])
def test_nothing_is_flooded_or_learnt_but_of_clients_that_stay(word: str) -> None:
    objects = [obj for obj in WITH_SERVICES if not getattr(obj, "affinity", 0)]
    assert not [line for obj in objects for line in RENDERER.object(obj) if word in line]


@pytest.mark.parametrize("table", RENDERER.tables, ids=lambda table: str(table.name))
def test_a_table_ends_in_a_flow_for_everything_else(table: Table) -> None:
    last = f",table={table.number},priority=0 actions="
    assert [line for line in RENDERER.object(NODE) if last in line]
