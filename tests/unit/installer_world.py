"""A switch in memory, and an installer for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from ovsnet.agent.installer import Installer
from ovsnet.errors import OvsnetError
from ovsnet.render import Lines

__all__ = ["installer", "switch"]


def flow(cookie: int, match: str = "", actions: str = "drop") -> Lines:
    return (f"cookie=0x{cookie:x},table=0,{match or f'in_port={cookie}'} actions={actions}",)


class Memory:
    """A switch that takes bundles. `gate` holds the next ones back; `trouble` is raised instead."""

    def __init__(self) -> None:
        self.flows: dict[str, str] = {}
        self.bundles: list[list[str]] = []
        self.replacements = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.trouble: BaseException | None = None
        self.refused = ""

    async def replace(self, lines: Iterable[str]) -> None:
        wanted = list(lines)
        await self._answer(wanted)
        self.replacements += 1
        self.flows = {}
        for line in wanted:
            self._add(line)

    async def bundle(self, lines: Iterable[str]) -> None:
        wanted = list(lines)
        self.bundles.append(wanted)
        await self._answer(wanted)
        for line in wanted:
            if line.startswith("flow add "):
                self._add(line.removeprefix("flow add "))
            elif line.startswith("flow "):
                cookie, _, match = line.removeprefix("flow delete_strict ").partition("/-1,")
                if self.flows.get(match, "").startswith(f"{cookie},"):
                    del self.flows[match]

    async def differences(self, lines: Iterable[str]) -> list[str]:
        wanted = set(lines)
        await self._answer([])
        return [f"-{line}" for line in self.held - wanted] + [f"+{line}" for line in wanted - self.held]

    async def _answer(self, lines: list[str]) -> None:
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        if self.refused and any(self.refused in line for line in lines):
            raise OvsnetError(f"ovs-ofctl refused the flows: {self.refused}")

    def _add(self, line: str) -> None:
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
