"""Containerfile, built by buildah: the image has what that of `python -m image` has.

Its base comes from no registry: mmdebstrap makes what debian:12-slim is made of, and it is imported under that name.
Left out where either tool is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from image_world import MOST, TREE, bytecode, files, made

import ovsnet

TOOLS = ("buildah", "mmdebstrap")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {' and '.join(TOOLS)}"),
]
BASE = "docker.io/library/debian:12-slim"
NAME = "localhost/ovsnet:built"
UNREAD = ("doc", "info", "locale", "man")
"""Folders of /usr/share that slim images do without."""
OF_PIP = re.compile(r"^(?:global|:env:)\.(cert|index-url|extra-index-url|proxy|trusted-host)='(.*)'$", re.M)
PROGRAMS = re.compile(r"(usr/s?bin|usr/local/bin|usr/lib/openvswitch-switch|opt/cni/bin|etc/ssl/certs)/[^/]+")
OVSNET = "usr/local/lib/python3.11/dist-packages/ovsnet/"


class Builder:
    """buildah with a store of its own in the folder. root: the files of a container of the image that it has built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder

    def __call__(self, *arguments: str) -> str:
        """What the command prints."""
        store = [f"--root={self.folder}/store", f"--runroot={self.folder}/run", "--storage-driver=vfs"]
        return ran(["buildah", *store, *arguments])

    def import_base(self) -> None:
        path = self.folder / "base.tar"
        options = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in UNREAD]
        ran(["mmdebstrap", "--quiet", "--variant=minbase", *options, "bookworm", str(path)])
        container = self("from", "scratch").strip()
        self("add", container, str(path))
        self("commit", "--quiet", "--rm", container, BASE)
        path.unlink()

    def build(self) -> None:
        network = ["--isolation=chroot", "--network=host", *self.pip_settings()]
        self("bud", "--pull-never", *network, f"--tag={NAME}", f"--file={TREE}/Containerfile", str(TREE))
        container = self("from", "--pull-never", NAME).strip()
        self.root = Path(self("mount", container).strip())

    def pip_settings(self) -> list[str]:
        """Options that have pip within ask where this one asks."""
        said = dict(OF_PIP.findall(ran([sys.executable, "-m", "pip", "config", "list"])))
        volumes = []
        if certificates := said.get("cert"):
            said["cert"] = "/etc/pip-certificates.crt"
            volumes.append(f"--volume={certificates}:{said['cert']}:ro")
        path = self.folder / "pip.conf"
        path.write_text("".join(["[global]\n", *(f"{key} = {value}\n" for key, value in said.items())]))
        return [*volumes, f"--volume={path}:/etc/pip.conf:ro"]

    def run(self, *command: str) -> str:
        """In the container's files, and nothing else of a container."""
        return ran(["chroot", str(self.root), *command])


def ran(command: list[str], input: str = "") -> str:
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Iterator[Builder]:
    with tempfile.TemporaryDirectory(prefix="ovsnet-builder-") as folder:
        builder = Builder(Path(folder))
        builder.import_base()
        builder.build()
        yield builder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("image"))


def test_it_is_small(built: Builder, tmp_path: Path) -> None:
    path = tmp_path / "built.tar"
    built("push", "--quiet", NAME, f"oci-archive:{path}")
    assert path.stat().st_size < MOST
    path.unlink()


def test_it_starts_as_the_other_does(built: Builder, archive: Path) -> None:
    config: dict[str, Any] = json.loads(built("inspect", "--type=image", NAME))["OCIv1"]["config"]
    with tarfile.open(archive) as tar:
        name = json.load(tar.extractfile("manifest.json"))[0]["Config"]  # type: ignore[arg-type]
        other = json.load(tar.extractfile(name))["config"]  # type: ignore[arg-type]
    for key in ("Entrypoint", "Cmd", "Env"):
        assert config[key] == other[key]
    assert config.get("WorkingDir", "/") == other["WorkingDir"]
    assert built.run(*config["Entrypoint"], "--version") == f"ovsnet {ovsnet.__version__}\n"


def test_it_has_all_programs_of_the_other(built: Builder, archive: Path) -> None:
    programs = [name for name in files(archive) if PROGRAMS.fullmatch(name)]
    assert len(programs) > 200
    assert not [name for name in programs if not present(built.root / name)]
    for command in ("ovs-vswitchd", "ovsdb-server", "ovs-ofctl", "nft", "unshare"):
        assert built.run(command, "--version")
    assert built.run("ip", "-V")


def test_none_of_its_programs_has_capabilities_of_its_own(built: Builder) -> None:
    """In a container without those it could not even be started."""
    programs = [
        path for path in (built.root / "usr").glob("*bin/*") if path.is_file() and not path.is_symlink()
    ]
    assert built.root / "usr/bin/ping" in programs
    assert not [path for path in programs if "security.capability" in os.listxattr(path)]


def present(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def test_it_has_ovsnet_as_the_other_has(built: Builder, archive: Path) -> None:
    """Bytecode too."""
    with tarfile.open(archive) as tar:
        last = json.load(tar.extractfile("manifest.json"))[0]["Layers"][-1]  # type: ignore[arg-type]
        with tarfile.open(fileobj=tar.extractfile(last)) as layer:
            ours = {
                entry.name: hashlib.sha256(layer.extractfile(entry).read()).hexdigest()  # type: ignore[union-attr]
                for entry in layer
                if entry.isfile() and entry.name.startswith((OVSNET, "usr/local/bin/"))
            }
    sources = {name: digest for name, digest in ours.items() if not name.endswith(".pyc")}
    assert len(sources) > 200
    for name, digest in sources.items():
        assert hashlib.sha256((built.root / name).read_bytes()).hexdigest() == digest, name
    assert not [name for name in ours if not present(built.root / name)]
    modules = [name for name in sources if name.endswith(".py")]
    assert not [name for name in modules if not present(built.root / bytecode(name))]


def test_its_cni_executable_needs_nothing_else(built: Builder, tmp_path: Path) -> None:
    """On a node it finds none of the image's libraries."""
    shutil.copy(built.root / "opt/cni/bin/ovsnet", tmp_path / "ovsnet")
    said = ran(["env", "CNI_COMMAND=VERSION", "chroot", str(tmp_path), "/ovsnet"], '{"cniVersion": "1.1.0"}')
    assert "1.1.0" in json.loads(said)["supportedVersions"]


def test_no_state_of_open_vswitch_is_in_it(built: Builder) -> None:
    """Its package makes a database and an identity when it is installed: every node would have the same."""
    for folder in ("etc/openvswitch", "var/lib/openvswitch"):
        assert not list((built.root / folder).glob("*"))
