"""As fast as a bare switch, on the kernel's datapath: `python tests/bench/bench_kernel.py`, or `tox -e bench-kernel`.

Runs here if this machine's kernel has Open vSwitch's datapath, else in a guest, a user-mode Linux, which reports what
it finds as it goes. Writes docs/benchmarks-kernel.json and .svg, and docs/benchmarks.md anew. With a PART or
`--rounds N` only that, or only so often, is measured and nothing written. Needs root, and tests/kernel in PYTHONPATH.
Fails only if something does not work, never because it is slow.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import chart
import documents
import figures
import guest
import guest_init
import kernel_paths
import kernel_services
import kernel_traffic
import kernel_upcalls
import kube_proxy
import send_on_node
from bench_lab import running
from figures import Figure
from in_guest import await_processors

from ovsnet.host.datapath import kernel_has_openvswitch

ROOT = Path(__file__).resolve().parents[2]
SILENCE = 300.0
"""Seconds without a word after which a guest is given up."""
Say = Callable[[str], None]
PARTS = {
    "packets": kernel_traffic.packets,
    "tcp": kernel_traffic.tcp,
    "pairs": kernel_upcalls.pairs,
    "connections": kernel_upcalls.connections,
    "services": kernel_services.services,
}


class Options(NamedTuple):
    """Empty and 0: as usual."""

    parts: list[str]
    rounds: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_kernel")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; nothing is written then"
    )
    parser.add_argument("--rounds", type=int, default=0, help="of each part; nothing is written then")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    options = Options(given.parts, given.rounds)
    (inside if given.inside else outside)(options)


def outside(options: Options) -> None:
    begun = time.monotonic()
    if "services" in (options.parts or PARTS):
        os.environ[kube_proxy.VARIABLE] = str(kube_proxy.program())
    about = figures.machine()
    found: list[Figure] = []

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)

    for event, content in (here if kernel_has_openvswitch() else in_guest)(options, say):
        if event == "where":
            about["where"] = content
        elif event == "figure":
            found.append(documents.figure_of(content))
            print(figures.table(found[-1:]).splitlines()[-1], flush=True)
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))
    print(figures.table(found))
    if not any(options):
        documents.store(found, about, documents.KERNEL)
        picture = chart.draw(found, "ovsnet on the kernel's datapath, and its references")
        (documents.DOCS / documents.CHART).write_text(picture)


def here(options: Options, say: Say) -> Iterator[tuple[str, Any]]:
    yield "where", "this machine"
    for each in measure(options, say):
        yield "figure", dataclasses.asdict(each)


def in_guest(options: Options, say: Say) -> Iterator[tuple[str, Any]]:
    """What the guest reports, as `here`. Exits with its console if it does not come to an end."""
    argv = [sys.executable, __file__, "--inside", f"--rounds={options.rounds}", *options.parts]
    environment = {}
    if program := os.environ.get(kube_proxy.VARIABLE):
        environment[kube_proxy.VARIABLE] = f"{guest_init.MACHINE}{program}"
    with guest.of_checkout(argv, ROOT, environment) as booted:
        try:
            for event, content in booted.events(SILENCE):
                if event == "end":
                    return
                if event == "say":
                    say(content)
                else:
                    yield event, content
            why = "the guest ended"
        except guest.Silent as silent:
            why = str(silent)
        sys.exit(f"error: {why}; the end of its console:\n{booted.console()}")


def inside(options: Options) -> None:
    """The guest's job."""
    descriptor = os.open(Path(os.environ["OVSNET_GUEST"]) / guest.EVENTS, os.O_WRONLY | os.O_APPEND)

    def send(event: str, content: object) -> None:
        os.write(descriptor, json.dumps([event, content]).encode() + b"\n")
        os.fsync(descriptor)  # the guest has a page cache of its own

    await_processors()
    send("where", f"a user-mode Linux {platform.release()} on one processor")
    try:
        for each in measure(options, lambda text: send("say", text)):
            send("figure", dataclasses.asdict(each))
        send("end", None)
    except BaseException:
        send("say", traceback.format_exc())
        raise


def measure(options: Options, say: Say) -> Iterator[Figure]:
    if not Path(send_on_node.PKTGEN).is_dir():
        sys.exit("error: this kernel has no packet generator: modprobe pktgen")
    both = {"families": "dual", "underlay": "dual", "datapath": "system"}
    say("a lab with ovsnet")
    with contextlib.ExitStack() as labs:
        ours = labs.enter_context(running(nodes=2, pods=2, **both))
        say("a lab for the references")
        others = labs.enter_context(running(nodes=4, pods=0, plugin="none", **both))
        say("the references")
        found = kernel_paths.ways(ours, others)
        for part in options.parts or PARTS:
            yield from PARTS[part](ours, others, found, options.rounds, say)


if __name__ == "__main__":
    main()
