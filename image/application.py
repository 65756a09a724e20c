"""The image's layers above the system: what ovsnet imports, and ovsnet itself with its CNI executable.

pip fetches from wherever it is configured to. Called by `__main__`, with the interpreter whose version the image has:
wheels with compiled modules are chosen for it, and bytecode is made by it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from image.failure import Failure

TREE = Path(__file__).resolve().parent.parent
CNI_EXECUTABLE = "opt/cni/bin/ovsnet"
"""Where it is in the image; `ovsnet install-cni` copies it to the node."""
_COMMAND = """\
#!/usr/bin/python3 -Es
from ovsnet.cli.main import main

main()
"""
_OURS = ("ovsnet", "ovsnet-*.dist-info")
_NOTES_OF_PIP = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""They name this machine's folders, or change with pip."""


def modules(root: Path) -> str:
    """Where the image's interpreter finds modules that are not Debian's. Raises Failure if it is not our version."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (root / "usr/bin" / version).exists():
        raise Failure(f"the image's Python is not {version}", f"run this by the one in {root}/usr/bin")
    return f"usr/local/lib/{version}/dist-packages"


def install(where: str, dependencies: Path, own: Path) -> None:
    """ovsnet into the folder `own` and all that it imports into the folder `dependencies`, both below `where`."""
    with tempfile.TemporaryDirectory(prefix="ovsnet-image-") as scratch:
        wheel = _wheel(Path(scratch, "dist"))
        target = dependencies / where
        _pip(["install", "--no-compile", "--target", str(target), str(wheel)])
    shutil.rmtree(target / "bin", ignore_errors=True)
    for note in _NOTES_OF_PIP:
        for path in target.glob(f"*.dist-info/{note}"):
            path.unlink()
    (own / where).mkdir(parents=True)
    for pattern in _OURS:
        for path in list(target.glob(pattern)):
            shutil.move(path, own / where / path.name)
    command = own / "usr/local/bin/ovsnet"
    command.parent.mkdir(parents=True)
    command.write_text(_COMMAND)
    command.chmod(0o755)


def cni_executable(own: Path) -> str:
    """Compiled here, as for any node; which one it is, for people. Raises Failure where it can't be static."""
    # Ours, from this tree: not what may be installed.
    program = "from ovsnet.cni import executable as e; import sys; m = e.made(); sys.stdout.buffer.write(m.content); "
    program += "print(m.kind, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        check=False,
    )
    kind = (done.stderr.decode().strip().splitlines() or [""])[-1]
    if done.returncode or not kind.startswith("in C, static"):
        raise Failure(
            f"the CNI executable must be static, for it runs on any node: {kind}",
            "apt-get install gcc libc6-dev",
        )
    path = own / CNI_EXECUTABLE
    path.parent.mkdir(parents=True)
    path.write_bytes(done.stdout)
    path.chmod(0o755)
    return kind


def compile_modules(*folders: Path) -> None:
    """Bytecode beside each module: the image's files can't be written, and each start would compile them again.

    Unchecked: times in an image say nothing.
    """
    for folder in folders:
        options = ["-q", "-f", "-s", str(folder), "-p", "/", "--invalidation-mode", "unchecked-hash"]
        # Isolated: PYTHONPYCACHEPREFIX would put it elsewhere.
        command = [sys.executable, "-I", "-m", "compileall", *options, str(folder)]
        # Some packages ship templates that are no Python; that they don't compile is no fault.
        subprocess.run(command, capture_output=True, check=False)


def compile_templates(own: Path, dependencies: Path) -> None:
    """What templates compile to, beside them, for the same reason. Raises Failure."""
    environment = {**os.environ, "PYTHONPATH": f"{own}:{dependencies}", "PYTHONDONTWRITEBYTECODE": ""}
    environment.pop("PYTHONPYCACHEPREFIX", None)
    # By a relative path: it becomes part of the bytecode, and this folder has another name each time.
    program = "import os, pathlib; from ovsnet import render, resources; "
    program += "render.Renderer(pathlib.Path(os.path.relpath(resources.flows_dir())))"
    command = [sys.executable, "-P", "-S", "-c", program]
    done = subprocess.run(command, env=environment, cwd=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"the templates do not compile: {done.stderr.strip()[-2000:]}", "run tox -e flows")


def _wheel(folder: Path) -> Path:
    _pip(["wheel", "--no-deps", "--wheel-dir", str(folder), str(TREE)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def _pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-input"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(
            f"pip {arguments[0]} failed: {done.stderr.strip()[-2000:]}", "is pip's index reachable?"
        )
