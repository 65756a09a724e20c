"""A pytest plugin: `--reliability FILE` writes what the tests of restarts saw as a table in Markdown.

Takes it from the tests' own reports (property "reliability"), wherever they ran. What the file says of events that were
none of this run's stays. Loaded by tests/conftest.py.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from ovsnet.host.datapath import kernel_has_openvswitch

HEADER = """\
# What a restart costs

Written by `tox -e bench` from the tests in `tests/kernel/test_restarts.py` and `test_losses.py`, which fail if a
bound is broken. Between pods, on the kernel's datapath, over VXLAN between nodes: a datagram every millisecond with
its echo (established), and a connection every 20 ms from a fresh source port (new). First words are single datagrams
between two addresses that never spoke, five a second; they are counted as new connections. Each cell is the worst of
IPv4 and IPv6. "Back after" is when the last of what failed was tried, counted from the start of the daemon that came
last or from the event itself; a connection has failed that is not there within a second. The probe goes on until none
has failed for a second on every path.

- date: {date}
- where: {where}

| event | established, lost of sent: one node | two nodes | new connections, failed of tried: one node | two nodes | \
new connections back after |
|---|---:|---:|---:|---:|---:|
"""
FOOTER = """
While ovs-vswitchd is away the kernel goes on forwarding what it has flows for; new pairs and new connections whose
flow is not there have to wait for it. At its start no established datagram is lost on one node. Between nodes its start
costs some: first it removes from the datapath what no Interface in the database is called like, and so the tunnel's
device in the kernel (`vxlan_sys_4789`); some time later, with the first tunnel, it makes it anew. An agent that runs
names the device in the database while ovs-vswitchd is away, in a bridge `br-int/kept` that ovs-vswitchd ignores; then
the device stays until the first tunnel, for which ovs-vswitchd removes and makes it in one go. In a guest on one
processor all of that takes longer than on a node.

What is aimed at and not reached: 60 ms for established flows between nodes at ovs-vswitchd's start, a second until new
connections are back, three until what was lost is rebuilt. An agent that was killed together with ovs-vswitchd comes
too late to name the device if ovs-vswitchd is back before it, and its own start is part of the outage; if it comes
first, what is left is the moment in which ovs-vswitchd removes and makes the device, and a guest's one processor is
shared by two nodes' daemons and the probe. Tried besides: the device's name in `br-int` itself (ovs-vswitchd then
takes it for a port and removes others in turn), in a bridge of an unknown datapath type (the same effect as now, with
errors in its log), and an OpenFlow port of that name (reserved). What is rebuilt waits for the same processor: for
ovs-vswitchd to make bridge and ports, and for an agent to start.

Without its bridge, or with the database that describes it gone, a node forwards nothing until both are there again. A
running agent knows what was there. One that starts then knows peers from the store and pods from what the container
runtime keeps of each ADD's result (`/var/lib/cni/results`): they get their rows back with the addresses and MACs that
they had. After a start of the machine there are no such pods: rows tell of them, the agent releases their addresses,
and those rest for `reuseAfter` seconds before a new pod gets them.

A store withdraws a peer only with a list that is whole: a folder that is away, another one that is empty, a file that
is half written or empty, or a list without the node itself, from which its ranges would come, changes nothing.

How it works: the agent keeps `other_config:flow-restore-wait` set in the database, so that an ovs-vswitchd that
starts keeps the kernel's flows and handles nothing new. When all flows are written again the agent takes the key
away, waits until ovs-vswitchd has seen that (it never looks again in its lifetime), and sets it for the next time. If
no agent runs, a restarted ovs-vswitchd would wait for ever: systemd restarts the agent without a limit, an agent that
is stopped for good takes the key away (ExecStopPost), and `ovsnet doctor` tells when it was left.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("kernel").addoption(
        "--reliability", metavar="FILE", help="write what the tests of restarts saw"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.reliability:
        config.pluginmanager.register(Collector(Path(config.option.reliability)), "reliability-collector")


class Collector:
    """The rows by event, in the order in which the tests ran."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        if report.when == "teardown" and "reliability" in properties:
            event = properties["event"]
            self.rows[event] = row(event, properties["reliability"])

    def pytest_sessionfinish(self) -> None:
        if self.rows:
            where = "this machine" if kernel_has_openvswitch() else "a user-mode Linux on one processor"
            date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
            where = f"{where}, host kernel {platform.release()}"
            before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            rows = {**(kept := older(before)), **self.rows}
            if not kept.keys() <= self.rows.keys():
                date = f"{date}: {', '.join(self.rows)}; the rest as before: {dated(before)}"
            text = HEADER.format(date=date, where=where) + "\n".join(rows.values()) + "\n" + FOOTER
            self.path.write_text(text, encoding="utf-8")


def older(text: str) -> dict[str, str]:
    """Rows by event."""
    rows = (line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| event"))
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def dated(text: str) -> str:
    return next(
        (line.removeprefix("- date: ") for line in text.splitlines() if line.startswith("- date: ")), ""
    )


def row(event: str, seen: dict[str, dict[str, Any]]) -> str:
    cells = [
        worst([each for path, each in seen.items() if path.startswith(place)], what, of)
        for what, of in (("lost", "sent"), ("failed", "tries"))
        for place in ("one node", "two nodes")
    ]
    return f"| {event} | {' | '.join(cells)} | {back(seen.values())} |"


def worst(paths: list[dict[str, Any]], what: str, of: str) -> str:
    asked = [path for path in paths if what in path]
    if not asked:
        return "-"
    each = max(asked, key=lambda path: int(path[what]))
    return f"{each[what]} of {each[of]}"


def back(paths: Collection[dict[str, Any]]) -> str:
    """Nothing where nothing failed: they were never away."""
    if not any(path["failed"] for path in paths):
        return ""
    seconds = [float(path["back"]) for path in paths if "back" in path]
    return f"{max(seconds):.1f} s" if seconds else "-"
