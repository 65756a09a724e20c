"""`policy.logDenied`: what policies deny is in the log, with names and never more lines than allowed; and it is denied
all the same, whatever becomes of the meter, the log or ovs-vswitchd."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lab_world import SLOWER, agent_log, eventually, ovsnet_json, reconfigure
from meters_world import BRIDGE, FLOOD, take_all
from policies_world import API, DB, Policed, app, policed_cluster, port
from prometheus_client.parser import text_string_to_metric_families
from services_world import PORT, vip

from ovsnet.lab.lab import kernel_or_userspace
from ovsnet.lab.node import AGENT, VSWITCHD, Node
from ovsnet.repetitions import WINDOW

pytestmark = pytest.mark.slow
KERNEL = pytest.mark.kernel
RATE = 20
METRICS = 9479
NODE_PORT = 30077
OVSNET = "/run/ovsnet/bin/ovsnet"
ONLY_API: dict[str, Any] = {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}
DB_SAYS_NOTHING: dict[str, Any] = {"podSelector": app("db"), "egress": []}
LINE = re.compile(r" info denied: (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        for node in cluster.lab.nodes:
            reconfigure(node, policy={"logDenied": RATE}, metrics={"port": METRICS})
        for node in cluster.lab.nodes:
            node.await_agent(30 * SLOWER)
        yield cluster


def lines(node: Node) -> list[str]:
    return LINE.findall(agent_log(node))


def told(node: Node, pattern: str, since: int = 0) -> list[str]:
    return [each for each in lines(node)[since:] if re.fullmatch(pattern, each)]


def ofctl(node: Node, *arguments: str) -> str:
    return node.run(["ovs-ofctl", "-O", "OpenFlow15", *arguments], check=True).stdout


def vsctl(node: Node, *arguments: str) -> None:
    node.run(["ovs-vsctl", "--timeout=20", *arguments], check=True)


def ask(node: Node, *arguments: str) -> str:
    done = node.run([OVSNET, *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return f"{done.returncode}: {done.stdout}"


def pod(cluster: Policed, name: str, version: int, port: str = r":\d+") -> str:
    """As a line names it; port: a pattern, "" for none."""
    address = re.escape(cluster.address(name, version))
    end = f"\\[{address}\\]{port}" if version == 6 and port else f"{address}{port}"
    return f"pod shop/{name} {end}"


@pytest.mark.parametrize("version", [pytest.param(4, marks=KERNEL), 6])
def test_a_line_has_the_names_and_the_policy(cluster: Policed, version: int) -> None:
    a, b = (cluster.lab.node(f"node-{letter}") for letter in "ab")
    web = cluster.address("a-web", version)
    with cluster.policies(ONLY_API, {**ONLY_API, "ingress": []}):
        cluster.expect("a-web", (*API, *DB), API)
        cluster.probe("b-db", [(web, PORT, "tcp")])
        line = (
            f"{pod(cluster, 'b-db', version)} -> {pod(cluster, 'a-web', version, f':{PORT}')} "
            "tcp, ingress, by NetworkPolicy shop/p0, shop/p1(, and \\d+ more)?"
        )
        eventually(lambda: told(a, line))
        ping = "icmp echo request" if version == 4 else "icmp6 echo request"
        cluster.lab.exec("b-db", ["ping", "-c", "2", "-i", "0.2", "-W", "1", web])
        pinged = (
            f"{pod(cluster, 'b-db', version, '')} -> {pod(cluster, 'a-web', version, '')} "
            f"{ping}, ingress, by NetworkPolicy shop/p0, shop/p1(, and \\d+ more)?"
        )
        eventually(lambda: told(a, pinged))
        # The other node has nothing to do with these.
        assert not told(b, line)
    with cluster.policies(DB_SAYS_NOTHING):
        cluster.expect("a-api", DB, ())
        cluster.probe("b-db", [(web, PORT, "tcp")])
        line = (
            f"{pod(cluster, 'b-db', version)} -> {pod(cluster, 'a-web', version, f':{PORT}')} "
            "tcp, egress, by NetworkPolicy shop/p0(, and \\d+ more)?"
        )
        eventually(lambda: told(b, line))
        assert not told(a, line)
        # Nobody's, and a Service's on a port that it does not have.
        cluster.put("web", ["a-web"], 1)
        eventually(lambda: cluster.ask("a-free", vip(1, version), count=1)[0].get("name") == "a-web")
        nobody = "192.0.2.77" if version == 4 else "2001:db8::77"
        cluster.probe("b-db", [(nobody, PORT, "udp"), (vip(1, version), 81, "tcp")])
        source = pod(cluster, "b-db", version)
        for who in (
            f"\\[?{re.escape(nobody)}\\]?:{PORT} udp",
            f"Service \\S+/\\S+ \\S*{vip(1, version)}\\S*:81 tcp",
        ):
            line = f"{source} -> {who}, egress, by NetworkPolicy shop/p0(, and \\d+ more)?"
            eventually(lambda line=line: told(b, line))  # type: ignore[misc]


def test_a_rule_of_the_cluster_and_a_node(cluster: Policed) -> None:
    a = cluster.lab.node("node-a")
    cluster.decree(
        "lockdown",
        "Admin",
        1,
        {"kubernetes.io/metadata.name": "shop"},
        ingress=[{"action": "Deny", "name": "no pods", "from": [{"namespaces": {}}]}],
    )
    try:
        cluster.expect("a-web", (*API, *DB), ())
        line = (
            f"{pod(cluster, 'b-api', 4)} -> {pod(cluster, 'a-web', 4, f':{PORT}')} "
            r"tcp, ingress, by ClusterNetworkPolicy lockdown ingress\[0\] \(no pods\)(, and \d+ more)?"
        )
        eventually(lambda: told(a, line))
        assert (figure(a, "ovsnet_cluster_policies"), figure(a, "ovsnet_policies")) == (1, 0)
    finally:
        cluster.disallow("lockdown", "cluster")
    with cluster.policies({**ONLY_API, "ingress": []}):
        cluster.expect("a-web", ["node-b", "b-api"], ())
        line = (
            rf"node node-b \S+:\d+ -> {pod(cluster, 'a-web', 4, f':{PORT}')} "
            r"tcp, ingress, by NetworkPolicy shop/p0(, and \d+ more)?"
        )
        eventually(lambda: told(a, line))


def test_a_client_of_a_node_port_is_not_taken_for_the_node(cluster: Policed) -> None:
    """It has the gateway's address, as the node has, which no policy keeps out."""
    a = cluster.lab.node("node-a")
    cluster.put("web", ["a-web"], 2, node_port=NODE_PORT)
    asked = [(cluster.address("node-a", 4), NODE_PORT, "tcp")]
    eventually(lambda: cluster.probe("outside", asked)[0].get("name") == "a-web")
    with cluster.policies({**ONLY_API, "ingress": []}):
        cluster.expect("a-web", ["a-db"], ())
        assert cluster.probe("outside", asked)[0].get("name") is None
        line = (
            rf"a client of node-a's ports 10\.244\.1\.1:\d+ -> {pod(cluster, 'a-web', 4, f':{PORT}')} "
            r"tcp, ingress, by NetworkPolicy shop/p0(, and \d+ more)?"
        )
        eventually(lambda: told(a, line))


