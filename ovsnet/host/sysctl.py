"""Kernel settings under /proc/sys/net, of the namespace that the caller is in.

Never writes a value that is in force already: some settings do work when written. In a container /proc/sys can't be
written; there OVSNET_PROC_SYS_NET names the same folder of the node's, mounted elsewhere. It shows the settings of
whoever looks, as /proc/sys/net does.
Called by `links` and `pod` (inside a pod's namespace) and by `gateway`.
"""

from __future__ import annotations

import os

from ovsnet.errors import HostFailure

_ROOT = os.path.join(os.environ.get("OVSNET_PROC_SYS_NET") or "/proc/sys/net", "")
_LONGEST = 64
"""Bytes; the settings we care for are small numbers."""


def read(key: str) -> str | None:
    """The value of e.g. "ipv4/ip_forward"; None when the kernel has no such setting."""
    try:
        fd = os.open(_ROOT + key, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostFailure(f"cannot read {_ROOT}{key}: {error.strerror}") from error
    try:
        return os.read(fd, _LONGEST).decode().strip()
    finally:
        os.close(fd)


def ensure(key: str, value: int) -> bool:
    """Set it; whether that changed anything. A kernel without the setting (no IPv6) needs none."""
    current = read(key)
    if current is None or current == str(value):
        return False
    try:
        fd = os.open(_ROOT + key, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)
    except OSError as error:
        hint = f"{_ROOT} must be writable, and the agent needs CAP_NET_ADMIN"
        raise HostFailure(f"cannot set {_ROOT}{key} to {value}: {error.strerror}", hint) from error
    return True
