"""A switch in memory, and an installer for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

import pytest

from ovsnet import flowplan
from ovsnet.agent.installer import Installer
from ovsnet.errors import MeterRefused, OvsnetError

__all__ = ["installer", "switch"]


def flow(cookie: int, match: str = "", actions: str = "drop") -> tuple[str, ...]:
    return (f"cookie=0x{cookie:x},table=0,{match or f'in_port={cookie}'} actions={actions}",)


class Memory:
    """A switch that takes bundles. `gate` holds the next ones back; `trouble` is raised instead.

    Flows that send packets through a meter need it. Of `meters_made` so many more are made; `robbers` so many times
    somebody removes all before the flows are looked at.
    """

    def __init__(self) -> None:
        self.flows: dict[str, str] = {}
        self.bundles: list[list[str]] = []
        self.replacements = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.trouble: BaseException | None = None
        self.refused = ""
        self.meters: dict[int, str] = {}
        self.meters_made = 1000
        self.robbers = 0

    async def replace(self, lines: Iterable[str]) -> None:
        wanted = list(lines)
        self._make(flowplan.meter_changes(self.meters, flowplan.meters(wanted)))
        await self._answer(wanted)
        self.replacements += 1
        self.flows = {}
        for line in wanted:
            self._add(line)

    async def bundle(self, lines: Iterable[str]) -> None:
        wanted = list(lines)
        self.bundles.append(wanted)
        self._make(line for line in wanted if line.startswith("meter "))
        await self._answer(wanted)
        for line in wanted:
            if line.startswith("flow add "):
                self._add(line.removeprefix("flow add "))
            elif line.startswith("flow "):
                cookie, _, rest = line.removeprefix("flow delete_strict ").partition("/")
                _, _, match = rest.partition(",")
                if self.flows.get(match, "").startswith(f"{cookie},"):
                    del self.flows[match]

    async def differences(self, lines: Iterable[str]) -> list[str]:
        all_lines = list(lines)
        wanted, meters = set(flowplan.split(all_lines)[0]), flowplan.meters(all_lines)
        await self._answer([])
        return [
            *(f"-{line}" for line in self.held - wanted),
            *(f"+{line}" for line in wanted - self.held),
            *flowplan.group_differences(self.meters, meters),
        ]

    async def _answer(self, lines: list[str]) -> None:
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        if self.refused and any(self.refused in line for line in lines):
            raise OvsnetError(f"ovs-ofctl refused the flows: {self.refused}")
        if self.robbers:
            self.robbers -= 1
            self.lose_meters()
        needed = {int(number) for line in lines for number in re.findall(r" actions=meter:(\d+)", line)}
        if needed - self.meters.keys():
            raise MeterRefused(
                "ovs-vswitchd refuses a meter, or flows for want of one: OFPMMFC_INVALID_METER"
            )

    def _make(self, changes: Iterable[str]) -> None:
        for change in changes:
            if not self.meters_made:
                raise MeterRefused(
                    "ovs-vswitchd refuses a meter, or flows for want of one: OFPMMFC_OUT_OF_METERS"
                )
            self.meters_made -= 1
            self.meters |= flowplan.meters([change.split(" ", 2)[2]])

    def lose_meters(self) -> None:
        """Somebody deletes them, and flows with them."""
        self.meters.clear()
        self.flows = {match: line for match, line in self.flows.items() if " actions=meter:" not in line}

    def _add(self, line: str) -> None:
        if flowplan.meter_of(line) is not None:
            return
        self.flows[line.partition(" actions=")[0].partition(",")[2]] = line

    @property
    def held(self) -> set[str]:
        return set(self.flows.values())


@pytest.fixture
async def switch() -> Memory:
    return Memory()


@pytest.fixture
async def installer(switch: Memory) -> Installer:
    made = Installer(switch)
    await made.settle({1: flow(1)})
    return made


async def turn() -> None:
    """Lets every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)
