"""A node whose surroundings are at fault: what others deleted, what is taken, what is configured wrongly."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cni_world import Cni, launch_agent, path
from lab_world import (
    agent_log,
    assert_green,
    dump,
    eventually,
    fetch,
    manifest,
    reconfigure,
    running,
    tunnels,
)

from ovsnet import names, state
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT
from ovsnet.lab.spec import LabError
from ovsnet.lab.state import wait_for, write_atomically


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=2, pods=1) as lab:
        assert_green(lab)
        yield lab


@pytest.fixture
def cni(lab: Lab) -> Cni:
    return Cni(lab.node("node-a"))


def host_side(cni: Cni) -> dict[str, Any]:
    """The kernel's side of ovsnet: table, routes, gateway addresses."""
    routes = []
    for family in ("-4", "-6"):
        found = json.loads(cni.tool("ip", family, "-j", "route", "show", "dev", "ovsnet0"))
        # Link-local addresses are the kernel's own business.
        routes += sorted(
            (each["dst"], each.get("gateway", "")) for each in found if each["dst"] != "fe80::/64"
        )
    links = json.loads(cni.tool("ip", "-j", "addr", "show", "dev", "ovsnet0"))
    table = cni.tool("nft", "-s", "list", "table", "inet", "ovsnet", check=False)
    return {
        "nft": table,
        "routes": routes,
        "addresses": sorted(info["local"] for info in links[0]["addr_info"] if info["scope"] == "global"),
        "up": "UP" in links[0]["flags"],
        "mtu": links[0]["mtu"],
        "router": cni.tool("ip", "-6", "neigh", "show", "dev", "ovsnet0", "nud", "permanent"),
        "settings": cni.tool("sysctl", *SETTINGS),
    }