def test_audits_are_clean_and_commands_say_the_same_words(cluster: Policed) -> None:
    a = cluster.lab.node("node-a")
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        assert "meter:1,CONTROLLER:128" in ofctl(a, "dump-flows", "br-int", "table=48")
        assert ask(a, "audit").startswith("0: all is as it should be")
        found = ask(a, "policy", "check", "shop/b-db", "shop/a-web", "--tcp", str(PORT))
        assert found.startswith("1: ")
        assert "denied: ingress of pod shop/a-web is isolated by NetworkPolicy shop/p0" in found
        assert "the flows of this node agree: DROPPED in table verdict: denied: ingress of pod" in found
        found = ask(a, "trace", cluster.address("b-db", 4), "a-web", "--tcp", str(PORT))
        assert "DROPPED in table verdict: denied: ingress of pod shop/a-web is isolated by" in found
        cluster.lab.exec("b-db", ["ping", "-c", "5", "-i", "0.05", "-W", "1", cluster.address("a-web", 4)])
        eventually(
            lambda: re.search(
                r"pod shop/a-web +ingress +\d+ packets  by shop/p0\n", ask(a, "flows", "--drops")
            )
        )
        assert '"denied_log"' not in ask(a, "show", "-o", "json")


def test_what_is_alike_is_one_line_in_ten_seconds(cluster: Policed) -> None:
    a, web = cluster.lab.node("node-a"), cluster.address("a-web", 4)
    with cluster.policies({**ONLY_API, "ingress": []}):
        cluster.expect("a-web", ["a-db"], ())
        # Who has pinged nobody yet; and slowly enough for the meter, which all that is denied shares.
        since, address = len(lines(a)), re.escape(cluster.address("a-guest", 4))
        begun, pings = time.monotonic(), 30
        cluster.lab.exec("a-guest", ["ping", "-c", str(pings), "-i", "0.2", "-W", "1", web])
        alike = (
            f"pod other/a-guest {address} -> {pod(cluster, 'a-web', 4, '')} icmp echo request, ingress, "
            r"by NetworkPolicy shop/p0(?:, and (\d+) more)?"
        )

        def counts() -> list[int]:
            found = (re.fullmatch(alike, each) for each in lines(a)[since:])
            return [1 + int(each[1] or 0) for each in found if each]

        assert counts()[0] == 1
        # However long it took on a slow machine: none is forgotten.
        eventually(lambda: sum(counts()) == pings, 15.0)
        assert 2 <= len(counts()) <= 2 + (time.monotonic() - begun) / WINDOW, counts()


