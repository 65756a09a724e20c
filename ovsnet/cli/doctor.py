"""`ovsnet doctor`: what is wrong on this node, one line for each check, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovsnet.cli import options

if TYPE_CHECKING:
    from ovsnet.doctor.finding import Finding

_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@click.command()
@options.config_option
@options.output_option
@click.option(
    "--peer", "peers", metavar="NODE", multiple=True, help="Look at this peer only; may be repeated."
)
def doctor(path: Path, output: str, peers: tuple[str, ...]) -> None:
    """Check everything on this node that commonly breaks.

    Each line is ok, warning or fault, with what was seen, and what to do. Works with the agent and Open vSwitch
    stopped, changes nothing, and takes less than 10 seconds. Sends pings of full size and TCP SYNs to the peers,
    and asks on the uplink whether anyone else has this node's address. Exits with 1 when there is a fault.
    """
    from ovsnet.doctor.examine import examine

    name, findings = asyncio.run(examine(path, peers))
    counts = Counter(finding.level.value for finding in findings)
    if output == "json":
        click.echo(json.dumps(_plain(name, findings, counts), indent=2))
    else:
        _print(name, findings, counts)
    raise SystemExit(1 if counts["fault"] else 0)


def _plain(name: str, findings: list[Finding], counts: Counter[str]) -> dict[str, object]:
    return {
        "node": name,
        "faults": counts["fault"],
        "warnings": counts["warning"],
        "findings": [
            {"level": each.level.value, "title": each.title, "seen": each.seen, "todo": each.todo}
            for each in findings
        ],
    }


def _print(name: str, findings: list[Finding], counts: Counter[str]) -> None:
    from rich.text import Text

    from ovsnet.cli import console as output

    console = output.console(sys.stdout)
    wide = max((len(finding.title) for finding in findings), default=0)
    for finding in findings:
        level = finding.level.value
        line = Text.assemble((f"{level:<7}", _STYLES[level]), f"  {finding.title:<{wide}}  {finding.seen}")
        console.print(line)
        if finding.todo:
            console.print(Text(f"{'':<7}  {'':<{wide}}  -> {finding.todo}"))
    console.print(f"{name}: {_count(counts['fault'], 'fault')}, {_count(counts['warning'], 'warning')}")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
