"""One agent for a bridge."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ovsnet.agent.alone import alone
from ovsnet.errors import OvsnetError


def unique() -> str:
    return f"unix:/nowhere/{os.getpid()}/{time.monotonic_ns()}"


async def test_a_second_one_is_told_who_is_there() -> None:
    ovsdb = unique()
    with await alone(ovsdb, "br-int"):
        with await alone(ovsdb, "br-other"), await alone(unique(), "br-int"):
            pass
        words = rf"^another agent, process {os.getpid()}, serves bridge br-int already \(stop it first\)$"
        with pytest.raises(OvsnetError, match=words):
            await alone(ovsdb, "br-int", patience=0.2)
    with await alone(ovsdb, "br-int", patience=0):
        pass


async def test_a_child_that_outlives_its_agent_keeps_no_other_out() -> None:
    ovsdb = unique()
    with await alone(ovsdb, "br-int"):
        child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})  # noqa: ASYNC221 - it does not wait
    try:
        with await alone(ovsdb, "br-int", patience=2):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # noqa: ASYNC222 - it is killed
