"""Whether a process of the lab is still there: who waits for its end starts another one in its place."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from ovsnet.lab import nsproc, state

_EXIT = {"x86_64": 60, "aarch64": 93}
"""The system call that ends a thread and no other, by architecture."""
LEAVES = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.readline).start()
print("on", flush=True)
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""


@pytest.mark.skipif(platform.machine() not in _EXIT, reason="the number of its system call is not known here")
def test_a_process_whose_first_thread_has_ended_is_there_until_the_last_one_has() -> None:
    """Its files are open as long: a tap that it holds can't be taken by another."""
    command = [sys.executable, "-ISc", LEAVES, str(_EXIT[platform.machine()])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        process = state.Process(pid=child.pid, start=nsproc.start_time(child.pid))
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "on\n"
        assert state.wait_for(lambda: _state(child.pid) == "Z", 20)
        assert process.alive
        child.stdin.close()
        assert state.wait_for(lambda: not process.alive, 20)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]