@KERNEL
def test_a_flood_is_told_of_as_often_as_allowed(cluster: Policed) -> None:
    """And none of it arrives."""
    a, seconds = cluster.lab.node("node-a"), 5.0
    with cluster.policies({**ONLY_API, "ingress": []}):
        cluster.expect("a-web", ["a-db"], ())
        time.sleep(2.0)
        since, shown, before = len(lines(a)), shown_to_the_agent(a), cluster.received("a-web")
        begun = time.monotonic()
        command = [sys.executable, "-I", "-S", "-c", FLOOD, cluster.address("a-web", 4), str(seconds), "2000"]
        sent = int(cluster.lab.exec("a-db", command).stdout)
        count, shown = len(lines(a)) - since, shown_to_the_agent(a) - shown
        passed = time.monotonic() - begun
        assert sent > 1000 * seconds / SLOWER
        assert RATE * seconds * 0.5 / SLOWER < count <= RATE * (passed + 1), (count, passed)
        # The meter kept the others from the agent: what it let through is in a line or suppressed.
        assert count <= shown <= 2 * RATE * (passed + 1), (shown, passed)
        assert cluster.received("a-web") == before
        assert figure(a, "ovsnet_denied_log_lines_total") >= count
        # What the meter dropped is counted as well. In user space a busy machine drops some before they are looked at.
        least = sent if kernel_or_userspace() == "system" else sent // 2
        who = r"pod shop/a-web +ingress +(\d+) packets"
        eventually(lambda: (found := re.search(who, ask(a, "flows", "--drops"))) and int(found[1]) >= least)
        assert ask(a, "audit").startswith("0: ")


def shown_to_the_agent(node: Node) -> float:
    """Packets, those in later lines twice."""
    return figure(node, "ovsnet_denied_log_lines_total") + figure(
        node, "ovsnet_denied_log_suppressed_packets_total"
    )


def figure(node: Node, name: str, **labels: str) -> float:
    text = node.run([sys.executable, "-I", "-S", "-c", SCRAPE, str(METRICS)], check=True).stdout
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


SCRAPE = """
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode())
"""


def knocked(cluster: Policed, node: Node) -> bool:
    """Whether a new denied connection comes to be told of."""
    since = len(lines(node))
    port = 20000 + int(time.monotonic() * 50) % 10000
    cluster.probe("b-db", [(cluster.address("a-web", 4), port, "tcp")])
    return any(f":{port} tcp, ingress" in each for each in lines(node)[since:])


def test_it_goes_on_after_vswitchd_was_killed(cluster: Policed) -> None:
    a = cluster.lab.node("node-a")
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        eventually(lambda: knocked(cluster, a))
        a.kill(VSWITCHD, signal.SIGKILL)
        a.start(VSWITCHD)
        eventually(lambda: "rate=20" in ofctl(a, "dump-meters", "br-int"), 20.0)
        eventually(lambda: knocked(cluster, a), 20.0)
        eventually(lambda: ask(a, "audit").startswith("0: "))
        cluster.expect("a-web", (*API, *DB), API)


def test_the_meter_is_put_right_and_denies_meanwhile(cluster: Policed) -> None:
    a = cluster.lab.node("node-a")
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        with cluster.watching([], [("b-db", "a-web"), ("a-db", "a-web")]):
            time.sleep(1.0)
            # With the meter go its flows.
            ofctl(a, "del-meter", "br-int", "meter=1")
            eventually(lambda: "meter 1 of node node-a deleted by someone else; restored" in agent_log(a))
            eventually(lambda: ask(a, "audit").startswith("0: "))
            ofctl(a, "mod-meter", "br-int", "meter=1 pktps bands=type=drop rate=100000")
            eventually(lambda: "meter 1 of node node-a altered by someone else; restored" in agent_log(a))
            ofctl(a, "add-meter", "br-int", "meter=7 pktps bands=type=drop rate=5")
            eventually(lambda: "meter=7" not in ofctl(a, "dump-meters", "br-int"))
        eventually(lambda: ask(a, "audit").startswith("0: "))
        eventually(lambda: knocked(cluster, a))


