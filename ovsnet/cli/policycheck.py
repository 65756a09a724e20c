"""`ovsnet policy check`: whether policies allow a connection and why, with the flows of this node as proof.

What the commands about policies share is here as well: what they judge from.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsnet.cli import options
from ovsnet.errors import NotReady, OvsnetError

if TYPE_CHECKING:
    from ovsnet.agent.view import View
    from ovsnet.flowdump import Trace
    from ovsnet.policyjudge import Connection, End, Side, World
    from ovsnet.store import Snapshot

_DISAGREE = (
    "the flows of this node do not do what the policies say; `ovsnet audit` tells whether they are as they should be. "
    "If they are, please report this, with what `ovsnet support-bundle` packs"
)


@click.command()
@options.config_option
@options.output_option
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--tcp", type=click.IntRange(1, 65535), metavar="PORT", help="A TCP connection to this port.")
@click.option("--udp", type=click.IntRange(1, 65535), metavar="PORT", help="UDP to this port.")
@click.option(
    "--sctp", type=click.IntRange(1, 65535), metavar="PORT", help="An SCTP association to this port."
)
def check(
    path: Path, output: str, source: str, target: str, tcp: int | None, udp: int | None, sctp: int | None
) -> None:
    """Tell whether policies allow a new connection, and which rule or policy says so.

    FROM and TO are pods of any node (NAME or NAMESPACE/NAME), nodes or addresses. Without --tcp, --udp or --sctp it is
    a ping. What concerns this node is traced through its flows as well. Exits with 0 if it is allowed, 1 if it is
    denied, 2 if flows and policies disagree or nobody can tell.
    """
    from ovsnet.cli.main import report

    asked = [(name, port) for name, port in (("tcp", tcp), ("udp", udp), ("sctp", sctp)) if port]
    if len(asked) > 1:
        raise click.UsageError("--tcp, --udp and --sctp: choose one")
    try:
        view = options.view_of(path)
        found = asyncio.run(_check(view, source, target, *(asked or [("icmp", 0)])[0]))
    except OvsnetError as error:
        report(error)
        raise SystemExit(2) from None
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    if any(each["trace"] and not each["trace"]["agrees"] for each in found["connections"]):
        click.echo(f"error: {_DISAGREE}", err=True)
        raise SystemExit(2)
    raise SystemExit(0 if found["allowed"] else 1)


def snapshot_of(view: View) -> Snapshot:
    """Raises OvsnetError when the store can't be read."""
    if view.snapshot is None:
        raise view.unread or NotReady("the store can't be read", "ovsnet doctor")
    return view.snapshot


def world_of(view: View, snapshot: Snapshot) -> World:
    from ovsnet import policies, state
    from ovsnet.policyjudge import World

    return World(
        policies=snapshot.policies,
        cluster_policies=snapshot.cluster_policies,
        namespaces=snapshot.namespaces,
        pods=snapshot.pods,
        nodes=snapshot.nodes,
        node=view.name,
        local=policies.at_home(policies.addresses(state.pods(view.rows)), snapshot.pods, view.name),
    )


def problems_of(view: View, policies: Iterable[str], cluster: Iterable[str]) -> list[str]:
    """What is wrong with these NetworkPolicies and ClusterNetworkPolicies, as far as the store could not read them:
    with whatever else is in a file."""
    lines = [f"{subject}: {text}" for subject, text in view.problems.items()]
    wanted = [f"NetworkPolicy {key}:" for key in (*policies, *cluster)]
    return [line for line in lines if any(each in line for each in wanted)]


async def _check(view: View, source: str, target: str, protocol: str, port: int) -> dict[str, Any]:
    from ovsnet import policyjudge
    from ovsnet.servicemodel import Protocol

    world = world_of(view, snapshot_of(view))
    ends = policyjudge.end(source, world), policyjudge.end(target, world)
    for each in ends:
        _refuse_service(view, each)
    judge = policyjudge.Judge(view.policies, world.nodes)
    connections = []
    isolating: set[str] = set()
    deciding: set[str] = set()
    for pair in policyjudge.pairs(*ends):
        connection = policyjudge.Connection(
            source=pair[0],
            target=pair[1],
            protocol=None if protocol == "icmp" else Protocol(protocol.upper()),
            port=port,
        )
        sides = judge.sides(*ends, connection)
        isolating |= {policy.key for side in sides for policy in side.isolating}
        deciding |= {each.policy for side in sides for each in (side.decided, side.passed) if each}
        connections.append(
            {
                "source": str(pair[0]),
                "target": str(pair[1]),
                "allowed": all(each.allowed for each in sides),
                "sides": [_side(each, view.name) for each in sides],
                "trace": await _proof(view, ends, connection, sides),
            }
        )
    return {
        "from": ends[0].title,
        "to": ends[1].title,
        "protocol": protocol,
        "port": port or None,
        "allowed": all(each["allowed"] for each in connections),
        "connections": connections,
        "problems": problems_of(view, isolating, deciding),
    }


