"""What drifted, in words; whose change it was; and when a fight is left alone."""

from __future__ import annotations

import ipaddress

from ovsnet import names
from ovsnet.agent.drift import Drift, Echo, Patience, describe, is_supplied, ports, remedy
from ovsnet.model import Pod
from ovsnet.rows import AddPort, Change, DeletePort, PortSpec, SetPort
from ovsnet.switch.monitor import GroupChange, MeterChange

A1 = Pod(
    namespace="default",
    name="a1",
    container="c1",
    ifname="eth0",
    netns="/run/netns/a1",
    network="ovsnet",
    port="pod-00c0ffee",
    ofport=16,
    mac="0a:58:0a:f4:01:05",
    ips=(ipaddress.ip_address("10.244.1.5"),),
)
COOKIE = names.cookie("pod", A1.key)
OBJECTS, TABLES = {COOKIE: A1}, {10: "spoof_guard", 0: "classify"}
GUARD = f"table=10 priority=100,ip,in_port=16 cookie={COOKIE:#x}"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def said(*lines: str) -> list[str]:
    return [str(drift) for drift in describe(lines, OBJECTS, TABLES)]


def test_a_flow_that_is_missing_is_named_by_its_object_and_table() -> None:
    assert said(f"+{GUARD} actions=goto_table:20") == ["flow of pod default/a1 in table spoof_guard deleted"]


def test_other_actions_or_another_cookie_are_one_alteration() -> None:
    assert said(f"-{GUARD} actions=drop", f"+{GUARD} actions=goto_table:20") == [
        "flow of pod default/a1 in table spoof_guard altered"
    ]
    assert said("-table=10 priority=100,ip,in_port=16 cookie=0x7 actions=drop", f"+{GUARD} actions=drop") == [
        "flow of pod default/a1 in table spoof_guard altered"
    ]


def test_a_flow_that_nobody_wants_is_named_by_what_it_is() -> None:
    stale = names.cookie("pod", "gone")
    assert said(
        "-priority=0 actions=NORMAL",
        "-table=77 priority=1 cookie=0x9 actions=drop",
        f"-table=10 in_port=9 cookie={stale:#x} actions=drop",
    ) == [
        "flow of an unknown owner (cookie 0x0) in table classify added",
        "flow of an unknown owner (cookie 0x9) in table 77 added",
        f"flow of an unknown pod (cookie {stale:#x}) in table spoof_guard added",
    ]


def test_a_group_is_named_by_its_number_and_object() -> None:
    line = "group_id=9,type=all,bucket=bucket_id:0,actions=drop"
    assert said(f"-{line}") == ["group 9 of an unknown owner (cookie 0x0) added"]
    assert said(f"+cookie={COOKIE:#x},{line}") == ["group 9 of pod default/a1 deleted"]
    other = line.replace("drop", "output:7")
    assert said(f"-{other}", f"+cookie={COOKIE:#x},{line}") == ["group 9 of pod default/a1 altered"]


def test_what_the_switch_learned_is_no_drift_however_much() -> None:
    cookies = [names.cookie(names.AFFINITY, f"default/web{end}") for end in ("", "|TCP|192.0.2.80:80")]
    learned = [
        f"-table=37 idle_timeout=600,priority=100,tcp,reg12={number:#x},tp_dst=80 cookie={cookie:#x} actions=drop"
        for cookie in cookies
        for number in range(5000)
    ]
    assert said(*learned, f"+{GUARD} actions=goto_table:20") == [
        "flow of pod default/a1 in table spoof_guard deleted"
    ]


def test_the_remedy_deletes_with_the_cookie_and_replaces_what_was_altered() -> None:
    drifts = describe(
        [
            f"-{GUARD} actions=drop",
            f"+{GUARD} actions=goto_table:20",
            "-table=7 in_port=1 cookie=0x9 actions=drop",
            "-priority=0 actions=NORMAL",
            f"+table=20 in_port=16 cookie={COOKIE:#x} actions=drop",
        ],
        OBJECTS,
        TABLES,
    )
    assert sorted(remedy(drifts)) == sorted(
        [
            f"flow add {GUARD} actions=goto_table:20",
            f"flow add table=20 in_port=16 cookie={COOKIE:#x} actions=drop",
            "flow delete_strict table=7 in_port=1 cookie=0x9/0xfffffffffffffffe",
            "flow delete_strict priority=0",
        ]
    )
    assert [line.split()[1] for line in remedy(drifts)] == ["delete_strict"] * 2 + ["add"] * 2


def test_an_echo_is_believed_for_as_many_changes_as_were_made_and_not_for_long() -> None:
    clock = Clock()
    echo = Echo(clock)
    assert not echo.is_ours(1)
    echo.sent(["flow add cookie=0x1,table=0 actions=drop", "flow delete_strict cookie=0x1/-1,table=1"])
    echo.answered()
    assert [echo.is_ours(1), echo.is_ours(1), echo.is_ours(1), echo.is_ours(2)] == [True, True, False, False]
    echo.sent(["flow add cookie=0x1,table=0 actions=drop"])
    clock.now += 30
    echo.answered()
    clock.now += 0.8
    assert echo.is_ours(1)
    echo.sent(["flow add cookie=0x1,table=0 actions=drop"])
    echo.answered()
    clock.now += 4
    assert not echo.is_ours(1)
    echo.sent(["group modify group_id=5,type=all,bucket=drop"])
    echo.answered()
    assert [echo.is_ours(each) for each in (5, GroupChange(6), GroupChange(5), GroupChange(5))] == [
        *(False, False),
        *(True, False),
    ]
    echo.replacing()
    echo.sent(["flow add cookie=0x8,table=0 actions=drop"])
    assert [echo.is_of_all(7), echo.is_of_all(8)] == [True, False]
    echo.answered()
    assert echo.is_ours(7)
    assert echo.is_ours(7)
    clock.now += 1.5
    assert not echo.is_ours(7)
    assert not echo.is_of_all(7)


