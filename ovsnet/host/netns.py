"""Working inside another network namespace for a moment.

Owns nothing: descriptors belong to the caller. A namespace belongs to a thread and the agent has one
thread, so nothing may be awaited inside `entered`: it is for opening sockets and writing sysctls.
Called by `links`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

from ovsnet.errors import HostFailure

_OURS = "/proc/thread-self/ns/net"
_LIBC = ctypes.CDLL(None, use_errno=True)
_NETWORK = 0x40000000
"""CLONE_NEWNET: another kind of namespace is refused."""


@contextlib.contextmanager
def entered(fd: int) -> Iterator[None]:
    """Be in that namespace. Never await inside: every other task would be there too."""
    home = os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, _NETWORK) != 0:
        raise HostFailure(
            f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}",
            "the agent needs CAP_SYS_ADMIN",
        )
