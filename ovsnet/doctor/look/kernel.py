"""Facts from the kernel: settings, sockets and their holders, limits, the clock. Called by `examine`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from ovsnet.doctor.judge.kernel import Files
from ovsnet.errors import HostFailure
from ovsnet.host import sysctl

_STA_UNSYNC = 0x0040
_IN_CLOEXEC, _IN_CREATE = os.O_CLOEXEC, 0x100


def setting(key: str) -> int | None:
    """The number that /proc/sys/net/KEY holds; None where there is none."""
    try:
        text = sysctl.read(key)
    except HostFailure:
        return None
    return int(text) if text is not None and text.lstrip("-").isdecimal() else None


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def macs() -> set[str]:
    """Of this node's own interfaces: any of them may answer for an address of another."""
    found = set()
    for name in links():
        with contextlib.suppress(OSError):
            found.add(Path(f"/sys/class/net/{name}/address").read_text("ascii").strip())
    return found


def holders(port: int) -> list[str]:
    """Who has a UDP socket on the port: processes by name, "kernel" for a socket that is nobody's."""
    inodes = {
        inode
        for table in ("udp", "udp6")
        for local, inode in _udp_sockets(f"/proc/net/{table}")
        if local == port
    }
    if not inodes:
        return []
    found = {f"socket:[{inode}]": "kernel" for inode in inodes}
    for process in _processes():
        for link in _open_files(process):
            if link in found:
                found[link] = _name(process)
    return list(found.values())


def _udp_sockets(path: str) -> Iterable[tuple[int, str]]:
    """Local port and inode of each socket (proc(5), /proc/net/udp)."""
    try:
        lines = Path(path).read_text("ascii").splitlines()[1:]
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [(int(each[1].rpartition(":")[2], 16), each[9]) for each in words if len(each) > 9]


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _open_files(process: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{process}/fd/{number}"))
    return found


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text("utf-8", errors="replace").strip()
    return f"process {process}"


def database_file(process: int | None) -> str:
    """The file that ovsdb-server has open; the distributions' own place while it does not run."""
    for link in _open_files(process) if process is not None else []:
        if link.endswith(".db"):
            return link
    places = ("/etc/openvswitch/conf.db", "/var/lib/openvswitch/conf.db")
    return next((place for place in places if os.path.exists(place)), places[0])


def is_called(process: int, name: str) -> bool:
    """Whether the process is there and runs the program of that name, of which 15 characters count (proc(5))."""
    try:
        return Path(f"/proc/{process}/comm").read_text(errors="replace").rstrip("\n") == name[:15]
    except OSError:
        return False


def files_of(who: str, process: int) -> Files | None:
    """Open files of a process and its limit (proc(5), /proc/PID/limits); None if it is gone."""
    try:
        used = len(os.listdir(f"/proc/{process}/fd"))
        limits = Path(f"/proc/{process}/limits").read_text("ascii")
    except OSError:
        return None
    line = next((line for line in limits.splitlines() if line.startswith("Max open files")), "")
    words = line.split()
    return Files(who=who, used=used, most=int(words[3])) if len(words) > 3 and words[3].isdecimal() else None


def files_of_system() -> Files:
    used, _, most = map(int, Path("/proc/sys/fs/file-nr").read_text("ascii").split())
    return Files(who="the system", used=used, most=most)


def inotify(folder: str) -> str | None:
    """Why another inotify instance with a watch of the folder can't be had; None if it can."""
    libc = ctypes.CDLL(None, use_errno=True)
    instance = libc.inotify_init1(_IN_CLOEXEC)
    if instance < 0:
        return os.strerror(ctypes.get_errno())
    try:
        watched = folder if os.path.isdir(folder) else "/"
        if libc.inotify_add_watch(instance, watched.encode(), _IN_CREATE) < 0:
            return os.strerror(ctypes.get_errno())
        return None
    finally:
        os.close(instance)


class _Timex(ctypes.Structure):
    """The start of struct timex (adjtimex(2)), and room for the rest of it."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    ]


def synchronised() -> bool | None:
    """Whether somebody keeps the clock right; None if the kernel does not say. Asks only: modes is 0."""
    asked = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked)) < 0:
        return None
    return not asked.status & _STA_UNSYNC
