"""What policies denied, counted over flows that begin anew."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ovsnet.agent.denials import Denials, Denied
from ovsnet.errors import SwitchUnavailable
from ovsnet.policymodel import Direction

WEB, GONE, RULE = 0x0700000000000001, 0x0700000000000002, 0x0D00000000000001


def line(
    packets: int, seconds: float, *, cookie: int = WEB, priority: int = 40, ip: str = "10.244.1.5"
) -> str:
    return (
        f" cookie=0x{cookie:x}, duration={seconds}s, table=48, n_packets={packets}, n_bytes=0, idle_age=1, "
        f"priority={priority},ip,reg5=0/0x6,nw_dst={ip} actions=drop"
    )


class World:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.policies = ["default/web", "default/all"]
        self.there = {"default/web"}
        self.asked = 0
        self.now = 0.0
        self.fails = self.hangs = False
        self.denials = Denials(self, {"verdict": 48}, self.who, lambda: self.there, clock=lambda: self.now)

    async def counted(self, kind: str, table: int) -> list[str]:
        assert table == 48
        self.asked += kind == "policedpod"
        if self.fails:
            raise SwitchUnavailable("away")
        if self.hangs:
            await asyncio.Event().wait()
        return [each for each in self.lines if (f"cookie=0x{RULE:x}" in each) is (kind == "clusterrule")]

    def who(self, cookie: int, direction: Direction) -> tuple[str, Collection[str]] | None:
        if cookie == RULE:
            return "", ["ClusterNetworkPolicy lockdown ingress[0]"]
        return ("default/web", self.policies) if cookie == WEB else None

    async def read(self, *lines: str) -> dict[Denied, int]:
        self.lines = list(lines)
        self.now += 5
        await self.denials.read()
        return self.denials.sums


def denied(direction: str = "ingress", policies: str = "default/all,default/web") -> Denied:
    return Denied("default", "web", direction, policies)


async def test_counters_only_grow() -> None:
    world = World()
    assert await world.read(line(3, 10), line(2, 10, ip="10.244.1.6"), line(1, 9, priority=50)) == {
        denied(): 5,
        denied("egress"): 1,
    }
    assert (await world.read(line(7, 15), line(2, 15, ip="10.244.1.6")))[denied()] == 9
    # Another flow of the same match: its counter began anew, and has grown beyond what it was.
    assert (await world.read(line(8, 2), line(2, 20, ip="10.244.1.6")))[denied()] == 17
    assert (await world.read(line(1, 30), line(2, 25, ip="10.244.1.6")))[denied()] == 18
    assert (await world.read())[denied()] == 18


async def test_other_policies_are_another_sum() -> None:
    world = World()
    await world.read(line(3, 10))
    world.policies = ["default/web"]
    assert await world.read(line(5, 15)) == {denied(): 3, denied(policies="default/web"): 2}


async def test_a_rule_of_a_cluster_network_policy_counts_for_all_pods() -> None:
    world = World()
    rule = Denied("", "", "ingress", "ClusterNetworkPolicy lockdown ingress[0]")
    assert await world.read(line(4, 10, cookie=RULE, priority=45)) == {rule: 4}
    world.there.clear()
    assert await world.read(line(6, 15, cookie=RULE, priority=45)) == {rule: 6}


async def test_what_is_no_pods_and_whose_pod_is_gone_is_left_out() -> None:
    world = World()
    assert (
        await world.read("NXST_FLOW reply (xid=0x4):", line(3, 10, cookie=GONE), line(4, 10, priority=0))
        == {}
    )
    assert await world.read(line(3, 10)) != {}
    world.there.clear()
    assert await world.read(line(3, 15)) == {}


async def test_what_was_read_last_is_told_while_the_switch_is_away() -> None:
    world = World()
    await world.read(line(3, 10))
    world.fails = True
    assert await world.read() == {denied(): 3}
    world.fails, world.hangs = False, True
    async with asyncio.timeout(4):
        assert await world.read() == {denied(): 3}


async def test_nobody_asks_more_than_once_a_second() -> None:
    world = World()
    await world.read(line(3, 10))
    await asyncio.gather(*(world.denials.read() for _ in range(5)))
    assert world.asked == 1
