"""A lab's folder, /run/ovsnet-lab/NAME: its state, its lock and the records of its processes.

    state.json            what the lab is to be and which nodes and pods it has now
    lock                  held by the one command that changes the lab
    hosts, resolv.conf    seen as /etc/hosts and /etc/resolv.conf inside
    cluster/              the manifests that all agents watch: nodes, namespaces, pods
    PLACE/                a node, `outside` or `underlay`: records (*.proc), logs, its private folders, cgroups.json

What is too large for memory, which /run often is, stands in /var/lib/ovsnet-lab/NAME (`disk`); limits of the machine
that were raised stand in .limits.json. The folder is all that is needed to remove a lab: every process in it wrote
its record itself. A process is known by pid and start time, never by pid alone. Called by the rest of the lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ovsnet.lab import cgroups, limits
from ovsnet.lab.nsproc import start_time
from ovsnet.lab.spec import LabError, LabSpec, NodeSpec, PodSpec

ROOT = Path("/run/ovsnet-lab")
DISK = Path("/var/lib/ovsnet-lab")
CGROUPS = "cgroups.json"
Completed = subprocess.CompletedProcess[str]


class State(msgspec.Struct, kw_only=True):
    """What state.json holds."""

    spec: LabSpec
    datapath: str = ""
    """netdev or system, once `auto` has been decided."""
    nodes: dict[str, NodeSpec] = {}
    pods: dict[str, PodSpec] = {}


class Process(msgspec.Struct, frozen=True):
    """A process that a record names; it may have ended."""

    pid: int
    start: str

    @property
    def alive(self) -> bool:
        try:
            if start_time(self.pid) != self.start:
                return False
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X"):
                return True
            # Its first thread may have ended before others, who still have its files open.
            return len(os.listdir(f"/proc/{self.pid}/task")) > 1
        except OSError:
            return False

    def kill(self, number: int = signal.SIGKILL, wait: float = 10.0) -> None:
        """Send the signal if it is still this process; wait at most `wait` seconds for its end."""
        if not self.alive:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if wait and not wait_for(lambda: not self.alive, wait):
            raise LabError(f"process {self.pid} did not end within {wait:g} s of signal {number}")


def wait_for(condition: Callable[[], bool], seconds: float, interval: float = 0.01) -> bool:
    """Whether the condition became true within so many seconds.

    Asked at that interval, and less often where that takes long or it has waited for long: who is waited for may need
    the same processor. So half of the time goes into asking at most, and it may know a tenth of the time too late.
    """
    began = asked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now - began > seconds:
            return False
        time.sleep(max(interval, now - asked, (now - began) / 10))
        asked = time.monotonic()
    return True


def call(
    argv: Sequence[str],
    input: str = "",
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a helper to its end and collect its output; env: instead of this process's.

    It inherits the lab's lock: when a command is killed the next one waits for what that had begun.
    """
    return subprocess.run(
        argv, input=input, capture_output=True, text=True, timeout=timeout, env=env, close_fds=False
    )


