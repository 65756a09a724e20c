"""`ovsnet show`: the ports of this node's bridge with what each one is, side by side with ovs-vsctl show."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsnet.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from ovsnet.agent.view import View
    from ovsnet.rows import PortRow


@click.command()
@options.config_option
@options.output_option
@click.argument("what", type=click.Choice(["services"]), required=False)
@click.option(
    "--all", "everything", is_flag=True, help="Of Services with many endpoints all, as -o json has them."
)
def show(path: Path, output: str, what: str | None, everything: bool) -> None:
    """Show this node: ports, pods, peers, addresses, health; or with `services` where each Service is reached, and the
    endpoints that this node sends connections to.

    Works with the agent stopped, and with the store away: node and peers are then as OVSDB remembers them. Exits with 1
    when the agent is not ready, this node can't be what the store says, or a port does not work.
    """
    if everything and what != "services":
        raise click.UsageError("--all is for `ovsnet show services`")
    view = options.view_of(path)
    if what == "services":
        _show_services(view, output, everything)
        return
    summary = summarise(view)
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        _print(summary)
    raise SystemExit(0 if summary["healthy"] else 1)


def summarise(view: View) -> dict[str, Any]:
    """Everything that is shown, as plain data."""
    topo = view.topology
    peers = topo.peers if topo else ()
    ports = [_port(view, row) for row in sorted(view.rows.values(), key=lambda row: row.number or 0)]
    return {
        "node": view.name,
        "addresses": [str(address) for address in topo.addresses] if topo else [],
        "podCIDRs": [str(cidr) for cidr in topo.cidrs] if topo else [],
        "gateways": [str(address) for address in topo.gateways] if topo else [],
        "mtu": topo.mtu if topo else None,
        "bridge": view.config.bridge,
        "datapath": view.bridge.datapath_type if view.bridge else None,
        "encapsulation": view.config.encapsulation.value,
        "tunnels": view.config.tunnels.value,
        "ports": ports,
        "peers": [
            {
                "name": peer.name,
                "remote": str(peer.remote),
                "encapsulation": peer.encap.value,
                "podCIDRs": [str(cidr) for cidr in peer.cidrs],
            }
            for peer in peers
        ],
        "agent": view.health,
        "storeRead": view.unread is None,
        "troubles": list(dict.fromkeys(_troubles(view, ports))),
        "healthy": view.trouble is None
        and view.health is not None
        and bool(view.health.get("ready"))
        and not any(p["error"] for p in ports),
    }


def _troubles(view: View, ports: list[dict[str, Any]]) -> list[str]:
    from ovsnet.config import OUTDATED, RESTART

    topo = view.topology
    troubles = [f"{OUTDATED}: {RESTART}"] if view.outdated else []
    troubles += [str(error) for error in (view.unread, view.trouble) if error is not None]
    troubles += [
        *(topo.problems if topo else ()),
        *(f"{file}: {text}" for file, text in view.problems.items()),
    ]
    if view.health is None:
        troubles.append(f"the agent does not answer on {view.config.cni_socket}")
    elif not view.health.get("ready"):
        troubles.append(str(view.health.get("trouble")))
    troubles += _complaints(view)
    peers = {peer.name for peer in topo.peers} if topo else set()
    missing = sorted(peers - {port["who"] for port in ports if port["role"] == "tunnel"})
    if missing and view.config.tunnels.value != "flow":
        troubles.append(f"no tunnel port yet for {', '.join(missing)}")
    return troubles + [f"port {port['name']}: {port['error']}" for port in ports if port["error"]]


def _complaints(view: View) -> list[str]:
    """Of an agent that is ready for all that."""
    found = view.health.get("complaints") if view.health is not None else None
    return [str(each) for each in found] if isinstance(found, list) else []


def _left_over(view: View) -> Collection[str]:
    """Ports of pods that the API server does not have, as the agent says."""
    strays = (view.health or {}).get("strays")
    ports = strays.get("ports") if isinstance(strays, dict) else None
    return ports if isinstance(ports, dict) else ()


def _show_services(view: View, output: str, everything: bool) -> None:
    from ovsnet import nodeports
    from ovsnet.cli import console
    from ovsnet.cli.showservices import services, services_table
    from ovsnet.errors import StoreError

    if view.unread is not None:
        raise StoreError(
            "the store can't be read, and nothing else knows the Services",
            "what is installed of them: ovsnet flows --table service, ovsnet conntrack, ovs-ofctl dump-groups",
        )
    internal = view.topology.internal if view.topology else ()
    found = services(view.objects, nodeports.chosen(view.config.node_port_addresses, internal))
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    elif found:
        console.table(console.console(sys.stdout), services_table(found, everything))
    else:
        click.echo("the store has no Services that concern nodes")


def _port(view: View, row: PortRow) -> dict[str, Any]:
    from ovsnet import names, state

    role = row.role or "not ovsnet's"
    who, addresses = "", []
    pod = state.pod(row)
    if pod is not None:
        who, addresses = pod.title, [str(ip) for ip in pod.ips]
    elif role == names.ROLE_TUNNEL:
        who = row.external_ids.get(names.KEY_PEER, "all peers")
        addresses = [row.options.get("remote_ip", "")]
    elif role == names.ROLE_GATEWAY:
        who = f"node {view.name}"
        addresses = [str(ip) for ip in view.topology.gateways] if view.topology else []
    elif row.name == view.config.bridge:
        role, who = "local", "the bridge itself, unused"
    return {
        "name": row.name,
        "ofport": row.number,
        "role": role,
        "type": row.type or "system",
        "who": who,
        "addresses": addresses,
        "container": pod.container if pod else None,
        "error": row.error if row.ofport == -1 else None,
        "leftOver": row.name in _left_over(view),
    }


def _print(summary: dict[str, Any]) -> None:
    from ovsnet.cli import console as output

    console = output.console(sys.stdout)
    agent = summary["agent"]
    ready = (
        "[green]ready[/]"
        if agent and agent.get("ready")
        else "[red]not ready[/]"
        if agent
        else "[red]away[/]"
    )
    console.print(
        f"[bold]{summary['node']}[/]  {' '.join(summary['addresses'])}  "
        f"pods {' '.join(summary['podCIDRs']) or 'unknown'}  MTU {summary['mtu'] or 'unknown'}  "
        f"bridge {summary['bridge']} ({summary['datapath']})  "
        f"{summary['encapsulation']}, tunnels: {summary['tunnels']}  agent {ready}"
    )
    output.table(console, ports_table(summary["ports"]))
    if summary["peers"]:
        console.print("[bold]peers[/]")
    for peer in summary["peers"]:
        console.print(
            f"  {peer['name']}  {peer['encapsulation']} {peer['remote']}  {' '.join(peer['podCIDRs'])}"
        )
    for trouble in summary["troubles"]:
        console.print(f"! {trouble}", style="red", markup=False)


def ports_table(ports: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    headings = ("PORT", "OFPORT", "ROLE", "TYPE", "WHO", "ADDRESSES")
    rows: list[tuple[str | Text, ...]] = []
    for port in ports:
        number = "" if port["ofport"] is None else str(port["ofport"])
        who = Text(port["error"], style="red") if port["error"] else Text(port["who"])
        if port["leftOver"]:
            who.append(" (left over)", style="yellow")
        rows.append((port["name"], number, port["role"], port["type"], who, " ".join(port["addresses"])))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        # On a narrow terminal who and addresses fold; the other columns stay as wide as what is in them.
        least = None if index > 3 else max(len(row[index]) for row in [headings, *rows])
        table.add_column(
            heading, justify="right" if heading == "OFPORT" else "left", min_width=least, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    return table