SETTINGS = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.ovsnet0.rp_filter")
"""Those of which the kernel tells when somebody changes them."""
NOTICED = 1.5
"""Seconds within which a change is noticed and undone, on a busy machine; usually it is 50 to 100 ms."""
DAMAGES = {
    "nft table": ["nft", "delete", "table", "inet", "ovsnet"],
    "nft rules": ["nft", "flush", "table", "inet", "ovsnet"],
    "route": ["ip", "route", "del", "10.244.2.0/24"],
    "IPv6 route": ["ip", "-6", "route", "del", "fd00:10:244:2::/64"],
    "all routes": ["ip", "route", "flush", "dev", "ovsnet0"],
    "all IPv6 routes": ["ip", "-6", "route", "flush", "dev", "ovsnet0"],
    "router": ["ip", "-6", "neigh", "flush", "dev", "ovsnet0", "nud", "permanent"],
    "forwarding": ["sysctl", "-w", "net.ipv4.ip_forward=0"],
    "IPv6 forwarding": ["sysctl", "-w", "net.ipv6.conf.all.forwarding=0"],
    "rp_filter": ["sysctl", "-w", "net.ipv4.conf.ovsnet0.rp_filter=1"],
    "address": ["ip", "addr", "del", "10.244.1.1/24", "dev", "ovsnet0"],
    "IPv6 address": ["ip", "addr", "del", "fd00:10:244:1::1/64", "dev", "ovsnet0"],
    "all addresses": ["ip", "addr", "flush", "dev", "ovsnet0"],
    "down": ["ip", "link", "set", "ovsnet0", "down"],
    "MTU": ["ip", "link", "set", "ovsnet0", "mtu", "1300"],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_hosts_side_is_repaired(lab: Lab, cni: Cni, damage: str) -> None:
    before, mark = host_side(cni), len(agent_log(cni.node))
    cni.tool(*DAMAGES[damage])
    if not wait_for(lambda: host_side(cni) == before, NOTICED, 0.05):
        assert host_side(cni) == before
    # The MTU is put right by vswitchd already.
    eventually(lambda: "changed by someone else; " in agent_log(cni.node)[mark:] or damage == "MTU")
    assert lab.exec("a1", ["ping", "-c1", "-W2", "10.244.1.1"]).returncode == 0
    for version in (4, 6):
        assert fetch(lab, "node-a", lab.pod("b1").address(version))["name"] == "b1"


def test_ports_that_someone_deleted_or_altered_are_named(lab: Lab, cni: Cni) -> None:
    mark = len(agent_log(cni.node))
    tunnel = next(name for name, row in cni.rows().items() if row.role == "tunnel")
    cni.tool("ovs-vsctl", "del-port", "br-int", tunnel)
    eventually(lambda: f"port {tunnel} of peer node-b deleted by someone else" in agent_log(cni.node)[mark:])
    cni.tool("ovs-vsctl", "set", "Interface", tunnel, "options:key=78")
    eventually(lambda: f"port {tunnel} of peer node-b altered by someone else" in agent_log(cni.node)[mark:])
    cni.tool("ovs-vsctl", "del-port", "br-int", "ovsnet0")
    eventually(lambda: "port ovsnet0 of the node itself deleted by someone" in agent_log(cni.node)[mark:])
    eventually(lambda: fetch(lab, "a1", lab.pod("b1").address(4)))
    assert lab.exec("a1", ["ping", "-c1", "-W2", "10.244.1.1"]).returncode == 0
    assert "Traceback" not in agent_log(cni.node)[mark:]


@pytest.mark.slow
def test_a_node_loses_power(lab: Lab, cni: Cni) -> None:
    """Pods and interfaces are gone, rows are not: the start removes what belongs to nobody."""
    before = cni.attached()
    released = [str(address) for address in lab.pod("a1").addresses]
    cni.node.destroy()
    lab.up()
    cni = Cni(lab.node("node-a"))
    cni.assert_nothing_leaked()
    assert cni.attached() == before
    assert [str(address) for address in lab.pod("a1").addresses] != released, "an address without its rest"
    assert_green(lab)


def test_flows_that_someone_changed_are_put_right_at_once_and_named(lab: Lab, cni: Cni) -> None:
    """What was deleted comes back, what was altered is as it was, what was added goes; each is told with its object."""
    flows, mark = dump(cni.node), len(agent_log(cni.node))
    pod = next(pod for pod in state.pods(cni.rows()) if pod.title == "default/a1")
    cookie = f"cookie={names.cookie('pod', pod.key):#x}/-1"
    cni.tool("ovs-ofctl", "del-flows", "br-int", cookie)
    eventually(lambda: dump(cni.node) == flows, NOTICED)
    cni.tool("ovs-ofctl", "mod-flows", "br-int", f"{cookie},table=10,arp,actions=drop")
    eventually(lambda: dump(cni.node) == flows, NOTICED)
    cni.tool("ovs-ofctl", "add-flow", "br-int", "cookie=0x77,priority=1,in_port=4321,actions=drop")
    eventually(lambda: dump(cni.node) == flows, NOTICED)
    eventually(lambda: agent_log(cni.node)[mark:].count("removed after") == 1)
    said = agent_log(cni.node)[mark:]
    assert "flow of pod default/a1 in table classify deleted by someone else; restored after" in said
    assert "flow of pod default/a1 in table spoof_guard altered by someone else; restored after" in said
    assert "flow of an unknown owner (cookie 0x77) in table classify added by someone else; removed" in said
    assert "Traceback" not in said
    assert lab.exec("a1", ["ping", "-c1", "-W2", "10.244.1.1"]).returncode == 0


def test_our_own_changes_are_nobodys_drift(lab: Lab, cni: Cni) -> None:
    """Pods come and go by the dozen: no comparison finds anything, and nothing is said of somebody else."""
    mark = len(agent_log(cni.node))
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(cni.pod())
    time.sleep(1.5)
    assert "someone else" not in agent_log(cni.node)[mark:]


def test_somebody_who_keeps_changing_flows_is_left_alone_after_a_while(lab: Lab, cni: Cni) -> None:
    """Politely: one clear message, and only that object's flows; the others are put right as before."""
    flows, mark = dump(cni.node), len(agent_log(cni.node))
    fight = "cookie=0x78,priority=1,in_port=4322,actions=drop"
    for _ in range(7):
        cni.tool("ovs-ofctl", "add-flow", "br-int", fight)
        time.sleep(0.4)
    words = "somebody keeps changing it: flow of an unknown owner (cookie 0x78)"
    eventually(lambda: words in agent_log(cni.node)[mark:])
    assert agent_log(cni.node)[mark:].count("cookie 0x78) in table classify added") <= 6
    assert any("cookie=0x78" in line for line in dump(cni.node))
    pod = next(pod for pod in state.pods(cni.rows()) if pod.title == "default/a1")
    cni.tool("ovs-ofctl", "del-flows", "br-int", f"cookie={names.cookie('pod', pod.key):#x}/-1")
    eventually(lambda: set(flows) <= set(dump(cni.node)), NOTICED)
    cni.tool("ovs-ofctl", "del-flows", "br-int", "cookie=0x78/-1")
    assert dump(cni.node) == flows


@pytest.mark.parametrize("running", [True, False], ids=["agent running", "agent away"])
def test_a_row_with_a_running_pods_identity_goes_and_the_pod_stays(lab: Lab, cni: Cni, running: bool) -> None:
    """As of an ADD whose transaction was carried out after the agent had given it up."""
    with cni.pod() as (container, answer):
        port = answer.document["interfaces"][0]["name"]
        ids = cni.rows()[port].external_ids
        if not running:
            cni.node.kill(AGENT)
        cni.tool(
            "ovs-vsctl", "--no-wait", "add-port", "br-int", "pod-00000000",
            "--", "set", "Port", "pod-00000000", *(f'external_ids:{key}="{value}"' for key, value in ids.items()),
        )  # fmt: skip
        if not running:
            cni.node.start(AGENT)
        eventually(lambda: "pod-00000000" not in cni.rows())
        cni.assert_nothing_leaked()
        assert cni.check(container, answer.document).code == 0
        with cni.pod() as (_, other):
            assert other.addresses != answer.addresses
    cni.assert_nothing_leaked()


def test_a_pods_port_that_somebody_set_down_comes_up(lab: Lab, cni: Cni) -> None:
    with cni.pod() as (container, answer):
        port = answer.document["interfaces"][0]["name"]
        cni.tool("ip", "link", "set", port, "down")
        eventually(lambda: f"port {port} was set down by someone else" in agent_log(cni.node), NOTICED)
        assert cni.tool("ip", "netns", "exec", container, "ping", "-c1", "-W2", "10.244.1.1")


@pytest.mark.kernel
def test_a_pods_port_that_somebody_gave_another_mtu_gets_its_own_back(lab: Lab, cni: Cni) -> None:
    """The kernel drops what is larger than the far end of a pair takes."""
    with cni.pod() as (container, answer):
        port = answer.document["interfaces"][0]["name"]
        mtu = int(cni.tool("cat", f"/sys/class/net/{port}/mtu"))
        cni.tool("ip", "link", "set", port, "mtu", "1300")
        eventually(lambda: int(cni.tool("cat", f"/sys/class/net/{port}/mtu")) == mtu, NOTICED)
        assert f"port {port} was given the MTU 1300 by someone else, not {mtu}" in agent_log(cni.node)
        ping = ["ping", "-c1", "-W2", "-Mdo", f"-s{mtu - 28}", "10.244.1.1"]
        assert cni.tool("ip", "netns", "exec", container, *ping)


@pytest.mark.slow
def test_a_pod_whose_interface_somebody_deleted_is_told(lab: Lab, cni: Cni) -> None:
    """The runtime has to make it again; until then people are told, and DEL takes all of it back."""
    with cni.pod() as (container, answer):
        port = answer.document["interfaces"][0]["name"]
        cni.tool("ip", "link", "delete", port)
        eventually(lambda: f"its interface {port} is gone; delete the pod" in agent_log(cni.node), 45)
        cni.delete(container)
    cni.assert_nothing_leaked()


# --- taken and missing ---------------------------------------------------------------------------

BIND = """
import socket, sys, time
taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
taken.bind(("::", int(sys.argv[1])))
print("bound", flush=True)
time.sleep(600)
"""


@pytest.mark.kernel
def test_the_tunnels_port_is_taken_by_another(lab: Lab, cni: Cni) -> None:
    """The kernel's datapath binds the port: OVS's error is shown. The one in user space does without it."""
    command = [*cni.becoming, sys.executable, "-ISc", BIND, "4789"]
    tunnel = next(name for name, row in cni.rows().items() if row.role == "tunnel")
    cni.node.kill(AGENT)  # so that the port is free for a moment
    cni.tool("ovs-vsctl", "del-port", "br-int", tunnel)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "bound\n"
            launch_agent(cni.node)
            eventually(lambda: "node-b" in tunnels(cni.node))
            if lab.state.datapath == "system":
                eventually(lambda: cni.rows()[tunnel].error)
                shown = cni.node.run(["/run/ovsnet/bin/ovsnet", "show"])
                assert shown.returncode == 1
                assert tunnel in shown.stdout
        finally:
            process.kill()
            process.wait()
            if lab.state.datapath == "system":
                cni.tool("ovs-vsctl", "del-port", "br-int", tunnel)
    eventually(lambda: fetch(lab, "a1", lab.pod("b1").address(4), wait=1.0), 20)


@pytest.mark.slow
def test_another_udp_port(lab: Lab) -> None:
    try:
        for node in lab.nodes:
            reconfigure(node, udpPort=8472)
        eventually(lambda: tunnels(lab.node("node-a"))["node-b"].get("dst_port") == "8472")
        assert_green(lab)
    finally:
        for node in lab.nodes:
            reconfigure(node, udpPort=4789)
    assert_green(lab)


def run_agent(cni: Cni, config: str, seconds: float = 8.0) -> tuple[int | None, str]:
    """An agent with this configuration until it ends by itself: exit code and words; None: it went on."""
    cni.tool("sh", "-c", "cat > /etc/ovsnet/other.yaml", input=config)
    command = [
        "timeout",
        "-s",
        "TERM",
        str(seconds),
        "/run/ovsnet/bin/ovsnet",
        "agent",
        "--config",
        "/etc/ovsnet/other.yaml",
    ]
    done = subprocess.run([*cni.inside, *command], capture_output=True, text=True)
    return (None if done.returncode == 124 else done.returncode), done.stdout + done.stderr


def test_a_kernel_without_openvswitch(lab: Lab, cni: Cni) -> None:
    if lab.state.datapath == "system":
        pytest.skip("this kernel has openvswitch")
    before = describe_bridge(cni)
    _, words = run_agent(cni, "nodeName: node-a\ndatapath: system\ncniSocket: /run/ovsnet/other.sock\n", 3.0)
    assert describe_bridge(cni) == before
    assert "openvswitch" in words
    assert "netdev" in words
    assert "Traceback" not in words


def test_a_second_agent_is_refused(cni: Cni) -> None:
    code, words = run_agent(cni, f"nodeName: node-a\ndatapath: {cni.node.datapath}\n")
    assert code == 1
    assert "another agent answers" in words
    assert "Traceback" not in words
    assert cni.call("STATUS").status == 0


MISTAKES = """
nodeNam: node-a
tunels: ports
encapsulation: vxlam
vni: 99999999
podCIDRs: [10.244.1.5/24, banana]
egress: {masquerad: true}
store: relative/path
mtu: 12
"""


@pytest.mark.parametrize("check", [[], ["--check-config"]], ids=["agent", "check"])
def test_every_mistake_in_the_configuration_is_told(cni: Cni, check: list[str]) -> None:
    cni.tool("sh", "-c", "cat > /etc/ovsnet/other.yaml", input=MISTAKES)
    command = ["/run/ovsnet/bin/ovsnet", "agent", *check, "--config", "/etc/ovsnet/other.yaml"]
    done = cni.node.run(command)
    assert done.returncode == 1
    for words in (
        "nodeName",
        "tunnels",
        "vxlan",
        "vni",
        "podCIDRs[0]",
        "banana",
        "masquerade",
        "store",
        "mtu",
    ):
        assert words in done.stderr, words
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "\0", "a: 1\na: 2\n", "&a [*a]", "nodeName: [\n"])
def test_a_configuration_that_is_none(cni: Cni, text: str) -> None:
    cni.tool("sh", "-c", "cat > /etc/ovsnet/other.yaml", input=text)
    done = cni.node.run(
        ["/run/ovsnet/bin/ovsnet", "agent", "--check-config", "--config", "/etc/ovsnet/other.yaml"]
    )
    assert done.returncode == 1
    assert "other.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_configuration(cni: Cni) -> None:
    done = cni.node.run(["/run/ovsnet/bin/ovsnet", "agent", "--config", "/etc/ovsnet/nowhere.yaml"])
    assert done.returncode == 1
    assert "/etc/ovsnet/nowhere.yaml" in done.stderr
    assert "--config" in done.stderr


