"""The Services part of `ovsnet show`: where each is reached on this node, and whom connections go to from here.

Called by `show`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ovsnet.frontends import Frontend, ServiceObject
    from ovsnet.nodeports import NodePortAddresses
    from ovsnet.objects import Object


_MANY, _SOME = 10, 5
"""Of more endpoints than the first only the second are named."""


def services(objects: Iterable[Object], answering: NodePortAddresses) -> list[dict[str, Any]]:
    """All Services by name, as plain data. answering: where node ports do."""
    from ovsnet.frontends import ServiceObject

    found = sorted((each for each in objects if isinstance(each, ServiceObject)), key=lambda each: each.key)
    return [
        {"name": each.key, "frontends": [_frontend(each, frontend, answering) for frontend in each.frontends]}
        for each in found
    ]


def _frontend(service: ServiceObject, frontend: Frontend, answering: NodePortAddresses) -> dict[str, Any]:
    return {
        "address": _address(frontend, answering),
        "port": frontend.port,
        "protocol": frontend.protocol.value,
        "endpoints": _endpoints(service, frontend.group),
        "endpointsForOutside": _endpoints(service, frontend.outside_group) if frontend.external else None,
        "sourceRanges": None if frontend.sources is None else [str(each) for each in frontend.sources],
        "admitsNode": frontend.admits_node,
        "refused": frontend.refused,
    }


def _address(frontend: Frontend, answering: NodePortAddresses) -> str:
    """Node ports stand under addresses that nobody outside of the bridge has ever seen."""
    from ovsnet import pipeline

    version = frontend.address.version
    if frontend.address in pipeline.NODE_PORTS.addresses:
        return f"node port, IPv{version}{answering.words(version)}"
    if frontend.address in pipeline.LOCAL_NODE_PORTS.addresses:
        return f"node port from outside, IPv{version}{answering.words(version)}"
    return str(frontend.address)


def _endpoints(service: ServiceObject, number: int) -> list[str]:
    from ovsnet import names

    backends = sorted(service.backends(number), key=lambda each: (int(each.address), each.port))
    return [names.socket(each.address, each.port) for each in backends]


def services_table(found: list[dict[str, Any]], everything: bool = False) -> Table:
    """A line for each frontend. everything: all endpoints of each, however many."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SERVICE", "ADDRESS", "PORT", "ENDPOINTS"):
        table.add_column(heading, overflow="fold")
    for service in found:
        name = service["name"]
        for each in service["frontends"]:
            port = f"{each['port']}/{each['protocol'].lower()}"
            table.add_row(Text(name), Text(each["address"]), port, Text(_words(each, everything)))
            name = ""
    return table


def _words(frontend: dict[str, Any], everything: bool) -> str:
    if frontend["refused"]:
        return "none: refused"
    words = _list(frontend["endpoints"], everything) or "none that may answer here: dropped"
    outside = frontend["endpointsForOutside"]
    if outside is not None and outside != frontend["endpoints"]:
        words += f"; from outside {_list(outside, everything) or 'dropped'}"
    if frontend["sourceRanges"] is not None:
        words += f"; only from {' '.join(frontend['sourceRanges']) or 'nowhere'}"
        words += f", this node {'included' if frontend['admitsNode'] else 'excluded'}"
    return words


def _list(endpoints: list[str], everything: bool) -> str:
    if everything or len(endpoints) <= _MANY:
        return " ".join(endpoints)
    return f"{len(endpoints)}: {' '.join(endpoints[:_SOME])} and {len(endpoints) - _SOME} more (--all)"
