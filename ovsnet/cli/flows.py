"""`ovsnet flows`: what is installed, each flow with the object behind its cookie and its counters."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ovsnet.cli import options
from ovsnet.errors import OvsnetError

if TYPE_CHECKING:
    from ovsnet.agent.view import View
    from ovsnet.flowdump import Flow


@click.command()
@options.config_option
@options.output_option
@click.option("--pod", metavar="POD", help="Only the flows that serve this pod: NAME or NAMESPACE/NAME.")
@click.option("--table", "only", metavar="TABLE", help="Only one table, by name or number.")
@click.option("--drops", is_flag=True, help="Only flows that dropped something, most first.")
@click.option("--all", "every", is_flag=True, help="With --drops: flows that drop, whether they did or not.")
def flows(path: Path, output: str, pod: str | None, only: str | None, drops: bool, every: bool) -> None:
    """Show the installed flows by table, with names.

    --drops ends with what policies denied each pod, by direction. Table verdict drops these: not with another --table.

    A flow whose object is "unknown" has a cookie that nothing of this node's state explains; "service ?" or
    "policedpod ?" is one whose name can't be told while the store can't be read.
    """
    if every and not drops:
        raise click.UsageError("--all goes with --drops; without it all flows are shown anyway")
    view = options.view_of(path)
    found = asyncio.run(_dump(view))
    if pod is not None:
        found = _of_pod(view, found, pod)
    if only is not None:
        found = _of_table(view, found, only)
    if drops:
        found = dropping([flow for flow in found if not _is_look(view, flow)], every=every)
    if output == "json":
        click.echo(json.dumps([_plain(view, flow) for flow in found], indent=2))
    else:
        _print(view, found, by_table=not drops)
        if drops:
            _print_denied(view, found)
        if drops and not every:
            click.echo("only those that dropped something; --all shows the others as well")


def dropping(found: list[Flow], *, every: bool) -> list[Flow]:
    """The flows that drop, those that dropped most first; unless every one is wanted only those that did."""
    from ovsnet import pipeline

    drops = (flow for flow in found if pipeline.is_drop(flow.actions) and (every or flow.packets))
    return sorted(drops, key=lambda flow: -flow.packets)


def _is_look(view: View, flow: Flow) -> bool:
    """Whether its "drop" ends a look at policies and not the packet, which table verdict drops, or a known connection
    lets pass."""
    from ovsnet import policywords

    return view.tables.get(flow.table) in policywords.LOOKS


async def _dump(view: View) -> list[Flow]:
    from ovsnet import flowdump
    from ovsnet.switch.openflow import OpenFlow, management_socket

    lines = await OpenFlow(management_socket(view.config.ovsdb, view.config.bridge)).dump()
    found = [flow for flow in map(flowdump.flow, lines) if flow is not None]
    return sorted(found, key=lambda flow: (flow.table, -flow.priority, flow.match))


def _of_pod(view: View, found: list[Flow], name: str) -> list[Flow]:
    """What serves it, and what its policies say of it alone."""
    from ovsnet.model import Pod
    from ovsnet.policyobjects import PolicedPod

    pods = [obj for obj in view.objects if isinstance(obj, Pod)]
    keys = {obj.title for obj in pods if name in (obj.title, obj.name)}
    if not keys:
        known = ", ".join(sorted(obj.title for obj in pods)) or "none"
        raise OvsnetError(f"there is no pod {name} on this node", f"there are: {known}")
    cookies = {
        cookie
        for cookie, obj in view.by_cookie.items()
        if isinstance(obj, (Pod, PolicedPod)) and obj.title in keys
    }
    return [flow for flow in found if flow.cookie in cookies]


def _of_table(view: View, found: list[Flow], wanted: str) -> list[Flow]:
    if not wanted.isdecimal() and wanted not in view.tables.values():
        raise OvsnetError(f"there is no table {wanted}", f"there are: {', '.join(view.tables.values())}")
    return [flow for flow in found if wanted in (str(flow.table), view.tables.get(flow.table))]


def owner(view: View, cookie: int) -> str:
    """The object of a cookie in words."""
    from ovsnet import names
    from ovsnet.render import kind_of

    obj = view.by_cookie.get(cookie)
    if obj is not None:
        return f"{kind_of(obj)} {obj.title}"
    kind = names.kind_of(cookie)
    if kind == names.OLDER:
        return "connections older than policies"
    if kind == names.CUT:
        return "connections that policies have cut"
    if _nameless(view, kind):
        return f"{kind} ?"
    return f"unknown {kind}" if kind else "unknown"


def _nameless(view: View, kind: str | None) -> bool:
    """Whether objects of the kind are there whose names nobody can tell now."""
    from ovsnet import names

    if view.unread is not None and kind in names.SUPPLIED:
        return True
    return view.topology is None and kind in ("node", "peer")


class _Denied(NamedTuple):
    """What denies packets: a pod's NetworkPolicies, or a rule of a ClusterNetworkPolicy, whose title it is."""

    pod: str | None
    rule: str | None
    direction: str


