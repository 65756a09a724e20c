"""Services that change under their clients, and what restarts and other people's hands do to them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from cni_world import Cni, launch_agent
from lab_world import SLOWER, agent_log, dump, eventually
from services_world import FAMILIES, Cluster, assert_clean, cluster_of, everything, masks, outer, tracked, vip

from ovsnet import names
from ovsnet.lab.node import AGENT, VSWITCHD

NUMBER = 20
NODE_PORT = 30020
ENDING = {"conditions": {"ready": False, "serving": True, "terminating": True}}
NOT_READY = {"conditions": {"ready": False, "serving": False}}


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[Cluster]:
    with cluster_of() as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """Without Services; clean afterwards."""
    yield running_cluster
    assert_clean(running_cluster.lab)
    running_cluster.remove("web")
    running_cluster.choose("web")


def put(
    cluster: Cluster, *endpoints: str | Mapping[str, object], used: Sequence[str] = (), **spec: object
) -> None:
    """The Service web has these endpoints, of which nodes use those (all unless given)."""
    cluster.put("web", endpoints, NUMBER, node_port=NODE_PORT, **spec)
    cluster.choose("web", *(used or map(str, endpoints)))


# --- endpoints come and go -----------------------------------------------------------------------


@pytest.mark.kernel
def test_new_connections_go_to_those_that_are_there_and_others_go_on(cluster: Cluster) -> None:
    put(cluster, "b1")
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(cluster.going("hold", source, vip(NUMBER, version)))
            for source in ("a1", "node-a")
            for version in FAMILIES
        ]
        put(cluster, "b1", "a2")
        assert cluster.names("a1", vip(NUMBER, 4)) == {"a2", "b1"}
        put(cluster, "b1", "a2", "b2")
        assert cluster.names("a1", vip(NUMBER, 6)) == {"a2", "b1", "b2"}
        put(cluster, "b1", "b2")
        assert cluster.names("a1", vip(NUMBER, 4)) == {"b1", "b2"}
        for each in held:
            done = each.stop()
            assert (done["name"], done.get("error")) == ("b1", None)
            assert done["count"] > 10


@pytest.mark.parametrize(
    "said", [pytest.param(NOT_READY, marks=pytest.mark.kernel), ENDING], ids=["not ready", "terminating"]
)
def test_connections_to_one_that_is_not_ready_go_on(cluster: Cluster, said: dict[str, object]) -> None:
    put(cluster, "b1")
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(cluster.going("hold", source, host, port))
            for source in ("a1", "node-a", "outside")
            for host, port in (
                (vip(NUMBER, 4), 80) if source != "outside" else (cluster.address("node-a", 4), NODE_PORT),
            )
        ]
        put(cluster, {"place": "b1", **said}, "a2", used=["a2"])
        assert cluster.names("a1", vip(NUMBER, 4)) == {"a2"}
        for each in held:
            done = each.stop()
            assert (done["name"], done.get("error")) == ("b1", None)
            assert done["count"] > 10


def test_those_that_terminate_serve_where_there_are_no_others(cluster: Cluster) -> None:
    put(cluster, {"place": "b1", **ENDING}, {"place": "b2", **NOT_READY}, used=["b1"])
    assert cluster.names("a1", vip(NUMBER, 4), count=10) == {"b1"}


def test_a_rolling_replacement_loses_no_connection(cluster: Cluster) -> None:
    put(cluster, "a1", "b1")
    with cluster.loads(vip(NUMBER, 4), "a2", "b2", "node-a"):
        for _ in range(2):
            put(cluster, "a1", "b1", "b2")
            put(cluster, {"place": "a1", **ENDING}, "b1", "b2", used=["b1", "b2"])
            put(cluster, "b1", "b2")
            put(cluster, "a2", "b1", "b2")
            put(cluster, "a2", {"place": "b1", **ENDING}, "b2", used=["a2", "b2"])
            put(cluster, "a2", "b2")
            put(cluster, "a1", "b1", *({"place": each, **ENDING} for each in ("a2", "b2")), used=["a1", "b1"])
            put(cluster, "a1", "b1")


def test_a_datagrams_sender_is_given_another_endpoint_when_its_own_is_gone(cluster: Cluster) -> None:
    """It goes on from the same port: a connection that conntrack remembers would send it to nobody."""
    put(cluster, "b1")
    bind = (cluster.address("a1", 4), 45000)
    assert cluster.names("a1", vip(NUMBER, 4), protocol="udp", bind=bind, count=2) == {"b1"}
    put(cluster, "a2")
    eventually(
        lambda: cluster.names("a1", vip(NUMBER, 4), protocol="udp", bind=bind, count=1, seconds=0.3) == {"a2"}
    )


def asked(cluster: Cluster, source: str) -> list[str]:
    """Who answers a datagram from each of some ports: 24 to the Service web, 4 to the Service other."""
    ports = iter(range(46000, 46100))
    numbers = [NUMBER] * 12 + [NUMBER + 1] * 2
    targets = [(vip(each, version), 80, "udp", next(ports)) for each in numbers for version in FAMILIES]
    done = cluster.lab.run(source, cluster.client("probe", "", 0, targets=targets))
    return [each.get("name", each.get("error")) for each in json.loads(done.stdout)]


@pytest.mark.kernel
def test_conntrack_forgets_of_an_endpoint_that_leaves_its_services_connections_alone(
    cluster: Cluster,
) -> None:
    """Those to its other endpoint, and those of another Service to the same, stay the entries that they were."""
    node, sources = cluster.lab.node("node-a"), ("a1", "node-a")
    put(cluster, "a2")
    cluster.put("other", ["b1"], NUMBER + 1)
    cluster.choose("other", "b1")
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.remove, "other")
        ends = zip(sources, FAMILIES, strict=True)
        held = [
            stack.enter_context(cluster.going("hold", each, vip(NUMBER, version))) for each, version in ends
        ]
        put(cluster, "a2", "b1")
        for source in sources:
            assert set(asked(cluster, source)) == {"a2", "b1"}
        begun, before = time.monotonic(), tracked(node)
        gone = [(vip(NUMBER, version), cluster.address("b1", version)) for version in FAMILIES]
        kept = [(vip(NUMBER, version), cluster.address("a2", version)) for version in FAMILIES]
        kept += [(vip(NUMBER + 1, version), cluster.address("b1", version)) for version in FAMILIES]
        assert all(before[each] for each in (*gone, *kept)), before
        put(cluster, "a2")
        eventually(lambda: not any(tracked(node)[each] for each in gone))
        after, passed = tracked(node), time.monotonic() - begun
        for each in kept:
            # Nobody has sent anything since; a machine that is very slow may be longer about it than 30 s.
            lasting = {row for row, seconds in before[each].items() if seconds > passed + 1}
            assert lasting <= after[each].keys() <= before[each].keys()
            assert all(seconds <= before[each][row] for row, seconds in after[each].items())
        for source in sources:
            assert asked(cluster, source) == ["a2"] * 24 + ["b1"] * 4
        done = [load.stop() for load in held]
        assert [(each["last"]["name"], each.get("error")) for each in done] == [("a2", None)] * 2
    cluster.choose("other")


@pytest.mark.kernel
def test_who_keeps_sending_datagrams_is_answered_by_an_endpoint_that_left_or_by_another(
    cluster: Cluster,
) -> None:
    """Conntrack forgets one address of the Service after the other, and sends to the endpoint that left meanwhile. Only
    what is on its way as it does may be lost: of datagrams 20 ms apart one, or two, and as many more as are under way
    where a busy machine has answers wait."""
    hosts = [vip(NUMBER, 4), *(f"203.0.113.{each}" for each in range(100, 124))]
    gap = 0.02 * SLOWER
    put(cluster, "b1", externalIPs=hosts[1:])
    with cluster.going("stream", "a1", hosts[0], protocol="udp", hosts=hosts, gap=gap) as client:
        time.sleep(0.2)
        put(cluster, "b2", externalIPs=hosts[1:])
        left = cluster.address("b1", 4)
        eventually(lambda: not any(tracked(cluster.lab.node("node-a"))[host, left] for host in hosts), 30)
        time.sleep(0.2)
        done = client.stop()
    assert done["names"] == dict.fromkeys(hosts, "b2")
    assert max(done["lost"].values()) <= 2 + int(done["slowest"] / gap), done


@pytest.mark.parametrize(
    ("source", "version"),
    [
        pytest.param("outside", 4, marks=pytest.mark.kernel),
        ("outside", 6),
        ("node-a", 4),
        ("node-a", 6),
        ("node-b", 4),
        pytest.param("node-b", 6, marks=pytest.mark.kernel),
    ],
)
def test_who_goes_on_sending_to_a_udp_node_port_is_served_as_soon_as_there_is_an_endpoint(
    cluster: Cluster, source: str, version: int
) -> None:
    """The node's own conntrack remembers how it treated the first datagram, for as long as others follow."""
    host = cluster.address("node-a", version)
    bind = (cluster.address(source, version), 45000)

    def answered() -> set[str]:
        asked: dict[str, Any] = {"protocol": "udp", "bind": bind, "count": 1, "seconds": 0.3}
        return cluster.names(source, host, NODE_PORT, **asked)

    for endpoints in ([], ["a1"], [], ["b1"]):
        put(cluster, *endpoints)
        eventually(lambda: answered() <= {*endpoints, *({"refused", "timeout"} if not endpoints else ())}, 8)  # noqa: B023
    put(cluster, "a1", "b1", externalTrafficPolicy="Local")
    if source == "outside":
        eventually(lambda: answered() == {"a1"}, 8)


