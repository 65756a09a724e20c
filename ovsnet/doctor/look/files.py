"""Facts from the file system: sockets, folders, disks. Called by `examine`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import ovsnet
from ovsnet.doctor.judge import cni
from ovsnet.doctor.judge.kernel import Disk
from ovsnet.doctor.judge.switch import Socket

_LARGEST = 1 << 20
"""Bytes; a CNI configuration is a hundredth of that."""


def unix_socket(path: str) -> Socket:
    try:
        found = os.stat(path)
        folder = os.stat(os.path.dirname(path))
    except OSError:
        return Socket(path=path, kind="")
    return Socket(
        path=path,
        kind="socket" if stat.S_ISSOCK(found.st_mode) else "other",
        uid=found.st_uid,
        mode=stat.S_IMODE(found.st_mode),
        folder_mode=stat.S_IMODE(folder.st_mode),
    )


def networks() -> dict[str, str]:
    """Text by name of what runtimes read; "" for what can't be read."""
    return {
        path.name: _text(path)
        for path in _entries(cni.NETWORKS)
        if path.name.endswith(cni.SUFFIXES) and path.is_file()
    }


def binaries() -> list[str]:
    """Names of the CNI plugins that may be executed."""
    return [path.name for path in _entries(cni.BINARIES) if os.access(path, os.X_OK)]


def executable() -> tuple[bool, bool]:
    """Whether ovsnet's CNI executable is there, and whether it may be executed."""
    path = Path(cni.BINARIES) / cni.EXECUTABLE
    return path.is_file(), os.access(path, os.X_OK)


def disk(path: str) -> Disk:
    """The file system that holds the path. Raises OSError."""
    found = os.statvfs(path)
    return Disk(path=path, free=found.f_bavail * found.f_frsize, size=found.f_blocks * found.f_frsize)


def newest() -> float:
    """Unix seconds: when the newest module of the installation was written."""
    package = Path(ovsnet.__file__).parent
    return max((path.stat().st_mtime for path in package.rglob("*.py")), default=0.0)


def _entries(folder: str) -> list[Path]:
    try:
        return sorted(Path(folder).iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode(errors="replace")
    except OSError:
        return ""
