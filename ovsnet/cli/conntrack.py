"""`ovsnet conntrack`: the connections that are followed for Services, with the names of both."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsnet.cli import options
from ovsnet.errors import StoreError

if TYPE_CHECKING:
    from ovsnet.agent.view import View
    from ovsnet.conntrack import Connection


@click.command()
@options.config_option
@options.output_option
@click.option("--service", metavar="SERVICE", help="Only those of this Service: NAMESPACE/NAME.")
def conntrack(path: Path, output: str, service: str | None) -> None:
    """Show the connections that go through Services, or directly to their endpoints, from this node.

    The mark that Open vSwitch gave a connection tells its Service, also when that is gone or has another address now:
    then it is "unknown"; while the store can't be read, the mark itself stands there. A direct connection has none.
    """
    view = options.view_of(path)
    names = None if view.unread else _names(view)
    if service is not None and names is None:
        raise StoreError(
            f"the store can't be read: which connections are of Service {service} is not known",
            "leave --service away: each connection then has the mark of its Service",
        )
    rows = [_row(names, each) for each in asyncio.run(_connections(view))]
    if service is not None:
        rows = [row for row in rows if row["service"] == service]
    rows.sort(key=lambda row: (row["service"], row["client"]))
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    else:
        _print(rows)


async def _connections(view: View) -> list[Connection]:
    from ovsnet.errors import SwitchUnavailable
    from ovsnet.switch import conntrack

    if view.bridge is None:
        raise SwitchUnavailable(f"there is no bridge {view.config.bridge}", "the agent makes it: start it")
    return await conntrack.connections(view.config.ovsdb, view.bridge.datapath_type)


def _names(view: View) -> dict[int, str]:
    """Services by the mark of their connections."""
    from ovsnet.frontends import ServiceObject

    services = [obj for obj in view.objects if isinstance(obj, ServiceObject)]
    return {group.mark: obj.title for obj in services for group in obj.groups}


def _service(names: dict[int, str] | None, mark: int) -> str:
    if not mark:
        return ""
    return f"mark {mark:#x}" if names is None else names.get(mark, "unknown")


def _row(names: dict[int, str] | None, connection: Connection) -> dict[str, Any]:
    """names: of Services by mark; None: nobody knows any."""
    from ovsnet.names import socket

    way = connection.way
    return {
        "service": _service(names, connection.mark),
        "protocol": way.protocol.value,
        "client": socket(connection.client, connection.client_port),
        "address": socket(way.address, way.port),
        "endpoint": socket(way.endpoint, way.endpoint_port),
        "state": connection.state,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from ovsnet.cli import console as output

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SERVICE", "PROTOCOL", "CLIENT", "ADDRESS", "ENDPOINT", "STATE"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row["service"] or "(direct)", *(str(value) for value in list(row.values())[1:]))
    output.table(output.console(sys.stdout), table)
