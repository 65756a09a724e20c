"""What a node says of itself and of peers while it derives what it should be. Its edges stand still."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterable
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from msgspec.structs import replace

from ovsnet.agent.complaints import Complaints, Lasting
from ovsnet.agent.deriving import Deriving
from ovsnet.config import Config
from ovsnet.errors import Waiting
from ovsnet.host.types import Uplink
from ovsnet.model import Node, Published
from ovsnet.store import Snapshot


def node(number: int, mtu: int | None = None) -> Node:
    return Node(
        name=f"n{number}",
        pod_cidrs=(ipaddress.ip_network(f"10.244.{number}.0/24"),),
        addresses=(ipaddress.ip_address(f"192.0.2.{number}"),),
        published=Published(mtu=mtu),
    )


def snapshot(*nodes: Node, **said: Any) -> Snapshot:
    return Snapshot(**{"nodes": {each.name: each for each in nodes}, "problems": {}, "version": 1, **said})


class World:
    """What node n1 derives."""

    def __init__(self, config: Config | None = None) -> None:
        self.looks = 0
        self.complaints = Complaints(logging.getLogger("test.deriving"))
        addresses = (ipaddress.ip_address("192.0.2.1"),)
        uplink = AsyncMock(return_value=Uplink(interface="eth0", addresses=addresses, mtu=1500))
        self.deriving = Deriving(
            config or Config(),
            "n1",
            ovsdb=MagicMock(connected=True, ports=dict),
            host=MagicMock(uplink=uplink),
            notices=MagicMock(),
            complaints=self.complaints,
            lasting=Watched(self),
        )
        self.uplink = uplink

    async def told(self) -> None:
        """Until something is."""
        async with asyncio.timeout(5):
            while not self.complaints.current():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)


class Watched(Lasting):
    """Counts the looks at differences."""

    def __init__(self, world: World) -> None:
        super().__init__(seconds=0.05)
        self._world = world

    def of(self, troubles: Iterable[str]) -> list[str]:
        self._world.looks += 1
        return super().of(troubles)


async def test_what_peers_do_otherwise_is_told_when_it_lasts() -> None:
    world = World()
    changing = snapshot(node(1), *(node(number, 1430) for number in range(2, 10)))
    topo = await world.deriving.topology(changing)
    assert (len(topo.peers), world.complaints.current()) == (8, [])
    # They follow one after the other: nobody hears of it.
    await world.deriving.topology(snapshot(node(1), *(node(number, 1450) for number in range(2, 10))))
    await world.deriving.topology(changing)
    assert world.complaints.current() == []
    await world.told()
    (many,) = world.complaints.current()
    assert many.startswith("many peers publish what node n1 does not do")
    # Which they are changes; what is said does not.
    await world.deriving.topology(snapshot(node(1), *(node(number, 1430) for number in range(3, 10))))
    assert world.complaints.current() == [many]
    await world.deriving.topology(snapshot(node(1), *(node(number, 1430) for number in range(5, 10))))
    said = world.complaints.current()
    assert [each.partition(" publishes")[0] for each in said] == [f"node n{n}" for n in range(5, 10)]
    await world.deriving.topology(snapshot(node(1), node(2, 1450)))
    assert world.complaints.current() == []


async def test_nothing_is_looked_at_again_where_nothing_differs() -> None:
    world = World()
    await world.deriving.topology(snapshot(node(1), node(2, 1450)))
    await asyncio.sleep(0.1)
    assert world.looks == 1


async def test_what_peers_publish_is_compared_without_deriving_all_else() -> None:
    world = World()
    world.deriving.compare(snapshot(node(1), node(2, 1430)))
    assert world.looks == 0, "nothing was derived yet"
    await world.deriving.topology(snapshot(node(1), node(2, 1450)))
    world.deriving.compare(snapshot(node(1), node(2, 1430)))
    assert (world.looks, world.complaints.current()) == (2, [])
    await world.told()
    (said,) = world.complaints.current()
    assert said.startswith("node n2 publishes 1430 as the MTU of its pods")
    world.deriving.compare(snapshot(node(1), node(2, 1450)))
    assert world.complaints.current() == []
    assert world.uplink.await_count == 1


BARE = {"problems": {"Node n1": "spec.podCIDRs: is missing"}, "unread_nodes": frozenset({"n1"})}


async def test_an_own_node_without_ranges_is_waited_for() -> None:
    world = World()
    with pytest.raises(
        Waiting, match=r"node n1 has no pod ranges \(the agent waits .*: spec.podCIDRs: is missing\)"
    ):
        await world.deriving.topology(snapshot(node(2), **BARE))
    assert world.complaints.current() == []
    await world.deriving.topology(snapshot(node(1), node(2)))


async def test_an_own_node_that_can_not_be_read_is_told_where_the_configuration_has_ranges() -> None:
    world = World(replace(Config(), pod_cidrs=node(1).pod_cidrs))
    await world.deriving.topology(snapshot(node(2), **BARE))
    assert world.complaints.current() == ["Node n1: spec.podCIDRs: is missing"]
    await world.deriving.topology(snapshot(node(1), node(2)))
    assert world.complaints.current() == []