def test_a_fight_is_left_alone_longer_and_longer_and_forgotten_when_it_is_over() -> None:
    clock = Clock()
    patience = Patience(clock)
    pauses = []
    for _ in range(8):
        clock.now += 1
        if not patience.allows("x"):
            wait = patience.wait()
            assert wait is not None
            clock.now += wait
        pauses.append(patience.repaired("x"))
    assert pauses == [0, 0, 0, 0, 30, 60, 120, 240]
    assert not patience.allows("x")
    assert patience.allows("y")
    clock.now += 2000
    assert patience.allows("x")
    assert patience.wait() is None
    assert patience.repaired("x") == 0


def test_repairs_far_apart_are_no_fight() -> None:
    clock = Clock()
    patience = Patience(clock)
    for _ in range(20):
        clock.now += 61
        assert patience.repaired("x") == 0


def test_what_was_put_right_long_ago_is_forgotten() -> None:
    clock = Clock()
    patience, sizes = Patience(clock), []
    for number in range(2000):
        clock.now += 1
        assert patience.repaired(f"flow of an unknown pod (cookie {number:#x}) in table route") == 0
        sizes.append(kept(patience))
    # Those of a minute, and as many again until it looks.
    assert max(sizes) <= 2 * Patience.WINDOW + 2


def test_a_fight_is_remembered_until_its_rest_is_over_twice() -> None:
    clock = Clock()
    patience = Patience(clock)
    fights = [f"x{number}" for number in range(50)]
    pauses = {patience.repaired(each) for _ in range(5) for each in fights}
    assert pauses == {0, 30}
    clock.now += 30 + 59
    patience.repaired("other")
    assert [patience.repaired(each) for each in fights[:25]] == [60] * 25
    assert kept(patience) == 50 + 50 + 1
    # Of the others the rest has been over for longer now than twice what it was.
    clock.now += 61
    patience.repaired("other")
    assert kept(patience) == 25 + 25 + 1
    clock.now += 120
    patience.repaired("another")
    assert patience.repaired(fights[0]) == 0
    assert kept(patience) == 2


def kept(patience: Patience) -> int:
    return sum(len(value) for value in vars(patience).values() if isinstance(value, dict))


def test_ports_are_named_by_who_they_lead_to() -> None:
    def spec(name: str, role: str, peer: str = "") -> PortSpec:
        ids = {names.OWNER: role} | ({names.KEY_PEER: peer} if peer else {})
        return PortSpec(name=name, external_ids=ids)

    changes: list[Change] = [
        AddPort(spec=spec("ovsnet0", names.ROLE_GATEWAY, "node-a")),
        SetPort(spec=spec("vxl-1", names.ROLE_TUNNEL, "node-b")),
        AddPort(spec=spec("vxlan-flow", names.ROLE_TUNNEL)),
        DeletePort(name="vxl-2"),
    ]
    assert ports(changes) == [
        "port ovsnet0 of the node itself deleted by someone else; restored",
        "port vxl-1 of peer node-b altered by someone else; restored",
        "port vxlan-flow of all peers deleted by someone else; restored",
        "port vxl-2 of nobody added by someone else; removed",
    ]


def test_a_drift_reads_as_a_sentence() -> None:
    assert str(Drift(subject="flow of node node-a in table arp", what="deleted", lines=())) == (
        "flow of node node-a in table arp deleted"
    )


def test_meters_are_named_and_put_right_before_flows_that_need_them() -> None:
    mine = f"cookie={COOKIE:#x},meter=1 pktps burst bands=type=drop rate=5 burst_size=5"
    has = "meter=1 pktps bands=type=drop rate=9"
    flow = f"+{GUARD} actions=meter:1,controller(max_len=128)"
    assert said(f"+{mine}") == ["meter 1 of pod default/a1 deleted"]
    assert said(f"-{has}", f"+{mine}") == ["meter 1 of pod default/a1 altered"]
    assert said("-meter=7 pktps bands=type=drop rate=9") == ["meter 7 of an unknown owner (cookie 0x0) added"]
    found = describe([flow, f"+{mine}", "-meter=7 pktps bands=type=drop rate=9"], OBJECTS, TABLES)
    assert remedy(found) == [
        "meter set meter=1 pktps burst bands=type=drop rate=5 burst_size=5",
        f"flow add {flow[1:]}",
        "meter delete meter=7",
    ]
    assert not is_supplied(f"+{mine}")
    echo = Echo(Clock())
    echo.sent(["meter set meter=1 pktps", "meter delete meter=7"])
    assert [
        echo.is_ours(each) for each in (MeterChange(1), MeterChange(7), MeterChange(1), GroupChange(7))
    ] == [
        True,
        True,
        False,
        False,
    ]