def _denied(view: View, flow: Flow) -> _Denied | None:
    """By what the flow's packets are denied; None: it drops none for policies."""
    from ovsnet import policywords
    from ovsnet.policyobjects import ClusterRule, PolicedPod

    if view.tables.get(flow.table) != policywords.VERDICT:
        return None
    obj = view.by_cookie.get(flow.cookie)
    if isinstance(obj, ClusterRule):
        return _Denied(None, obj.title, obj.direction.value.lower())
    direction = policywords.DENIED.get(flow.priority)
    if isinstance(obj, PolicedPod) and direction is not None:
        return _Denied(obj.key, None, direction.value.lower())
    return None


def _plain(view: View, flow: Flow) -> dict[str, object]:
    denied = _denied(view, flow)
    return {
        "table": view.tables.get(flow.table, str(flow.table)),
        "number": flow.table,
        "priority": flow.priority,
        "match": flow.match,
        "actions": flow.actions,
        "cookie": f"0x{flow.cookie:x}",
        "object": owner(view, flow.cookie),
        "packets": flow.packets,
        "bytes": flow.bytes,
        "denied": None if denied is None else denied._asdict(),
    }


def _print(view: View, found: list[Flow], *, by_table: bool) -> None:
    from rich.markup import escape

    from ovsnet.cli import console as output

    console = output.console(sys.stdout)
    current = None
    place = "" if by_table else f"{'TABLE':<12} "
    console.print(f"  {place}{'OBJECT':<28} {'PACKETS':>8}  FLOW", style="bold")
    for flow in found:
        name = view.tables.get(flow.table, "not ovsnet's")
        if by_table and flow.table != current:
            console.print(f"table {flow.table} {name}", style="bold")
            current = flow.table
        place = "" if by_table else f"{name:<12} "
        console.print(
            f"  {place}[cyan]{owner(view, flow.cookie):<28}[/] {flow.packets:>8}  "
            f"priority={flow.priority},{escape(flow.match)} [dim]actions={escape(flow.actions)}[/]"
        )
    console.print(f"{len(found)} flows")


def _print_denied(view: View, found: list[Flow]) -> None:
    """What policies denied each pod, over all its addresses, and what rules of ClusterNetworkPolicies denied."""
    from collections import Counter

    from ovsnet.policymodel import Direction

    denied: Counter[_Denied] = Counter()
    for flow in found:
        if (by := _denied(view, flow)) is not None:
            denied[by] += flow.packets
    if denied:
        click.echo("denied by policies; `ovsnet policy show POD` tells which")
    for (pod, rule, direction), packets in denied.most_common():
        name, names = rule, ""
        if pod is not None:
            isolating = view.policies.isolating(pod, Direction(direction.capitalize()))
            name, names = f"pod {pod}", ", ".join(each.key for each in isolating)
        click.echo(f"  {name:<28} {direction:<8} {packets:>8} packets" + (f"  by {names}" if names else ""))
