"""Makes the file that is installed as /opt/cni/bin/ovsnet: `client.c` compiled, or else `client`.

A runtime starts it for every pod, and most of what the Python one takes is Python's own start: some 7 ms, where the
compiled one takes less than 1 (docs/benchmarks.md). Static, that starts quickest and needs no library of the
node's. A machine without a compiler gets the Python one: a script, which Python compiles at every start, a sixth
of its processor time; so that file holds the compiled program, for the interpreter that made it, and its source
for any other. The same compiler makes the same bytes. Called when a node is set up, never by the agent.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovsnet.cni import client
from ovsnet.errors import HostFailure

log = logging.getLogger(__name__)

COMPILERS = ("cc", "gcc", "clang", "tcc")
INTERPRETER = "/usr/bin/python3"
"""That of the first line of `client`: the node's own, whatever runs the agent."""
_SOURCE = Path(__file__).with_name("client.c")
_FLAGS = ("-std=c11", "-O2", "-s")
_LINKING = {"static": ("-static",), "dynamic": ()}
"""Tried in this order: not every machine has a libc to link with statically."""
_making = threading.Lock()
_CLIENT = Path(__file__).with_name("client.py")
_COMPILE = """\
import marshal, sys, _frozen_importlib_external as importer
code = compile(sys.stdin.buffer.read(), sys.argv[1], "exec", dont_inherit=True, optimize=2)
print(repr(importer.MAGIC_NUMBER), repr(marshal.dumps(code)), sep="\\n")
"""
_FILE = """\
{shebang}
# Made by ovsnet from {name}, whose text follows the compiled program.
import _frozen_importlib_external as importer  # in memory before any script runs; has the bytecode's version
import marshal

MAGIC = {magic}
PROGRAM = {program}
SOURCE = {source!r}
exec(marshal.loads(PROGRAM) if importer.MAGIC_NUMBER == MAGIC else compile(SOURCE, __file__, "exec"))
"""
_PATIENCE = 60.0


@dataclass(frozen=True)
class Executable:
    """content: the file's. kind: which one it is, for people."""

    content: bytes
    kind: str


def made(path: str | None = None) -> Executable:
    """The executable for this machine; path: where compilers are looked for, else PATH. Raises HostFailure.

    Compiling takes some 0.2 s, so a process does it once however many nodes it sets up, side by side too. A compiler
    that fails is told in the log.
    """
    with _making:
        return _made(path)


@functools.cache
def _made(path: str | None) -> Executable:
    failed = []
    for compiler in compilers(path):
        try:
            return compiled(compiler)
        except HostFailure as error:
            failed.append(compiler)
            log.warning("%s; without it a CNI call costs 7 ms more (%s)", error.message, error.hint)
    kind = f"in Python: {', '.join(failed)} can't make it" if failed else "in Python: no C compiler here"
    return Executable(interpreted(), kind)


def compilers(path: str | None = None) -> Iterator[str]:
    """Each once: cc is most often one of the others."""
    seen = set()
    for name in COMPILERS:
        found = shutil.which(name, path=path)
        if found and os.path.realpath(found) not in seen:
            seen.add(os.path.realpath(found))
            yield found


def compiled(compiler: str) -> Executable:
    """By this compiler, and shown to run here. Raises HostFailure with what the compiler said last."""
    with tempfile.TemporaryDirectory(prefix="ovsnet-") as folder:
        said = ""
        for kind, flags in _LINKING.items():
            target = Path(folder, kind)
            try:
                _run([compiler, *_FLAGS, *flags, "-o", str(target), str(_SOURCE)])
                _try_out(target)
                return Executable(target.read_bytes(), f"in C, {kind}, by {compiler}")
            except subprocess.CalledProcessError as error:
                said = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                said = str(error)
    raise HostFailure(
        f"{compiler} can't make the CNI executable: {said}", f"try: {compiler} -o /dev/null {_SOURCE}"
    )


def _run(command: list[str], stdin: str = "", **variables: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", **variables}
    done = subprocess.run(
        command,
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE,
        check=True,
    )
    return done.stdout


def _try_out(program: Path) -> None:
    """A compiler may be there for another machine. Raises OSError, ValueError or SubprocessError."""
    said = _run([str(program)], "{}", CNI_COMMAND="VERSION", OVSNET_TIMEOUT="")
    if json.loads(said) != {"cniVersion": client.VERSIONS[-1], "supportedVersions": [*client.VERSIONS]}:
        raise ValueError(f"what it made answers VERSION with {said}")


def interpreted(interpreter: str = INTERPRETER) -> bytes:
    """The one in Python, compiled by the interpreter that will run it. Raises HostFailure."""
    try:
        source = _CLIENT.read_text()
        magic, program = _run([interpreter, "-IS", "-c", _COMPILE, _CLIENT.name], source).splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        raise HostFailure(
            f"cannot compile the CNI executable: {error}", f"{interpreter} must be Python 3.11 or later"
        ) from error
    shebang = source.partition("\n")[0]
    return _FILE.format(
        shebang=shebang, name=_CLIENT.name, magic=magic, program=program, source=source
    ).encode()
