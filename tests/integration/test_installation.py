"""bootstrap.sh node with a real virtual environment, in a scratch root: what it installs has all it needs."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
FOLDERS = ("ovsnet", "flows", "templates")


@pytest.mark.slow
def test_the_installed_package_works_and_has_its_templates(tmp_path: Path) -> None:
    # bootstrap.sh looks for changes in the checkout, and someone may be editing.
    tree, root, config = tmp_path / "checkout", tmp_path / "root", tmp_path / "agent.yaml"
    for folder in FOLDERS:
        shutil.copytree(TREE / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("bootstrap.sh", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / file, tree)
    root.mkdir()
    config.write_text("nodeName: node-a\n")
    environment = {**os.environ, "OVSNET_BOOTSTRAP_LOG": str(tmp_path / "log")}
    command: list[str | Path] = [tree / "bootstrap.sh", "node", "--root", root, "--config", config]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    installed = root / "opt/ovsnet/bin/ovsnet"
    done = subprocess.run([installed, "version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    [data] = (root / "opt/ovsnet/lib").glob("python3.*/site-packages/ovsnet/_data")
    for folder in ("flows", "templates"):
        names = os.listdir(tree / folder)
        assert sorted({*os.listdir(data / folder)} - {"__pycache__"}) == sorted(names)
        assert filecmp.cmpfiles(tree / folder, data / folder, names, shallow=False)[0] == names
    # An agent that may write nothing there need not compile them.
    compiled = {path.name.partition(".jinja")[0] for path in (data / "flows/__pycache__").iterdir()}
    assert compiled == {*os.listdir(tree / "flows")}