def test_whoever_deletes_the_meter_policies_come_into_force(cluster: Policed) -> None:
    """Their flows are refused without. It comes back at once, however often; flows that others keep changing do not."""
    a = cluster.lab.node("node-a")
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        since = len(agent_log(a))
        for number in range(8):
            eventually(lambda: "rate=20" in ofctl(a, "dump-meters", "br-int"), 5.0)
            ofctl(a, "del-meter", "br-int", "meter=1")
            cluster.allow(
                "more", podSelector=app("db"), ingress=[{"ports": [port(1000 + number)]}] * (number % 2)
            )
            cluster.lab.add_pod(
                "node-a", f"a-late{number}", namespace="shop", labels=app("db")["matchLabels"]
            )
        eventually(lambda: "rate=20" in ofctl(a, "dump-meters", "br-int"), 5.0)
        found = agent_log(a)[since:]
        eventually(lambda: ask(a, "audit").startswith("0: "))
        eventually(lambda: knocked(cluster, a))
        assert "OFPMMFC" not in found, found
        assert "left alone" not in found, found


@KERNEL
def test_a_switch_that_makes_no_meter_gets_all_flows(cluster: Policed) -> None:
    """Other bridges of its datapath have taken them all. They drop, and nothing is logged until it starts anew."""
    a = cluster.lab.node("node-a")
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        a.kill(AGENT)
        assert ask(a, "audit").startswith("0: ")
        a.kill(VSWITCHD, signal.SIGKILL)
        a.start(VSWITCHD)
        kind = f"datapath_type={a.datapath}"
        vsctl(a, "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, kind)
        a.run(
            take_all(ofctl(a, "meter-features", "br-int"), f"/run/openvswitch/{BRIDGE}.mgmt"),
            check=True,
        )
        since = len(agent_log(a))
        a.start(AGENT)
        a.await_agent(30 * SLOWER)
        assert "table=48" in (flows := ofctl(a, "dump-flows", "br-int"))
        assert "CONTROLLER" not in flows
        assert ofctl(a, "dump-meters", "br-int").count("meter=") == 0
        cluster.expect("a-web", (*API, *DB), API)
        assert ask(a, "audit").startswith("0: ")
        (said,) = re.findall(r"warning .*policy\.logDenied.*", agent_log(a)[since:])
        assert "OFPMMFC_OUT_OF_METERS" in said
        assert any("policy.logDenied" in each for each in ovsnet_json(a, "show")["agent"]["complaints"])
        assert not knocked(cluster, a)
        vsctl(a, "del-br", BRIDGE)
        a.kill(VSWITCHD, signal.SIGKILL)
        a.start(VSWITCHD)
        eventually(lambda: "rate=20" in ofctl(a, "dump-meters", "br-int"), 20.0)
        eventually(lambda: knocked(cluster, a), 20.0)
        eventually(lambda: ask(a, "audit").startswith("0: "))
        assert not any("policy.logDenied" in each for each in ovsnet_json(a, "show")["agent"]["complaints"])


def test_collectors_get_the_parts(cluster: Policed) -> None:
    b = cluster.lab.node("node-b")
    reconfigure(b, log={"format": "json"})
    b.await_agent(30 * SLOWER)
    try:
        with cluster.policies(DB_SAYS_NOTHING):
            cluster.expect("a-api", DB, ())
            entries = [json.loads(line) for line in agent_log(b).splitlines() if line.startswith("{")]
            found = next(
                each["denied"]
                for each in entries
                if "denied" in each and each["denied"]["source"] == cluster.address("b-db", 4)
            )
            assert found["sourceName"] == "pod shop/b-db"
            assert found["destinationName"] == "pod shop/a-api"
            assert (found["port"], found["direction"]) == (PORT, "egress")
            assert found["by"] == ["NetworkPolicy shop/p0"]
    finally:
        reconfigure(b, log={"format": "text"})
        b.await_agent(30 * SLOWER)


def test_switched_off_it_leaves_nothing(cluster: Policed) -> None:
    """Last: also what an agent finds of an earlier one that logged, while its store is away."""
    a = cluster.lab.node("node-a")
    with cluster.policies(ONLY_API):
        cluster.expect("a-web", (*API, *DB), API)
        assert "CONTROLLER" in ofctl(a, "dump-flows", "br-int")
        for store in ({"file": "/nowhere"}, {"file": "/etc/ovsnet/cluster"}):
            reconfigure(a, policy={"logDenied": 0}, store=store)
            a.await_agent(30 * SLOWER)
            assert "CONTROLLER" not in ofctl(a, "dump-flows", "br-int")
            assert "meter=" not in ofctl(a, "dump-meters", "br-int")
            assert ask(a, "audit").startswith("0: ")
            cluster.expect("a-web", (*API, *DB), API)
        since = len(lines(a))
        assert not knocked(cluster, a)
        assert len(lines(a)) == since
    reconfigure(a, policy={"logDenied": RATE})
    a.await_agent(30 * SLOWER)
