"""Network namespaces: opening the one that a runtime names, and working inside it for a moment.

Owns nothing: descriptors belong to the caller. A namespace belongs to a thread and the agent has one
thread, so nothing may be awaited inside `entered`: it is for opening sockets and writing sysctls.
Called by `links` and by the agent's attachments.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator

from pyroute2 import netns as namespaces

from ovsnet.errors import BadEnvironment, HostFailure

_OURS = "/proc/thread-self/ns/net"
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET: int = namespaces.CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)
"""Left to itself pyroute2 runs ldconfig or a compiler to find the C library."""


def open_netns(path: str) -> int:
    """A descriptor of the namespace at `path`, the value of CNI_NETNS. The caller closes it.

    Raises BadEnvironment when there is none, when it is something else, or the agent's own.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
        reason = "does not exist" if gone else f"can't be opened: {error.strerror}"
        raise BadEnvironment(
            f"CNI_NETNS: {path!r} {reason}", "the runtime must create the pod's namespace first"
        ) from error
    if is_netns(fd) and not same_as_ours(fd):
        return fd
    ours = is_netns(fd)
    os.close(fd)
    if ours:
        raise BadEnvironment(
            f"CNI_NETNS: {path!r} is the agent's own network namespace",
            "pods on the host's network need no CNI",
        )
    raise BadEnvironment(
        f"CNI_NETNS: {path!r} is not a network namespace",
        "expected a file such as /run/netns/NAME or /proc/PID/ns/net",
    )


def is_netns(fd: int) -> bool:
    """Whether the descriptor is a network namespace (ioctl_ns(2))."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def same_as_ours(fd: int) -> bool:
    """Whether it is the namespace that we are in."""
    theirs, ours = os.fstat(fd), os.stat(_OURS)
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def inode(fd: int) -> int:
    """A number that tells namespaces apart for as long as they exist."""
    return os.fstat(fd).st_ino


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
    try:
        namespaces.setns(fd, libc=_LIBC)
    except OSError as error:
        raise HostFailure(
            f"cannot enter a network namespace: {os.strerror(error.errno or 0)}",
            "the agent needs CAP_SYS_ADMIN",
        ) from error
