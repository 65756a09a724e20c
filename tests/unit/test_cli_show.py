"""`ovsnet show`: what its table makes of the ports. The whole command is tested in a lab."""

from __future__ import annotations

import io
from typing import Any

from ovsnet.cli import console
from ovsnet.cli.show import ports_table


def port(ofport: int | None, role: str = "pod", error: str | None = None) -> dict[str, Any]:
    return {
        "name": f"pod-{ofport}",
        "ofport": ofport,
        "role": role,
        "type": "system",
        "who": "",
        "addresses": [],
        "error": error,
    }


def test_the_table_tells_what_is_wrong_and_has_no_trailing_blanks() -> None:
    ports = [port(16), port(18), port(None), port(20, error="no such device")]
    out = io.StringIO()
    console.table(console.console(out), ports_table(ports))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "pod-16", "pod-18", "pod-None", "pod-20"]
    assert "no such device" in lines[4]
    assert [line for line in lines if line != line.rstrip()] == []
