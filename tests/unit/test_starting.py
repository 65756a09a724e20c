"""What a start tells of what it found."""

from __future__ import annotations

import ipaddress
import logging

import pytest
from msgspec.structs import replace

from ovsnet import names, plan, resources, state
from ovsnet.agent import changes
from ovsnet.agent.starting import Starting
from ovsnet.config import Config
from ovsnet.model import Node
from ovsnet.objects import Object
from ovsnet.render import Renderer, cookie_of
from ovsnet.rows import AddPort, PortRow
from ovsnet.state import Topology
from ovsnet.switch.monitor import FlowChange, GroupChange

CONFIG = Config()
RENDERER = Renderer(resources.flows_dir())
GONE = FlowChange(-1, 0)


def topology(*numbers: int) -> Topology:
    """node-1 with these peers."""
    nodes = {
        f"node-{number}": Node(
            name=f"node-{number}",
            pod_cidrs=(ipaddress.ip_network(f"10.244.{number}.0/24"),),
            addresses=(ipaddress.ip_address(f"192.0.2.{number}"),),
        )
        for number in (1, *numbers)
    }
    return state.topology(CONFIG, "node-1", nodes["node-1"].addresses, 1500, nodes)


def rows_of(topo: Topology) -> dict[str, PortRow]:
    """What OVSDB has when an agent was ready."""
    added = plan.ports(plan.desired_ports(CONFIG, topo), {}).changes
    specs = [change.spec for change in added if isinstance(change, AddPort)]
    return {
        spec.name: PortRow(
            name=spec.name,
            type=spec.type,
            options=spec.options,
            external_ids=spec.external_ids,
            ofport_request=spec.ofport_request,
            ofport=spec.ofport_request,
            mac=spec.mac,
            mtu_request=spec.mtu_request,
        )
        for spec in specs
    }


def started(rows: dict[str, PortRow], topo: Topology) -> Starting:
    starting = Starting(CONFIG, RENDERER)
    starting.look(rows, topo, plan.ports(plan.desired_ports(CONFIG, topo), rows).changes)
    return starting


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_start_from_nothing_tells_the_peers_alone(caplog: pytest.LogCaptureFixture) -> None:
    bridge = PortRow(name="br-int", external_ids={names.OWNER: names.ROLE_BRIDGE})
    starting = started({bridge.name: bridge}, topology(2))
    starting.heard(FlowChange(50, 7))
    starting.tell(1000)
    assert caplog.messages == []
    assert changes.between(starting.earlier, topology(2)) == [
        "peer node-2 added (vxlan to 192.0.2.2, 10.244.2.0/24)"
    ]


def test_a_start_that_finds_all_as_it_was_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    topo = topology(2, 3)
    starting = started(rows_of(topo), topo)
    starting.tell(1000)
    assert changes.between(starting.earlier, topo) == []
    assert caplog.messages == []


def test_peers_that_came_went_or_changed_and_another_mtu_are_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of(topology(2, 3))
    starting = started(rows, replace(topology(3, 4), mtu=1400))
    assert changes.between(starting.earlier, replace(topology(3, 4), mtu=1400)) == [
        "peer node-4 added (vxlan to 192.0.2.4, 10.244.4.0/24)",
        "peer node-2 removed",
        "MTU of pods changed from 1450 to 1400",
    ]
    assert caplog.messages == [], "what is told of anyway is not told as a port"


def test_ports_that_somebody_changed_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    topo = topology(2, 3)
    rows = rows_of(topo)
    name = state.tunnel_port(topo.peers[0], CONFIG.tunnels)
    rows[name] = replace(rows[name], options={**rows[name].options, "key": "7"})
    starting = started(rows, topo)
    starting.look({}, topo, ())
    assert caplog.messages == [f"ports that were missing, or not as they are to be: {name} of node-2"]
    assert changes.between(starting.earlier, topo) == []


def test_flows_and_groups_are_counted_by_table_and_named_by_their_objects(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topo = topology(2)
    peer = state.objects(topo, CONFIG.tunnels, {state.tunnel_port(topo.peers[0], CONFIG.tunnels): 20000}, ())[
        0
    ]
    RENDERER.state([peer])
    starting = started(rows_of(topo), topo)
    table = next(each.number for each in RENDERER.tables if each.name == "route")
    passing = names.cookie(names.AFFINITY, "default/web")
    theirs = FlowChange(table, cookie_of(peer))
    others = [FlowChange(table, 0), FlowChange(99, 0), FlowChange(table, passing), GONE]
    for change in (theirs, theirs, theirs, *others):
        starting.heard(change)
    starting.heard(GroupChange(5))
    starting.tell(1000)
    assert caplog.messages == [
        "flows or groups that were missing, not as they are to be, or nobody's: 4 in table route, 1 in table 99, "
        "1 of groups; of peer node-2, nobody"
    ]
    starting.heard(GroupChange(6))
    starting.tell(1000)
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == caplog.messages[1]


def test_of_many_flows_the_objects_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop stands meanwhile: with 10,000 Services it once stood for half a minute."""
    asked: list[None] = []

    def objects(renderer: Renderer) -> dict[int, Object]:
        asked.append(None)
        return {}

    monkeypatch.setattr(Renderer, "objects", property(objects))
    starting = started(rows_of(topology(2)), topology(2))
    for number in range(500):
        starting.heard(FlowChange(50, number))
    starting.tell(1000)
    assert len(asked) == 1


def test_a_switch_that_had_lost_its_flows_is_told_in_few_words(caplog: pytest.LogCaptureFixture) -> None:
    starting = started(rows_of(topology(2)), topology(2))
    for number in range(95):
        starting.heard(FlowChange(50, number))
    starting.tell(100)
    assert caplog.messages == [
        "nearly all of 100 flows were missing, or not as they are to be, and were written"
    ]
