"""Daemons come and go under running pods, and what others made stays theirs.

Routes on ovsnet0 are not among that: the interface is ovsnet's, with all that leads to it.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from cni_world import Cni, lab, launch_agent, path
from lab_world import SLOWER, agent_log, dump, eventually, fetch, tunnels

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node

__all__ = ["lab"]

SETTLED = 20
"""Pings before the one from which on none may be lost."""
SECONDS = 8.0
"""Within which ports work again after vswitchd came back, on a busy machine; usually it is one."""
BETWEEN = 0.01 * SLOWER
"""Seconds between pings. Ping has room for some 170 answers that it has not read yet, and a guest's one processor may
be busy with an agent's start for longer than that."""
RECONNECT = 20.0
"""vswitchd and the agent try to reach ovsdb-server again after 1, 2, 4, at most 8 seconds."""


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("node-a")


@pytest.fixture
def cni(node: Node) -> Cni:
    return Cni(node)


@pytest.fixture(autouse=True)
def as_before(cni: Cni) -> Iterator[None]:
    """No test leaves the node otherwise than it was: same flows, same pods, no leak."""
    flows, attached = dump(cni.node), cni.attached()
    yield
    eventually(lambda: cni.call("STATUS").status == 0, 20)
    eventually(lambda: dump(cni.node) == flows, 20)
    cni.assert_nothing_leaked()
    assert cni.attached() == attached


@contextlib.contextmanager
def lossless(lab: Lab, source: str, *targets: object) -> Iterator[None]:
    """A ping every few milliseconds to each target meanwhile; none may go unanswered.

    What happens starts when each has had some answers: neighbours are known then, and what counts is what
    was sent since.
    """
    commands = [lab.command(source, ["ping", "-n", f"-i{BETWEEN}", str(target)]) for target in targets]
    pings = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        for ping in pings:
            assert ping.stdout is not None
            assert any(_answered(line) >= SETTLED for line in ping.stdout), "no answer"
        yield
        time.sleep(0.3)
    finally:
        for ping in pings:
            ping.send_signal(signal.SIGINT)
        answers = [ping.stdout.read() if ping.stdout else "" for ping in pings]
        for ping in pings:
            ping.wait(timeout=10)
    for answer, target in zip(answers, targets, strict=True):
        got = {_answered(line) for line in answer.splitlines()} - {0}
        assert len(got) > 30, answer
        assert sorted(set(range(SETTLED + 1, max(got))) - got) == [], f"lost on the way to {target}"


def _answered(line: str) -> int:
    """The number of the ping that a line of output is the answer to; 0 for any other line."""
    found = re.search(r"icmp_seq=(\d+)", line)
    return int(found[1]) if found else 0


def without_database(lab: Lab) -> contextlib.AbstractContextManager[None]:
    """What pods see while ovsdb-server is away: nothing of it on the kernel's datapath.

    The one in user space stands still: ovs-vswitchd forwards in its main thread, and that does not come so far
    without the database's lock (bridge_run in vswitchd/bridge.c). Afterwards it goes on as before.
    """
    return lossless(lab, "a1", *targets(lab)) if lab.state.datapath == "system" else contextlib.nullcontext()


def targets(lab: Lab) -> list[object]:
    """What a1 talks to: a pod of the other node in both families, its own node, and the outside."""
    b1 = lab.pod("b1")
    return [b1.address(4), b1.address(6), "10.244.1.1", "192.0.2.1"]


def reaches_all(lab: Lab) -> bool:
    """Both ways, in both families."""
    answers = [fetch(lab, "a1", lab.pod("b1").address(version), wait=1.0) for version in (4, 6)]
    answers.append(fetch(lab, "b1", lab.pod("a1").address(4), wait=1.0))
    return all(answers)


def said_since(node: Node, mark: int) -> str:
    return agent_log(node)[mark:]


# --- the agent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_comes_back_unnoticed(lab: Lab, cni: Cni, number: int) -> None:
    """Connections go on before, during and after; ports stay what they were."""
    uuids, rows = cni.port_uuids(), cni.rows()
    with lossless(lab, "a1", *targets(lab)):
        cni.node.kill(AGENT, number)
        time.sleep(0.3)
        cni.node.start(AGENT)
    assert cni.port_uuids() == uuids
    assert cni.rows() == rows