def _refuse_service(view: View, end: End) -> None:
    """Raises OvsnetError for a Service's address."""
    from ovsnet.frontends import ServiceObject

    if end.pod or end.node:
        return
    for obj in view.objects:
        if isinstance(obj, ServiceObject) and any(each.address in end.ips for each in obj.frontends):
            raise OvsnetError(
                f"{end.title} is an address of Service {obj.title}: policies judge the way to its endpoints",
                "ask about one of the endpoints, which `ovsnet show services` lists",
            )


def _side(side: Side, node: str) -> dict[str, Any]:
    from ovsnet import policywords

    return {
        "direction": side.direction.value.lower(),
        "who": side.end.title,
        "node": side.end.node,
        "here": side.end.node == node,
        "allowed": side.allowed,
        "why": policywords.side(side),
        "rule": None if side.rule is None else policywords.rule_title(side.rule, side.direction),
        "decidedBy": None if side.decided is None else side.decided.key,
        "passedBy": None if side.passed is None else side.passed.key,
        "isolatedBy": [each.key for each in side.isolating],
    }


async def _proof(
    view: View, ends: tuple[End, End], connection: Connection, sides: tuple[Side, Side]
) -> dict[str, Any] | None:
    """What this node's flows do with the first packet; None: it does not come here, or never to the switch."""
    from ovsnet import flowdump, nodeports, policyjudge, policywords, tracing
    from ovsnet.cli.trace import denial, reasons
    from ovsnet.switch import trace as switch

    if view.name not in (ends[0].node, ends[1].node) or policyjudge.Why.ITSELF in (
        each.why for each in sides
    ):
        return None
    if ends[0].node == ends[1].node and not (ends[0].pod or ends[1].pod):
        return None
    answering = nodeports.chosen(view.config.node_port_addresses, view.known.internal)
    protocol = connection.protocol.value.lower() if connection.protocol else "icmp"
    question = tracing.Packet(
        source=tracing.endpoint(str(connection.source), view.objects),
        target=tracing.endpoint(str(connection.target), view.objects, protocol, connection.port),
        protocol=protocol,
        port=connection.port,
    )
    if tracing.past(question, view.objects, answering) is not None:
        return None
    packet = tracing.packet(question, view.objects, answering)
    answer = flowdump.trace(await switch.trace(view.config.ovsdb, view.config.bridge, packet))
    passes, words = tracing.verdict(
        answer, view.objects, view.tables, reasons(view, answer), question, answering
    )
    # Of a pod on another node only that node's flows can tell.
    denials = {policywords.side(each) for each in policyjudge.here(sides, view.name) if not each.allowed}
    elsewhere = not passes and _is_elsewhere(view, answer)
    agrees = denial(view, answer) in denials if denials else passes or elsewhere
    return {
        "packet": packet,
        "passes": passes,
        "verdict": words,
        "agrees": agrees,
        "droppedElsewhere": elsewhere,
    }


def _is_elsewhere(view: View, answer: Trace) -> bool:
    """Whether a dropped packet has met its end where policies have no say."""
    from ovsnet import policywords

    last = answer.steps[-1].table if answer.steps else None
    return answer.missed is None and view.tables.get(last or 0) not in policywords.TABLES


def _print(found: dict[str, Any]) -> None:
    from ovsnet.cli import console

    out = console.console(sys.stdout)
    what = "ping" if found["port"] is None else f"{found['protocol']} {found['port']}"
    for each in found["connections"]:
        verdict = "ALLOWED" if each["allowed"] else "DENIED"
        style = "green" if each["allowed"] else "red"
        source, target = _titled(found["from"], each["source"]), _titled(found["to"], each["target"])
        out.print(f"{source} -> {target}, {what}: {verdict}", style=style, markup=False)
        for side in each["sides"]:
            where = "" if side["here"] or not side["node"] else f" (on node {side['node']})"
            out.print(f"  {side['why']}{where}", markup=False)
        agrees, words = _proof_words(each["trace"])
        out.print(f"  {words}", style=None if agrees else "bold red", markup=False)
    for line in found["problems"]:
        out.print(f"problem: {line}", style="red", markup=False)


def _titled(title: str, address: str) -> str:
    return title if title == address else f"{title} {address}"


def _proof_words(trace: dict[str, Any] | None) -> tuple[bool, str]:
    """What flows say, and whether that is well."""
    if trace is None:
        return True, "no packet of it passes the flows of this node"
    if not trace["agrees"]:
        return False, f"BUT THE FLOWS OF THIS NODE DISAGREE: {trace['verdict']}"
    if trace["droppedElsewhere"]:
        return False, f"it gets lost all the same, for another reason: {trace['verdict']}"
    return True, f"the flows of this node agree: {trace['verdict']}"
