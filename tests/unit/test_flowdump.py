"""Reading what ovs-ofctl and ofproto/trace print, as Open vSwitch 3.1 prints it."""

from __future__ import annotations

import pytest

from ovsnet import flowdump
from ovsnet.flowdump import Flow, Step


@pytest.mark.parametrize(
    ("line", "flow"),
    [
        (
            " cookie=0x2ced7d1af14a7bc, duration=1.519s, table=10, n_packets=3, n_bytes=294, idle_age=0, "
            "priority=100,ip,in_port=16,vlan_tci=0x0000/0x1fff,dl_src=0a:58:0a:f4:01:02,nw_src=10.244.1.2 "
            "actions=goto_table:30",
            Flow(
                cookie=0x2CED7D1AF14A7BC,
                table=10,
                priority=100,
                packets=3,
                bytes=294,
                match="ip,in_port=16,vlan_tci=0x0000/0x1fff,dl_src=0a:58:0a:f4:01:02,nw_src=10.244.1.2",
                actions="goto_table:30",
            ),
        ),
        (
            " cookie=0x0, duration=0.1s, table=90, n_packets=0, n_bytes=0, priority=0 actions=output:NXM_NX_REG1[]",
            Flow(
                cookie=0,
                table=90,
                priority=0,
                packets=0,
                bytes=0,
                match="any",
                actions="output:NXM_NX_REG1[]",
            ),
        ),
        (
            " cookie=0x1, duration=0.1s, table=0, n_packets=0, n_bytes=0, reset_counts in_port=1 actions=drop",
            Flow(
                cookie=1,
                table=0,
                priority=32768,
                packets=0,
                bytes=0,
                match="reset_counts in_port=1",
                actions="drop",
            ),
        ),
        (
            "cookie=0x1fb5ae9a06f0e3f,table=30,priority=80,reg0=3 actions=drop",
            Flow(
                cookie=0x1FB5AE9A06F0E3F,
                table=30,
                priority=80,
                packets=0,
                bytes=0,
                match="reg0=3",
                actions="drop",
            ),
        ),
    ],
    ids=["counted", "matches all", "default priority", "as rendered"],
)
def test_a_flow(line: str, flow: Flow) -> None:
    assert flowdump.flow(line) == flow


@pytest.mark.parametrize(
    "line", ["", "OFPST_FLOW reply (OF1.4) (xid=0x2):", "ovs-ofctl: actions=what", "cookie=0x1"]
)
def test_what_is_no_flow(line: str) -> None:
    assert flowdump.flow(line) is None


THROUGH = """\
Flow: tcp,in_port=16,nw_src=10.244.1.2,nw_dst=10.244.2.3

bridge("br-int")
----------------
 0. in_port=16, priority 100, cookie 0x2f0625c21df4dbc
    set_field:0x1->reg0
    goto_table:10
10. ip,in_port=16,nw_src=10.244.1.2, priority 100, cookie 0x2f0625c21df4dbc
    goto_table:90
90. priority 0, cookie 0x1fb5ae9a06f0e3f
    output:NXM_NX_REG1[]
     -> output port is 20000
"""
NATIVE = """\
     -> output to native tunnel
     -> tunneling to 192.0.2.12 via br-phy

bridge("br-phy")
----------------
 0. priority 0
    output:7
     -> output port is 7
"""
SUMMARY = """
Final flow: tcp,reg0=0x1,reg1=0x4e20,in_port=16
Megaflow: recirc_id=0,eth,tcp,in_port=16
Datapath actions: {actions}
"""
STEPS = (
    Step(table=0, priority=100, cookie=0x2F0625C21DF4DBC),
    Step(table=10, priority=100, cookie=0x2F0625C21DF4DBC),
    Step(table=90, priority=0, cookie=0x1FB5AE9A06F0E3F),
)


@pytest.mark.parametrize("more", ["", NATIVE], ids=["kernel datapath", "user space, by the uplink's bridge"])
def test_a_trace_that_leaves_our_bridge(more: str) -> None:
    found = flowdump.trace(THROUGH + more + SUMMARY.format(actions="set(ipv4(ttl=63)),4"))
    assert found.steps == STEPS
    assert (found.output, found.answered) == (20000, False)
    assert found.datapath_actions == "set(ipv4(ttl=63)),4"


def test_an_output_that_came_to_nothing_is_a_drop() -> None:
    """As when it would go back to where it came from."""
    found = flowdump.trace(THROUGH + SUMMARY.format(actions="drop"))
    assert (found.output, found.answered) == (None, False)


def test_a_table_without_a_matching_flow() -> None:
    text = THROUGH[: THROUGH.index("90. ")] + "90. No match.\n    drop\n"
    found = flowdump.trace(text + SUMMARY.format(actions="drop"))
    assert (found.steps, found.missed, found.output) == (STEPS[:2], 90, None)
    assert flowdump.trace(THROUGH + SUMMARY.format(actions="4")).missed is None


def test_an_answer() -> None:
    text = THROUGH.replace("     -> output port is 20000\n", "    IN_PORT\n")
    found = flowdump.trace(text + SUMMARY.format(actions="set(arp(op=2)),10"))
    assert (found.output, found.answered) == (None, True)


def test_no_trace_at_all() -> None:
    found = flowdump.trace("Bad openflow flow syntax: in_port=x\n")
    assert (found.steps, found.output, found.answered, found.datapath_actions) == ((), None, False, "")


def test_what_conntrack_says_of_a_packet_that_it_translated() -> None:
    passes = (
        "ct(commit,zone=65501,nat(src=10.244.1.1:1024-32767)),recirc(0x44)",
        "ct(zone=65500,nat),recirc(0x45)",
        "set(eth()),ct(commit,zone=65501,nat(src=10.0.0.1)),ct(commit,zone=65500,nat(dst=[fd00::5]:80)),recirc(0x46)",
        "set(eth(dst=0a:58:0a:f4:01:02)),6",
    )
    text = "\n".join(f"Datapath actions: {each}" for each in passes)
    assert flowdump.states(text) == ("trk,new,snat", "trk,new", "trk,new,dnat")
    assert flowdump.states("Datapath actions: drop\n") == ()


def test_a_packet_that_a_service_sends_back_to_its_sender() -> None:
    text = (
        THROUGH.replace("     -> output port is 20000\n", "    IN_PORT\n")
        + "    nat(dst=[fd00::5]:80)\n    nat\n"
    )
    found = flowdump.trace(text + SUMMARY.format(actions="4"))
    assert (found.came, found.answered, found.translations) == (16, True, (("dst", "[fd00::5]:80"),))
