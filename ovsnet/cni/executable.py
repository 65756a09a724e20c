"""Makes the file that is installed as /opt/cni/bin/ovsnet out of `client`.

Python compiles a script at every start, a sixth of the processor time that `client` takes; so the file
holds the compiled program, for the interpreter that made it, and its source for any other. Called when a
node is set up, never by the agent.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ovsnet.errors import HostFailure

INTERPRETER = "/usr/bin/python3"
"""That of the first line of `client`: the node's own, whatever runs the agent."""
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


def text(interpreter: str = INTERPRETER) -> str:
    """The executable, compiled by the interpreter that will run it. Raises HostFailure."""
    try:
        source = _CLIENT.read_text()
        command = [interpreter, "-IS", "-c", _COMPILE, _CLIENT.name]
        done = subprocess.run(
            command, input=source, capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostFailure(
            f"cannot compile the CNI executable: {error}", f"{interpreter} must be Python 3.11 or later"
        ) from error
    magic, program = done.stdout.splitlines()
    shebang = source.partition("\n")[0]
    return _FILE.format(shebang=shebang, name=_CLIENT.name, magic=magic, program=program, source=source)
