"""An agent with much to serve: what the benchmarks of Services and of policies ask of it and of its switch.

Looks at processes and tables from outside; the agent's own page of figures is the only thing it is asked for. Called
by `bench_policy`, `kernel_policy`, `services_many` and `recorded_stores`.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ovsnet.host import linkchild, netns
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.state import Process, wait_for

METRICS = 9476
"""The port of the agent's own figures."""
WITHIN = 0.5
"""Seconds: a limit of the agent's histogram."""
_PATIENCE = 120.0
_LOOK = 0.05


def folder(lab: Lab) -> Path:
    """The store's."""
    return lab.folder.path / "cluster"


def count(node: Node, match: str) -> int:
    """Flows on the switch; -1 when it does not answer."""
    done = node.run(["ovs-ofctl", "-O", "OpenFlow15", "dump-aggregate", "br-int", match])
    found = done.stdout.rpartition("flow_count=")[2].strip()
    return int(found) if found.isdigit() else -1


@contextlib.contextmanager
def told(node: Node, table: int) -> Iterator[IO[str]]:
    """What vswitchd tells of changes in a table: asking again and again would cost it more than the change."""
    watch = f"watch:!initial,table={table}"
    command = node.command(["ovs-ofctl", "-O", "OpenFlow10", "monitor", "br-int", watch])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        time.sleep(1.0)
        try:
            yield process.stdout
        finally:
            process.terminate()


def restarted(node: Node) -> float:
    """Seconds from the old agent's end until the new one is ready."""
    node.kill(AGENT)
    begun = time.monotonic()
    node.start(AGENT)
    return time.monotonic() - begun


def await_services(node: Node) -> None:
    """Until what the store has of Services is in force: that may take longer to read than an agent waits with being
    ready, as long as flows of before are there."""
    if not wait_for(lambda: histogram(node).get(math.inf, 0.0) > 0, _PATIENCE, _LOOK):
        raise RuntimeError(f"no EndpointSlices are in after {_PATIENCE:g} s: see {node.log(AGENT)}")


# --- processes -----------------------------------------------------------------------------------


def agent_of(node: Node) -> Process:
    process = node.daemon(AGENT)
    assert process is not None
    return process


def memory(node: Node) -> float:
    """Resident memory of the agent and its child for links, in MB; what they share counts twice."""
    return _sum(node, "status", "VmRSS:")


def proportional(node: Node) -> float:
    """The same in which what they share counts once (Pss, see proc(5))."""
    return _sum(node, "smaps_rollup", "Pss:")


def _sum(node: Node, file: str, field: str) -> float:
    agent = agent_of(node).pid
    pids = [agent, *filter(_is_for_links, _children(agent))]
    lines = [line.split() for pid in pids for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]
    return sum(int(words[1]) for words in lines if words[0] == field) * 1024 / 1e6


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _is_for_links(pid: int) -> bool:
    """Of a child: tools that the agent runs come and go, and share all of its memory before they are what they are."""
    with contextlib.suppress(OSError):
        return linkchild.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def seconds(pid: int) -> tuple[float, float]:
    """Processor time of a process, and that with its children that have ended: utime and stime (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    spent = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:15]]
    return sum(spent[:2]), sum(spent)


def spent(pids: Iterable[int]) -> float:
    """Seconds of all of them together."""
    return sum(seconds(pid)[0] for pid in pids)


# --- its own figures -----------------------------------------------------------------------------


def page(node: Node) -> str:
    """The agent's metrics. Raises OSError when it does not answer."""
    asking = http.client.HTTPConnection("127.0.0.1", METRICS, timeout=10)
    with open(f"/proc/{node.held().pid}/ns/net") as namespace, netns.entered(namespace.fileno()):
        asking.connect()
    asking.request("GET", "/metrics")
    return asking.getresponse().read().decode()


def histogram(node: Node) -> dict[float, float]:
    """EndpointSlices' changes that were in within so many seconds, since the agent's start."""
    line = re.compile(r'ovsnet_program_seconds_bucket\{kind="EndpointSlice",le="(\S+)"\} (\S+)')
    return {float(limit): float(count) for limit, count in line.findall(page(node))}


def quickness(before: dict[float, float], after: dict[float, float]) -> float:
    """Per cent within WITHIN; prints all of it."""
    grown = {limit: count - before[limit] for limit, count in after.items()}
    whole = grown[math.inf]
    print(*(f"{100 * count / whole:.0f} % within {limit:g} s" for limit, count in grown.items()), sep=", ")
    return 100 * grown[WITHIN] / whole
