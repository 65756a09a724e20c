"""Kernel settings under /proc/sys/net, of the namespace that the caller is in.

Never writes a value that is in force already: some settings do work when written.
Called by `links` (inside a pod's namespace) and `gateway`.
"""

from __future__ import annotations

from pathlib import Path

from ovsnet.errors import HostFailure

_ROOT = Path("/proc/sys/net")


def read(key: str) -> str | None:
    """The value of e.g. "ipv4/ip_forward"; None when the kernel has no such setting."""
    try:
        return (_ROOT / key).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostFailure(f"cannot read /proc/sys/net/{key}: {error.strerror}") from error


def ensure(key: str, value: int) -> bool:
    """Set it; whether that changed anything. A kernel without the setting (no IPv6) needs none."""
    current = read(key)
    if current is None or current == str(value):
        return False
    try:
        (_ROOT / key).write_text(str(value))
    except OSError as error:
        hint = "/proc/sys must be writable and the agent needs CAP_NET_ADMIN"
        raise HostFailure(f"cannot set /proc/sys/net/{key} to {value}: {error.strerror}", hint) from error
    return True
