"""Which CNI executable is made, with which compiler, and what is said where one fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ovsnet.cni import executable
from ovsnet.errors import HostFailure

SOURCE = Path(executable.__file__).with_name("client.c")
needs_compiler = pytest.mark.skipif(next(executable.compilers(), None) is None, reason="no C compiler here")
needs_python = pytest.mark.skipif(
    not os.path.exists(executable.INTERPRETER), reason="the system has no Python"
)


def compiler(folder: Path, name: str, script: str) -> str:
    """A compiler that does this; the PATH with it alone."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(folder)


def real() -> str:
    return next(executable.compilers())


@needs_compiler
def test_with_a_compiler_it_is_in_c() -> None:
    made = executable.made()
    assert made.content.startswith(b"\x7fELF")
    assert made.kind in {f"in C, {linking}, by {real()}" for linking in ("static", "dynamic")}


@needs_compiler
def test_it_is_the_same_whenever_it_is_made() -> None:
    assert executable.compiled(real()) == executable.compiled(real())


def test_the_one_in_python_is_the_same_too() -> None:
    assert executable.interpreted(sys.executable) == executable.interpreted(sys.executable)


@needs_compiler
@pytest.mark.parametrize("optimisation", ["-O0", "-O2"])
def test_the_source_has_no_warnings(tmp_path: Path, optimisation: str) -> None:
    command = [real(), "-std=c11", optimisation, "-Wall", "-Wextra", "-Wshadow", "-Werror"]
    subprocess.run([*command, "-o", tmp_path / "out", SOURCE], check=True)


@needs_python
def test_without_a_compiler_it_is_in_python(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = executable.made(str(tmp_path))
    assert made.content == executable.interpreted()
    assert made.kind == "in Python: no C compiler here"
    assert not caplog.records, "nothing is wrong"


@needs_python
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo broken >&2; echo 'no such header' >&2; exit 1", "no such header"),
        ("exit 7", "exit code 7"),
        ("exit 0", "No such file or directory"),
        ('for out; do [ "$last" = -o ] && echo garbage >"$out"; last=$out; done', "Permission denied"),
        (
            'for out; do [ "$last" = -o ] && printf "#!/bin/sh\\necho {}" >"$out" && chmod 755 "$out"; last=$out; done',
            "answers VERSION with {}",
        ),
    ],
)
def test_a_compiler_that_fails_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str, why: str
) -> None:
    caplog.set_level(logging.WARNING)
    made = executable.made(compiler(tmp_path, "cc", f"PATH={os.environ['PATH']}\n{script}"))
    assert made.content == executable.interpreted()
    assert made.kind == f"in Python: {tmp_path}/cc can't make it"
    assert f"{tmp_path}/cc can't make the CNI executable" in caplog.text
    assert why in caplog.text
    assert f"try: {tmp_path}/cc -o /dev/null {SOURCE}" in caplog.text


@needs_compiler
def test_where_nothing_links_statically_it_is_dynamic(tmp_path: Path) -> None:
    script = f'case " $* " in *" -static "*) exit 1 ;; esac\nPATH={os.environ["PATH"]} exec {real()} "$@"'
    made = executable.made(compiler(tmp_path, "cc", script))
    assert made.kind == f"in C, dynamic, by {tmp_path}/cc"


@needs_compiler
def test_another_compiler_helps_where_one_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiler(tmp_path, "cc", "exit 1")
    path = compiler(tmp_path, "clang", f'PATH={os.environ["PATH"]} exec {real()} "$@"')
    assert executable.made(path).kind.endswith(f"by {tmp_path}/clang")
    assert f"{tmp_path}/cc can't make" in caplog.text


def test_a_compiler_with_two_names_is_tried_once(tmp_path: Path) -> None:
    path = compiler(tmp_path, "gcc", "exit 1")
    (tmp_path / "cc").symlink_to("gcc")
    assert list(executable.compilers(path)) == [f"{tmp_path}/cc"]


@needs_compiler
def test_a_process_compiles_once(tmp_path: Path) -> None:
    script = f'echo >>{tmp_path}/calls\nPATH={os.environ["PATH"]} exec {real()} "$@"'
    path = compiler(tmp_path, "cc", script)
    made = executable.made(path)
    calls = (tmp_path / "calls").read_text()
    assert executable.made(path) is made
    assert (tmp_path / "calls").read_text() == calls


@needs_compiler
def test_so_it_does_for_several_at_once(tmp_path: Path) -> None:
    path = compiler(
        tmp_path, "cc", f'PATH={os.environ["PATH"]}; echo >>{tmp_path}/runs; sleep 0.2; exec {real()} "$@"'
    )
    with ThreadPoolExecutor() as pool:
        first, *others = pool.map(lambda _: executable.made(path), range(3))
    assert all(each is first for each in others)
    assert (tmp_path / "runs").read_text() == "\n"


def test_without_an_interpreter_there_is_none_in_python() -> None:
    with pytest.raises(HostFailure, match="/nowhere/python3"):
        executable.interpreted("/nowhere/python3")


@pytest.mark.parametrize(
    ("tools", "packages"), [([], "gcc\n"), (["tcc"], ""), (["gcc"], ""), (["clang", "cc"], "")]
)
def test_bootstrap_installs_a_compiler_where_there_is_none(
    tmp_path: Path, tools: list[str], packages: str
) -> None:
    for tool in ("apt-get", *tools):
        compiler(tmp_path, tool, "")
    # bootstrap.sh itself adds the folders of system tools to PATH.
    script = (
        f"source {SOURCE.parents[2]}/bootstrap.sh help >/dev/null; PATH={tmp_path}; missing_compiler_packages"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines(True) if line != "libc6-dev\n"] == packages.splitlines(
        True
    )


def test_bootstrap_asks_for_no_compiler_without_apt(tmp_path: Path) -> None:
    script = (
        f"source {SOURCE.parents[2]}/bootstrap.sh help >/dev/null; PATH={tmp_path}; missing_compiler_packages"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
