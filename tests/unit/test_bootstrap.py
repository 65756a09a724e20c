"""bootstrap.sh node in a scratch root: what it installs, that it does so once, and takes back the same.

Making a real virtual environment takes long and fetches packages: integration/test_installation.py does. Here a
Python stands in for the distribution's whose `-m venv` makes an environment that runs this test's own interpreter,
and whose pip has nothing to do.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import uml

from ovsnet import config
from ovsnet.cli import nodefiles
from ovsnet.cni import executable

TREE = Path(__file__).resolve().parents[2]

PYTHON = """#!/bin/bash
real() {{ PYTHONPATH={tree} exec {python} "$@"; }}
case "$1 $2" in
  "-c import sys, venv"* | "-c import pip" | "-m pip") ;;
  "-m venv")
    dir=${{@: -1}}
    mkdir -p "$dir/bin"
    touch "$dir/pyvenv.cfg"
    cp "$0" "$dir/bin/python"
    printf '#!/bin/bash\\nexec "%s" -m ovsnet "$@"\\n' "$dir/bin/python" >"$dir/bin/ovsnet"
    chmod 755 "$dir/bin/ovsnet" ;;
  *) real "$@" ;;
esac
"""
IMPORTS = "import ovsnet.__main__, ovsnet.cli.nodefiles"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: bootstrap.sh looks for changes, and someone may be editing."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("ovsnet", "flows", "templates"):
        shutil.copytree(TREE / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("bootstrap.sh", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / file, copy)
    # Compiled once, which bootstrap.sh itself never does in a checkout.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([sys.executable, "-c", IMPORTS], cwd="/", env=environment, check=True)
    return copy


class Machine:
    """A scratch root, and bootstrap.sh to use on it."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.tree = tree
        self.root = folder / "root"
        self.root.mkdir()
        self.config = folder / "agent.yaml"
        self.config.write_text("nodeName: node-a\ncniSocket: /run/ovsnet/other.sock\n")
        python = folder / "python3"
        python.write_text(PYTHON.format(tree=tree, python=sys.executable))
        python.chmod(0o755)
        self.environment = {
            **os.environ,
            "OVSNET_PYTHON": str(python),
            "OVSNET_BOOTSTRAP_LOG": str(folder / "log"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.tree / "bootstrap.sh", "node", "--root", str(self.root), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def node(self, *arguments: str, fails: bool = False) -> str:
        """Runs it, and answers with what it said (what it complained of, if it is to fail)."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        assert (process.returncode != 0) == fails, out + err
        return err if fails else out

    def install(self, *arguments: str) -> str:
        return self.node("--config", str(self.config), *arguments)

    def path(self, path: str) -> Path:
        return self.root / path

    def content(self) -> dict[str, bytes | None]:
        """Every file (None for a folder), but for the manifest's own place."""
        return {
            str(each.relative_to(self.root)): each.read_bytes() if each.is_file() else None
            for each in sorted(self.root.rglob("*"))
            if not each.is_relative_to(self.root / "var") and "__pycache__" not in each.parts
        }


@pytest.fixture
def machine(tmp_path: Path, tree: Path) -> Machine:
    return Machine(tmp_path, tree)


def test_everything_is_in_its_place(machine: Machine) -> None:
    said = machine.install()
    assert machine.path("etc/ovsnet/agent.yaml").read_bytes() == machine.config.read_bytes()
    assert machine.path("etc/ovsnet/cluster").is_dir()
    client = machine.path("opt/cni/bin/ovsnet")
    assert client.read_bytes() == executable.made().content
    assert f"write {client} ({executable.made().kind})" in said
    assert client.stat().st_mode & 0o777 == 0o755
    conflist = json.loads(machine.path("etc/cni/net.d/10-ovsnet.conflist").read_text())
    assert conflist["plugins"][0]["type"] == "ovsnet"
    assert conflist["plugins"][0]["agentSocket"] == "/run/ovsnet/other.sock"
    unit = machine.path("etc/systemd/system/ovsnet.service").read_text()
    assert "ExecStart=/opt/ovsnet/bin/ovsnet agent --config /etc/ovsnet/agent.yaml\n" in unit
    assert "RuntimeDirectory=ovsnet\n" in unit
    assert "{" not in unit


def test_a_second_run_changes_nothing_and_says_so(machine: Machine) -> None:
    machine.install()
    before = {path: machine.path(path).stat().st_mtime_ns for path in machine.content()}
    assert machine.install() == "==> everything is in place; nothing changed\n"
    assert {path: machine.path(path).stat().st_mtime_ns for path in machine.content()} == before


def test_a_dry_run_tells_and_changes_nothing(machine: Machine) -> None:
    said = machine.install("--dry-run")
    assert said.count("would: ") >= 2
    assert machine.content() == {}
    machine.install()
    machine.config.write_text("nodeName: node-b\n")
    before = machine.content()
    said = machine.install("--dry-run")
    assert f"would: write {machine.path('etc/ovsnet/agent.yaml')}" in said
    assert "10-ovsnet.conflist" in said
    assert machine.content() == before


def test_uninstall_takes_back_everything(machine: Machine) -> None:
    machine.path("etc/cni/net.d").mkdir(parents=True)
    machine.path("etc/cni/net.d/99-loopback.conf").write_text("{}")
    before = machine.content()
    machine.install()
    machine.node("--uninstall", "--dry-run")
    assert machine.path("opt/ovsnet").exists()
    machine.node("--uninstall")
    assert machine.content() == before
    assert "nothing is installed here" in machine.node("--uninstall")


def test_uninstall_keeps_what_a_user_changed_and_says_so(machine: Machine) -> None:
    machine.install()
    config = machine.path("etc/ovsnet/agent.yaml")
    config.write_text("vni: 5\n")
    assert f"kept: {config} was changed" in machine.node("--uninstall")
    assert list(machine.content()) == ["etc", "etc/ovsnet", "etc/ovsnet/agent.yaml"]


def test_a_compiler_that_fails_is_told(machine: Machine, tmp_path: Path) -> None:
    compiler = tmp_path / "bin/cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'no such header' >&2\nexit 1\n")
    compiler.chmod(0o755)
    for other in executable.COMPILERS[1:]:
        (compiler.parent / other).symlink_to("cc")
    machine.environment["PATH"] = f"{compiler.parent}:{os.environ['PATH']}"
    process = machine.start("--config", str(machine.config))
    out, err = process.communicate(timeout=600)
    client = machine.path("opt/cni/bin/ovsnet")
    assert process.returncode == 0
    assert client.read_bytes() == executable.interpreted()
    assert f"write {client} (in Python: {compiler} can't make it)" in out
    assert f"{compiler} can't make the CNI executable: no such header" in err


def test_a_file_that_was_there_is_kept_and_put_back(machine: Machine) -> None:
    plugin = machine.path("opt/cni/bin/ovsnet")
    plugin.parent.mkdir(parents=True)
    plugin.write_text("somebody else's")
    assert f"kept as {plugin}.before-ovsnet" in machine.install()
    assert machine.install() == "==> everything is in place; nothing changed\n"
    machine.node("--uninstall")
    assert plugin.read_text() == "somebody else's"
    assert not Path(f"{plugin}.before-ovsnet").exists()


def test_only_what_changed_is_written_again(machine: Machine) -> None:
    machine.install()
    machine.config.write_text(machine.config.read_text() + "vni: 9\n")
    assert machine.install() == f"==> write {machine.path('etc/ovsnet/agent.yaml')}\n"


def test_a_bad_configuration_is_refused_before_it_is_installed(machine: Machine) -> None:
    machine.config.write_text("vni: x\nmut: 5\n")
    said = machine.node("--config", str(machine.config), fails=True)
    assert "vni: expected" in said
    assert "did you mean mtu?" in said
    assert not machine.path("etc").exists()


def test_what_the_agent_leaves_goes_too(machine: Machine) -> None:
    machine.install()
    folder = machine.path("run/ovsnet")
    folder.mkdir(parents=True)
    (folder / "other.sock.lock").touch()
    machine.node("--uninstall", "--dry-run")
    assert (folder / "other.sock.lock").exists()
    machine.node("--uninstall")
    assert not folder.exists()


def test_the_lock_of_an_agent_that_runs_stays(machine: Machine) -> None:
    machine.install()
    path = machine.path("run/ovsnet/other.sock.lock")
    path.parent.mkdir(parents=True)
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "where an agent still answers" in machine.node("--uninstall")
    assert path.exists()


def test_the_bridge_that_keeps_open_vswitch_is_that_of_the_configuration(
    machine: Machine, tmp_path: Path
) -> None:
    machine.config.write_text("nodeName: node-a\nbridge: br-pods\n")
    machine.install()
    manifest = machine.path("var/lib/ovsnet-bootstrap/manifest")
    # On the machine itself, which nothing but the manifest's place stands for here.
    script = f"source {TREE}/bootstrap.sh help; manifest() {{ echo {manifest}; }}; bridges_left"
    tool = tmp_path / "ovs-vsctl"
    for there in ("br-int", "br-pods", "br-other"):
        tool.write_text(f'#!/bin/sh\n[ "$4" = {there} ] || exit 2\n')
        tool.chmod(0o755)
        done = subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.endswith("\nbr-pods\n") == (there == "br-pods")
    # No answer is not "there is none".
    tool.write_text("#!/bin/sh\nexit 1\n")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nbr-pods\n")


def refused(settings: str) -> str:
    return " ".join(nodefiles.refused(config.parse(settings)))


@pytest.mark.parametrize(
    "path", ["/run/a.sock", "/run/openvswitch/a.sock", "/run/ovsnet/../a.sock", "/var/a/a.sock"]
)
def test_a_socket_outside_of_the_units_own_folder_is_refused(path: str) -> None:
    assert refused(f"cniSocket: {path}") == (
        f"cniSocket: {path} is not in a folder of ovsnet's own below /run, such as /run/ovsnet/agent.sock"
    )


@pytest.mark.parametrize("path", ["/run/ovsnet/agent.sock", "/run/ovsnet-2/deep/agent.sock"])
def test_a_socket_in_a_folder_of_its_own_is_fine(path: str) -> None:
    assert refused(f"cniSocket: {path}") == ""
    assert nodefiles.runtime_directory(path) == path.split("/")[2]


@pytest.mark.parametrize("path", ["/root/cluster", "/home/a", "/tmp/x", "/srv/../tmp"])
def test_manifests_that_the_unit_keeps_from_the_agent_are_refused(path: str) -> None:
    assert "the agent can't see" in refused(f"store: {{file: {path}}}")


def test_such_paths_are_refused_before_anything_is_installed(machine: Machine) -> None:
    machine.config.write_text("cniSocket: /run/agent.sock\nstore: {file: /root/cluster}\n")
    said = machine.node("--config", str(machine.config), fails=True)
    assert "cniSocket: /run/agent.sock is not in a folder of ovsnet's own" in said
    assert "store.file: the agent can't see /root/cluster" in said
    assert not machine.path("etc").exists()


def test_two_at_once_wait_for_one_another(machine: Machine) -> None:
    processes = [machine.start("--config", str(machine.config)) for _ in range(3)]
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("nothing changed" in each for each in said) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the configuration is missing"),
        (("--config", "/nonexistent"), "can't be read"),
        (("--frobnicate",), "usage: bootstrap.sh COMMAND"),
    ],
)
def test_wrong_usage_is_told(machine: Machine, arguments: tuple[str, ...], words: str) -> None:
    assert words in machine.node(*arguments, fails=True)
    assert machine.content() == {}


