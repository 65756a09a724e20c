"""The executable in Python has its own source compiled with it, for the interpreter that made it."""

from __future__ import annotations

import importlib.util
import os

import pytest
from cni_server_world import World, netns, program, python_only, world

__all__ = ["netns", "program", "world"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@python_only
async def test_another_interpreter_runs_the_source(world: World) -> None:
    magic = f"MAGIC = {importlib.util.MAGIC_NUMBER!r}"
    program = "PROGRAM = "
    lines = world.executable.read_text().splitlines()
    assert magic in lines
    other = "\n".join(
        "MAGIC = b''" if line == magic else "PROGRAM = b''" if line.startswith(program) else line
        for line in lines
    )
    world.executable.write_text(other)
    assert (await world.run("STATUS"))[0] == 0
    assert (await world.run("VERSION"))[1]["cniVersion"] == "1.1.0"


@python_only
async def test_the_interpreter_that_compiled_it_does_not_read_the_source(world: World) -> None:
    lines = world.executable.read_text().splitlines()
    world.executable.write_text(
        "\n".join(
            "SOURCE = 'raise SystemExit(9)'" if line.startswith("SOURCE = ") else line for line in lines
        )
    )
    assert (await world.run("STATUS"))[0] == 0
