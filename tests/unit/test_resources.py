"""The templates are found in a checkout and in an installed wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ovsnet import resources

TREE = Path(__file__).resolve().parents[2]


def test_in_the_source_tree() -> None:
    assert resources.flows_dir() == TREE / "flows"
    assert resources.templates_dir() == TREE / "templates"


def test_in_a_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=TREE,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "ovsnet/cni/client.c").read_bytes() == (TREE / "ovsnet/cni/client.c").read_bytes()
    program = (
        "from ovsnet import resources as r; print(r.__file__, r.flows_dir(), r.templates_dir(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    module, flows, templates = map(Path, done.stdout.split())
    assert module.is_relative_to(site)
    for folder, installed in (("flows", flows), ("templates", templates)):
        assert {path.name for path in installed.iterdir()} == {
            path.name for path in (TREE / folder).iterdir() if path.name != "__pycache__"
        }
