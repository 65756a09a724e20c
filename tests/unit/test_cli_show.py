"""`ovsnet show`: what its table makes of the ports. The whole command is tested in a lab."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ovsnet.cli import console
from ovsnet.cli.show import ports_table, spans


def port(ofport: int | None, role: str = "spare", error: str | None = None) -> dict[str, Any]:
    return {
        "name": f"pod-{ofport}",
        "ofport": ofport,
        "role": role,
        "type": "system",
        "who": "",
        "addresses": [],
        "error": error,
    }


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((18,), "18"), ((18, 19, 20), "18-20"), ((21, 18, 19, 25), "18-19, 21, 25")],
)
def test_neighbouring_numbers_are_a_span(numbers: tuple[int, ...], text: str) -> None:
    assert spans([port(number) for number in numbers]) == text


def test_sound_spares_are_one_line_without_trailing_blanks() -> None:
    ports = [port(16, "pod"), port(18), port(19), port(None), port(20, error="no such device")]
    out = io.StringIO()
    console.table(console.console(out), ports_table(ports))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "pod-16", "2", "pod-None", "pod-20"]
    assert "ofport 18-19" in lines[2]
    assert "no such device" in lines[4]
    assert [line for line in lines if line != line.rstrip()] == []
