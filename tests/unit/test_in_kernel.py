"""Guests that went silent: whether the test hangs or the guest as a whole."""

from __future__ import annotations

import pytest
from in_kernel import told_where

SLOW, NEXT = "tests/kernel/test_a.py::test_slow[1]", "tests/kernel/test_a.py::test_next[1]"
STACK = f'{SLOW} Timeout (0:02:00)!\nThread 0x1 (most recent call first):\n  File "a.py", line 1 in wait\n'


@pytest.mark.parametrize(
    ("console", "nodeid", "told"),
    [
        pytest.param(STACK, SLOW, True, id="it hangs"),
        pytest.param(f"{STACK}PASSED\n{NEXT} ", NEXT, False, id="the one before was slow"),
        pytest.param(f"{STACK}PASSED\n{STACK.replace(SLOW, NEXT)}", NEXT, True, id="both"),
        pytest.param(STACK.removeprefix(SLOW), SLOW, True, id="the end of long stacks"),
        pytest.param("", SLOW, False, id="nothing"),
    ],
)
def test_python_tells_where_a_test_is_that_hangs(console: str, nodeid: str, told: bool) -> None:
    assert told_where(console, nodeid) == told
