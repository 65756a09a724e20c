"""An agent's policing with an earlier agent's flows, its pods, and a switch, for tests of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, cast

from policy_rows import Rows

from ovsnet import names, resources
from ovsnet.agent.marks import Marks
from ovsnet.agent.policing import Policing
from ovsnet.errors import SwitchUnavailable
from ovsnet.model import Pod
from ovsnet.policymodel import (
    LabelledPod,
    NetworkPolicy,
    Operator,
    PolicyRule,
    Requirement,
    Selector,
)
from ovsnet.render import Lines, Renderer
from ovsnet.store import Snapshot

APP = Selector(requirements=(Requirement(key="app", operator=Operator.IN, values=frozenset({"web"})),))
WEB = LabelledPod(namespace="default", name="web", labels={"app": "web"})


class OpenFlow:
    """What an earlier agent has installed."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    async def flows_of(self, kind: str) -> list[str]:
        cookie, mask = names.cookies_of(kind)
        return [line for line in self.lines if int(line.partition(",")[0][7:], 16) & mask == cookie]


def attached(name: str, number: int) -> Pod:
    return Pod(
        namespace="default",
        name=name,
        container=f"c-{name}",
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=names.host_interface(f"{number:08x}"),
        ofport=number,
        mac="0a:58:0a:f4:01:02",
        ips=(ipaddress.ip_address(f"10.244.1.{number}"),),
    )


class World:
    def __init__(self, *lines: str, said: str | None = names.NO_POLICIES) -> None:
        """lines: flows of an earlier agent. said: what it noted on the Bridge row."""
        self.pods: list[Pod] = []
        self.rows = Rows(said)
        self.installed: dict[int, Lines] = {}
        self.policing = Policing(
            cast(Any, OpenFlow(*lines)),
            Renderer(resources.flows_dir()),
            lambda: self.pods,
            Marks(self.rows),
            lambda: self.installed,
            patience=0.05,
        )

    async def tell(
        self, *policies: NetworkPolicy, pods: Iterable[LabelledPod] = (), version: int = 1
    ) -> dict[int, Lines]:
        snapshot = Snapshot(
            nodes={},
            problems={},
            version=version,
            policies={each.key: each for each in policies},
            pods={each.key: each for each in pods},
        )
        return await self.policing.follow(snapshot, unknown=False)


def policy(selector: Selector, *rules: PolicyRule) -> NetworkPolicy:
    return NetworkPolicy(namespace="default", name="p", pods=selector, ingress=rules)


class Installer:
    """`meanwhile` happens while it adds what is added once."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.served: list[dict[int, Lines]] = []
        self.ended: list[int] = []
        self.fails = False

    async def once(self, lines: Iterable[str]) -> None:
        self.meanwhile()
        if self.fails:
            raise SwitchUnavailable("away")

    async def end(self, cookies: Iterable[int]) -> None:
        if self.fails:
            raise SwitchUnavailable("away")
        self.ended += cookies

    async def serve(self, changed: dict[int, Lines]) -> None:
        self.served.append(dict(changed))


def doubted(world: World) -> set[str]:
    """Addresses that older connections are looked for of."""
    lines = [line for lines in world.policing.older.flows.values() for line in lines]
    assert all("hard_timeout=300" in line for line in lines)
    found = {field for line in lines for part in line.split() for field in part.split(",")}
    return {field.partition("=")[2] for field in found if field.startswith("nw_src=")}
