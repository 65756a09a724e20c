"""`ovsnet trace FROM TO`: ofproto/trace with names instead of numbers, the verdict on top."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovsnet.cli import options
from ovsnet.cli.flows import owner

if TYPE_CHECKING:
    from ovsnet import flowdump
    from ovsnet.agent.view import View


@click.command()
@options.config_option
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--tcp", type=click.IntRange(1, 65535), metavar="PORT", help="A TCP segment to this port.")
@click.option("--udp", type=click.IntRange(1, 65535), metavar="PORT", help="A UDP datagram to this port.")
@click.option("--raw", is_flag=True, help="Print ofproto/trace's own text as well.")
def trace(path: Path, source: str, target: str, tcp: int | None, udp: int | None, raw: bool) -> None:
    """Follow a packet through this node's flows without sending it.

    FROM and TO are pods (NAME or NAMESPACE/NAME), nodes, or addresses; TO may be a Service as well, or a node with a
    node port. FROM must be a pod of this node, the node itself, a peer whose packet arrives here, or an address outside
    whose packet this node's kernel gets. Without --tcp or --udp it is a ping. The packet is the first of a connection:
    to a Service, another connection may get another endpoint.
    Exits with 1 when the packet is dropped or refused.
    """
    from ovsnet import flowdump, nodeports, tracing
    from ovsnet.cli import console as output
    from ovsnet.switch import trace as switch

    if tcp and udp:
        raise click.UsageError("--tcp and --udp: choose one")
    view = options.view_of(path)
    answering = nodeports.chosen(view.config.node_port_addresses, view.known.internal)
    protocol, port = "tcp" if tcp else "udp" if udp else "icmp", tcp or udp or 0
    question = tracing.Packet(
        source=tracing.endpoint(source, view.objects),
        target=tracing.endpoint(target, view.objects, protocol, port),
        protocol=protocol,
        port=port,
    )
    # Without the store Services' addresses are not known.
    past = tracing.past(question, view.objects, answering) if view.unread is None else None
    if past is not None:
        click.echo(f"{question.source.title} -> {question.target.title}: {past}")
        return
    flow = tracing.packet(question, view.objects, answering)
    text = asyncio.run(switch.trace(view.config.ovsdb, view.config.bridge, flow))
    answer = flowdump.trace(text)
    passes, verdict = tracing.verdict(
        answer, view.objects, view.tables, reasons(view, answer), question, answering
    )
    output.console(sys.stdout).print(
        f"{question.source.title} -> {question.target.title}: {verdict}",
        style="green" if passes else "red",
        markup=False,
    )
    _print_way(view, answer, flow)
    if raw:
        click.echo(text)
    raise SystemExit(0 if passes else 1)


def _print_way(view: View, answer: flowdump.Trace, flow: str) -> None:
    """What the packet met, table by table. flow: the packet."""
    from ovsnet import tracing

    endpoint = tracing.translated(answer)
    if endpoint is not None:
        click.echo(f"  translated to     {endpoint}")
    for step in answer.steps:
        name = view.tables.get(step.table, "?")
        click.echo(f"  {step.table:>2} {name:<12} priority {step.priority:<4} {owner(view, step.cookie)}")
    if answer.missed is not None:
        click.echo(f"  {answer.missed:>2} {view.tables.get(answer.missed, '?'):<12} no flow matches")
    click.echo(f"  packet            {flow}")
    click.echo(f"  datapath actions  {answer.datapath_actions}")


def reasons(view: View, answer: flowdump.Trace) -> dict[tuple[int, int], str]:
    """Why flows drop, by table and priority; of a pod whose policies deny the packet, which these are."""
    from ovsnet import pipeline, resources

    found = {
        (table.number, priority): reason
        for table in pipeline.tables(resources.flows_dir())
        for priority, reason in pipeline.drops(table).items()
    }
    if (why := denial(view, answer)) is not None:
        found[answer.steps[-1].table, answer.steps[-1].priority] = why
    return found


def denial(view: View, answer: flowdump.Trace) -> str | None:
    """Which policies deny the packet, in words; None: it is no policy that drops it."""
    from ovsnet import policywords

    if answer.output is not None or answer.missed is not None or not answer.steps:
        return None
    last = answer.steps[-1]
    if view.tables.get(last.table) != policywords.VERDICT:
        return None
    return policywords.denial(view.by_cookie.get(last.cookie), last.priority, view.policies)
