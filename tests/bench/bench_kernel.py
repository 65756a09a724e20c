"""As fast as a bare switch, on the kernel's datapath: `python tests/bench/bench_kernel.py`, or `tox -e bench-kernel`.

Runs here if this machine's kernel has Open vSwitch's datapath, else in a guest, a user-mode Linux, which reports what
it finds as it goes. Writes docs/benchmarks-kernel.json and .svg, and docs/benchmarks.md anew. With a PART or
`--rounds N` only that, or only so often, is measured and nothing written. Needs root, and tests/kernel in PYTHONPATH.
Fails only if something does not work, never because it is slow.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import chart
import documents
import figures
import guest_init
import kernel_paths
import kernel_services
import kernel_traffic
import kernel_upcalls
import kube_proxy
import on_kernel
import send_on_node
from bench_lab import running
from figures import Figure

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
    given = on_kernel.arguments("bench_kernel", PARTS)
    options = Options(given.parts, given.rounds)
    if given.inside:
        on_kernel.inside(functools.partial(measure, options))
    else:
        outside(options)


def outside(options: Options) -> None:
    begun = time.monotonic()
    environment = {}
    if "services" in (options.parts or PARTS):
        program = str(kube_proxy.program())
        os.environ[kube_proxy.VARIABLE] = program
        environment[kube_proxy.VARIABLE] = f"{guest_init.MACHINE}{program}"
    about = figures.machine()
    found: list[Figure] = []

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)

    def take(each: Figure) -> None:
        found.append(each)
        print(figures.table([each]).splitlines()[-1], flush=True)

    argv = [sys.executable, __file__, "--inside", f"--rounds={options.rounds}", *options.parts]
    about["where"] = on_kernel.run(argv, functools.partial(measure, options), take, say, environment)
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))
    print(figures.table(found))
    if not any(options):
        documents.store(found, about, documents.KERNEL)
        picture = chart.draw(found, "ovsnet on the kernel's datapath, and its references")
        (documents.DOCS / documents.CHART).write_text(picture)


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
