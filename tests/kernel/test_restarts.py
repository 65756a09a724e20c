"""What a restart costs, in datagrams and connections, on the kernel's datapath: docs/reliability.md is made of this.

Established: a datagram every millisecond and its echo. New: a connection every 20 ms from a fresh source port. Between
pods of one node and of two nodes, IPv4 and IPv6, while something dies and comes back.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import probe
import pytest
from cni_world import launch_agent
from lab_world import agent_log, dump, eventually, running

from ovsnet.host.datapath import kernel_has_openvswitch
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not kernel_has_openvswitch(), reason="this kernel has no openvswitch; see --in-kernel"
    ),
]
PYTHON = [sys.executable, "-I", "-S", probe.__file__]
WARM = 1.0
"""Seconds in which neighbours are found and flows made."""
RESTART = 1000
"""Datagrams, of one a millisecond, that an established flow between nodes may lose at ovs-vswitchd's own start, however
slow and busy the machine; docs/reliability.md has what it is. Without `flow-restore-wait` it is some 1,500."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=2, datapath="system") as lab:
        yield lab


@pytest.fixture(scope="module")
def servers(lab: Lab) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("a2", "b1"):
            process = subprocess.Popen(
                lab.command(name, [*PYTHON, "serve"]), stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield


class Seen:
    """What the probe saw, by "one node" and "two nodes"."""

    def __init__(self) -> None:
        self.by_path: dict[str, dict[str, Any]] = {}

    def lost(self, place: str) -> int:
        return max(int(each["lost"]) for path, each in self.by_path.items() if path.startswith(place))

    def worst(self, what: str) -> int:
        return max(int(each[what]) for each in self.by_path.values())


@pytest.fixture
def seen(
    lab: Lab,
    servers: None,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> Iterator[Seen]:
    seen = Seen()
    yield seen
    marker, node = request.node.get_closest_marker("event"), request.node
    parameters = node.callspec.params if hasattr(node, "callspec") else {}
    record_property("event", str(marker.args[0]).format(**parameters))
    record_property("reliability", seen.by_path)


@contextlib.contextmanager
def probing(lab: Lab, seen: Seen, settle: float = 2.0) -> Iterator[None]:
    """Probes meanwhile, from before the body until `settle` seconds after it."""
    hosts = {
        str(lab.pod(name).address(version)): f"{'one node' if name == 'a2' else 'two nodes'}, IPv{version}"
        for name in ("a2", "b1")
        for version in (4, 6)
    }
    process = subprocess.Popen(
        lab.command("a1", [*PYTHON, "probe", *hosts]), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(WARM)
    try:
        yield
        time.sleep(settle)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[0]
    seen.by_path = {hosts[host]: each for host, each in json.loads(said).items()}


def nothing(seen: Seen) -> None:
    assert (seen.worst("lost"), seen.worst("failed")) == (0, 0), seen.by_path


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("node-a")


@pytest.mark.event("nothing")
def test_nothing_happens(lab: Lab, seen: Seen) -> None:
    """The probe itself loses nothing."""
    with probing(lab, seen):
        pass
    nothing(seen)


@pytest.mark.event("agent: {number.name}, started again")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_agent_restarts(lab: Lab, node: Node, seen: Seen, number: signal.Signals) -> None:
    with probing(lab, seen):
        node.kill(AGENT, number)
        time.sleep(0.5)
        node.start(AGENT)
    nothing(seen)


@pytest.mark.event("ovsdb-server: SIGKILL, 2 s later started again")
def test_ovsdb_server_restarts(lab: Lab, node: Node, seen: Seen) -> None:
    with probing(lab, seen):
        node.kill(OVSDB, signal.SIGKILL)
        time.sleep(2)
        node.start(OVSDB)
    nothing(seen)


@pytest.mark.event("OVSDB compacted")
def test_the_database_is_compacted(lab: Lab, node: Node, seen: Seen) -> None:
    with probing(lab, seen):
        node.run(["ovs-appctl", "-t", "ovsdb-server", "ovsdb-server/compact"], check=True)
    nothing(seen)


def armed(node: Node) -> bool:
    done = node.run(
        ["ovs-vsctl", "--if-exists", "get", "Open_vSwitch", ".", "other_config:flow-restore-wait"]
    )
    return done.stdout.strip() == '"true"'


@pytest.mark.event("ovs-vswitchd: SIGKILL, away for 5 s, started again")
def test_ovs_vswitchd_is_away_for_five_seconds(lab: Lab, node: Node, seen: Seen) -> None:
    """Established flows go on without it; its start keeps them until ours are back."""
    eventually(lambda: armed(node))
    mark = len(agent_log(node))
    with probing(lab, seen, settle=3.0):
        node.kill(VSWITCHD, signal.SIGKILL)
        time.sleep(5)
        node.start(VSWITCHD)
    assert seen.worst("lost") <= RESTART, seen.by_path
    assert seen.lost("one node") == 0, seen.by_path
    eventually(lambda: armed(node))
    assert "may handle new connections" in agent_log(node)[mark:]


@pytest.mark.event("ovs-vswitchd and agent: SIGKILL together; {first} comes first")
@pytest.mark.parametrize("first", [AGENT, VSWITCHD])
def test_ovs_vswitchd_and_the_agent_die_together(lab: Lab, node: Node, seen: Seen, first: str) -> None:
    """Whichever comes back first; new connections work within a second of the later one."""
    flows = dump(node)
    eventually(lambda: armed(node))
    with probing(lab, seen, settle=3.0):
        for daemon in (VSWITCHD, AGENT):
            node.kill(daemon, signal.SIGKILL)
        time.sleep(1)
        if first == VSWITCHD:
            node.start(VSWITCHD)
            time.sleep(2)
            node.start(AGENT)
        else:
            launch_agent(node)
            time.sleep(1)
            node.start(VSWITCHD)
            eventually(lambda: dump(node) == flows)
    assert seen.worst("lost") <= RESTART, seen.by_path
    assert seen.lost("one node") == 0, seen.by_path
    eventually(lambda: dump(node) == flows)
