"""Services at size: `python tests/bench/bench_services.py`, or `tox -e bench-services`.

The agent's start, its restart, one endpoint's change, memory and work. Writes docs/benchmarks-services.json, and
docs/benchmarks.md anew. Needs root. Fails only if something does not work, never because it is slow.

A recorded cluster stands in the store's folder: 10,000 Services with 100,000 endpoints. No pods run: what costs is
deriving, rendering and programming.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import documents
import figures
from bench_lab import running
from figures import Figure, figure

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, VSWITCHD, Node
from ovsnet.lab.state import write_atomically

SERVICES, ENDPOINTS = 10_000, 100_000
FEW = 10
"""Services of the small cluster, with as many endpoints each."""
ROUNDS, CHANGES = 3, 15
_FILE = 2_000
"""Services in each file: below the store's limit for one."""
_PATIENCE = 120.0
_LOOK = 0.02


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    with running(nodes=1, pods=0) as lab:
        node = lab.nodes[0]
        say(f"{FEW} Services")
        record(folder(lab), FEW, 100)
        settled(node, FEW)
        few = changes(lab, node, FEW, 100)
        say(f"{SERVICES} Services, {ENDPOINTS} endpoints")
        record(folder(lab), SERVICES, ENDPOINTS)
        settled(node, SERVICES)
        size = f"{SERVICES} Services, {ENDPOINTS} endpoints"
        many = changes(lab, node, SERVICES, ENDPOINTS)
        yield figure(f"one endpoint changed: until its flows are in, {size}", "ms", many, limit=60)
        yield figure("the same against 100 endpoints", "ms", many, few, "100 endpoints", limit=1.5)
        say("restarts")
        warm = [restarted(node) for _ in range(ROUNDS)]
        yield figure(f"agent restarted, all unchanged: {size}", "s", warm, limit=8)
        cold = [from_nothing(node) for _ in range(ROUNDS)]
        yield figure(f"agent and Open vSwitch started from nothing: {size}", "s", cold, limit=15)
        yield figure(f"agent's resident memory: {size}", "MB", [memory(node)], limit=400)
        say("ten changes a second")
        yield figure(
            f"agent's processor time with 10 changes a second: {size}", "%", [busy(lab, node)], limit=5
        )


def folder(lab: Lab) -> Path:
    return lab.folder.path / "cluster"


def record(target: Path, services: int, endpoints: int) -> None:
    """The cluster as files: Services, and slices of their endpoints."""
    each = endpoints // services
    for start in range(0, services, _FILE):
        numbers = range(start, min(start + _FILE, services))
        items = [service(number) for number in numbers]
        write_atomically(target / f"services-{start:05}.json", json.dumps({"kind": "List", "items": items}))
        items = [slice_of(number, each) for number in numbers]
        write_atomically(target / f"slices-{start:05}.json", json.dumps({"kind": "List", "items": items}))


def service(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"service-{number}", "namespace": "bench"},
        "spec": {
            "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    }


def slice_of(number: int, count: int, shift: int = 0) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"service-{number}-0",
            "namespace": "bench",
            "labels": {"kubernetes.io/service-name": f"service-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [_address(number * count + each + (shift if each == 0 else 0))],
                "nodeName": f"n-{each}",
            }
            for each in range(count)
        ],
    }


def _address(number: int) -> str:
    return f"10.{128 + number // 62500}.{number // 250 % 250}.{number % 250 + 2}"


def settled(node: Node, services: int) -> None:
    """Waits until so many Services are on the switch, all of them."""
    deadline = time.monotonic() + _PATIENCE
    while _frontends(node) != services:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{_frontends(node)} of {services} Services after {_PATIENCE:g} s: see the agent's log"
            )
        time.sleep(_LOOK)


def _frontends(node: Node) -> int:
    """Frontends on the switch; -1 when it does not answer."""
    done = node.run(["ovs-ofctl", "-O", "OpenFlow15", "dump-aggregate", "br-int", "table=38,tcp"])
    found = done.stdout.rpartition("flow_count=")[2].strip()
    return int(found) if found.isdigit() else -1


def changes(lab: Lab, node: Node, services: int, endpoints: int) -> list[float]:
    """Milliseconds from when a slice is written until the switch has its new endpoint, several times."""
    count, number, found = endpoints // services, services // 2, []
    path = folder(lab) / "one.json"
    for round_ in range(CHANGES):
        piece = slice_of(number, count, shift=1_000_000 + round_)
        piece["metadata"]["name"] += "-more"
        wanted = piece["endpoints"][0]["addresses"][0]
        begun = time.perf_counter()
        write_atomically(path, json.dumps(piece))
        while (
            not node.run(
                ["ovs-ofctl", "-O", "OpenFlow15", "dump-aggregate", "br-int", f"table=34,tcp,nw_src={wanted}"]
            )
            .stdout.strip()
            .endswith("flow_count=1")
        ):
            pass
        found.append(1000 * (time.perf_counter() - begun))
        time.sleep(0.3)
    path.unlink()
    return found


def restarted(node: Node) -> float:
    node.kill(AGENT)
    begun = time.monotonic()
    node.start(AGENT)
    return time.monotonic() - begun


def from_nothing(node: Node) -> float:
    """ovs-vswitchd has lost all flows, and the agent all that it knew."""
    node.kill(AGENT)
    node.kill(VSWITCHD)
    begun = time.monotonic()
    node.start(VSWITCHD)
    node.start(AGENT)
    settled(node, SERVICES)
    return time.monotonic() - begun


def memory(node: Node) -> float:
    """The agent's resident memory in MB."""
    return _status(node, "VmRSS") / 1000


def _status(node: Node, key: str) -> float:
    process = node.daemon(AGENT)
    assert process is not None
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def busy(lab: Lab, node: Node) -> float:
    """Per cent of a processor while ten slices change in each second."""
    process = node.daemon(AGENT)
    assert process is not None

    def ticks() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    path = folder(lab) / "one.json"
    before, begun = ticks(), time.monotonic()
    for round_ in range(100):
        piece = slice_of(SERVICES // 2, ENDPOINTS // SERVICES, shift=2_000_000 + round_)
        piece["metadata"]["name"] += "-more"
        write_atomically(path, json.dumps(piece))
        time.sleep(max(0.0, begun + (round_ + 1) / 10 - time.monotonic()))
    used = (ticks() - before) / 100
    return 100 * used / (time.monotonic() - begun)


def main() -> None:
    begun = time.monotonic()
    about = figures.machine()
    found: list[Figure] = []
    for each in run(
        lambda text: print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)
    ):
        found.append(each)
        print(figures.table([each]).splitlines()[-1], flush=True)
    documents.store(found, about, documents.SERVICES)


if __name__ == "__main__":
    main()
