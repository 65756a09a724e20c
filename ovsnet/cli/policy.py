"""`ovsnet policy`: `show`, what policies allow pods; `check` is in `policycheck`, `diff` in `policydiff`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsnet.cli import options
from ovsnet.cli.policycheck import check, problems_of, snapshot_of, world_of
from ovsnet.cli.policydiff import diff
from ovsnet.errors import OvsnetError

if TYPE_CHECKING:
    from ovsnet.agent.view import View
    from ovsnet.policyjudge import End, World
    from ovsnet.policywords import Names


@click.group()
def policy() -> None:
    """What NetworkPolicies and ClusterNetworkPolicies allow, and why; docs/policy.md tells how they work."""


policy.add_command(check)
policy.add_command(diff)


@policy.command()
@options.config_option
@options.output_option
@click.argument("pod", metavar="[POD]", required=False)
def show(path: Path, output: str, pod: str | None) -> None:
    """Show which policies select a pod, what each rule allows, and whom that is today.

    POD is NAME or NAMESPACE/NAME, of any node. Without it: which policies isolate each pod of this node; with -o json
    all of it.
    """
    from ovsnet import policies, policyjudge, policywords

    view = options.view_of(path)
    snapshot = snapshot_of(view)
    world = world_of(view, snapshot)
    names = policywords.Names(snapshot.pods, world.local, policies.node_addresses(snapshot.nodes))
    ends = [policyjudge.end(key, world) for key in (sorted(world.local) if pod is None else [pod])]
    found = [_shown(each, view, world, names) for each in ends]
    if output == "json":
        click.echo(json.dumps(found if pod is None else found[0], indent=2))
    elif pod is None:
        _print_pods(found)
    else:
        _print_pod(found[0])


def _shown(end: End, view: View, world: World, names: Names) -> dict[str, Any]:
    """Raises OvsnetError for what is no pod that policies can select."""
    from ovsnet import policywords

    if not end.pod:
        raise OvsnetError(
            f"{end.title}: no policy can select it", "ask about a pod that has a network of its own"
        )
    labelled = world.pods.get(end.pod)
    shown = policywords.shown(end.pod, view.policies, names)
    rules = [each for one in shown["directions"].values() for each in (*one["admin"], *one["baseline"])]
    return {
        "pod": end.pod,
        "node": end.node,
        "addresses": [str(each) for each in world.local.get(end.pod) or end.ips],
        "labels": None if labelled is None else dict(labelled.labels),
        **shown,
        "problems": problems_of(view, shown["policies"], {each["rule"].partition(" ")[0] for each in rules}),
    }


def _print_pod(found: dict[str, Any]) -> None:
    from ovsnet import policywords
    from ovsnet.cli import console

    out = console.console(sys.stdout)
    node = f"  on node {found['node']}" if found["node"] else ""
    out.print(f"pod {found['pod']}  {' '.join(found['addresses'])}{node}", style="bold", markup=False)
    if found["labels"] is None:
        out.print("labels are not known: every policy of its namespace isolates it", style="red")
    else:
        labels = ",".join(f"{name}={value}" for name, value in sorted(found["labels"].items()))
        out.print(f"labels: {labels or 'none'}", markup=False)
    for line in policywords.lines(found):
        out.print(line, markup=False)
    for line in found["problems"]:
        out.print(f"problem: {line}", style="red", markup=False)


def _print_pods(found: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ovsnet.cli import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("POD", "INGRESS JUDGED BY", "EGRESS JUDGED BY"):
        table.add_column(heading, overflow="fold")
    for each in found:
        by = (_judging(each["directions"][name]) for name in ("ingress", "egress"))
        table.add_row(Text(each["pod"]), *(Text(", ".join(names) or "-") for names in by))
    console.table(console.console(sys.stdout), table)


def _judging(direction: dict[str, Any]) -> list[str]:
    rules = [*direction["admin"], *direction["baseline"]]
    cluster = dict.fromkeys(each["rule"].partition(" ")[0] for each in rules)
    return [*direction["by"], *(f"ClusterNetworkPolicy {name}" for name in cluster)]
