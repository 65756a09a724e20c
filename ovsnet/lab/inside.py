"""Run a command in the namespaces of a place and collect its output, without a program in between.

Each thread has namespaces of its own: one of this process enters those of the place and starts the command, which
inherits them. `nsproc` would take 15 ms more, and in a user-mode Linux a tenth of a second; but cgroups take in whole
processes, so what is run in a place that has some is left to it, and so is what is not only waited for. Called by
`namespaces`.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ovsnet.lab import nsproc
from ovsnet.lab.state import Completed

CLONE_FS = 0x200
"""Of unshare(2): the root and the working directory, which come with a mount namespace, are the thread's own."""
Options = dict[str, Any]
"""What `nsproc` is given to enter."""


def call_inside(options: Options, input: str = "", timeout: float | None = None) -> Completed:
    """As `state.call`, in all namespaces of the place. Raises subprocess.TimeoutExpired."""

    def enter(descriptors: dict[str, int]) -> None:
        nsproc.unshare(CLONE_FS)
        nsproc.setns(descriptors["pid"])
        nsproc.go_in({**options, "cgroups": ()}, descriptors)

    return _called(options, ("pid", *nsproc.ENTERED), enter, input, timeout)


def call_on_network(options: Options, input: str = "", timeout: float | None = None) -> Completed:
    """As `state.call`, in the network namespace of the place alone. Raises subprocess.TimeoutExpired."""
    return _called(options, ("net",), lambda descriptors: nsproc.setns(descriptors["net"]), input, timeout)


class _NotEntered(Exception):
    """Says why."""


class _Starter(threading.Thread):
    """Enters, starts the command and stays: to it, its parent's end (PR_SET_PDEATHSIG) is that of this thread."""

    def __init__(
        self, options: Options, kinds: Sequence[str], enter: Callable[[dict[str, int]], None]
    ) -> None:
        super().__init__(name=f"in {options['title']}", daemon=True)
        self.options = options
        self.kinds = kinds
        self.enter = enter
        self.process: subprocess.Popen[str] | None = None
        self.error: BaseException = RuntimeError("not run")
        self.ready, self.leave = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            self.start_command()
        except BaseException as error:
            self.error = error
        self.ready.set()
        self.leave.wait()

    def start_command(self) -> None:
        descriptors = nsproc.namespaces(self.options, self.kinds)
        try:
            self.enter(descriptors)
        except OSError as error:
            raise _NotEntered(str(error)) from error
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        self.process = subprocess.Popen(
            self.options["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.options["env"]},
            close_fds=False,  # the lab's lock, see `state.call`
        )


def _called(
    options: Options,
    kinds: Sequence[str],
    enter: Callable[[dict[str, int]], None],
    input: str,
    timeout: float | None,
) -> Completed:
    argv = options["argv"]
    thread = _Starter(options, kinds, enter)
    thread.start()
    try:
        thread.ready.wait()
        if thread.process is None:
            code, words = _explained(options, thread.error)
            return subprocess.CompletedProcess(argv, code, "", f"{words}\n")
        stdout, stderr = thread.process.communicate(input, timeout)
        return subprocess.CompletedProcess(argv, thread.process.returncode, stdout, stderr)
    except BaseException:
        thread.ready.wait()
        if thread.process:
            thread.process.kill()
        raise
    finally:
        if thread.process:
            with thread.process:
                pass
        thread.leave.set()
        thread.join()


def _explained(options: Options, error: BaseException) -> tuple[int, str]:
    """Exit code and words of `nsproc` for what has kept the command from being started; raises anything else."""
    title, program = options["title"], options["argv"][0]
    if isinstance(error, nsproc.NotRunning):
        return 1, f"{title} is not running"
    if isinstance(error, _NotEntered):
        return nsproc.NOT_ENTERED, f"can't enter {title}: {error}"
    if not isinstance(error, OSError):
        raise error
    if error.filename is None:  # not the program's: no process was made
        return nsproc.NOT_ENTERED, f"can't start {program} in {title}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return nsproc.NOT_FOUND, f"{program}: command not found"
    return nsproc.NOT_EXECUTABLE, f"{program}: {error.strerror}"
