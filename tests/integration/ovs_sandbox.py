"""A private Open vSwitch for one test: ovsdb-server and ovs-vswitchd in a folder of their own.

Needs no root and touches nothing of the host: `--disable-system` keeps it off the kernel datapath and
`--enable-dummy` adds the datapath type `dummy` and ports without devices, which is all that OVSDB tests,
bundles and `ofproto/trace` need. The daemons are children that the kernel ends with the test process.

    with Sandbox() as ovs:                 # both daemons run, the database is initialised
        ovs.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy")
        ovs.ofctl("add-flow", ovs.mgmt("br-int"), "actions=drop")
        print(ovs.appctl("ofproto/trace", "br-int", "in_port=1"))
        ovs.vswitchd.kill()                # a crash; ovs.vswitchd.start() brings it back
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pytest

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_PATIENCE = 20.0
"""Seconds that a daemon may take to start on a busy machine."""


def installed() -> bool:
    """Whether this machine has what a sandbox runs."""
    return SCHEMA.exists() and all(
        map(shutil.which, ("ovsdb-server", "ovs-vswitchd", "ovs-ofctl", "setpriv"))
    )


class Daemon:
    """One of the two daemons. It can be started again after `stop` or `kill`."""

    def __init__(self, command: Sequence[str], folder: Path, ready: Callable[[], bool]) -> None:
        self.name = command[0]
        self.log = folder / f"{self.name}.log"
        self._command = [*command, "--no-chdir", "--verbose=console:off", f"--log-file={self.log}"]
        self._folder = folder
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def start(self) -> None:
        """Returns when the daemon answers."""
        if self._process is not None:
            raise RuntimeError(f"{self.name} runs already")
        # setpriv: the daemon ends with the test process, also when that is killed.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self._command],
            cwd=self._folder,
            env={**os.environ, **environment(self._folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it the polite way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a crash does: its sockets stay behind."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It lives but does not answer, until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Sandbox:
    """Both daemons and the tools to talk to them. `remote` is what `Ovsdb` connects to."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: the path of a unix socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="/tmp/ov-"))
        self.socket = self.folder / "db.sock"
        self.remote = f"unix:{self.socket}"
        self.ovsdb = Daemon(
            [
                "ovsdb-server",
                "conf.db",
                f"--remote=p{self.remote}",
                f"--pidfile={self.folder / 'ovsdb-server.pid'}",
                f"--unixctl={self.folder / 'ovsdb-server.ctl'}",
            ],
            self.folder,
            lambda: self._answers("ovs-vsctl", "--timeout=1", f"--db={self.remote}", "--no-wait", "show"),
        )
        self.vswitchd = Daemon(
            [
                "ovs-vswitchd",
                self.remote,
                "--enable-dummy=system",
                "--disable-system",
                "--disable-system-route",
                f"--pidfile={self.folder / 'ovs-vswitchd.pid'}",
                f"--unixctl={self.folder / 'ovs-vswitchd.ctl'}",
            ],
            self.folder,
            lambda: self._answers(
                "ovs-appctl", "--timeout=1", f"--target={self.folder}/ovs-vswitchd.ctl", "version"
            ),
        )

    def start(self) -> Sandbox:
        """Makes the database and starts both daemons."""
        self.create()
        self.ovsdb.start()
        self.vsctl("--no-wait", "init")
        self.vswitchd.start()
        return self

    def create(self) -> None:
        """Makes an empty database, and starts nothing."""
        subprocess.run(["ovsdb-tool", "create", self.folder / "conf.db", SCHEMA], check=True)

    def stop(self) -> None:
        """Ends both daemons and removes the folder."""
        self.vswitchd.kill()
        self.ovsdb.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Sandbox:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def mgmt(self, bridge: str) -> str:
        """A bridge's OpenFlow socket, as `ovs-ofctl` takes it."""
        return f"unix:{self.folder / bridge}.mgmt"

    def vsctl(self, *arguments: str) -> str:
        """`ovs-vsctl`; waits for ovs-vswitchd unless told `--no-wait`."""
        return self.tool("ovs-vsctl", "--timeout=10", f"--db={self.remote}", *arguments)

    def ofctl(self, *arguments: str, stdin: str | None = None) -> str:
        """`ovs-ofctl -O OpenFlow15`; give `mgmt(bridge)` where it takes a switch."""
        return self.tool("ovs-ofctl", "--timeout=30", "-O", "OpenFlow15", *arguments, stdin=stdin)

    def appctl(self, *arguments: str) -> str:
        """`ovs-appctl` to ovs-vswitchd."""
        return self.tool("ovs-appctl", "--timeout=10", f"--target={self.folder}/ovs-vswitchd.ctl", *arguments)

    def tool(self, *command: str, stdin: str | None = None) -> str:
        """Runs a tool in the sandbox's environment; raises RuntimeError with its words when it fails."""
        done = subprocess.run(
            command,
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, **environment(self.folder)},
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def _answers(self, *command: str) -> bool:
        with contextlib.suppress(RuntimeError):
            self.tool(*command)
            return True
        return False


def environment(folder: Path) -> dict[str, str]:
    """What makes OVS's tools and daemons look into the sandbox instead of the host's folders."""
    return dict.fromkeys(("OVS_RUNDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "OVS_LOGDIR"), str(folder))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A running sandbox without a bridge. Import it into the test module to use it."""
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        yield running
