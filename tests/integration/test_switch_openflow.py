"""Bundles, whole replacements and the death of a real ovs-vswitchd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from meters_world import BRIDGE, take_all
from ovs_sandbox import Sandbox, sandbox

from ovsnet import names
from ovsnet.agent.drift import describe, remedy
from ovsnet.errors import MeterRefused, OvsnetError, SwitchUnavailable
from ovsnet.switch import control, monitor
from ovsnet.switch.openflow import OpenFlow, management_socket

__all__ = ["sandbox"]


@pytest.fixture
def switch(sandbox: Sandbox) -> OpenFlow:
    """A bridge that drops everything."""
    add_bridge(sandbox)
    return OpenFlow(management_socket(sandbox.remote, "br-int"))


def add_bridge(ovs: Sandbox, name: str = "br-int") -> None:
    ovs.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=dummy", "fail_mode=secure")


async def priorities(switch: OpenFlow) -> list[int]:
    lines = await switch.dump()
    return sorted(
        int(line.split("priority=")[1].split(",")[0].split()[0]) for line in lines if "priority=" in line
    )


def many(count: int) -> list[str]:
    return [f"table=1,priority=7,reg1={number},actions=set_field:{number}->reg2" for number in range(count)]


@pytest.mark.parametrize("count", [100, 25_000])
async def test_differences_are_found_among_few_and_many(switch: OpenFlow, count: int) -> None:
    """Many are asked for in parts; what is foreign, missing or altered in any of them is found."""
    wanted = [f"cookie={number:#x},{line}" for number, line in enumerate(many(count))]
    await switch.replace(wanted)
    assert await switch.differences(wanted) == []
    matches = [line.partition(",actions=")[0].partition(",")[2] for line in wanted]
    await switch.bundle(
        [
            f"flow delete_strict {matches[41]}",
            f"flow add {matches[count - 7]},actions=drop",
            "flow add cookie=0xabcdef,table=3,priority=9,actions=drop",
        ]
    )
    found = await switch.differences(wanted)
    assert sorted(re.sub("[, ]+", " ", line) for line in found) == sorted(
        [
            "+table=1 priority=7 reg1=0x29 cookie=0x29 actions=set_field:0x29->reg2",
            f"-table=1 priority=7 reg1={count - 7:#x} actions=drop",
            f"+table=1 priority=7 reg1={count - 7:#x} cookie={count - 7:#x} actions=set_field:{count - 7:#x}->reg2",
            "-table=3 priority=9 cookie=0xabcdef actions=drop",
        ]
    )


async def test_meters_are_kept_with_the_flows_that_use_them(switch: OpenFlow) -> None:
    """Made before, removed after them; found when they are foreign, missing or altered."""
    meter = "meter={} pktps burst bands=type=drop rate=10 burst_size=20"
    wanted = [
        f"cookie=0x1,{meter.format(1)}",
        "cookie=0x1,table=1,priority=7 actions=meter:1,controller(max_len=128)",
        f"cookie=0x1,{meter.format(2)}",
    ]
    await switch.replace(wanted)
    assert await switch.differences(wanted) == []
    # With a meter go its flows.
    await switch.bundle(
        [
            f"meter set {meter.format(3)}",
            f"meter set {meter.format(2).replace('rate=10', 'rate=11')}",
            "meter delete meter=1",
        ]
    )
    found = await switch.differences(wanted)
    assert sorted(found) == sorted(
        [
            "+table=1 priority=7 cookie=0x1 actions=meter:1,CONTROLLER:128",
            f"+{wanted[0]}",
            f"-{meter.format(2).replace('rate=10', 'rate=11')}",
            f"+{wanted[2]}",
            f"-{meter.format(3)}",
        ]
    )
    await switch.bundle(remedy(describe(found, {}, {})))
    assert await switch.differences(wanted) == []
    await switch.replace(["priority=1,actions=drop"])
    assert await switch.meters() == {}
    with pytest.raises(MeterRefused, match="INVALID_METER"):
        await switch.bundle([f"flow add {wanted[1]}"])


async def test_meters_that_are_all_taken_and_flows_without_theirs(switch: OpenFlow, sandbox: Sandbox) -> None:
    """max_meter says nothing of it. All that the installer goes by, to do without."""
    add_bridge(sandbox, BRIDGE)
    features = sandbox.ofctl("meter-features", sandbox.mgmt("br-int"))
    sandbox.tool(*take_all(features, str(sandbox.folder / f"{BRIDGE}.mgmt")))
    meter = "meter=1 pktps burst bands=type=drop rate=10 burst_size=10"
    metered = "cookie=0x1,table=1,priority=7 actions=meter:1,controller(max_len=128)"
    plain = "cookie=0x2,table=1,priority=8 actions=drop"
    await switch.replace([plain])
    with pytest.raises(MeterRefused, match="OFPMMFC_OUT_OF_METERS"):
        await switch.bundle([f"meter set {meter}", f"flow add {metered}"])
    with pytest.raises(MeterRefused, match="OFPMMFC_OUT_OF_METERS"):
        await switch.replace([f"cookie=0x1,{meter}", metered])
    with pytest.raises(MeterRefused, match="OFPMMFC_INVALID_METER"):
        await switch.bundle([f"flow add {metered}"])
    with pytest.raises(MeterRefused, match="OFPMMFC_INVALID_METER"):
        await switch.replace([metered])
    assert await priorities(switch) == [8]
    sandbox.vsctl("del-br", BRIDGE)
    await switch.bundle([f"meter set {meter}", f"flow add {metered}"])
    assert await priorities(switch) == [7, 8]


async def test_others_changes_of_meters_are_news(switch: OpenFlow, sandbox: Sandbox) -> None:
    heard = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(switch.wait_down(heard.set_result))
    await asyncio.sleep(0.3)
    sandbox.ofctl("add-meter", sandbox.mgmt("br-int"), "meter=5 pktps bands=type=drop rate=10")
    async with asyncio.timeout(10):
        assert await heard == monitor.MeterChange(5)
    watching.cancel()


async def test_groups_are_kept_with_the_flows_that_use_them(switch: OpenFlow) -> None:
    """Written before, deleted after them; found when they are foreign, missing or altered."""
    group = "group_id={},type=select,selection_method=dp_hash,bucket=bucket_id:0,weight:3,actions=drop"
    wanted = [
        "cookie=0x1,table=1,priority=7 actions=group:1",
        *(f"cookie=0x1,{group.format(n)}" for n in (1, 2)),
    ]
    await switch.replace(wanted)
    assert await switch.differences(wanted) == []
    await switch.bundle(
        [
            f"group add {group.format(3)}",
            f"group modify {group.format(2).replace('weight:3', 'weight:2')}",
            "group delete group_id=1",
        ]
    )
    found = await switch.differences(wanted)
    assert sorted(found) == sorted(
        [
            "+table=1 priority=7 cookie=0x1 actions=group:1",
            f"+{wanted[1]}",
            f"-{group.format(2).replace('weight:3', 'weight:2')}",
            f"+{wanted[2]}",
            f"-{group.format(3)}",
        ]
    )
    await switch.bundle(remedy(describe(found, {}, {})))
    assert await switch.differences(wanted) == []
    await switch.replace([])
    assert await switch.groups() == {}


@pytest.mark.parametrize("kind", names.UNRENDERED)
async def test_what_ends_by_itself_outlives_a_replacement_and_is_no_younger(
    switch: OpenFlow, kind: str
) -> None:
    """An agent that starts anew knows nothing of it: connections that it keeps alive, or cuts, are under way."""
    cookie = names.cookie(kind, "somebody")
    await switch.replace(["cookie=0x1,table=1,priority=7 actions=drop"])
    await switch.bundle([f"flow add cookie={cookie:#x},hard_timeout=300,table=2,priority=7,ip actions=drop"])
    await asyncio.sleep(1.1)
    await switch.replace(["cookie=0x2,table=1,priority=8 actions=drop"])
    line = (await switch.counted(kind, 2))[-1]
    assert float(re.findall(r"duration=([0-9.]+)s", line)[0]) > 1, line


async def down(switch: OpenFlow, cause: Callable[[], object]) -> float:
    """Seconds from the cause until the switch is known to be down."""
    watch = asyncio.create_task(switch.wait_down())
    await asyncio.sleep(0.3)
    assert not watch.done()
    await asyncio.to_thread(cause)
    started = time.monotonic()
    async with asyncio.timeout(10):
        await watch
    return time.monotonic() - started


async def test_news_tells_of_flows_and_of_groups(switch: OpenFlow) -> None:
    told: list[object] = []
    all_told = asyncio.Event()

    def tell(change: object) -> None:
        told.append(change)
        if len(told) == 5:
            all_told.set()

    watch = asyncio.create_task(switch.wait_down(tell))
    await asyncio.sleep(0.3)
    await switch.bundle(
        ["group add group_id=7,type=all,bucket=drop", "flow add cookie=5,table=1,actions=group:7"]
    )
    await switch.bundle(["group modify group_id=7,type=all,bucket=output:3"])
    await switch.bundle(["group delete group_id=7"])
    async with asyncio.timeout(10):
        await all_told.wait()
    await asyncio.sleep(0.1)
    watch.cancel()
    flow, group = monitor.FlowChange(1, 5), monitor.GroupChange(7)
    assert sorted(told, key=str) == [flow, flow, group, group, group]


async def test_a_bundle_adds_and_deletes(switch: OpenFlow) -> None:
    await switch.bundle(
        ["flow add table=1,priority=3,actions=drop", "flow add table=1,priority=4,actions=drop"]
    )
    await switch.bundle(["flow delete_strict table=1,priority=3", "flow add table=2,priority=5,actions=drop"])
    assert await priorities(switch) == [4, 5]


async def test_a_replacement_leaves_nothing_else_and_counters_in_place(switch: OpenFlow) -> None:
    await switch.bundle(
        ["flow add table=1,priority=3,actions=drop", "flow add table=1,priority=4,actions=drop"]
    )
    await switch.replace(["table=1,priority=4,actions=drop", "table=2,priority=6,actions=drop"])
    assert await priorities(switch) == [4, 6]
    assert any("n_packets=0" in line for line in await switch.dump())
    await switch.replace([])
    assert await priorities(switch) == []


async def test_a_syntax_error_names_the_line(switch: OpenFlow) -> None:
    lines = ["flow add table=1,priority=3,actions=drop", "flow add table=2,colour=3,actions=drop"]
    with pytest.raises(OvsnetError, match=r"unknown keyword colour.*: flow add table=2,colour=3") as refused:
        await switch.bundle(lines)
    assert not isinstance(refused.value, SwitchUnavailable)
    with pytest.raises(OvsnetError, match=r"unknown keyword colour.*: table=2,colour=3"):
        await switch.replace(["table=1,actions=drop", "table=2,colour=3,actions=drop"])
    assert await priorities(switch) == []


async def test_a_flow_that_vswitchd_refuses_is_named_and_nothing_is_installed(switch: OpenFlow) -> None:
    lines = ["flow add table=1,priority=3,actions=drop", "flow add table=1,priority=4,actions=group:77"]
    with pytest.raises(OvsnetError, match=r"OFPBAC_BAD_OUT_GROUP.*table:1 priority=4 actions=group:77"):
        await switch.bundle(lines)
    assert await priorities(switch) == []


async def test_fifty_thousand_flows_go_in_and_come_out(switch: OpenFlow) -> None:
    await switch.replace(many(50_000))
    assert len([line for line in await switch.dump() if "reg1=" in line]) == 50_000


async def test_a_switch_that_is_away_is_unavailable(sandbox: Sandbox, switch: OpenFlow) -> None:
    sandbox.vswitchd.kill()
    with pytest.raises(SwitchUnavailable, match="Connection refused"):
        await switch.bundle(["flow add actions=drop"])
    with pytest.raises(SwitchUnavailable, match="No such file"):
        await OpenFlow(f"{sandbox.folder}/br-none.mgmt").dump()


async def test_a_crash_is_noticed_at_once_and_so_is_the_return(sandbox: Sandbox, switch: OpenFlow) -> None:
    await switch.bundle(["flow add priority=3,actions=drop"])
    assert await down(switch, sandbox.vswitchd.kill) < 1.0
    up = asyncio.create_task(switch.wait_up())
    await asyncio.sleep(0.3)
    assert not up.done()
    await asyncio.to_thread(sandbox.vswitchd.start)
    async with asyncio.timeout(10):
        await up
    assert await priorities(switch) == []
    await switch.replace(["priority=4,actions=drop"])
    assert await priorities(switch) == [4]


async def test_a_bridge_that_is_made_again_is_noticed(sandbox: Sandbox, switch: OpenFlow) -> None:
    def remake() -> None:
        sandbox.vsctl("del-br", "br-int")
        add_bridge(sandbox)

    assert await down(switch, remake) < 1.0
    async with asyncio.timeout(10):
        await switch.wait_up()


async def test_the_watch_answers_probes(tmp_path: Path) -> None:
    # vswitchd probes a management connection that says nothing for a minute; this listener does at once.
    echo = struct.pack(">BBHI", 6, 2, 12, 0xABCD) + b"ping"
    heard = asyncio.get_running_loop().create_future()

    async def probe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readexactly(8)
        await reader.readexactly(8 + len(monitor.forward_requests()))
        asked = await reader.readexactly(8 + len(monitor.request()))  # for news of flows
        assert asked[1] == monitor.MULTIPART_REQUEST
        for byte in hello[:1] + b"\0\0\x08\0\0\0\1" + echo + echo:
            writer.write(bytes([byte]))
            await writer.drain()
        heard.set_result(await reader.readexactly(2 * len(echo)))
        writer.close()

    path = tmp_path / "mgmt"
    async with await asyncio.start_unix_server(probe, path), asyncio.timeout(10):
        await OpenFlow(str(path)).wait_down()
        assert await heard == 2 * (struct.pack(">BBHI", 6, 3, 12, 0xABCD) + b"ping")


async def test_a_vswitchd_that_lives_and_does_not_answer_is_unavailable(
    sandbox: Sandbox, switch: OpenFlow
) -> None:
    sandbox.vswitchd.freeze()
    try:
        with pytest.raises(SwitchUnavailable, match=r"did not answer on .* within 1 s"):
            await OpenFlow(management_socket(sandbox.remote, "br-int"), patience=1).dump()
    finally:
        sandbox.vswitchd.thaw()


async def test_a_cancelled_call_leaves_no_process(sandbox: Sandbox, switch: OpenFlow) -> None:
    sandbox.vswitchd.freeze()
    try:
        call = asyncio.create_task(switch.dump())
        await asyncio.sleep(0.5)
        assert ofctl_children()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not ofctl_children()
    finally:
        sandbox.vswitchd.thaw()


def ofctl_children() -> set[int]:
    """Processes of this one that are ovs-ofctl."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = set()
    for pid in listed:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "ovs-ofctl":
                found.add(int(pid))
    return found


async def test_commands_to_a_vswitchd_that_is_gone_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ovs-vswitchd.pid").write_text("7\n")
    with pytest.raises(SwitchUnavailable) as caught:
        await control.appctl(f"unix:{tmp_path}/db.sock", "version")
    assert caught.value.message == (
        f'version: ovs-appctl: cannot connect to "{tmp_path}/ovs-vswitchd.7.ctl" (No such file or directory); '
        "ovs-vswitchd does not answer"
    )