@pytest.mark.parametrize(
    ("source", "host"),
    [
        pytest.param("node-a", vip(NUMBER, 4), marks=pytest.mark.kernel),
        ("node-a", vip(NUMBER, 6)),
        ("outside", outer(NUMBER, 4)),
        pytest.param("outside", outer(NUMBER, 6), marks=pytest.mark.kernel),
    ],
)
def test_who_goes_on_sending_to_a_services_address_is_served_as_soon_as_there_is_an_endpoint(
    cluster: Cluster, source: str, host: str
) -> None:
    """Nor is who was served left without a word when there is none any more: one socket that never stops."""
    outers = [outer(NUMBER, 4), outer(NUMBER, 6)]
    put(cluster, externalIPs=outers)
    # Both nodes must know the Service before it is asked for.
    eventually(lambda: cluster.one(source, host, protocol="udp", seconds=0.3).get("error") == "refused")
    with cluster.going("nag", source, host, protocol="udp", seconds=0.2, gap=0.2 * SLOWER) as client:
        for endpoints in ([], ["b1"], [], ["a1"]):
            put(cluster, *endpoints, externalIPs=outers)
            # The kernel tells a client of no more than one refusal a second, after the first (icmp_ratelimit).
            time.sleep(3.0 * SLOWER)
        done = client.stop()
    assert done["heard"] == ["refused", "b1", "refused", "a1"]


