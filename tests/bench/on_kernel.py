"""Where the kernel's benchmarks run: here if this kernel has Open vSwitch's datapath, else in a guest.

A guest is a user-mode Linux that runs the same program once more, which reports each figure as it finds it. Measures
nothing. Called by `bench_kernel` and `bench_policy`; needs tests/kernel in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import documents
import guest
from figures import Figure
from in_guest import await_processors

from ovsnet.host.datapath import kernel_has_openvswitch

ROOT = Path(__file__).resolve().parents[2]
SILENCE = 300.0
"""Seconds without a word after which a guest is given up."""
Say = Callable[[str], None]
Measure = Callable[[Say], Iterator[Figure]]


def arguments(program: str, parts: Iterable[str]) -> argparse.Namespace:
    """parts, rounds, and whether this is the program in a guest, as told on the command line."""
    known = list(parts)
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}; nothing is written then"
    )
    parser.add_argument("--rounds", type=int, default=0, help="of each kind; nothing is written then")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(known):
        parser.error(f"no such part: {', '.join(unknown)}")
    return given


def run(
    argv: Sequence[str],
    measure: Measure,
    take: Callable[[Figure], None],
    say: Say,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Hands on what `measure` finds, as it comes; in words, where that was.

    argv: the program that calls `inside` in a guest. environment: what that has besides the usual. Exits with the
    guest's console if it does not come to an end.
    """
    if kernel_has_openvswitch():
        for each in measure(say):
            take(each)
        return "this machine"
    where = ""
    with guest.of_checkout(argv, ROOT, environment or {}) as booted:
        try:
            for event, content in booted.events(SILENCE):
                if event == "end":
                    return where
                if event == "say":
                    say(content)
                elif event == "where":
                    where = content
                else:
                    take(documents.figure_of(content))
            why = "the guest ended"
        except guest.Silent as silent:
            why = str(silent)
        sys.exit(f"error: {why}; the end of its console:\n{booted.console()}")


def inside(measure: Measure) -> None:
    """The guest's job."""
    descriptor = os.open(Path(os.environ["OVSNET_GUEST"]) / guest.EVENTS, os.O_WRONLY | os.O_APPEND)

    def send(event: str, content: object) -> None:
        os.write(descriptor, json.dumps([event, content]).encode() + b"\n")
        os.fsync(descriptor)  # the guest has a page cache of its own

    await_processors()
    send("where", f"a user-mode Linux {platform.release()} on one processor")
    try:
        for each in measure(lambda text: send("say", text)):
            send("figure", dataclasses.asdict(each))
        send("end", None)
    except BaseException:
        send("say", traceback.format_exc())
        raise
