"""The agent's unix socket: takes it over from a dead agent, and receives one request from it.

Owns the socket file, who may connect, and the descriptors that come with a request: each is closed exactly
once, whatever arrives. Never looks at what a request means. Called by `server`.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path
from types import TracebackType

from ovsnet.cni import framing
from ovsnet.errors import HostFailure

_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_MAX_PATH = 107
"""Bytes of a unix socket's path (unix(7), sun_path less its NUL)."""


class Listener:
    """The socket file at `path`, as long as it is entered. Raises HostFailure where it can't be had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._identity: tuple[int, int] | None = None
        self.socket: socket.socket | None = None

    def open(self) -> socket.socket:
        """Binds beside the final name and renames, so that the path never leads to half a socket."""
        temporary = self._path.with_name(f".{self._path.name}.new")
        if len(os.fsencode(self._path)) > _MAX_PATH:
            raise HostFailure(f"{self._path}: a socket's path has at most {_MAX_PATH} bytes", "set cniSocket")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claim()
            temporary.unlink(missing_ok=True)
            self.socket = _bound(temporary)
            temporary.rename(self._path)
            self._identity = _identity(self._path)
        except OSError as error:
            self.close()
            raise HostFailure(
                f"{self._path}: {error.strerror or error}", "cniSocket names the socket"
            ) from error
        except HostFailure:
            self.close()
            raise
        return self.socket

    def close(self) -> None:
        """Removes the file, unless another agent has put its own there."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        if self._identity is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        self._identity = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self) -> None:
        """The lock ends with its process, however that ends; an answer betrays a server without one."""
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        alive = HostFailure(f"{self._path}: another agent answers there", "stop it, or set another cniSocket")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise alive from None
        if _answers(self._path):
            raise alive


class Received:
    """One request as it came. Closes its descriptors on leaving; `netns` stays valid until then.

    `body` is empty until the request is whole.
    """

    def __init__(self) -> None:
        self.body = b""
        self.fds: list[int] = []

    def __enter__(self) -> Received:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.fds:
            os.close(self.fds.pop())

    @property
    def netns(self) -> int | None:
        """The descriptor that came, None without one."""
        return self.fds[0] if self.fds else None


async def receive(connection: socket.socket, request: Received) -> None:
    """Reads one request into `request`. Raises framing.Malformed, ConnectionError, OSError."""
    data = bytearray()
    length: int | None = None
    while length is None or len(data) < length:
        chunk = await _chunk(connection, request)
        data += chunk
        if (
            length is None
            and (length := framing.body_length(bytes(data[: framing.MAX_HEADER + 1]))) is not None
        ):
            del data[: data.index(b"\n") + 1]
        if not chunk:
            raise framing.Malformed(f"ends after {len(data)} bytes" if data or request.fds else "is empty")
    if len(data) > length:
        raise framing.Malformed(f"is {len(data) - length} bytes longer than it says")
    request.body = bytes(data)


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end (unix(7), SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


def netns_problem(fd: int) -> str:
    """Why the descriptor is no pod's network namespace; empty if it is one (ioctl_ns(2))."""
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != _CLONE_NEWNET:
            return "is a namespace of another type"
    except OSError:
        return "is no network namespace"
    own = os.stat("/proc/self/ns/net")
    there = os.fstat(fd)
    return (
        "is the node's own network namespace"
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
        else ""
    )


async def _chunk(connection: socket.socket, request: Received) -> bytes:
    """The next bytes; descriptors with them go to `request` at once, so that none is ever lost."""
    while True:
        try:
            data, ancillary, flags, _ = connection.recvmsg(
                65536, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            await _readable(connection)
            continue
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                request.fds.extend(fds)
        if len(request.fds) > 1 or flags & socket.MSG_CTRUNC:
            raise framing.Malformed("brings more than one descriptor")
        return data


async def _readable(connection: socket.socket) -> None:
    """asyncio itself has no recvmsg, hence this."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _bound(path: Path) -> socket.socket:
    """A listening socket whose file nobody but the owner can open, not even for a moment.

    Bound through its folder's descriptor, because the temporary name is longer than the final one.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        listening.listen(socket.SOMAXCONN)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
        os.close(folder)
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        there = path.stat()
        return there.st_dev, there.st_ino
    return None
