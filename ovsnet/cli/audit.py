"""`ovsnet audit`: whether what is installed is what should be, with the object behind each difference.

Compares by itself what the agent compares all the time, so it works with the agent stopped. Repairs nothing: that is
the agent's, which `--repair` asks to look at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ovsnet.cli import options
from ovsnet.errors import SwitchUnavailable

if TYPE_CHECKING:
    from ovsnet.agent.drift import Drift
    from ovsnet.agent.view import View
    from ovsnet.config import Config


LEFT_OUT = (
    "flows and groups of Services",
    "flows of policies",
    "routes and rules over ovsnet0, and lines of nftables, that may be there for Services: only missing ones are told",
    "peers and addresses that changed in the store since the agent wrote them into OVSDB",
)
"""While the store can't be read."""


class Found(NamedTuple):
    """What is not as it should be: flows, rows of ports, and the kernel's side, one line each; and what nobody could
    compare."""

    flows: list[Drift]
    ports: list[str]
    host: list[str]
    left_out: list[str]

    def __bool__(self) -> bool:
        return bool(self.flows or self.ports or self.host)


@click.command()
@options.config_option
@options.output_option
@click.option("--repair", is_flag=True, help="Have the agent compare and repair at once, then look again.")
def audit(path: Path, output: str, repair: bool) -> None:
    """Compare what is installed with what should be: flows, groups, meters, ports, addresses, routes, settings,
    nftables.

    Lines are those of `ovs-ofctl diff-flows`: - is on the switch and should not be, + is missing. Exits with 1 if
    anything differs. The agent repairs by itself within a moment; what stays is a fight, or the agent is not running.
    While the store can't be read, Services and policies are left out.
    """
    view = options.view_of(path)
    if repair:
        asyncio.run(_repair(view.config))
    found = asyncio.run(_compare(view))
    if output == "json":
        flows = [
            {"subject": each.subject, "what": each.what, "lines": list(each.lines)} for each in found.flows
        ]
        rest = {"ports": found.ports, "host": found.host, "leftOut": found.left_out}
        click.echo(json.dumps({"flows": flows, **rest}, indent=2))
    else:
        _print(found)
    if found:
        sys.exit(1)


async def _compare(view: View) -> Found:
    from ovsnet import pipeline, plan, resources
    from ovsnet.agent import drift
    from ovsnet.agent.hostside import HostSide
    from ovsnet.host.nft import Ruleset
    from ovsnet.render import Renderer
    from ovsnet.switch.openflow import OpenFlow, management_socket

    topo = view.known
    renderer = Renderer(resources.flows_dir(), view.config.policy.log_denied)
    if view.bridge is not None:
        renderer.use(view.bridge.datapath_type)
    openflow = OpenFlow(management_socket(view.config.ovsdb, view.config.bridge))
    if view.config.policy.log_denied:
        # Whether the switch let the agent have its meter it says itself; else the meter does that it has left.
        left = pipeline.DENIED_METER in await openflow.meters()
        renderer.use_meters(bool(view.health.get("logsDenied")) if view.health else left)
    wanted = renderer.state(view.objects)
    lines = await openflow.differences(line for lines in wanted.values() for line in lines)
    if view.unread is not None:
        lines = [line for line in lines if not drift.is_supplied(line)]
    ports = plan.ports(plan.desired_ports(view.config, topo), view.rows)
    host = HostSide(Ruleset(resources.templates_dir()))
    return Found(
        flows=drift.describe(lines, renderer.objects, view.tables),
        ports=drift.ports(ports.changes, done=False),
        host=await host.differences(topo, view.config, view.reach if view.unread is None else None),
        left_out=[] if view.unread is None else list(LEFT_OUT),
    )


async def _repair(config: Config) -> None:
    from ovsnet.agent import view

    if await view.ask(config, "audit") is None:
        raise SwitchUnavailable(
            f"the agent at {config.cni_socket} does not answer",
            "start it, or restart it if it runs: it repairs when it starts",
        )


def _print(found: Found) -> None:
    from rich.markup import escape

    from ovsnet.cli import console as output

    console = output.console(sys.stdout)
    for drift in found.flows:
        console.print(f"[bold]{escape(str(drift))}[/]")
        for line in drift.lines:
            console.print(f"  [{'red' if line.startswith('-') else 'green'}]{escape(line)}[/]")
    for words in (*found.ports, *found.host):
        console.print(f"[bold]{escape(words)}[/]")
    count = len(found.flows) + len(found.ports) + len(found.host)
    for words in found.left_out:
        console.print(f"not compared: {escape(words)}")
    sound = "what was compared is as it should be" if found.left_out else "all is as it should be"
    console.print(f"{count} differences" if found else sound)
