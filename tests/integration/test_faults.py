"""What others deleted or altered on a node, and that it is put right and named."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

import pytest
from cni_world import Cni, cni, lab, launch_agent, new_container
from lab_world import (
    agent_log,
    assert_green,
    dump,
    eventually,
    fetch,
    manifest,
)

from ovsnet import names, state
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT
from ovsnet.lab.state import wait_for, write_atomically

__all__ = ["cni", "lab"]


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
NOTICED = 5.0
"""Seconds within which a change is noticed and undone, on a very busy machine; usually it is 50 to 100 ms."""
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
    port = next(pod.port for pod in state.pods(cni.rows()) if pod.title == "default/a1")
    cni.tool("ovs-vsctl", "del-port", "br-int", port)
    eventually(lambda: f"default/a1: port {port} was deleted by someone else" in agent_log(cni.node)[mark:])
    eventually(lambda: port in cni.rows())
    cni.tool("ovs-vsctl", "set", "Port", port, "external_ids:ovsnet-pod=other")
    eventually(lambda: f"default/a1: port {port} was altered by someone else" in agent_log(cni.node)[mark:])
    eventually(lambda: fetch(lab, "a1", lab.pod("b1").address(4)))
    eventually(lambda: lab.exec("a1", ["ping", "-c1", "-W2", "10.244.1.1"]).returncode == 0)
    assert "Traceback" not in agent_log(cni.node)[mark:]


def test_the_gateways_interface_that_someone_deleted_is_made_again(lab: Lab, cni: Cni) -> None:
    """ovs-vswitchd goes on with a descriptor that leads nowhere, and would never make another interface."""
    if lab.state.datapath != "netdev":
        pytest.skip("the kernel deletes no port of its own datapath")
    before, rows, flows = host_side(cni), cni.rows(), dump(cni.node)
    mac = cni.tool("cat", "/sys/class/net/ovsnet0/address")
    mark = len(agent_log(cni.node))
    cni.tool("ip", "link", "del", "ovsnet0")
    eventually(lambda: "interface ovsnet0 deleted by someone else" in agent_log(cni.node)[mark:])
    eventually(lambda: "ovsnet0" in cni.links() and host_side(cni) == before)
    eventually(lambda: cni.call("STATUS").status == 0)
    assert cni.tool("cat", "/sys/class/net/ovsnet0/address") == mac
    assert cni.rows() == rows
    assert dump(cni.node) == flows
    assert lab.exec("a1", ["ping", "-c1", "-W2", "10.244.1.1"]).returncode == 0
    assert fetch(lab, "node-a", lab.pod("b1").address(6))["name"] == "b1"
    said = agent_log(cni.node)[mark:]
    assert said.count("interface ovsnet0 deleted by someone else") == 1
    assert said.count("there is no interface ovsnet0") == 1


def test_pods_end_on_a_node_whose_object_is_gone(lab: Lab, cni: Cni) -> None:
    """DEL and GC need rows and no ranges; what is left when the object is there again goes on."""
    file, flows = manifest(lab, "node-a"), dump(cni.node)
    before = file.read_text()
    with contextlib.ExitStack() as stack:
        (gone, first), (stray, second), (kept, third) = (stack.enter_context(cni.pod()) for _ in range(3))
        cni.node.kill(AGENT)
        file.unlink()
        launch_agent(cni.node)
        try:
            eventually(lambda: "has no pod ranges" in cni.call("STATUS").words, 20)
            cni.delete(gone)
            cni.delete(gone)
            cni.delete(new_container())
            valid = [
                {"containerID": each, "ifname": name} for each, name in cni.attached() - {(stray, "eth0")}
            ]
            assert cni.call("GC", config={"cni.dev/valid-attachments": valid}).status == 0
            assert {gone, stray, kept} & {container for container, _ in cni.attached()} == {kept}
            cni.assert_nothing_leaked()
            refused = cni.call("ADD", new_container(), netns="/run/netns/" + gone)
            assert refused.code == 11
            assert "has no pod ranges" in refused.words
        finally:
            write_atomically(file, before)
        eventually(lambda: cni.call("STATUS").status == 0, 20)
        assert cni.check(kept, third.document).code == 0
        with cni.pod() as (_, new):
            assert not {*new.addresses} & {*first.addresses, *second.addresses}, "an address without its rest"
    eventually(lambda: dump(cni.node) == flows)
    assert_green(lab)


def test_a_start_tells_what_it_found_otherwise_and_nothing_else(cni: Cni) -> None:
    def restart(*damages: list[str]) -> int:
        """Where the log of it begins."""
        cni.node.kill(AGENT)
        for each in damages:
            cni.tool(*each)
        mark = len(agent_log(cni.node))
        cni.node.start(AGENT)
        return mark

    flows = dump(cni.node)
    count = sum("table=60," in line for line in flows)
    tunnel = next(name for name, row in cni.rows().items() if row.role == "tunnel")
    mark = restart(
        ["ovs-vsctl", "set", "Interface", tunnel, "options:key=78"],
        ["ovs-ofctl", "del-flows", "br-int", "table=60"],
        ["ovs-ofctl", "add-flow", "br-int", "cookie=0x77,table=60,priority=9,actions=drop"],
    )
    # What a busy machine's loop hears late is counted by nobody.
    said = re.compile(r"nobody's: (\d+) in table hop; of (node node-a|nobody)")
    eventually(lambda: said.search(agent_log(cni.node)[mark:]))
    found = said.search(agent_log(cni.node)[mark:])
    assert found is not None
    assert 0 < int(found[1]) <= count + 1
    assert dump(cni.node) == flows
    assert (
        f"ports that were missing, or not as they are to be: {tunnel} of node-b\n"
        in agent_log(cni.node)[mark:]
    )
    assert "peer" not in agent_log(cni.node)[mark:]
    mark = restart()
    time.sleep(0.7)
    assert not [word for word in ("peer", "missing", "someone") if word in agent_log(cni.node)[mark:]]


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
    words = "somebody keeps changing it: flow of an unknown owner (cookie 0x78)"

    def left_alone() -> bool:
        """Each time that it has gone it comes again."""
        if not any("cookie=0x78" in line for line in dump(cni.node)):
            cni.tool("ovs-ofctl", "add-flow", "br-int", fight)
        return words in agent_log(cni.node)[mark:]

    eventually(left_alone, 30)
    cni.tool("ovs-ofctl", "add-flow", "br-int", fight)
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


def test_a_pods_port_that_somebody_gave_another_mtu_gets_its_own_back(lab: Lab, cni: Cni) -> None:
    """The kernel drops what is larger than the far end of a pair takes."""
    with cni.pod() as (container, answer):
        port = answer.document["interfaces"][0]["name"]
        mtu = int(cni.tool("cat", f"/sys/class/net/{port}/mtu"))
        cni.tool("ip", "link", "set", port, "mtu", "1300")
        eventually(lambda: int(cni.tool("cat", f"/sys/class/net/{port}/mtu")) == mtu, NOTICED)
        told = f"port {port} was given the MTU 1300 by someone else, not {mtu}"
        eventually(lambda: told in agent_log(cni.node))
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
