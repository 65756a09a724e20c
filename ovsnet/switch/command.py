"""Runs an OVS tool from the loop: no thread, no pipe to feed, one process.

Input and output are files in memory, so a large input can't deadlock with a large output and the
process is on its way before this returns to the loop. Called by `openflow` and `trace`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ovsnet.errors import SwitchUnavailable

_AT_ONCE = 5_000
"""Lines that are written without a break: some 2 ms."""


class Finished(NamedTuple):
    code: int
    out: str
    err: str


@contextlib.contextmanager
def file() -> Iterator[int]:
    """A file in memory that one tool writes and the next reads, as /dev/fd/N."""
    descriptor = os.memfd_create("between")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def write(file: int, lines: Iterable[str]) -> int:
    """Puts lines into a `file`, with other work of the loop after every few thousand; how many there were."""
    count = 0
    for part in _parts(iter(lines)):
        _write_lines(file, part)
        count += len(part)
        await asyncio.sleep(0)
    return count


def _parts(lines: Iterator[str]) -> Iterator[list[str]]:
    while part := list(itertools.islice(lines, _AT_ONCE)):
        yield part


async def run(
    argv: Sequence[str], lines: Iterable[str] = (), *, append: int | None = None, keep: Sequence[int] = ()
) -> Finished:
    """Runs to the end; a cancelled call kills its process. Raises SwitchUnavailable if it is not installed.

    lines: of its input. append: a `file` that gets the output; then `out` is empty. keep: those that it may read.
    """
    files: list[int] = []
    try:
        files += [os.memfd_create(name) for name in ("in", "out", "err")]
        for part in _parts(iter(lines)):
            _write_lines(files[0], part)
        os.lseek(files[0], 0, os.SEEK_SET)
        process = _start(argv, [files[0], files[1] if append is None else append, files[2]], keep)
        try:
            await _exit(process.pid)
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        return Finished(process.returncode, read(files[1]), read(files[2]))
    except OSError as error:
        raise SwitchUnavailable(
            f"cannot run {argv[0]}: {error.strerror}", "is the node out of processes or descriptors?"
        ) from error
    finally:
        for file in files:
            os.close(file)


def _start(argv: Sequence[str], files: list[int], keep: Sequence[int]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, stdin=files[0], stdout=files[1], stderr=files[2], pass_fds=keep)
    except FileNotFoundError:
        raise SwitchUnavailable(f"{argv[0]} is not installed", "install openvswitch-switch") from None


async def _exit(pid: int) -> None:
    """Waits until the process has ended, without reaping it."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, _resolve, ended)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _resolve(future: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        future.set_result(None)


def _write_lines(file: int, lines: Iterable[str]) -> None:
    view = memoryview(("\n".join(lines) + "\n").encode())
    while view:
        view = view[os.write(file, view) :]


def read(file: int) -> str:
    """All that is in a `file`."""
    size = os.fstat(file).st_size
    return os.pread(file, size, 0).decode(errors="replace")
