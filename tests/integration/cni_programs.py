"""The two executables of which one is installed as /opt/cni/bin/ovsnet, for tests that run against both."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovsnet.cni import executable

KINDS = ("python", "c")


@dataclass(frozen=True)
class Program:
    """content: the file's. starter: what runs it; nothing where it runs by itself."""

    content: bytes
    starter: tuple[str, ...]

    def put(self, folder: Path) -> list[str]:
        """The command that runs it, once it is in this folder."""
        path = folder / "ovsnet"
        path.write_bytes(self.content)
        path.chmod(0o755)
        return [*self.starter, str(path)]


@functools.cache
def program(kind: str) -> Program:
    """What is installed; the one in Python for the interpreter that runs these tests."""
    if kind == "python":
        return Program(executable.interpreted(sys.executable), (sys.executable, "-IS"))
    compiler = next(executable.compilers(), None)
    if compiler is None:
        pytest.skip("no C compiler here")
    return Program(executable.compiled(compiler).content, ())
