"""`ovsnet audit`: nothing to tell on a sound node; what drifted while no agent was there to repair it, by name."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cni_world import Cni, cni, lab
from lab_world import agent_log, dump, eventually

from ovsnet import names, state
from ovsnet.lab.node import AGENT
from ovsnet.lab.state import Completed

__all__ = ["cni", "lab"]


def audit(cni: Cni, *options: str) -> Completed:
    return cni.node.run(["/run/ovsnet/bin/ovsnet", "audit", *options])


def found(cni: Cni) -> Any:
    return json.loads(audit(cni, "-o", "json").stdout)


@contextlib.contextmanager
def without_agent(cni: Cni) -> Iterator[None]:
    cni.node.kill(AGENT)
    try:
        yield
    finally:
        cni.node.start(AGENT)
        eventually(lambda: audit(cni).returncode == 0)


def test_a_sound_node_has_no_difference(cni: Cni) -> None:
    done = audit(cni)
    assert (done.returncode, done.stdout) == (0, "all is as it should be\n"), done.stderr
    assert found(cni) == {"flows": [], "ports": [], "host": [], "leftOut": []}


def test_what_drifted_is_told_with_its_object_and_the_lines_of_diff_flows(cni: Cni) -> None:
    pod = next(pod for pod in state.pods(cni.rows()) if pod.title == "default/a1")
    tunnel = next(name for name, row in cni.rows().items() if row.role == "tunnel")
    before = dump(cni.node)
    with without_agent(cni):
        cookie = f"cookie={names.cookie('pod', pod.key):#x}/-1"
        cni.tool("ovs-ofctl", "del-flows", "br-int", f"{cookie},table=0")
        cni.tool("ovs-ofctl", "add-flow", "br-int", "cookie=0x77,priority=1,in_port=4321,actions=drop")
        cni.tool("ovs-vsctl", "set", "Interface", tunnel, "options:key=78")
        cni.tool("ip", "route", "del", "10.244.2.0/24")
        cni.tool("ovs-ofctl", "-O", "OpenFlow15", "add-group", "br-int", "group_id=7,type=all,bucket=drop")
        cni.tool("nft", "delete", "table", "inet", "ovsnet")
        cni.tool("sysctl", "-qw", "net.ipv4.ip_forward=0")
        done = audit(cni)
        assert done.returncode == 1
        for words in (
            "flow of pod default/a1 in table classify deleted\n  +priority=100,in_port=",
            "flow of an unknown owner (cookie 0x77) in table classify added\n  -priority=1,in_port=4321",
            f"port {tunnel} of peer node-b altered by someone else\n",
            "to be done: route 10.244.2.0/24",
            "nftables table inet ovsnet is not there",
            "net.ipv4.ip_forward is 0, should be 1",
            "group 7 of an unknown owner (cookie 0x0) added\n  -group_id=7,type=all",
            "7 differences",
        ):
            assert words in done.stdout, done.stdout
        counts = {kind: len(each) for kind, each in found(cni).items()}
        assert counts == {"flows": 3, "ports": 1, "host": 3, "leftOut": 0}
        assert "the agent" in audit(cni, "--repair").stderr, "nobody there to repair"
    assert dump(cni.node) == before


def test_a_rule_of_nftables_that_was_altered_is_told_and_no_other(cni: Cni) -> None:
    with without_agent(cni):
        listed = cni.tool("nft", "-a", "list", "chain", "inet", "ovsnet", "postrouting")
        handle = next(line for line in listed.splitlines() if "leave the cluster" in line).rpartition(" ")[2]
        cni.tool("nft", "delete", "rule", "inet", "ovsnet", "postrouting", "handle", handle)
        cni.tool("nft", "add", "rule", "inet", "ovsnet", "input", "tcp", "dport", "7", "drop")
        lines = found(cni)["host"]
        assert len(lines) == 2
        assert sorted(re.sub(": .*", "", line) for line in lines) == [
            "nftables table inet ovsnet has",
            "nftables table inet ovsnet lacks",
        ]


def test_a_group_that_somebody_added_is_removed_and_named(cni: Cni) -> None:
    mark = len(agent_log(cni.node))
    cni.tool("ovs-ofctl", "-O", "OpenFlow15", "add-group", "br-int", "group_id=7,type=all,bucket=drop")
    dump_groups = ("ovs-ofctl", "-O", "OpenFlow15", "dump-groups", "br-int")
    eventually(lambda: "group_id" not in cni.tool(*dump_groups), 5)
    said = "group 7 of an unknown owner (cookie 0x0) added by someone else; removed"
    eventually(lambda: said in agent_log(cni.node)[mark:], 5)


@pytest.mark.parametrize("role", ["tunnel", "gateway"])
def test_a_port_whose_mark_was_removed_gets_it_back(cni: Cni, role: str) -> None:
    name = next(name for name, row in cni.rows().items() if row.role == role)
    before, mark = cni.rows()[name].external_ids, len(agent_log(cni.node))
    cni.tool("ovs-vsctl", "clear", "Port", name, "external_ids")
    eventually(lambda: cni.rows()[name].external_ids == before)
    who = "the node itself" if role == "gateway" else "peer node-b"
    said = f"port {name} of {who} altered by someone else; restored"
    eventually(lambda: said in agent_log(cni.node)[mark:], 5)


def test_repair_has_the_agent_look_at_once(cni: Cni) -> None:
    """The kernel tells nobody of this setting: else the agent looks once in 30 s."""
    for _ in range(3):  # the agent's own look may come in between
        cni.tool("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1")
        if (seen := audit(cni)).returncode == 1:
            break
    assert seen.returncode == 1
    done = audit(cni, "--repair")
    assert (done.returncode, done.stdout) == (0, "all is as it should be\n"), done.stderr


@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("net.ipv4.ip_forward", 0, 1),
        ("net.ipv4.conf.ovsnet0.rp_filter", 1, 2),
        ("net.ipv6.conf.all.forwarding", 0, 1),
    ],
)
def test_the_kernel_tells_of_settings_that_pods_depend_on(
    cni: Cni, setting: str, wrong: int, right: int
) -> None:
    mark = len(agent_log(cni.node))
    cni.tool("sysctl", "-qw", f"{setting}={wrong}")
    said = f"changed by someone else; {setting} set to {right}"
    eventually(lambda: said in agent_log(cni.node)[mark:], 5)
    assert cni.tool("sysctl", "-n", setting) == f"{right}\n"