class Folder:
    """/run/ovsnet-lab/NAME."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROOT / name
        self.disk = DISK / name

    def place(self, name: str) -> Path:
        """The folder of a node, `outside` or `underlay`, made if need be."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def load(self) -> State | None:
        """The state; None if there is no lab of this name, or none that got as far as having a state."""
        try:
            return msgspec.json.decode((self.path / "state.json").read_bytes(), type=State)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise LabError(f"{self.path}/state.json can't be read: {error}", self.remedy()) from error

    def remedy(self) -> str:
        return f"`ovsnet lab --name {self.name} down` removes the lab"

    def save(self, state: State) -> None:
        write_atomically(self.path / "state.json", msgspec.json.format(msgspec.json.encode(state)))

    def process(self, place: str, name: str) -> Process | None:
        """The recorded process, alive or not."""
        return read_record(self.path / place / f"{name}.proc")

    def alive(self, place: str, name: str) -> Process | None:
        process = self.process(place, name)
        return process if process and process.alive else None

    def processes(self) -> list[Process]:
        """All that were ever recorded and not forgotten; process 1 of each place first."""
        paths = sorted(self.path.glob("*/*.proc"), key=lambda path: path.name != "init.proc")
        return [process for path in paths if (process := read_record(path))]

    def record_cgroups(self, place: str) -> list[cgroups.Hierarchy]:
        """Make cgroups for the place, without what an earlier life of it left in them. Raises OSError.

        Recorded first, so that what is half made is removed too.
        """
        self.remove_cgroups(place)
        planned = cgroups.planned(f"ovsnet-lab.{self.name}.{place}")
        write_atomically(self.place(place) / CGROUPS, msgspec.json.encode(planned))
        cgroups.make(planned)
        return planned

    def cgroups(self, place: str) -> list[cgroups.Hierarchy]:
        """Those that were made for it; none for most places."""
        with contextlib.suppress(FileNotFoundError):
            found: list[cgroups.Hierarchy] = json.loads((self.path / place / CGROUPS).read_text())
            return found
        return []

    def remove_cgroups(self, place: str) -> None:
        cgroups.remove(self.cgroups(place))
        (self.path / place / CGROUPS).unlink(missing_ok=True)

    def forget(self, place: str) -> None:
        shutil.rmtree(self.path / place, ignore_errors=True)
        shutil.rmtree(self.disk / place, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self, say: Callable[[str], None], create: bool = False) -> Iterator[None]:
        """Hold the lab's lock; one command at a time changes a lab. With create the folder is made."""
        lock = self.acquire(say, create)
        try:
            yield
        finally:
            os.close(lock)

    def acquire(self, say: Callable[[str], None], create: bool) -> int:
        path = self.path / "lock"
        while True:
            if create:
                self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                if create:
                    continue  # `down` removed the folder just now
                raise LabError(f"there is no lab {self.name}", "`ovsnet lab up` makes one") from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another command that is changing lab {self.name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The one who held it may have been `down`: then this is the lock of a folder that is gone.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(lock).st_ino:
                    os.set_inheritable(lock, True)
                    return lock
            os.close(lock)

    def generation(self, settled: bool = False) -> int:
        """What differs when the lab was removed, and perhaps made again, meanwhile; 0 if there is none.

        settled: first wait for the command that is changing the lab, which may be `down`.
        """
        with contextlib.suppress(FileNotFoundError), open(self.path / "lock", "rb") as lock:
            if settled:
                fcntl.flock(lock, fcntl.LOCK_SH)
            return os.stat(self.path / "lock").st_ctime_ns
        return 0

    def remove(self) -> None:
        """End every recorded process and remove the folder, the lock last. The lock must be held."""
        processes = self.processes()
        for process in processes:
            process.kill(wait=0)
        for process in processes:
            process.kill()
        for path in self.path.glob(f"*/{CGROUPS}"):
            self.remove_cgroups(path.parent.name)
        limits.release(ROOT, self.name)
        shutil.rmtree(self.disk, ignore_errors=True)
        for path in self.path.iterdir():
            if path.name in ("lock", "state.json"):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (self.path / "state.json").unlink(missing_ok=True)
        (self.path / "lock").unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()
            ROOT.rmdir()
        with contextlib.suppress(OSError):
            DISK.rmdir()


def read_record(path: Path) -> Process | None:
    try:
        fields = json.loads(path.read_text())
        return Process(int(fields["pid"]), str(fields["start"]))
    except (OSError, ValueError, KeyError):
        return None


def write_atomically(path: Path, data: bytes | str, mode: int = 0o644) -> bool:
    """Replace the file unless it has this content already; whether it was replaced."""
    content = data.encode() if isinstance(data, str) else data
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
            return False
    # A leading dot: the agents' file store must never take the unfinished file for a manifest.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(mode)
    temporary.rename(path)
    return True
