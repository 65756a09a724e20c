"""Node ports on some of a node's addresses (nodePortAddresses), with real packets: what answers, what is left alone.

The node has a second address on its uplink. `shared` is a node port that a process of the node listens on as well, at
every address: whoever is not the Service's client is that process's.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator
from ipaddress import ip_address

import pytest
import yaml
from lab_world import agent_log, eventually, reconfigure
from services_world import FAMILIES, PORT, PROTOCOLS, Cluster, cluster_of

from ovsnet.pipeline import NODE_PORTS

NODE = "node-a"
SHARED, ALONE, KEPT, CHECKED = PORT, 30031, 30032, 30900
"""Node ports; `KEPT` is that of a Service with externalTrafficPolicy: Local, whose healthCheckNodePort is `CHECKED`."""
CLIENT = 45001
"""Port of a client that keeps sending."""
SECOND = {4: "192.0.2.61", 6: "2001:db8:0:1::61"}
THIRD = {4: "192.0.2.62", 6: "2001:db8:0:1::62"}
AROUND = ["192.0.2.48/28", "2001:db8:0:1::60/124"]
"""Has both of these, and no InternalIP."""
Answers = dict[tuple[str, int, int, str], str]
"""By place, IP version, port and protocol: the name that answered, or what went wrong."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    limits = {"nodePortAddresses": ["primary"], "nodePortRange": f"{SHARED}-32767"}
    with cluster_of(nodes=1, pods=1, agent=limits) as cluster:
        # Else the kernel tells a client of no more than six refused datagrams, and then of one each second.
        settings = ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]
        cluster.lab.node(NODE).run(["sysctl", "-q", "-w", *settings], check=True)
        add(cluster, SECOND)
        for at, port in enumerate((SHARED, ALONE, KEPT)):
            local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": CHECKED} if port == KEPT else {}
            cluster.put(f"web-{port}", ["a1"], 20 + at, node_port=port, **local)
        eventually(lambda: health(cluster, NODE)[NODE, 6] == "answered")
        yield cluster


def add(cluster: Cluster, addresses: dict[int, str]) -> None:
    """To the uplink."""
    node = cluster.lab.node(NODE)
    lines = [f"{addresses[4]}/24", f"{addresses[6]}/64"]
    node.ip([f"address add {each} dev {node.uplink}{' nodad' if ':' in each else ''}" for each in lines])


def place(cluster: Cluster, name: str, version: int) -> str:
    """An address of the node."""
    if name == "gateway":
        return str(cluster.lab.node(NODE).node.gateway(version))
    return SECOND[version] if name == "second" else cluster.address(NODE, version)


def answers(cluster: Cluster, source: str, names: Collection[str]) -> Answers:
    asked = [
        (name, version, port, protocol)
        for name in names
        for version in FAMILIES
        for port in (SHARED, ALONE, KEPT)
        for protocol in map(str.lower, PROTOCOLS)
    ]
    targets = [(place(cluster, name, version), *rest) for name, version, *rest in asked]
    command = cluster.client("probe", "", 0, targets=targets, seconds=0.4)
    found = json.loads(cluster.lab.run(source, command).stdout)
    return {each: said.get("name") or said["error"] for each, said in zip(asked, found, strict=True)}


def expected(names: Collection[str], answering: str) -> Answers:
    """Where one place has the node ports, and the others don't."""
    found: Answers = {}
    for name in names:
        for version in FAMILIES:
            for protocol in map(str.lower, PROTOCOLS):
                for port in (SHARED, ALONE, KEPT):
                    other = NODE if port == SHARED else "refused"
                    found[name, version, port, protocol] = "a1" if name == answering else other
    return found


