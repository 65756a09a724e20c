"""Places: sets of namespaces held by a process of their own, and how to run something in one.

A place is a node, the outside host or the underlay. Its process 1 is the start of its pid namespace: killing
it ends everything that was started in the place. What only gives output is run by a thread in there (`inside`), all
else through `nsproc`, as a command line (`Place.command`), so that a caller may start it or become it. Called by
`node`, `underlay`, `pods`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovsnet.lab import cgroups, nsproc
from ovsnet.lab.inside import call_inside, call_on_network
from ovsnet.lab.spec import IPAddress, LabError
from ovsnet.lab.state import Completed, Folder, Process, call, wait_for

INIT = "init"


class Place:
    """The namespaces of one node, of `outside` or of `underlay`."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.lab = folder
        self.name = name

    @property
    def path(self) -> Path:
        return self.lab.path / self.name

    @property
    def init(self) -> Process | None:
        return self.lab.alive(self.name, INIT)

    @property
    def root(self) -> Path:
        """The place's file system, as it is seen from the machine."""
        return Path(f"/proc/{self.held().pid}/root")

    def held(self) -> Process:
        process = self.init
        if process is None:
            raise LabError(
                f"{self.name} is not running", f"`ovsnet lab --name {self.lab.name} up` starts it again"
            )
        return process

    def hold(self, **options: Any) -> None:
        """Make the namespaces; see nsproc.set_up for `binds` and `run`, `own_cgroups` for `cgroups`."""
        scratch = self.lab.place(self.name) / "scratch"
        scratch.mkdir(exist_ok=True)
        for path in self.path.glob("*.proc"):
            path.unlink()
        record = str(self.path / f"{INIT}.proc")
        given = {"do": "hold", "record": record, "hostname": self.name, "scratch": str(scratch), **options}
        done = call_program(given)
        if done.returncode:
            raise LabError(f"the namespaces of {self.name} can't be made: {done.stderr.strip()}")

    def own_cgroups(self) -> list[cgroups.Hierarchy]:
        """Cgroups for what is to run here, to `hold` it in; `destroy` and `down` remove them."""
        try:
            return self.lab.record_cgroups(self.name)
        except OSError as error:
            raise LabError(
                f"{self.name} can't have cgroups of its own: {error}", "is /sys/fs/cgroup writable?"
            ) from error

    def command(
        self, argv: Sequence[str], netns: str = "", env: Mapping[str, str] | None = None
    ) -> list[str]:
        """A command line that runs argv in the place; netns: in one of its pods' network namespaces."""
        return script(self.entrance(argv, netns, env))

    def entrance(
        self, argv: Sequence[str], netns: str = "", env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What `nsproc` is given to run argv in the place."""
        process = self.held()
        own = self.lab.cgroups(self.name)
        return {
            **({"cgroups": own} if own else {}),
            "do": "enter",
            "title": self.name,
            "pid": process.pid,
            "start": process.start,
            "argv": list(argv),
            "netns": netns,
            "env": dict(env or {}),
        }

    def run(
        self,
        argv: Sequence[str],
        *,
        netns: str = "",
        input: str = "",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> Completed:
        """Run argv in the place and collect its output. With check a failure is a LabError."""
        done = self.call(argv, input, timeout, env, netns)
        if check and done.returncode:
            raise LabError(f"{self.name}: `{' '.join(argv)}` failed: {(done.stderr or done.stdout).strip()}")
        return done

    def call(
        self,
        argv: Sequence[str],
        input: str = "",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        netns: str = "",
    ) -> Completed:
        """As `state.call`, in the place; env: besides this process's. Raises subprocess.TimeoutExpired."""
        given = self.entrance(argv, netns, env)
        through = call_program if "cgroups" in given else call_inside
        return through(given, input, timeout)

    def ip(self, lines: Sequence[str]) -> None:
        """Run lines of `ip -batch` in the place's network namespace; pids in them are the machine's."""
        self.call_on_network(["ip", "-batch", "-"], "\n".join(lines) + "\n", check=True)

    def call_on_network(self, argv: Sequence[str], input: str = "", check: bool = False) -> Completed:
        """Run a tool of the machine in the network namespace alone. With check a failure is a LabError."""
        done = call_on_network(self.entrance(argv), input)
        if check and done.returncode:
            raise LabError(f"{self.name}: `{' '.join(argv)}` failed: {done.stderr.strip()}")
        return done

    def interfaces(self) -> set[str]:
        """The names of the network interfaces of the place."""
        lines = Path(f"/proc/{self.held().pid}/net/dev").read_text().splitlines()[2:]
        return {line.partition(":")[0].strip() for line in lines}

    def addressed(self, device: str, addresses: Iterable[IPAddress]) -> bool:
        """Whether the interface is there, up, and has all of these addresses."""
        done = self.call_on_network(["ip", "-j", "address", "show", "dev", device])
        if done.returncode:
            return False
        links = json.loads(done.stdout)
        present = {info["local"] for link in links if "UP" in link["flags"] for info in link["addr_info"]}
        return all(str(address) in present for address in addresses)

    def launch(
        self,
        daemon: str,
        argv: Sequence[str],
        *,
        netns: str = "",
        make_netns: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start a daemon in the place; its output goes to DAEMON.log in the place's folder."""
        given = self.entrance(argv, netns, env)
        given["make"] = make_netns
        given["detach"] = str(self.path / f"{daemon}.proc")
        given["log"] = str(self.log(daemon))
        done = call_program(given)
        if done.returncode:
            raise LabError(f"{daemon} does not start in {self.name}: {done.stderr.strip()}")

    def log(self, daemon: str) -> Path:
        return self.path / f"{daemon}.log"

    def daemon(self, name: str) -> Process | None:
        return self.lab.alive(self.name, name)

    def stop(self, daemon: str, number: int, wait: float = 10.0) -> None:
        process = self.lab.process(self.name, daemon)
        if process:
            process.kill(number, wait)

    def await_daemon(self, daemon: str, ready: Path, seconds: float) -> None:
        """Wait for a file of the place that tells that the daemon is ready; say what it logged if not."""
        if wait_for(lambda: ready.exists() or not self.daemon(daemon), seconds) and ready.exists():
            return
        what = "did not get ready" if self.daemon(daemon) else "ended"
        raise LabError(
            f"{daemon} {what} in {self.name}: {self.last_words(daemon)}", f"its log: {self.log(daemon)}"
        )

    def last_words(self, daemon: str, lines: int = 5) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log(daemon).read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    def destroy(self) -> None:
        """Kill process 1, and with it everything in the place; what it left on disk stays."""
        process = self.lab.process(self.name, INIT)
        if process:
            process.kill()
        self.lab.remove_cgroups(self.name)


def call_program(options: Mapping[str, Any], input: str = "", timeout: float | None = None) -> Completed:
    """As `state.call`, of what `nsproc` is given."""
    return call(script(options), input, timeout)


def script(options: Mapping[str, Any]) -> list[str]:
    # -I -S: neither the environment nor site-packages: it starts twice as fast and depends on nothing.
    # What is no text in a word of the command line (a lone surrogate) is written as an escape.
    text = json.dumps(options, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return [sys.executable, "-I", "-S", nsproc.__file__, text]
