"""What an audit of 100,000 flows takes, and what it costs a pod that comes meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import statistics
import time
from collections.abc import Callable, Iterator

from bench_cni import PAUSE
from bench_lab import Plugin, plugins, running, sandboxes
from figures import Figure, figure

from ovsnet.agent.installer import Installer
from ovsnet.lab.node import DATABASE_SOCKET, Node
from ovsnet.render import Lines
from ovsnet.switch.openflow import OpenFlow, management_socket

OBJECTS, TABLES, ROUNDS = 20_000, 5, 5
"""A flow in each table for each object."""
_BRIDGE = "br-audit"
_LOOK = 0.001
"""Seconds between two looks at the loop's clock."""


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    with running(nodes=1, pods=0, agent={"reuseAfter": 0}) as lab, plugins(lab.nodes[0], 1) as (ours, _):
        node = lab.nodes[0]
        say(f"{OBJECTS * TABLES} flows")
        yield from audits(node, ours)


def audits(node: Node, ours: Plugin) -> Iterator[Figure]:
    """In turns: pods come and go on the same ovs-vswitchd with an audit under way, and without."""
    make = (
        f"ovs-vsctl add-br {_BRIDGE} -- set Bridge {_BRIDGE} datapath_type={node.datapath} fail_mode=secure"
    )
    node.run(make.split(), check=True)
    installer = Installer(OpenFlow(management_socket(f"unix:{node.root}/{DATABASE_SOCKET}", _BRIDGE)))
    asyncio.run(installer.settle({number: flows(number) for number in range(OBJECTS)}))
    taken: list[float] = []
    held: list[float] = []
    meanwhile: list[float] = []
    alone: list[float] = []
    asyncio.run(compare(installer))
    for _ in range(ROUNDS):
        seconds, most = asyncio.run(compare(installer))
        taken.append(seconds)
        held.append(most)
    for number in range(-1, ROUNDS):
        during = []
        with concurrent.futures.ThreadPoolExecutor() as pool:
            audit = pool.submit(asyncio.run, compare(installer))
            while not audit.done():
                during += cycle(ours)
            audit.result()
        without = [each for _ in during for each in cycle(ours)]
        if number >= 0:
            meanwhile += during
            alone += without
    title = f"audit of {OBJECTS * TABLES} flows"
    yield figure(title, "s", taken, limit=2.0)
    yield figure(f"{title}: how long the agent's loop is held up at most", "ms", held, limit=50.0)
    yield figure(f"CNI ADD during an {title}, p50", "ms", meanwhile, alone, "without an audit")
    more = statistics.median(meanwhile) - statistics.median(alone)
    yield figure(f"CNI ADD during an {title}, p50: more than without", "ms", [more], limit=50.0)


async def compare(installer: Installer) -> tuple[float, float]:
    """Seconds that an audit takes, and the most milliseconds for which nothing else was done in the loop."""
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(_LOOK)
            worst = max(worst, time.perf_counter() - begun - _LOOK)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    begun = time.perf_counter()
    if await installer.audit() != []:
        raise RuntimeError("flows differ that nobody changed")
    taken = time.perf_counter() - begun
    watcher.cancel()
    return taken, 1000 * worst


def cycle(ours: Plugin) -> list[float]:
    """One pod that comes and goes; milliseconds of its ADD."""
    time.sleep(PAUSE)
    names = sandboxes(ours, 1)
    taken = ours.add(names)
    ours.delete(names)
    return taken


def flows(number: int) -> Lines:
    """Like those of a peer or a pod: a match on addresses, and actions that rewrite and send."""
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return tuple(
        f"cookie={number + 1:#x},table={table},priority=100,ip,nw_dst={address} "
        f"actions=set_field:02:00:00:00:00:01->eth_dst,dec_ttl,set_field:{number % 60000}->reg2"
        for table in range(TABLES)
    )
