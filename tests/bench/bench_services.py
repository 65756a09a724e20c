"""Services at size: `python tests/bench/bench_services.py [PART...] [--dual] [--small]`, or `tox -e bench-services`.

    folder    the agent with 10,000 Services, whose store is a folder of manifests
    api       the same, whose store is a real API server
    cases     what a Service adds to opening a connection, of each kind

All parts if none is named; with --dual the first two, with endpoints of both families. Each part writes a file
docs/benchmarks-services*.json of its own, which no other replaces, and docs/benchmarks.md anew. --small: a little of
everything, to see that it works; nothing is written then. Needs root, tests/integration in PYTHONPATH, and for `api`
the lab's Kubernetes, which is built where it is missing. Fails only if something does not work, never because it is
slow.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import documents
import figures
import services_cases
from api_lab import ApiLab
from at_size import METRICS, folder
from bench_lab import running, running_kind
from figures import Figure
from recorded import Size
from recorded_stores import Api, Folder
from services_many import Bench, Plan

FULL = Plan(
    few=Size(10, 100), many=Size(10_000, 100_000), large=5_000,
    rounds=3, changes=15, connections=100, busy=100, rest=45.0, after=5.0, calm=3.0,
)  # fmt: skip
SMALL = Plan(
    few=Size(10, 100), many=Size(200, 2_000), large=600,
    rounds=1, changes=3, connections=3, busy=20, rest=2.0, after=2.0, calm=0.0,
)  # fmt: skip
PARTS = ("folder", "api", "cases")
Say = Callable[[str], None]


def measure(part: str, small: bool, dual: bool, say: Say) -> Iterator[Figure]:
    if part == "cases":
        yield from services_cases.run(
            say, *((2, 10) if small else (services_cases.ROUNDS, services_cases.OPENED))
        )
        return
    plan = SMALL if small else FULL
    if dual:
        plan = plan._replace(few=plan.few._replace(families=(4, 6)), many=plan.many._replace(families=(4, 6)))
    options: dict[str, Any] = {
        "nodes": 1,
        "pods": 2,
        "agent": {"metrics": {"port": METRICS}},
        "families": "dual" if dual else "4",
    }
    if part == "folder":
        with running(**options) as lab:
            yield from Bench(lab, Folder(folder(lab)), plan, say).run()
    else:
        with running_kind(ApiLab, **options) as cluster:
            yield from Bench(cluster, Api(cluster.control), plan, say).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_services")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--dual", action="store_true", help="endpoints of both families; not for cases")
    parser.add_argument("--small", action="store_true", help="a little of everything; nothing is written")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    if given.dual and "cases" in given.parts:
        parser.error("cases has no --dual")
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)

    for part in given.parts or (PARTS[:2] if given.dual else PARTS):
        say(part)
        about = figures.machine()
        found: list[Figure] = []
        for each in measure(part, given.small, given.dual, say):
            found.append(each)
            print(figures.table([each]).splitlines()[-1], flush=True)
        if not given.small:
            documents.store(found, about, documents.SERVICES[part, given.dual])


if __name__ == "__main__":
    main()
