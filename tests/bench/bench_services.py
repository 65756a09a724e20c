"""Services at size: `python tests/bench/bench_services.py [--dual]`, or `tox -e bench-services`.

The agent's start, its restart, one endpoint's change, memory, work, and a client's first connection. Writes
docs/benchmarks-services.json, and docs/benchmarks.md anew. Needs root. Fails only if something does not work, never
because it is slow.

A recorded cluster stands in the store's folder. Two pods run, a client and a server: what costs is deriving, rendering
and programming.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import documents
import figures
import recorded
from bench_lab import running
from figures import Figure, figure
from recorded import Size

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, VSWITCHD, Node
from ovsnet.lab.state import write_atomically

MANY, FEW = Size(10_000, 100_000), Size(10, 100)
ROUNDS, CHANGES, CONNECTIONS = 3, 15, 25
METRICS = 9476
"""The port of the agent's own figures."""
BUSY = 100
"""Changes, ten in each second."""
_PATIENCE = 120.0
_LOOK = 0.02
_REST = 45.0
"""Seconds until the comparisons are over that follow so many new flows."""
SERVER = """
import socket, sys
with socket.create_server(("", int(sys.argv[1])), backlog=100) as server:
    while True: server.accept()[0].close()
"""
FETCH = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=10).read().decode())
"""
CLIENT = """
import socket, sys, time
for line in sys.stdin:
    with socket.socket() as sock:
        sock.settimeout(10)
        begun = time.perf_counter()
        sock.connect((line.strip(), 80))
        print(1000 * (time.perf_counter() - begun), flush=True)
"""


def run(say: Callable[[str], None], many: Size) -> Iterator[Figure]:
    options = {"agent": {"metrics": {"port": METRICS}}, "families": "dual" if len(many.families) > 1 else "4"}
    with running(nodes=1, pods=2, **options) as lab:
        node = lab.nodes[0]
        serve(lab)
        say(f"{FEW}, {recorded.NODES} nodes")
        recorded.record(folder(lab), FEW)
        settled(node, FEW)
        few = changes(lab, node, FEW)
        among_few = first_connections(lab, node, FEW)
        say(f"{many}, {recorded.NODES} nodes")
        recorded.record(folder(lab), many)
        settled(node, many)
        begun = changes(lab, node, many)
        yield figure(f"one endpoint changed: until its flows are in, {many}", "ms", begun, limit=60)
        yield figure("the same against 100 endpoints", "ms", begun, few, "100 endpoints", limit=1.5)
        among_many = first_connections(lab, node, many)
        yield figure(
            f"first connection to a Service among {many.services}", "ms", among_many, among_few,
            f"among {FEW.services}", limit=1.5,
        )  # fmt: skip
        say("ten changes a second")
        time.sleep(_REST)
        before = histogram(node)
        share = [busy(lab, node, many) for _ in range(ROUNDS)]
        own = [alone for alone, _ in share]
        yield figure(f"agent's processor time with 10 changes a second, without ovs-ofctl: {many}", "%", own)
        whole = [both for _, both in share]
        yield figure(f"the same with the tools that it runs: {many}", "%", whole, limit=5)
        within = quickness(before, histogram(node))
        yield figure(
            f"of these changes, in within 50 ms of when the agent heard of them: {many}", "%", [within]
        )
        yield figure(f"agent's resident memory: {many}", "MB", [memory(node)], limit=400)
        say("restarts")
        warm = [restarted(node) for _ in range(ROUNDS)]
        yield figure(f"agent restarted, all unchanged: {many}", "s", warm, limit=8)
        cold = [from_nothing(node, many) for _ in range(ROUNDS)]
        yield figure(f"agent and Open vSwitch started from nothing: {many}", "s", cold, limit=15)


def folder(lab: Lab) -> Path:
    return lab.folder.path / "cluster"


def serve(lab: Lab) -> None:
    """A server in the second pod."""
    place, netns = lab.place(lab.pods[1].name)
    place.launch("bench-server", [sys.executable, "-I", "-S", "-c", SERVER, str(recorded.PORT)], netns=netns)


def settled(node: Node, size: Size) -> None:
    """Waits until so many Services are on the switch, all of them."""
    deadline, wanted = time.monotonic() + _PATIENCE, size.services * len(size.families)
    while (found := count(node, "table=38,tcp") + count(node, "table=38,tcp6")) != wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{found} of {wanted} frontends after {_PATIENCE:g} s: see the agent's log")
        time.sleep(_LOOK)


def count(node: Node, match: str) -> int:
    """Flows on the switch; -1 when it does not answer."""
    done = node.run(["ovs-ofctl", "-O", "OpenFlow15", "dump-aggregate", "br-int", match])
    found = done.stdout.rpartition("flow_count=")[2].strip()
    return int(found) if found.isdigit() else -1


def changed_slice(lab: Lab, size: Size, address: str) -> None:
    """A second slice of one Service, in a file of its own, with that endpoint."""
    number = size.services // 2
    piece = recorded.slice_of(number, size.each, name=f"service-{number}-more", first=address)
    write_atomically(folder(lab) / "changed.json", json.dumps(piece))


def changes(lab: Lab, node: Node, size: Size) -> list[float]:
    """Milliseconds from when a slice is written until the switch tells of its new endpoint's flow, several times."""
    found = []
    with told(node, 34) as lines:
        for round_ in range(-1, CHANGES):
            wanted = recorded.endpoint((200 + round_) * recorded.NODES)
            begun = time.perf_counter()
            changed_slice(lab, size, wanted)
            if not any("event=ADDED" in line and f"nw_src={wanted}," in line for line in lines):
                raise RuntimeError(f"ovs-vswitchd tells of nothing more, before {wanted} was there")
            if round_ >= 0:
                found.append(1000 * (time.perf_counter() - begun))
            time.sleep(0.3)
    (folder(lab) / "changed.json").unlink()
    return found


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


