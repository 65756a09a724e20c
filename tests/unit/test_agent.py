"""The loop's order: what comes while it works, and what must not keep it from being ready. Its edges stand still."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock

import pytest
from msgspec.structs import replace

from ovsnet import names, resources
from ovsnet.agent import agent as agent_module
from ovsnet.agent.agent import Agent
from ovsnet.agent.deniallog import DenialLog
from ovsnet.agent.installer import Installer
from ovsnet.agent.marks import Marks
from ovsnet.agent.policing import Policing
from ovsnet.config import Config
from ovsnet.errors import HostFailure, MeterRefused, OvsnetError
from ovsnet.host.types import Uplink
from ovsnet.model import Encap, Node, Pod, Published
from ovsnet.policymodel import NetworkPolicy, Selector
from ovsnet.render import Renderer
from ovsnet.rows import BridgeRow, PortRow
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from ovsnet.store import Snapshot
from ovsnet.switch import conntrack

BRIDGE = BridgeRow(
    name="br-int",
    datapath_type="netdev",
    fail_mode="secure",
    other_config={},
    external_ids={names.KEY_POLICIES: names.NO_POLICIES},
)


def node(number: int) -> Node:
    return Node(
        name=f"n{number}",
        pod_cidrs=(ipaddress.ip_network(f"10.244.{number}.0/24"),),
        addresses=(ipaddress.ip_address(f"192.0.2.{number}"),),
    )


def service(*endpoints: int) -> dict[str, Any]:
    """What a snapshot says of one with these endpoints."""
    one = Service(
        namespace="default",
        name="web",
        cluster_ips=(ipaddress.ip_address("10.96.0.1"),),
        ports=(ServicePort(port=80),),
    )
    piece = EndpointSlice(
        namespace="default",
        name="web-1",
        service="web",
        ports=(EndpointPort(port=8080),),
        endpoints=tuple(
            Endpoint(address=ipaddress.ip_address(f"10.244.2.{each}"), node="n2") for each in endpoints
        ),
    )
    return {"services": {one.key: one}, "slices": {piece.key: piece}}


POD = Pod(
    namespace="default",
    name="web",
    container="c",
    ifname="eth0",
    netns="",
    network="ovsnet",
    port="pod-00000005",
    ofport=5,
    mac="0a:58:0a:f4:01:05",
    ips=(ipaddress.ip_address("10.244.1.5"),),
)
DENY = NetworkPolicy(namespace="default", name="deny", pods=Selector(), ingress=())


class Store:
    def __init__(self) -> None:
        self._now = Snapshot(nodes={"n1": node(1), "n2": node(2)}, problems={}, version=1)
        self._told: Callable[[], None] = lambda: None

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._told = callback

    def snapshot(self) -> Snapshot:
        return self._now

    def figures(self) -> Mapping[str, float]:
        return {}

    async def run(self) -> None:
        await asyncio.Event().wait()

    def say(self, **said: Any) -> None:
        before = {"nodes": self._now.nodes, "services": self._now.services, "slices": self._now.slices}
        self._now = Snapshot(problems={}, version=self._now.version + 1, **{**before, **said})
        self._told()


class Switch:
    path = "/nowhere"

    def __init__(self) -> None:
        self.bundles: list[list[str]] = []
        self.has_meters = True
        """Else it makes none, and refuses flows that need one."""

    async def bundle(self, lines: Iterable[str]) -> None:
        self.bundles.append(list(lines))
        self._check(self.bundles[-1])

    async def replace(self, lines: Iterable[str]) -> None:
        self._check(list(lines))

    def _check(self, lines: list[str]) -> None:
        if not self.has_meters and any("meter=" in line or "meter:" in line for line in lines):
            raise MeterRefused("OFPMMFC_OUT_OF_METERS")

    async def differences(self, lines: Iterable[str]) -> list[str]:
        list(lines)
        return []


class Database:
    """`meanwhile` happens while it takes in the next change."""

    connected = True

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.applied = 0
        self.rows: dict[str, PortRow] = {}

    def bridge(self) -> BridgeRow:
        return BRIDGE

    def ports(self) -> dict[str, PortRow]:
        return self.rows

    def subscribe(self, callback: Callable[[], None]) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait_connected(self) -> None: ...

    async def wait_ofports(self, names: object, seconds: float) -> None: ...

    async def apply(self, changes: object) -> None:
        self.applied += 1
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        await asyncio.sleep(0)


class World:
    def __init__(self) -> None:
        self.store, self.switch, self.database = Store(), Switch(), Database()
        self.host = MagicMock()
        addresses = (ipaddress.ip_address("192.0.2.1"),)
        self.host.uplink = AsyncMock(return_value=Uplink(interface="eth0", addresses=addresses, mtu=1500))
        self.host.reconcile = AsyncMock(return_value=[])
        openflow, pods, upkeep = (
            MagicMock(silent=False, flows_of=AsyncMock(return_value=[])),
            MagicMock(known=True),
            AsyncMock(),
        )
        pods.all.return_value = []
        upkeep.look.return_value = []
        upkeep.refresh = MagicMock(return_value=False)
        renderer = Renderer(resources.flows_dir(), 10)
        installer, policing = (
            Installer(self.switch),
            Policing(openflow, renderer, pods.all, Marks(cast(Any, self.database)), dict),
        )
        denial_log = DenialLog(self.switch, renderer, 10, policing, pods.all)
        installer.on_meter_refused = denial_log.give_up
        self.agent = Agent(
            Config(),
            "n1",
            store=cast(Any, self.store),
            ovsdb=cast(Any, self.database),
            openflow=openflow,
            host=self.host,
            renderer=renderer,
            installer=installer,
            wiring=MagicMock(stuck=False),
            pods=pods,
            upkeep=upkeep,
            recovery=AsyncMock(),
            policing=policing,
            denial_log=denial_log,
        )

    @property
    def peers(self) -> list[str]:
        topology = self.agent.topology
        return [peer.name for peer in topology.peers] if topology is not None else []

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def stay(*_: object) -> None:
        await asyncio.Event().wait()

    bridge = AsyncMock(datapath="netdev", watch=stay)
    bridge.ensure.return_value = False
    monkeypatch.setattr(agent_module, "Bridge", MagicMock(return_value=bridge))
    monkeypatch.setattr(agent_module, "Notices", MagicMock())
    monkeypatch.setattr("ovsnet.switch.control.renew_entries", AsyncMock())
    monkeypatch.setattr(conntrack, "ways", AsyncMock(return_value=set()))
    made = World()
    task = asyncio.create_task(made.agent.run())
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_node_that_comes_while_another_is_taken_in_becomes_a_peer_at_once(world: World) -> None:
    await world.until(lambda: world.peers == ["n2"])
    nodes = dict(world.store.snapshot().nodes)
    world.database.meanwhile = lambda: world.store.say(nodes={**nodes, "n3": node(3), "n4": node(4)})
    world.store.say(nodes={**nodes, "n3": node(3)})
    await world.until(lambda: world.peers == ["n2", "n3", "n4"])


async def test_endpoints_alone_need_no_look_at_anything_else(world: World) -> None:
    world.store.say(**service(5))
    await world.until(lambda: world.host.reconcile.await_count and world.peers == ["n2"])
    await world.until(lambda: any("10.244.2.5:8080" in line for line in installed(world)))
    looks, changes = world.host.reconcile.await_count, world.database.applied
    bundles = len(world.switch.bundles)
    world.store.say(**service(5, 6))
    await world.until(lambda: any("10.244.2.6:8080" in line for line in installed(world)))
    assert (world.host.reconcile.await_count, world.database.applied) == (looks, changes)
    assert len(world.switch.bundles) == bundles + 1


async def test_what_peers_publish_needs_no_look_at_anything_else(world: World) -> None:
    """A rollout: each agent of many publishes, and this one hears of each."""
    peers = {f"n{number}": node(number) for number in range(1, 101)}
    world.store.say(nodes=peers)
    await world.until(lambda: len(world.peers) == 99)
    await world.until(lambda: world.agent.news.programmed is world.store.snapshot())
    looks, changes = world.host.uplink.await_count, world.database.applied
    for name in list(peers)[1:]:
        peers = {**peers, name: replace(peers[name], published=Published(mtu=1300))}
        world.store.say(nodes=peers)
        await asyncio.sleep(0)
    await world.until(lambda: world.agent.news.programmed is world.store.snapshot())
    assert (world.host.uplink.await_count, world.database.applied) == (looks, changes), "no sync"
    world.store.say(nodes={**peers, "n2": replace(peers["n2"], encap=Encap.GENEVE)})
    await world.until(lambda: world.host.uplink.await_count > looks)


async def test_how_long_a_change_took_is_counted_from_its_event(world: World) -> None:
    told: list[tuple[str, float]] = []
    world.agent.news.on_programmed = lambda kind, seconds: told.append((kind, seconds))
    await world.until(lambda: world.peers == ["n2"])
    world.store.say(**service(5), heard={"EndpointSlice": time.monotonic() - 40})
    await world.until(lambda: told)
    assert any("10.244.2.5:8080" in line for line in installed(world))
    assert [(kind, seconds >= 40) for kind, seconds in told] == [("EndpointSlice", True)]


def installed(world: World) -> list[str]:
    return [line for lines in world.agent.installer.installed.values() for line in lines]


async def test_what_conntrack_can_not_forget_keeps_no_node_from_being_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "ways", AsyncMock(side_effect=OvsnetError("OFPBRC_BAD_TYPE")))
    world.store.say(**service(5))
    await world.until(lambda: world.agent.topology is not None)
    assert world.agent.trouble() is None
    assert ["OFPBRC_BAD_TYPE" in words for words in world.agent.complaints.current()] == [True]


async def test_a_node_whose_gateway_has_no_interface_is_not_ready(world: World) -> None:
    await world.until(lambda: world.agent.trouble() is None and world.agent.topology is not None)
    ids = {names.OWNER: names.ROLE_GATEWAY}
    world.database.rows = {"gone0": PortRow(name="gone0", type="internal", ofport=1, external_ids=ids)}
    world.agent.wake()
    await world.until(lambda: "there is no interface gone0" in str(world.agent.trouble()))
    await world.until(lambda: any("gone0" in words for words in world.agent.complaints.current()))


async def test_policies_come_into_force_whatever_else_is_wrong(world: World) -> None:
    await world.until(lambda: world.agent.trouble() is None)
    cast(Any, world.agent.pods).all.return_value = [POD]
    world.host.uplink.side_effect = HostFailure("the uplink is gone", "")
    world.store.say(nodes={"n1": node(1)}, policies={DENY.key: DENY})
    await world.until(lambda: any("table=47" in line and "10.244.1.5" in line for line in installed(world)))
    # It is told of when the rest was tried.
    await world.until(
        lambda: any("the uplink is gone" in words for words in world.agent.complaints.current())
    )


@pytest.mark.parametrize("when", ["when all is written", "later"])
async def test_a_switch_that_makes_no_meter_keeps_no_policy_out(world: World, when: str) -> None:
    """What policies deny is not logged then, and the agent says so once."""
    cast(Any, world.agent.pods).all.return_value = [POD]
    await world.until(lambda: any("meter=1" in line for line in installed(world)))
    world.switch.has_meters = False
    if when == "when all is written":
        world.agent.installer.invalidate()
        await world.until(lambda: not any("meter=1" in line for line in installed(world)))
    world.store.say(policies={DENY.key: DENY})
    await world.until(lambda: any("table=48" in line and "10.244.1.5" in line for line in installed(world)))
    await world.until(lambda: world.agent.trouble() is None)
    assert not any("controller" in line or "meter=" in line for line in installed(world))
    (said,) = (each for each in world.agent.complaints.current() if "OFPMMFC" in each)
    assert "set policy.logDenied to 0" in said
    # ovs-vswitchd is another one.
    world.switch.has_meters = True
    world.agent.installer.invalidate()
    await world.until(lambda: any("controller" in line for line in installed(world)))
    await world.until(lambda: not world.agent.complaints.current())
