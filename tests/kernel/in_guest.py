"""pytest inside the guest: runs the tests that `in_kernel` orders and sends every report, as it comes, to the host.

A program, the guest's job. Prints what pytest prints, which is only seen when something hangs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ovsnet.lab.lab import kernel_or_userspace

COUNTED = 11.0
"""Seconds after the boot. ovs-vswitchd counts its processors at most every ten seconds of a clock that starts with
the boot, and takes "not yet" for none: started sooner it has no thread for upcalls, for good."""


class Sender:
    """A pytest plugin: lines of JSON, each on the host's disk before the test goes on."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.file = os.open(shared / "events", os.O_WRONLY | os.O_APPEND)
        self.orders = 0
        self.config: Any = None

    def pytest_configure(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if kernel_or_userspace() != "system":
            raise pytest.UsageError("this guest's kernel has no openvswitch")
        await_processors()
        items = {item.nodeid: item for item in session.items}
        ordered = self.order()
        while ordered:
            item = items[ordered.pop(0)]
            # Asked for before the last test of a module: with it goes what the next one has no use for.
            ordered = ordered or self.order()
            following = items[ordered[0]] if ordered else None
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return True

    def order(self) -> list[str]:
        """What to run next, nothing at the end."""
        self.send("ready", "")
        path = self.shared / f"order-{self.orders}"
        self.orders += 1
        while not path.exists():
            time.sleep(0.05)
        nodeids: list[str] = json.loads(path.read_text())
        return nodeids

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.send("start", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.send("report", report.nodeid, data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.send("finish", nodeid)

    def send(self, event: str, nodeid: str, data: object = None) -> None:
        os.write(self.file, json.dumps([event, nodeid, data], default=str).encode() + b"\n")
        os.fsync(self.file)  # the guest has a page cache of its own


def await_processors() -> None:
    """Until ovs-vswitchd may be started; see COUNTED."""
    time.sleep(max(0.0, COUNTED - time.clock_gettime(time.CLOCK_BOOTTIME)))


if __name__ == "__main__":
    shared = Path(os.environ["OVSNET_GUEST"])
    options = json.loads((shared / "pytest.json").read_text())
    sys.exit(pytest.main(options, plugins=[Sender(shared)]))
