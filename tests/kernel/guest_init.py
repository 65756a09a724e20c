"""Process 1 of the guest: makes the machine's file system fit to run a job in, runs it, and stops the guest.

The root is the machine's, for reading only. In memory are: /run, /tmp and the like, empty; what the job names in
`copies`, with its content, because Python has no other place for what it compiles; and each folder in which one of
`targets` is missing. The job's folder is the one place of the machine that is written. Standard library only.
Started by `guest`, with the folder of the job as its argument.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from ovsnet.lab.nsproc import MS_BIND, loopback_up, mount, nearest_folder

SHARED = "/run/job"
"""Where the job's folder is in the guest."""
MACHINE = "/mnt/machine"
"""Where the machine's file system is to be seen as it is."""
EMPTY = ("/run", "/tmp", "/var/tmp", "/var/log", "/mnt", "/root")
POWER_OFF = 0x4321FEDC
"""LINUX_REBOOT_CMD_POWER_OFF, reboot(2)."""


def main(folder: str) -> None:
    mount("proc", "/proc", "proc")
    with open("/proc/sys/kernel/printk", "w") as file:
        file.write("1")  # the console is for the job's words and for a panic
    with open("/proc/sys/net/core/netdev_max_backlog", "w") as file:
        # A guest that had to wait for its processor has more to do at once than a machine ever has.
        file.write("20000")
    job = json.loads((Path(folder) / "job.json").read_text())
    prepare(folder, job)
    status = run(job)
    print(f"the job ended with {status}", flush=True)


def prepare(folder: str, job: dict[str, Any]) -> None:
    """Everything but the job itself."""
    mount("sysfs", "/sys", "sysfs")
    for path, kind in (("/dev/pts", "devpts"), ("/dev/shm", "tmpfs"), ("/dev/mqueue", "mqueue")):
        os.makedirs(path, exist_ok=True)
        mount(kind, path, kind)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    root = os.open("/", os.O_PATH)
    kept = [(os.open(path, os.O_PATH), path) for path in job["keep"]]
    for path in filter(os.path.isdir, EMPTY):
        mount("tmpfs", path, "tmpfs")
    for descriptor, path in kept:
        if not os.path.exists(path):
            os.makedirs(path)
            bind(descriptor, path)
        os.close(descriptor)
    os.mkdir(MACHINE)
    bind(root, MACHINE)
    os.mkdir(SHARED)
    mount("none", SHARED, "hostfs", data=folder)
    for path in job["copies"]:
        copy(path)
    make_targets(job["targets"])
    loopback_up()


def bind(descriptor: int, path: str) -> None:
    mount(f"/proc/self/fd/{descriptor}", path, flags=MS_BIND)


def copy(path: str) -> None:
    """The folder in memory, with all that is in it."""
    descriptor = os.open(path, os.O_RDONLY)
    mount("tmpfs", path, "tmpfs")
    shutil.copytree(f"/proc/self/fd/{descriptor}", path, dirs_exist_ok=True, symlinks=True)
    os.close(descriptor)


def shallow(path: str) -> None:
    """The folder in memory, what is in it by links: more can be made in it. A mount for each would slow labs down."""
    entries = list(os.scandir(path))
    mount("tmpfs", path, "tmpfs", data="mode=755")
    for entry in entries:
        os.symlink(f"{MACHINE}{path}/{entry.name}", f"{path}/{entry.name}")


def make_targets(paths: list[str]) -> None:
    for path in paths:
        if not os.path.isdir(path):
            if not os.access(nearest_folder(path), os.W_OK):
                shallow(nearest_folder(path))
            os.makedirs(path)
    for path in paths:
        unlink(Path(path), MACHINE)


def unlink(path: Path, machine: str) -> None:
    """Folders instead of `shallow`'s links on the way to this one: who looks at the root of another process by /proc is
    led by a link into their own."""
    for folder in (*reversed(path.parents), path):
        if folder.is_symlink() and (target := os.readlink(folder)).startswith(f"{machine}/"):
            names = os.listdir(folder)
            folder.unlink()
            folder.mkdir()
            for name in names:
                (folder / name).symlink_to(f"{target}/{name}")


def run(job: dict[str, Any]) -> int:
    """The job as a child; process 1 collects whatever its daemons leave behind."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(job["folder"])
        os.execve(job["argv"][0], job["argv"], {**job["env"], "OVSNET_GUEST": SHARED})
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BaseException as error:
        print(f"the guest can't be prepared: {error!r}", flush=True)
    finally:
        os.sync()
        ctypes.CDLL(None).reboot(POWER_OFF)
