"""`ovsnet policy`: `show`, what NetworkPolicies allow this node's pods.

`check` is in `policycheck`, `diff` in `policydiff`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsnet.cli import options
from ovsnet.cli.policycheck import check, snapshot_of, world_of
from ovsnet.cli.policydiff import diff
from ovsnet.errors import OvsnetError

if TYPE_CHECKING:
    from ovsnet.agent.view import View
    from ovsnet.policyjudge import World
    from ovsnet.policywords import Names


@click.group()
def policy() -> None:
    """What NetworkPolicies allow, and why; docs/policy.md tells how they work."""


policy.add_command(check)
policy.add_command(diff)


@policy.command()
@options.config_option
@options.output_option
@click.argument("pod", metavar="[POD]", required=False)
def show(path: Path, output: str, pod: str | None) -> None:
    """Show which policies select a pod of this node, what each rule allows, and whom that is today.

    POD is NAME or NAMESPACE/NAME. Without it: which policies isolate each pod of this node; with -o json all of it.
    """
    from ovsnet import policies, policywords

    view = options.view_of(path)
    snapshot = snapshot_of(view)
    world = world_of(view, snapshot)
    names = policywords.Names(snapshot.pods, world.local, policies.node_addresses(snapshot.nodes))
    found = [
        _shown(key, view, world, names)
        for key in (sorted(world.local) if pod is None else [_local_pod(pod, world)])
    ]
    if output == "json":
        click.echo(json.dumps(found if pod is None else found[0], indent=2))
    elif pod is None:
        _print_pods(found)
    else:
        _print_pod(found[0])


def _shown(key: str, view: View, world: World, names: Names) -> dict[str, Any]:
    from ovsnet import policywords

    labelled = world.pods.get(key)
    return {
        "pod": key,
        "addresses": [str(each) for each in world.local[key]],
        "labels": None if labelled is None else dict(labelled.labels),
        **policywords.shown(key, view.policies, names),
    }


def _print_pod(found: dict[str, Any]) -> None:
    from ovsnet import policywords
    from ovsnet.cli import console

    out = console.console(sys.stdout)
    out.print(f"pod {found['pod']}  {' '.join(found['addresses'])}", style="bold", markup=False)
    if found["labels"] is None:
        out.print("labels are not known: every policy of its namespace isolates it", style="red")
    else:
        labels = ",".join(f"{name}={value}" for name, value in sorted(found["labels"].items()))
        out.print(f"labels: {labels or 'none'}", markup=False)
    for line in policywords.lines(found):
        out.print(line, markup=False)


def _print_pods(found: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ovsnet.cli import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("POD", "INGRESS ISOLATED BY", "EGRESS ISOLATED BY"):
        table.add_column(heading, overflow="fold")
    for each in found:
        by = (each["directions"][name]["by"] for name in ("ingress", "egress"))
        table.add_row(Text(each["pod"]), *(Text(", ".join(names) or "-") for names in by))
    console.table(console.console(sys.stdout), table)


def _local_pod(name: str, world: World) -> str:
    """The Pod's key. Raises OvsnetError."""
    found = sorted(key for key in world.local if name in (key, key.partition("/")[2]))
    if len(found) > 1:
        raise OvsnetError(f"{name} may be {' or '.join(found)}", "give NAMESPACE/NAME")
    if not found:
        known = ", ".join(sorted(world.local)) or "none"
        raise OvsnetError(
            f"there is no pod {name} on this node", f"ask on the node that runs it; here are: {known}"
        )
    return found[0]
