"""What tests of restarts share: a lab, servers in pods, the probe between them meanwhile, and what it saw.

Each test has the fixture `seen`, whose content goes into docs/reliability.md under the words of its mark `event`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import probe
import pytest
from lab_world import SLOWER, SOON, running

from ovsnet.host.datapath import kernel_has_openvswitch
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node

MARKS = [
    pytest.mark.kernel,
    pytest.mark.serial,
    pytest.mark.skipif(
        not kernel_has_openvswitch(), reason="this kernel has no openvswitch; see --in-kernel"
    ),
]
PYTHON = [sys.executable, "-I", "-S", probe.__file__]
WARM = 1.0
"""Seconds in which neighbours are found and flows made."""
BACK = SOON
"""Seconds after a daemon's start within which new connections work, however busy the machine; docs/reliability.md has
what it is."""
REBUILT = 15.0
"""The same after a bridge or the database was lost, and all ports with it."""
LIMIT = REBUILT * SLOWER
"""Seconds for which the probe goes on, after it was told to end, until all works again: no less than any bound."""
TARGETS = ("a2", "b1")
"""Pods with a server; a1 is where the probe runs."""


class Seen:
    """What the probe saw, by "one node" and "two nodes"."""

    def __init__(self) -> None:
        self.by_path: dict[str, dict[str, Any]] = {}
        self.since = 0.0

    def begins(self) -> None:
        """Now what has to do the rest is started, or happens: new connections are to be back soon after."""
        self.since = time.monotonic()

    def lost(self, place: str) -> int:
        return max(int(each["lost"]) for path, each in self.by_path.items() if path.startswith(place))

    def worst(self, what: str) -> float:
        return max(float(each[what]) for each in self.by_path.values())

    def steady(self) -> bool:
        """Whether the last tries on every path succeeded, for at least a second."""
        return all(float(each["steady"]) >= probe.STEADY for each in self.by_path.values())

    def take(self, by_path: dict[str, dict[str, Any]]) -> None:
        """What a probe printed. "back": seconds from `begins`, if there was one, to the last that failed."""
        self.by_path = by_path
        if self.since:
            for each in by_path.values():
                each["back"] = round(max(0.0, each["last_failure"] - self.since), 2)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2, datapath="system") as lab:
        yield lab


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("node-a")


@pytest.fixture
def seen(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Seen]:
    """To be filled by `probing` or `first_words`."""
    seen = Seen()
    yield seen
    marker, node = request.node.get_closest_marker("event"), request.node
    parameters = node.callspec.params if hasattr(node, "callspec") else {}
    record_property("event", str(marker.args[0]).format(**parameters))
    record_property("reliability", seen.by_path)


@contextlib.contextmanager
def serving(lab: Lab, *pods: str) -> Iterator[None]:
    """A server for the probe in each of these pods."""
    with contextlib.ExitStack() as stack:
        for name in pods:
            process = subprocess.Popen(
                lab.command(name, [*PYTHON, "serve"]), stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield


@contextlib.contextmanager
def probing(lab: Lab, seen: Seen, settle: float = 2.0, targets: Sequence[str] = TARGETS) -> Iterator[None]:
    """Probes from a1 meanwhile, from before the body until `settle` seconds after it, or until connections work."""
    hosts = {
        str(lab.pod(name).address(version)): f"{place(lab, name)}, IPv{version}"
        for name in targets
        for version in (4, 6)
    }
    with _running(lab, "a1", "probe", *hosts) as said:
        time.sleep(WARM)
        yield
        time.sleep(settle)
    seen.take({hosts[host]: each for host, each in said[0].items()})


@contextlib.contextmanager
def first_words(
    lab: Lab, seen: Seen, source: str, targets: Sequence[str], settle: float = 2.0
) -> Iterator[None]:
    """A datagram between two addresses that never spoke, five times a second, as long as `probing`.

    The pods have as many addresses of each family as there can be such pairs.
    """
    per_path = [
        [
            f"{place(lab, name)}, IPv{version}={here}>{there}"
            for here, there in zip(_of(lab, source, version), _of(lab, name, version), strict=True)
        ]
        for name in targets
        for version in (4, 6)
    ]
    in_turn = itertools.chain.from_iterable(zip(*per_path, strict=True))
    with _running(lab, source, "pairs", *in_turn) as said:
        time.sleep(WARM)
        yield
        time.sleep(settle)
    seen.take(said[0])


@contextlib.contextmanager
def _running(lab: Lab, pod: str, task: str, *arguments: str) -> Iterator[list[Any]]:
    """The probe in a pod; what it said when it was told to end is in the list afterwards."""
    argv = lab.command(pod, [*PYTHON, task, str(LIMIT), *arguments])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    said: list[Any] = []
    try:
        yield said
    finally:
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=LIMIT + 30)[0]
    said.append(json.loads(text))


def _of(lab: Lab, pod: str, version: int) -> list[str]:
    return [str(address) for address in lab.pod(pod).addresses if address.version == version]


def place(lab: Lab, pod: str) -> str:
    """As seen from a1."""
    return "one node" if lab.pod(pod).node.name == "node-a" else "two nodes"


def nothing(seen: Seen) -> None:
    assert (seen.worst("lost"), seen.worst("failed")) == (0, 0), seen.by_path


def back_within(seen: Seen, seconds: float) -> None:
    """New connections, or first words, work again on every path, and did so in time."""
    assert seen.steady(), seen.by_path
    assert seen.worst("back") <= seconds * SLOWER, seen.by_path


def bridges(node: Node) -> list[str]:
    return node.run(["ovs-vsctl", "-t5", "list-br"]).stdout.split()


def devices_kept(node: Node) -> list[str]:
    """Tunnels' devices that an ovs-vswitchd that starts now would leave in the kernel."""
    return node.run(["ovs-vsctl", "-t5", "list-ports", "br-int/kept"]).stdout.split()


def armed(node: Node) -> bool:
    """Whether an ovs-vswitchd that starts now would wait for flows."""
    done = node.run(
        ["ovs-vsctl", "--if-exists", "get", "Open_vSwitch", ".", "other_config:flow-restore-wait"]
    )
    return done.stdout.strip() == '"true"'
