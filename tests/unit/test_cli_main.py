"""The `ovsnet` command: what it loads, and how errors look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ovsnet


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ovsnet", *arguments], capture_output=True, text=True, check=False
    )


def test_help_imports_nothing_that_only_a_subcommand_needs() -> None:
    program = (
        "import sys, ovsnet.cli.main as m\n"
        "try: m.cli.main(['--help'], prog_name='ovsnet')\n"
        "except SystemExit: pass\n"
        "print(sorted({'ovs', 'pyroute2', 'jinja2', 'yaml', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "agent" in done.stdout
    assert "docs" not in done.stdout


def test_version() -> None:
    assert run("version").stdout == run("--version").stdout == f"ovsnet {ovsnet.__version__}\n"


def test_check_config_tells_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("vni: x\nnodename: a\n")
    done = run("agent", "--check-config", "--config", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"error: {path}: 2 problems",
        "  line 1: vni: expected a whole number from 0 to 16777215, found 'x'",
        "  line 2: nodename: unknown key; did you mean nodeName?",
        "hint: correct it; docs/configuration.md lists every key",
    ]


def test_check_config_says_that_all_is_well(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("vni: 5\n")
    done = run("agent", "--check-config", "--config", str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: no mistake\n")


def test_a_missing_configuration_is_no_traceback(tmp_path: Path) -> None:
    done = run("agent", "--config", str(tmp_path / "none.yaml"))
    assert done.returncode == 1
    assert "none.yaml: No such file or directory" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_wrong_usage() -> None:
    done = run("agnet")
    assert done.returncode == 2
    assert "No such command 'agnet'" in done.stderr