def test_in_user_space_no_entry_is_left_that_tells_more_slots_apart_than_its_group(cluster: Cluster) -> None:
    """They would overlap: tests/flows/test_overlapping_entries.py has what becomes of that."""
    node = cluster.lab.node("node-a")
    if node.datapath != "netdev":
        return  # Nothing of it in the kernel: entries are altered by their whole key.
    for endpoints, mask in ((("a1", "b1", "b2"), "0x3f"), (("a1", "b1"), "0x1f"), (("b1",), "0xf")):
        put(cluster, *endpoints)
        eventually(lambda: masks(node) <= {mask})  # noqa: B023
        assert cluster.names("a2", vip(NUMBER, 4), count=80) == set(endpoints)
        assert masks(node) == {mask}


def test_a_service_that_is_deleted_leaves_nothing(cluster: Cluster) -> None:
    assert_clean(cluster.lab)  # Nothing is on its way out of the test before.
    before = {node.name: everything(node) for node in cluster.lab.nodes}
    put(cluster, "a1", "b1", externalIPs=[outer(NUMBER, 4), outer(NUMBER, 6)], externalTrafficPolicy="Local")
    assert cluster.names("a2", vip(NUMBER, 4)) == {"a1", "b1"}
    for node in cluster.lab.nodes:
        added = everything(node)
        assert all(added[kind] != before[node.name][kind] for kind in added), node.name
    cluster.remove("web")
    for node in cluster.lab.nodes:
        with contextlib.suppress(AssertionError):
            eventually(lambda: everything(node) == before[node.name])  # noqa: B023
        assert everything(node) == before[node.name]
    error = cluster.one("a2", vip(NUMBER, 4))["error"]
    assert error in ("timeout", "unreachable", "refused"), error


# --- restarts ------------------------------------------------------------------------------------


def test_an_agent_that_is_killed_loses_no_connection(cluster: Cluster) -> None:
    put(cluster, "a1", "b1")
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(cluster.going("hold", "a2", vip(NUMBER, 4)))
        stack.enter_context(cluster.loads(vip(NUMBER, 4), "a2", "node-a", "b2"))
        for name in ("node-a", "node-b"):
            node = cluster.lab.node(name)
            node.kill(AGENT, signal.SIGKILL)
            node.start(AGENT)
        done = held.stop()
        assert done.get("error") is None, done
        assert done["longest"] < 1, done


