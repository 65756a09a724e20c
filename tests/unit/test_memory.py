"""Memory that is freed goes back to the system: in processes of their own, since it is theirs as a whole."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HEAP = """
from pathlib import Path
from ovsnet.agent import memory
def heap():
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith("[heap]"))
    return next(int(line.split()[1]) for line in lines[at:] if line.startswith("Rss:"))
def grown(make):
    before = heap()
    kept = make()
    return heap() - before
"""
LARGE = """
{}
block = bytearray(8 << 20)
del block
print(grown(lambda: [bytearray(1 << 20) for _ in range(8)]))
"""
SMALL = """
texts, last = [bytearray(2000) for _ in range(8000)], bytearray(2000)
del texts
{}
print(heap())
"""


def kilobytes(program: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", HEAP + program], capture_output=True, text=True, check=True, timeout=30
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_large_blocks_are_none_of_the_heap_and_small_ones_are_given_back() -> None:
    assert kilobytes(LARGE.format("memory.set_up()")) < 1024 < kilobytes(LARGE.format(""))
    assert kilobytes(SMALL.format("memory.give_back()")) + 12_000 < kilobytes(SMALL.format(""))