def first_connections(lab: Lab, node: Node, size: Size) -> list[float]:
    """Milliseconds that connect() takes where the datapath has no flow yet, each from another port."""
    client, server = lab.pods
    number = size.services // 3
    piece = recorded.slice_of(number, size.each, name="", first=str(server.address(4)))
    piece["endpoints"] = piece["endpoints"][:1]
    piece["metadata"]["name"] = "served"
    document = recorded.service(size.services)
    piece["metadata"]["labels"]["kubernetes.io/service-name"] = document["metadata"]["name"]
    path = folder(lab) / "served.json"
    write_atomically(path, json.dumps({"kind": "List", "items": [document, piece]}))
    address = recorded.cluster_ip(size.services)
    while count(node, f"table=38,tcp,nw_dst={address}") != 1:
        time.sleep(_LOOK)
    process = subprocess.Popen(
        lab.command(client.name, [sys.executable, "-I", "-S", "-c", CLIENT]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    found = []
    with process:
        for round_ in range(-1, CONNECTIONS):
            node.run(["ovs-appctl", "dpctl/del-flows"], check=True)
            process.stdin.write(f"{address}\n")
            process.stdin.flush()
            taken = float(process.stdout.readline())
            if round_ >= 0:
                found.append(taken)
        process.stdin.close()
    path.unlink()
    return found


def restarted(node: Node) -> float:
    node.kill(AGENT)
    begun = time.monotonic()
    node.start(AGENT)
    return time.monotonic() - begun


def from_nothing(node: Node, size: Size) -> float:
    """ovs-vswitchd has lost all flows, and the agent all that it knew."""
    node.kill(AGENT)
    node.kill(VSWITCHD)
    begun = time.monotonic()
    node.start(VSWITCHD)
    node.start(AGENT)
    settled(node, size)
    return time.monotonic() - begun


def memory(node: Node) -> float:
    """The agent's resident memory in MB."""
    process = node.daemon(AGENT)
    assert process is not None
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1000


def busy(lab: Lab, node: Node, size: Size) -> tuple[float, float]:
    """Per cent of a processor while ten slices change in each second: the agent's, and with the tools that it runs."""
    process = node.daemon(AGENT)
    assert process is not None

    def ticks() -> tuple[int, int]:
        # utime and stime, and with those of children that ended (proc(5)).
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        spent = list(map(int, fields[11:15]))
        return sum(spent[:2]), sum(spent)

    before, begun = ticks(), time.monotonic()
    for round_ in range(BUSY):
        changed_slice(lab, size, recorded.endpoint((120 + round_) * recorded.NODES))
        time.sleep(max(0.0, begun + (round_ + 1) / 10 - time.monotonic()))
    seconds = time.monotonic() - begun
    own, whole = ((now - then) / seconds for now, then in zip(ticks(), before, strict=True))
    return own, whole


def histogram(node: Node) -> dict[float, float]:
    """EndpointSlices' changes that were in within so many seconds, since the agent's start; its own figures."""
    page = node.run([sys.executable, "-I", "-S", "-c", FETCH, str(METRICS)], check=True).stdout
    line = re.compile(r'ovsnet_program_seconds_bucket\{kind="EndpointSlice",le="(\S+)"\} (\S+)')
    return {float(limit): float(count) for limit, count in line.findall(page)}


def quickness(before: dict[float, float], after: dict[float, float]) -> float:
    """Per cent within 50 ms; prints all of it."""
    grown = {limit: count - before[limit] for limit, count in after.items()}
    whole = grown[math.inf]
    print(*(f"{100 * count / whole:.0f} % within {limit:g} s" for limit, count in grown.items()), sep=", ")
    return 100 * grown[0.05] / whole


def main() -> None:
    begun = time.monotonic()
    many = MANY._replace(families=(4, 6)) if "--dual" in sys.argv else MANY

    def say(text: Any) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)

    about = figures.machine()
    found: list[Figure] = []
    for each in run(say, many):
        found.append(each)
        print(figures.table([each]).splitlines()[-1], flush=True)
    documents.store(found, about, documents.SERVICES)


if __name__ == "__main__":
    main()