def test_services_stay_while_the_store_is_away(cluster: Cluster) -> None:
    """An agent that starts without it reads back what is installed, and follows the store when that is there again."""
    node = cluster.lab.node("node-a")
    outers = [outer(NUMBER, 4), outer(NUMBER, 6)]
    put(cluster, "a1", "b1", {"place": "a2", **NOT_READY}, used=["a1", "b1"], externalIPs=outers)
    before = everything(node)
    mark = len(agent_log(node))
    config = node.private("/etc/ovsnet/agent.yaml")
    said = config.read_text()
    try:
        with cluster.loads(vip(NUMBER, 4), "a2", "node-a"):
            node.kill(AGENT, signal.SIGKILL)
            # The lab's folder is mounted and can't be moved away: the agent gets one that is not there.
            config.write_text(said.replace("/etc/ovsnet/cluster", "/etc/ovsnet/elsewhere"))
            launch_agent(node)
            eventually(lambda: "Services stay as an earlier agent" in agent_log(node)[mark:], 20)
            time.sleep(1.0)
            assert everything(node) == before
            assert cluster.names("a2", vip(NUMBER, 6)) == {"a1", "b1"}
            assert cluster.names("outside", cluster.address("node-a", 4), NODE_PORT) == {"a1", "b1"}
        node.kill(VSWITCHD, signal.SIGKILL)
        node.start(VSWITCHD)
        eventually(lambda: everything(node) == before)
        eventually(lambda: cluster.names("a2", vip(NUMBER, 4), count=20, seconds=0.5) == {"a1", "b1"})
        assert cluster.names("outside", cluster.address("node-a", 6), NODE_PORT) == {"a1", "b1"}
    finally:
        node.kill(AGENT)
        config.write_text(said)
        node.start(AGENT)
    put(cluster, "b1")
    assert cluster.names("a2", vip(NUMBER, 4), count=10) == {"b1"}


@pytest.mark.kernel
def test_services_are_back_soon_after_vswitchd(cluster: Cluster) -> None:
    put(cluster, "a1", "b1")
    node = cluster.lab.node("node-a")
    groups = cluster.groups()
    node.kill(VSWITCHD, signal.SIGKILL)
    node.start(VSWITCHD)
    eventually(lambda: cluster.groups() == groups)
    eventually(lambda: cluster.names("a2", vip(NUMBER, 4), count=20, seconds=0.5) == {"a1", "b1"})
    eventually(lambda: cluster.names("node-a", vip(NUMBER, 6), count=20, seconds=0.5) == {"a1", "b1"})


# --- other people's hands ------------------------------------------------------------------------


@pytest.mark.parametrize("what", [pytest.param("deleted", marks=pytest.mark.kernel), "altered"])
def test_a_group_that_somebody_touched_comes_back_and_is_named(cluster: Cluster, what: str) -> None:
    put(cluster, "a1", "b1")
    node, groups = cluster.lab.node("node-a"), cluster.groups()
    flows, mark = dump(node), len(agent_log(node))
    number = groups[0].split(",")[0].removeprefix("group_id=")
    tool = ("ovs-ofctl", "-O", "OpenFlow15")
    if what == "deleted":
        Cni(node).tool(*tool, "del-groups", "br-int", f"group_id={number}")
    else:
        Cni(node).tool(*tool, "mod-group", "br-int", f"group_id={number},type=select,bucket=drop")
    eventually(lambda: (cluster.groups(), dump(node)) == (groups, flows), 2)
    words = f"group {number} of service default/web {what} by someone else; restored"
    eventually(lambda: words in agent_log(node)[mark:], 5)
    assert cluster.names("a2", vip(NUMBER, 4)) == {"a1", "b1"}


def test_flows_of_a_service_are_named(cluster: Cluster) -> None:
    put(cluster, "a1", "b1")
    node = cluster.lab.node("node-a")
    flows, mark = dump(node), len(agent_log(node))
    cookie = f"cookie={names.cookie('service', 'default/web'):#x}/-1"
    Cni(node).tool("ovs-ofctl", "del-flows", "br-int", cookie)
    eventually(lambda: dump(node) == flows, 2)
    words = "flow of service default/web in table service deleted by someone else; restored"
    eventually(lambda: words in agent_log(node)[mark:], 5)


def test_a_route_to_services_that_somebody_deleted_comes_back(cluster: Cluster) -> None:
    put(cluster, "a1", "b1")
    cni = Cni(cluster.lab.node("node-a"))
    route = next(line for line in cni.tool("ip", "route").splitlines() if line.startswith(vip(NUMBER, 4)))
    cni.tool("ip", "route", "del", route.split()[0])
    eventually(lambda: route in cni.tool("ip", "route"), 2)
    assert cluster.names("node-a", vip(NUMBER, 4)) == {"a1", "b1"}


def test_a_process_on_a_node_port_is_told_with_its_service(cluster: Cluster) -> None:
    node = cluster.lab.node("node-a")
    mark = len(agent_log(node))
    code = f"import socket, sys; s = socket.create_server(('', {NODE_PORT})); print('on', flush=True); sys.stdin.read()"
    command = node.command([sys.executable, "-c", code])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        put(cluster, "a1")
        said = f"Service default/web: a process of this node listens on node port {NODE_PORT}/TCP "
        eventually(lambda: said in agent_log(node)[mark:], 5)
        assert cluster.names("outside", cluster.address("node-a", 4), NODE_PORT, count=3) == {"a1"}
        assert process.stdin is not None
        process.stdin.close()