def health(cluster: Cluster, *names: str) -> dict[tuple[str, int], str]:
    """What `CHECKED` says to the outside, by place."""
    asked = [(name, version) for name in names for version in FAMILIES]
    addresses = [
        THIRD[version] if name == "third" else place(cluster, name, version) for name, version in asked
    ]
    targets = [(address, CHECKED, "tcp") for address in addresses]
    command = cluster.client("probe", "", 0, targets=targets, text="healthz")
    found = json.loads(cluster.lab.run("outside", command).stdout)
    return {
        each: said["error"]
        if "error" in said
        else "answered"
        if '"localEndpoints": 1' in said["name"]
        else "wrong"
        for each, said in zip(asked, found, strict=True)
    }


def settles(cluster: Cluster, source: str, answering: str) -> None:
    """Soon at least: of refusals there are only so many at a time for all (icmp_msgs_burst)."""
    names = [NODE, "second", *(["gateway"] if source != "outside" else [])]
    wanted = expected(names, answering)
    last: list[Answers] = []

    def met() -> bool:
        last[:] = [answers(cluster, source, names)]
        return last[0] == wanted

    try:
        eventually(met)
    except AssertionError:
        assert last[0] == wanted


def answered_by(cluster: Cluster, host: str, port: int) -> str:
    """Whose answers a client outside gets that sends from this port, as the node's own conntrack has it; "": none."""
    for line in cluster.lab.node(NODE).run(["cat", "/proc/net/nf_conntrack"], check=True).stdout.splitlines():
        ends = [str(ip_address(each)) for each in re.findall(r"(?:src|dst)=(\S+)", line)]
        if f"sport={port} " in line and ends[1] == host and not re.search(r"zone=[1-9]|UNREPLIED", line):
            return ends[2]
    return ""


def use(cluster: Cluster, *addresses: str) -> None:
    """The configuration; the agent is started again where it has another."""
    node = cluster.lab.node(NODE)
    settings = yaml.safe_load(node.private("/etc/ovsnet/agent.yaml").read_text())
    if settings["nodePortAddresses"] != list(addresses):
        reconfigure(node, nodePortAddresses=list(addresses))


@pytest.mark.parametrize("source", ["outside", "a1", NODE])
def test_a_nodes_other_addresses_are_as_if_there_were_no_service(cluster: Cluster, source: str) -> None:
    use(cluster, "primary")
    settles(cluster, source, NODE)


def test_load_balancers_are_answered_where_node_ports_are(cluster: Cluster) -> None:
    use(cluster, "primary")
    assert health(cluster, NODE, "second") == {
        (name, version): said
        for name, said in ((NODE, "answered"), ("second", "refused"))
        for version in FAMILIES
    }


def test_who_goes_on_sending_follows_a_change_of_addresses(cluster: Cluster) -> None:
    use(cluster, "primary")
    node = cluster.lab.node(NODE)
    mark = len(agent_log(node))
    clients = {place(cluster, NODE, 4): ("a1", NODE), SECOND[6]: (NODE, "a1")}
    with contextlib.ExitStack() as stack:
        going = {}
        for host in clients:
            bind = (cluster.address("outside", ip_address(host).version), CLIENT)
            options = {"protocol": "udp", "seconds": 0.5, "bind": bind}
            going[host] = stack.enter_context(cluster.going("nag", "outside", host, SHARED, **options))
        for at in range(2):
            for host, names in clients.items():
                ours = str(NODE_PORTS.of(ip_address(host).version))
                wanted = ours if names[at] == "a1" else host
                eventually(lambda: answered_by(cluster, host, CLIENT) == wanted)  # noqa: B023
            use(cluster, *AROUND)
        assert {host: tuple(each.stop()["heard"]) for host, each in going.items()} == clients
    for source in ("outside", "a1"):
        settles(cluster, source, "second")
    assert f"gets no connections from elsewhere at {AROUND[0]}" in agent_log(node)[mark:]
    add(cluster, THIRD)
    # An address that comes later is the table's at once, health checks' with the next comparison.
    eventually(lambda: node.run(["/run/ovsnet/bin/ovsnet", "audit", "--repair"]).returncode == 0)
    assert health(cluster, NODE, "second", "third") == {
        (name, version): "refused" if name == NODE else "answered"
        for name in (NODE, "second", "third")
        for version in FAMILIES
    }
