"""Container images without a registry: an archive that `ctr images import` reads.

Made of what `build` has built and, for people and tests who look around in a pod, of Debian's own programs with the
libraries that they load. The format is Docker's (image-spec v1.2: manifest.json, a configuration and layers), which
every version of containerd takes. Called by `build`, and by tests whose control plane is pods.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovsnet.lab.kubernetes import tools

PAUSE, AGNHOST, COREDNS = "localhost/pause:lab", "localhost/agnhost:lab", "localhost/coredns:lab"
KUBERNETES = "localhost/kubernetes:lab"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""The programs in it."""
MULTICALL = "cluster"
"""The program that each of those is a link to."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class Layer:
    """A tree of files. Times and owners are the same each time, and so are the bytes."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add(
        self, path: str, content: bytes = b"", mode: int = 0o644, *, kind: bytes = tarfile.REGTYPE
    ) -> None:
        """A file; kind=DIRTYPE: a folder; kind=SYMTYPE: a link to `content`. Its folders are made."""
        info = tarfile.TarInfo(path.strip("/"))
        parent = os.path.dirname(info.name)
        if parent and parent not in self.entries:
            self.add(parent, mode=0o755, kind=tarfile.DIRTYPE)
        info.type, info.mode = kind, mode
        if kind == tarfile.SYMTYPE:
            info.linkname, content = content.decode(), b""
        info.size = len(content)
        self.entries[info.name] = (info, content)

    def program(self, name: str) -> None:
        """A program of this machine as /usr/bin/NAME, with all libraries that its loader names."""
        path = tools.path_of(name)
        self.add(f"usr/bin/{name}", Path(path).read_bytes(), 0o755)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            if library.strip("/") not in self.entries:
                self.add(library, Path(library).read_bytes(), 0o755)

    def tar(self) -> bytes:
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, content in self.entries.values():
                archive.addfile(info, io.BytesIO(content))
        return target.getvalue()


Image = tuple[Layer, list[str], list[str]]
"""With entrypoint and command."""


def write(programs: Path, target: Path) -> None:
    """Write the archive of what every node has. programs: the folder with pause, agnhost and coredns."""
    alone = {name: _alone(programs / name) for name in ("pause", "coredns")}
    agnhost = _userland()
    agnhost.add("agnhost", (programs / "agnhost").read_bytes(), 0o755)
    images: dict[str, Image] = {
        PAUSE: (alone["pause"], ["/pause"], []),
        COREDNS: (alone["coredns"], ["/coredns"], []),
        AGNHOST: (agnhost, ["/agnhost"], ["pause"]),
    }
    _write(images, target)


def write_control_plane(programs: Path, target: Path) -> None:
    """Write the archive of KUBERNETES, for a control plane of pods. programs: the folder with MULTICALL."""
    layer = Layer()
    layer.add(f"usr/local/bin/{MULTICALL}", (programs / MULTICALL).read_bytes(), 0o755)
    for name in CONTROL_PLANE:
        layer.add(f"usr/local/bin/{name}", MULTICALL.encode(), 0o777, kind=tarfile.SYMTYPE)
    _write({KUBERNETES: (layer, [], [])}, target)


def _write(images: Mapping[str, Image], target: Path) -> None:
    manifest: list[dict[str, Any]] = []
    archive = Layer()
    for tag, (layer, entrypoint, command) in images.items():
        data = layer.tar()
        digest = hashlib.sha256(data).hexdigest()
        config = _config(digest, entrypoint, command)
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        archive.add(f"{digest}.tar", data)
        archive.add(name, config)
        manifest.append({"Config": name, "RepoTags": [tag], "Layers": [f"{digest}.tar"]})
    archive.add("manifest.json", json.dumps(manifest).encode())
    target.write_bytes(archive.tar())


def _alone(program: Path) -> Layer:
    layer = Layer()
    layer.add(program.name, program.read_bytes(), 0o755)
    return layer


def _userland() -> Layer:
    """What makes a shell in a pod useful: busybox's commands, and Debian's where they are better."""
    layer = Layer()
    layer.add("tmp", mode=0o1777, kind=tarfile.DIRTYPE)
    layer.add("root", mode=0o700, kind=tarfile.DIRTYPE)
    for path, text in _ACCOUNTS.items():
        layer.add(path, text.encode())
    for tool in tools.IN_PODS:
        layer.program(tool)
    listed = subprocess.run(
        [tools.path_of("busybox"), "--list"], capture_output=True, text=True, check=True
    ).stdout
    for applet in sorted(set(listed.split()) - {*tools.IN_PODS, "sh"}):
        layer.add(f"bin/{applet}", b"/usr/bin/busybox", 0o777, kind=tarfile.SYMTYPE)
    for shell in ("sh", "bash"):
        layer.add(f"bin/{shell}", b"/usr/bin/bash", 0o777, kind=tarfile.SYMTYPE)
    return layer


def _config(digest: str, entrypoint: list[str], command: list[str]) -> bytes:
    machine = platform.machine()
    return json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": "1970-01-01T00:00:01Z",
            "config": {
                "Entrypoint": entrypoint,
                "Cmd": command,
                "Env": [f"PATH={tools.PATH}"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
