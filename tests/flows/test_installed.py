"""A real switch takes everything that is rendered, and holds it exactly once."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from flow_world import A1, A2, NODE, PEERS, RENDERER, STATE, WITH_SERVICES, Bridge, lines_of, make_bridge, pod
from msgspec.structs import replace
from ovs_sandbox import Sandbox

from ovsnet import flowplan
from ovsnet.objects import Object
from ovsnet.render import cookie_of


def differences(bridge: Bridge, objects: tuple[Object, ...]) -> str:
    """What `ovs-ofctl diff-flows` finds between the switch and what is rendered, in the switch's normal form."""
    path = bridge.ovs.folder / "wanted.txt"
    path.write_text("\n".join(lines_of(objects)) + "\n")
    try:
        return bridge.ovs.ofctl("diff-flows", bridge.ovs.mgmt(bridge.name), str(path))
    except RuntimeError as error:
        return f"they differ: {error}"


def test_the_switch_holds_what_was_rendered(bridge: Bridge) -> None:
    assert differences(bridge, STATE) == ""


def test_the_switch_holds_flows_and_groups_of_services_as_rendered(serving: Bridge) -> None:
    """Also as text: of many flows and of all groups the agent compares what ovs-ofctl prints."""
    flows, groups = flowplan.split(lines_of(WITH_SERVICES))
    ofctl, target = serving.ovs.ofctl, serving.ovs.mgmt(serving.name)
    for name, text in (
        ("wanted", "\n".join(flows)),
        ("dumped", ofctl("--no-names", "--no-stats", "dump-flows", target)),
    ):
        (serving.ovs.folder / name).write_text(text + "\n")
    assert ofctl("diff-flows", target, str(serving.ovs.folder / "wanted")) == ""
    assert ofctl("diff-flows", str(serving.ovs.folder / "dumped"), str(serving.ovs.folder / "wanted")) == ""
    dumped = map(str.strip, ofctl("dump-groups", target).splitlines())
    installed = flowplan.split(line for line in dumped if line.startswith("group_id="))[1]
    assert flowplan.group_differences(installed, groups) == []
    assert len(serving.dump()) == len(flows)


def test_every_flow_is_present_exactly_once(bridge: Bridge) -> None:
    lines = lines_of(STATE)
    assert len({flowplan.match_of(line).partition(",")[2] for line in lines}) == len(lines)
    assert len(bridge.dump()) == len(lines)


def test_no_flow_of_a_pod_with_many_addresses_stands_twice() -> None:
    ips = [*A1.ips, *(ipaddress.ip_address(text) for text in ("10.244.1.77", "fd00:1::77", "fd00:1::78"))]
    lines = RENDERER.object(replace(A1, ips=tuple(ips)))
    assert len({flowplan.match_of(line) for line in lines}) == len(lines)


@pytest.mark.parametrize("obj", STATE, ids=lambda obj: str(obj.title))
def test_a_cookie_leads_to_its_object(bridge: Bridge, obj: Object) -> None:
    mine = [flow for flow in bridge.dump() if flow.cookie == cookie_of(obj)]
    assert len(mine) == len(RENDERER.object(obj))


def test_a_planned_bundle_ends_in_the_wanted_state(ovs: Sandbox) -> None:
    """By difference from one state to another: a pod gone, another with its address, a peer gone."""
    bridge = make_bridge(ovs, "br-plan", ())
    bridge.install((NODE, A1, A2))
    heir = pod("heir", 3, 21)
    after: tuple[Object, ...] = (NODE, A1, heir, *PEERS[2:])
    bundle = flowplan.bundle(RENDERER.state((NODE, A1, A2)), RENDERER.state(after))
    ovs.ofctl("bundle", ovs.mgmt("br-plan"), "-", stdin="\n".join(bundle) + "\n")
    assert differences(bridge, after) == ""
    assert len(bridge.dump()) == len(lines_of(after))


def ticks(ovs: Sandbox) -> int:
    """What ovs-vswitchd has used of the processor, as proc(5) counts: in hundredths of a second."""
    fields = Path(f"/proc/{ovs.vswitchd.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_many_flows_of_one_object_go_as_easily_as_they_came(ovs: Sandbox) -> None:
    """When a deletion gave the whole cookie ovs-vswitchd went through all of them: twenty times as much."""
    bridge = make_bridge(ovs, "br-many", ())
    state = {
        1: tuple(
            f"cookie=0x1,table=39,ip,nw_dst=0.0.{at >> 8}.{at & 255} actions=drop" for at in range(10_000)
        )
    }
    spent = []
    for before, after in (({}, state), (state, {})):
        begun = ticks(ovs)
        bundle = flowplan.bundle(before, after)
        ovs.ofctl("bundle", ovs.mgmt(bridge.name), "-", stdin="\n".join(bundle) + "\n")
        spent.append(ticks(ovs) - begun)
    assert bridge.dump() == []
    assert spent[1] < 5 * spent[0] + 10, spent
    ovs.vsctl("del-br", bridge.name)
