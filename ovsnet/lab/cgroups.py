"""Cgroups of a place's own, where something in it manages cgroups: the kubelet does.

A folder below our own cgroup in every hierarchy, of a name that is the place's. `nsproc` puts the place's processes
there and makes it the root of what they see. Never limits anything. Called by `namespaces` and `state`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

Hierarchy = dict[str, Any]
"""folder: the place's root. leaf: where its own processes are. at: where it is mounted below /sys/fs/cgroup, "" where
all is one hierarchy. kind, data: of mount(2). aliases: other names of `at`. Lab and nsproc exchange it as JSON."""

ROOT = Path("/sys/fs/cgroup")
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def planned(name: str) -> list[Hierarchy]:
    """Those that a place of this name gets on this machine."""
    mounts = mounted()
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, own = line.split(":", 2)
        at = mounts.get(frozenset(controllers.split(",") if controllers else ()))
        if at is not None:
            found.append(hierarchy(name, controllers, at, own))
    return found


def mounted() -> dict[frozenset[str], str]:
    """By controllers (none: version 2) where each hierarchy is mounted, relative to /sys/fs/cgroup."""
    found: dict[frozenset[str], str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        path = Path(before.split()[4])
        if kind in ("cgroup", "cgroup2") and path.is_relative_to(ROOT):
            at = str(path.relative_to(ROOT)).removeprefix(".")
            controllers = set(options.split(",")) - {"rw", "xattr", "nsdelegate", "memory_recursiveprot"}
            found.setdefault(frozenset(controllers if kind == "cgroup" else ()), at)
    return found


def hierarchy(name: str, controllers: str, at: str, own: str) -> Hierarchy:
    unified = not controllers and not at
    # Version 2 lets no cgroup with processes have children with controllers; its root is exempt.
    folder = ROOT / name if unified else ROOT / at / own.strip("/") / name
    aliases = [each for each in controllers.split(",") if "," in controllers and each != at]
    return {
        "folder": str(folder),
        "leaf": str(folder / "init" if unified else folder),
        "at": at,
        "kind": "cgroup" if controllers else "cgroup2",
        "data": f"none,{controllers}" if controllers.startswith("name=") else controllers,
        "aliases": aliases,
    }


def make(hierarchies: list[Hierarchy]) -> None:
    """Make the folders. Raises OSError where this machine's cgroups can't be written."""
    for each in hierarchies:
        folder = Path(each["folder"])
        folder.mkdir(exist_ok=True)
        Path(each["leaf"]).mkdir(exist_ok=True)
        if "cpuset" in each["data"].split(","):
            for setting in _CPUSET:
                (folder / setting).write_text((folder.parent / setting).read_text())


def remove(hierarchies: list[Hierarchy], seconds: float = 10.0) -> None:
    """Remove the folders with all that was made below them, once their last processes are gone."""
    end = time.monotonic() + seconds
    while left := [each["folder"] for each in hierarchies if not _removed(each["folder"])]:
        if time.monotonic() > end:
            raise OSError(f"cgroups still have processes: {', '.join(left)}")
        time.sleep(0.05)


def _removed(folder: str) -> bool:
    with contextlib.suppress(OSError):
        for path, _folders, _files in os.walk(folder, topdown=False):
            os.rmdir(path)
    return not os.path.exists(folder)