def test_flows_are_never_removed_by_a_start(lab: Lab, cni: Cni) -> None:
    command = cni.node.command(["ovs-ofctl", "monitor", "br-int", "watch:!initial"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        time.sleep(0.3)
        cni.node.kill(AGENT, signal.SIGKILL)
        cni.node.start(AGENT)
        process.terminate()
        said = process.communicate()[0]
    assert "DELETED" not in said


def test_an_agent_starts_while_ovsdb_server_is_away(lab: Lab, cni: Cni) -> None:
    """It says so once, waits, and is ready when the server is back."""
    with without_database(lab):
        cni.node.kill(AGENT)
        cni.node.kill(OVSDB, signal.SIGKILL)
        mark = len(agent_log(cni.node))
        launch_agent(cni.node)
        eventually(lambda: said_since(cni.node, mark).count("does not answer; waiting for it") == 1, 20)
        assert cni.call("STATUS").code in (50, 51)
        assert cni.call("ADD", "c1", netns="/proc/1/ns/net").code in (4, 11)
        cni.node.start(OVSDB)
        eventually(lambda: cni.call("STATUS").status == 0, RECONNECT)
    assert "is back" in said_since(cni.node, mark)
    eventually(lambda: reaches_all(lab), RECONNECT)


@pytest.mark.slow
def test_words_about_an_absent_server_get_rarer(cni: Cni) -> None:
    cni.node.kill(OVSDB, signal.SIGKILL)
    mark = len(agent_log(cni.node))
    try:
        time.sleep(4)
        lines = [line for line in said_since(cni.node, mark).splitlines() if "ovsdb-server" in line]
        assert len(lines) <= 2, lines
    finally:
        cni.node.start(OVSDB)


# --- Open vSwitch --------------------------------------------------------------------------------


def test_ovsdb_server_comes_back_unnoticed(lab: Lab, cni: Cni) -> None:
    uuids = cni.port_uuids()
    with cni.namespaces("c1"), without_database(lab):
        cni.add("c1")
        cni.node.kill(OVSDB, signal.SIGKILL)
        eventually(lambda: cni.call("STATUS").code in (50, 51))
        assert cni.call("ADD", "c1", netns=path("c1"), ifname="net1").code == 11
        refused = cni.call("DEL", "c1", netns=path("c1"))
        assert refused.code == 11, "a DEL that the rows can't confirm is not done"
        cni.node.start(OVSDB)
        eventually(lambda: cni.call("STATUS").status == 0, RECONNECT)
        cni.delete("c1")
    eventually(lambda: reaches_all(lab), RECONNECT)
    assert cni.port_uuids() == uuids


def test_ovs_vswitchd_comes_back_with_all_flows(lab: Lab, cni: Cni) -> None:
    """Flows do not survive it; the agent notices at once and writes them again."""
    flows, uuids = dump(cni.node), cni.port_uuids()
    mark = len(agent_log(cni.node))
    cni.node.kill(VSWITCHD, signal.SIGKILL)
    eventually(lambda: cni.call("STATUS").code == 51, 5)
    with cni.namespaces("c1"):
        assert cni.call("ADD", "c1", netns=path("c1")).code == 11
        cni.node.start(VSWITCHD)
        eventually(lambda: dump(cni.node) == flows, SECONDS)
        eventually(lambda: reaches_all(lab), SECONDS)
        eventually(lambda: cni.call("STATUS").status == 0, SECONDS)
        cni.add("c1")
    assert said_since(cni.node, mark).count("went away") == 1
    assert cni.port_uuids() == uuids


@pytest.mark.kernel
def test_a_del_works_while_ovs_vswitchd_is_away(lab: Lab, cni: Cni) -> None:
    with cni.pod() as (container, _):
        cni.node.kill(VSWITCHD, signal.SIGKILL)
        try:
            cni.delete(container)
            assert (container, "eth0") not in cni.attached()
        finally:
            cni.node.start(VSWITCHD)
        eventually(lambda: reaches_all(lab), SECONDS)


@pytest.mark.kernel
@pytest.mark.slow
def test_everything_of_open_vswitch_comes_back(lab: Lab, cni: Cni) -> None:
    flows = dump(cni.node)
    for daemon in (VSWITCHD, OVSDB):
        cni.node.kill(daemon, signal.SIGKILL)
    time.sleep(0.5)
    for daemon in (OVSDB, VSWITCHD):
        cni.node.start(daemon)
    eventually(lambda: dump(cni.node) == flows, SECONDS)
    eventually(lambda: reaches_all(lab), SECONDS)


@pytest.mark.slow
def test_ovs_vswitchd_and_the_agent_die_together(lab: Lab, cni: Cni) -> None:
    flows = dump(cni.node)
    for daemon in (AGENT, VSWITCHD):
        cni.node.kill(daemon, signal.SIGKILL)
    launch_agent(cni.node)
    time.sleep(1)
    cni.node.start(VSWITCHD)
    eventually(lambda: cni.call("STATUS").status == 0, 20)
    eventually(lambda: dump(cni.node) == flows, SECONDS)
    eventually(lambda: reaches_all(lab), SECONDS)


@pytest.mark.kernel
@pytest.mark.slow
def test_a_bridge_deleted_by_hand_is_made_again_with_its_pods(lab: Lab, cni: Cni) -> None:
    """Running pods keep address and connectivity, CHECK is content, peers are reached."""
    with cni.pod() as (container, answer):
        flows = dump(cni.node)
        cni.tool("ovs-vsctl", "del-br", "br-int")
        eventually(lambda: cni.check(container, answer.document).code == 0, 20)
        assert (container, "eth0") in cni.attached()
        eventually(lambda: dump(cni.node) == flows)
        eventually(lambda: reaches_all(lab), SECONDS)
        assert cni.tool("ip", "netns", "exec", container, "ping", "-c1", "-W2", "10.244.1.1")
    with cni.pod():
        pass


@pytest.mark.kernel
@pytest.mark.parametrize("port", ["ovsnet0", "vxl"])
def test_a_port_deleted_by_hand_is_made_again(lab: Lab, cni: Cni, port: str) -> None:
    rows = cni.rows()
    name = next(name for name in rows if name.startswith(port))
    role = rows[name].role
    cni.tool("ovs-vsctl", "del-port", "br-int", name)
    eventually(lambda: sum(row.role == role and (row.ofport or 0) > 0 for row in cni.rows().values()) == 1)
    eventually(lambda: reaches_all(lab), SECONDS)
    assert lab.exec("a1", ["ping", "-c1", "-W2", "10.244.1.1"]).returncode == 0
    assert tunnels(cni.node)["node-b"]["remote_ip"] == "192.0.2.12"


# --- what is not ours ----------------------------------------------------------------------------

FOREIGN = [
    ["ovs-vsctl", "add-br", "br-foreign", "--", "set", "Bridge", "br-foreign", "datapath_type=netdev"],
    ["ovs-vsctl", "add-port", "br-foreign", "foreign0", "--", "set", "Interface", "foreign0", "type=internal"],
    ["ovs-vsctl", "add-port", "br-int", "foreign1", "--", "set", "Interface", "foreign1", "type=internal"],
    ["ovs-vsctl", "add-port", "br-int", "pod-0badcafe", "--", "set", "Interface", "pod-0badcafe", "type=internal"],
    ["ovs-ofctl", "add-flow", "br-foreign", "cookie=0x77,actions=drop"],
    ["nft", "add table inet foreign"],
    ["nft", "add chain inet foreign postrouting { type nat hook postrouting priority 50; }"],
]  # fmt: skip
REMOVAL = [
    ["ovs-vsctl", "del-br", "br-foreign"],
    ["ovs-vsctl", "--if-exists", "del-port", "br-int", "foreign1"],
    ["ovs-vsctl", "--if-exists", "del-port", "br-int", "pod-0badcafe"],
    ["nft", "delete table inet foreign"],
    ["ip", "route", "del", "203.0.113.0/24"],
]


def foreign_things(cni: Cni) -> dict[str, object]:
    """All that was there before ovsnet, as it is."""
    names = ["br-foreign", "foreign0", "foreign1", "pod-0badcafe"]
    columns = "--columns=name,external_ids,ofport,error"
    ports = json.loads(cni.tool("ovs-vsctl", "--format=json", columns, "list", "Interface", *names))["data"]
    return {
        "bridges": cni.tool("ovs-vsctl", "list-br").split(),
        "ports": ports,
        "uuids": {name: uuid for name, uuid in cni.port_uuids().items() if name in names},
        "flows": cni.tool("ovs-ofctl", "--no-stats", "dump-flows", "br-foreign"),
        "nft": cni.tool("nft", "list", "table", "inet", "foreign"),
        "routes": [line for line in cni.tool("ip", "route").splitlines() if line.startswith("203.0.113.")],
    }


@pytest.fixture
def foreign(cni: Cni) -> Iterator[dict[str, object]]:
    try:
        for command in FOREIGN:
            cni.tool(*command)
        cni.tool("ip", "route", "add", "203.0.113.0/24", "dev", cni.node.uplink)
        yield foreign_things(cni)
    finally:
        for command in REMOVAL:
            cni.tool(*command, check=False)


def test_what_others_made_stays(lab: Lab, cni: Cni, foreign: dict[str, object]) -> None:
    """Over pods that come and go, an agent that starts, garbage collection, and a comparison of everything."""
    mark = len(agent_log(cni.node))
    with cni.pod():
        pass
    cni.node.kill(AGENT, signal.SIGKILL)
    cni.node.start(AGENT)
    with cni.pod() as (container, _):
        valid = [{"containerID": each, "ifname": ifname} for each, ifname in cni.attached()]
        assert cni.call("GC", config={"cni.dev/valid-attachments": valid}).status == 0
        cni.delete(container)
    assert foreign_things(cni) == foreign
    assert "Traceback" not in said_since(cni.node, mark)


def test_a_foreign_ports_number_is_not_used(cni: Cni) -> None:
    """Somebody took a number that ovsnet would choose."""
    taken = max(row.ofport or 0 for name, row in cni.rows().items() if name.startswith("pod-")) + 1
    cni.tool(
        "ovs-vsctl", "add-port", "br-int", "foreign1",
        "--", "set", "Interface", "foreign1", "type=internal", f"ofport_request={taken}",
    )  # fmt: skip
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(cni.pod())
            rows = cni.rows()
            numbers = [rows[name].ofport for name in cni.tool("ovs-vsctl", "list-ports", "br-int").split()]
        assert rows["foreign1"].ofport == taken
        assert len(set(numbers)) == len(numbers)
    finally:
        cni.tool("ovs-vsctl", "del-port", "br-int", "foreign1")


def test_others_keys_on_our_rows_stay(cni: Cni) -> None:
    mine = cni.rows()
    pod = next(name for name, row in mine.items() if row.role == "pod")
    tunnel = next(name for name, row in mine.items() if row.role == "tunnel")
    for table, name in (("Bridge", "br-int"), ("Port", pod), ("Port", tunnel), ("Port", "ovsnet0")):
        cni.tool("ovs-vsctl", "set", table, name, "external_ids:others=kept")
    cni.tool("ovs-vsctl", "set", "Bridge", "br-int", "other_config:mac-table-size=4096")
    try:
        cni.node.kill(AGENT)
        cni.node.start(AGENT)
        with cni.pod():
            pass
        rows = cni.rows()
        for name in (pod, tunnel, "ovsnet0"):
            assert rows[name].external_ids["others"] == "kept"
            assert rows[name].role == mine[name].role
        assert cni.tool("ovs-vsctl", "get", "Bridge", "br-int", "external_ids:others").strip() == "kept"
        assert "4096" in cni.tool("ovs-vsctl", "get", "Bridge", "br-int", "other_config:mac-table-size")
    finally:
        for table, name in (("Bridge", "br-int"), ("Port", pod), ("Port", tunnel), ("Port", "ovsnet0")):
            cni.tool("ovs-vsctl", "remove", table, name, "external_ids", "others")
        cni.tool("ovs-vsctl", "remove", "Bridge", "br-int", "other_config", "mac-table-size")