def test_a_sound_configuration(cni: Cni) -> None:
    done = cni.node.run(["/run/ovsnet/bin/ovsnet", "agent", "--check-config"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "no mistake" in done.stdout


# --- manifests (those of peers that change are in test_peers) ------------------------------------


def test_a_peer_of_another_family_is_named_and_the_others_work(lab: Lab, cni: Cni) -> None:
    """Its ranges can't be reached from here as they are; everything else goes on."""
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-w"},
        "spec": {"podCIDRs": ["10.244.30.0/24", "10.244.31.0/24", "not-a-range"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.99"}]},
    }
    mark = len(agent_log(cni.node))
    write_atomically(manifest(lab, "node-w"), yaml.safe_dump(document))
    try:
        eventually(lambda: "node-w.yaml" in agent_log(cni.node)[mark:])
        assert "not-a-range" in agent_log(cni.node)[mark:]
        assert "node-w" not in tunnels(cni.node)
        assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
    finally:
        manifest(lab, "node-w").unlink()


def test_a_node_without_an_address_that_fits(lab: Lab, cni: Cni) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-w"},
        "spec": {"podCIDRs": ["10.244.30.0/24"]},
        "status": {"addresses": [{"type": "Hostname", "address": "node-w"}]},
    }
    mark = len(agent_log(cni.node))
    write_atomically(manifest(lab, "node-w"), yaml.safe_dump(document))
    try:
        eventually(lambda: "node-w" in agent_log(cni.node)[mark:])
        assert "node-w" not in tunnels(cni.node)
        assert fetch(lab, "a1", lab.pod("b1").address(6))["name"] == "b1"
    finally:
        manifest(lab, "node-w").unlink()


# --- a bridge of somebody else -------------------------------------------------------------------


def describe_bridge(cni: Cni) -> str:
    return cni.tool("ovs-vsctl", "list", "Bridge", "br-int") + cni.tool("ovs-vsctl", "list-ports", "br-int")


@pytest.mark.slow
def test_a_bridge_of_somebody_else_is_never_taken(lab: Lab, cni: Cni) -> None:
    """A clear error for as long as it is there, nothing on it changed; then ovsnet makes its own."""
    cni.node.kill(AGENT)
    cni.tool(
        "ovs-vsctl", "del-br", "br-int",
        "--", "add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev",
        "--", "add-port", "br-int", "theirs", "--", "set", "Interface", "theirs", "type=internal",
    )  # fmt: skip
    cni.tool("ovs-ofctl", "add-flow", "br-int", "cookie=0x99,priority=7,actions=NORMAL")
    before, flows = describe_bridge(cni), cni.tool("ovs-ofctl", "--no-stats", "dump-flows", "br-int")
    mark = len(agent_log(cni.node))
    launch_agent(cni.node)
    try:
        eventually(
            lambda: "br-int" in cni.call("STATUS").words and "not ovsnet's" in cni.call("STATUS").words
        )
        assert cni.call("STATUS").code in (50, 51)
        with cni.namespaces("c1"):
            assert cni.call("ADD", "c1", netns=path("c1")).code == 11
        time.sleep(1.5)
        assert describe_bridge(cni) == before
        assert cni.tool("ovs-ofctl", "--no-stats", "dump-flows", "br-int") == flows
        words = agent_log(cni.node)[mark:].splitlines()
        assert sum("warning agent:" in line and "not ovsnet's" in line for line in words) == 1
    finally:
        cni.tool("ovs-vsctl", "del-br", "br-int")
    assert wait_for(lambda: cni.call("STATUS").status == 0, 40)
    try:
        lab.up()
    except LabError as error:
        raise AssertionError(str(error)) from error
    cni.assert_nothing_leaked()
    assert_green(lab)