def test_a_command_that_leads_to_another_checkout_is_told_and_left_alone(tmp_path: Path) -> None:
    """Whoever types `ovsnet` would else take the other's code for this one's."""
    link, other = tmp_path / "ovsnet", tmp_path / "other" / ".venv" / "bin" / "ovsnet"
    target = f"{TREE}/.venv/bin/ovsnet"

    def said() -> str:
        functions = subprocess.run(
            ["sed", "-n", "/^link_command()/,/^}/p", TREE / "bootstrap.sh"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        script = f'say() {{ echo "$*"; }}\nTREE={TREE}\n{functions}\nlink_command {link}'
        return subprocess.run(
            ["bash", "-eu", "-c", script], capture_output=True, text=True, check=True
        ).stdout

    assert said() == f"linked {link} to {target}\n"
    assert (said(), os.readlink(link)) == ("", target)
    link.unlink()
    link.symlink_to(other)
    assert said() == f"linked {link} to {target}\n", "the other checkout is gone"
    other.parent.mkdir(parents=True)
    other.touch()
    link.unlink()
    link.symlink_to(other)
    assert said() == (
        f"{link} leads to {other}, not to this checkout; use {target}, or: ln -sfn {target} {link}\n"
    )
    assert os.readlink(link) == str(other)
    link.unlink()
    link.touch()
    assert said() == f"{link} is something else's; use {target}\n"


def test_a_command_is_needed() -> None:
    done = subprocess.run([TREE / "bootstrap.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", "bootstrap.sh", ".ci/run"], cwd=TREE, check=True)


def test_the_kernel_for_tests_is_built_from_the_packages_that_are_installed() -> None:
    listed = next(
        line for line in (TREE / "bootstrap.sh").read_text().splitlines() if "KERNEL_PACKAGES=(" in line
    )
    assert tuple(listed.partition("(")[2].rstrip(")").split()) == uml.PACKAGES
