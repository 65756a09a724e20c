"""The user-mode Linux as a process of this machine: booted with one job, watched, and gone with whoever started it.

Its root is this machine's own file system, mounted for reading only; `guest_init`, its process 1, says what is
writable in there. All that comes out is in the job's folder: the console, and lines of JSON that the job writes.
Never builds the kernel (`uml` does) and knows nothing of tests. Called by `in_kernel` and by the kernel's benchmarks.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import uml

from ovsnet.lab.node import PRIVATE

HERE = Path(__file__).parent
PASSED_ON = ("PATH", "LANG", "TERM", "CI", "HYPOTHESIS_PROFILE", "PYTHONPATH")
MEMORY = "1500M"
EVENTS, CONSOLE, JOB, INIT = "events", "console", "job.json", "init"
POLL = 0.05
"""Seconds between two looks at what a guest says."""


class Silent(Exception):
    """The guest has said nothing for too long."""


class Guest:
    """One boot, as a context. argv is run in it with `env` and nothing else, in `folder`.

    keep: folders that it needs, wherever they are. copies: those of which it gets a writable copy in memory.
    targets: those that must exist in there. files: what the job's folder has, besides what is the guest's. processor:
    which of those that this process may use, counted from 0 and around; without, any. In the guest OVSNET_GUEST names
    the job's folder, to whose file `events` the job appends.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        keep: Sequence[str] = (),
        copies: Sequence[str] = (),
        targets: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        processor: int | None = None,
    ) -> None:
        self.job = {
            "argv": list(argv),
            "folder": str(folder),
            "env": dict(env),
            "keep": list(keep),
            "copies": list(copies),
            "targets": list(targets),
        }
        self.files = files or {}
        self.path = Path()
        self._processor = processor
        self._process: subprocess.Popen[bytes] | None = None
        self._events: IO[bytes] | None = None
        self._rest, self._heard = b"", 0.0

    def __enter__(self) -> Guest:
        kernel, preload = uml.kernel(), uml.preload()
        self.path = Path(tempfile.mkdtemp(prefix="ovsnet-guest-"))
        try:
            self._write_job()
            self._process = self._boot(kernel, preload)
            self._events, self._heard = (self.path / EVENTS).open("rb"), time.monotonic()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def events(self, seconds: float) -> Iterator[Any]:
        """What the job writes, as it comes. Ends when the guest does; raises Silent after so long without any."""
        while (news := self.news(seconds)) is not None:
            yield from news
            if not news:
                time.sleep(POLL)

    def news(self, seconds: float) -> list[Any] | None:
        """What the job wrote since the last call; None when it has ended and all is told.

        Raises Silent after so long without any.
        """
        assert self._process is not None
        assert self._events is not None
        ended = self._process.poll() is not None  # asked first: what is read afterwards is all of it
        *lines, self._rest = (self._rest + self._events.read()).split(b"\n")
        if lines:
            self._heard = time.monotonic()
        elif ended:
            return None
        elif time.monotonic() - self._heard > seconds:
            raise Silent(f"the guest has said nothing for {seconds:g} s")
        return [json.loads(line) for line in lines]

    def give(self, name: str, text: str) -> None:
        """A file more for the job, which sees it when it is whole."""
        new = self.path / f"{name}.new"
        new.write_text(text)
        new.rename(self.path / name)

    def console(self, lines: int = 40) -> str:
        """The end of what was on its console."""
        with contextlib.suppress(OSError):
            text = (self.path / CONSOLE).read_text(errors="replace").replace("\r", "")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def _write_job(self) -> None:
        for name, text in self.files.items():
            (self.path / name).write_text(text)
        (self.path / JOB).write_text(json.dumps(self.job))
        (self.path / EVENTS).touch()
        init = self.path / INIT
        init.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S {HERE / 'guest_init.py'} {self.path}\n")
        init.chmod(0o755)

    def _boot(self, kernel: Path, preload: Path) -> subprocess.Popen[bytes]:
        # On one processor, whichever, it is about three times faster: its processes take turns anyway. The PID
        # namespace, because a user-mode Linux is many processes, which all go with their first.
        processors = sorted(os.sched_getaffinity(0))
        if self._processor is None:
            processor = random.choice(processors)
        else:
            processor = processors[self._processor % len(processors)]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
        command += ["taskset", "-c", str(processor), "env", f"LD_PRELOAD={preload}"]
        command += [str(kernel), f"mem={MEMORY}", f"uml_dir={self.path}"]
        command += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={self.path / INIT}"]
        command += ["con=null", "con0=null,fd:1", "quiet"]
        with (self.path / CONSOLE).open("wb") as console:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    def _remove(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._events is not None:
            self._events.close()
        shutil.rmtree(self.path, ignore_errors=True)


def of_checkout(
    argv: Sequence[str],
    root: Path,
    env: Mapping[str, str],
    files: Mapping[str, str] | None = None,
    processor: int | None = None,
) -> Guest:
    """A guest whose job is a program of the checkout at `root` and may run labs. env: besides what is passed on."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("OVSNET_")}
    return Guest(
        argv,
        folder=root,
        env={**environment, "HOME": "/tmp", **env},
        keep=[str(root), sys.prefix, sys.base_prefix],
        copies=[str(root / each) for each in ("ovsnet", "tests", "flows", "templates")],
        targets=PRIVATE,
        files=files,
        processor=processor,
    )
