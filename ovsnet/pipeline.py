"""The OpenFlow pipeline's fixed points: registers, their values, the virtual router, the tables.

Pure. Templates use these names; nothing else writes a register. Tables are found by listing the
folder of templates: `30-route.flows.j2` is table 30, called `route` wherever it is referred to.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from ovsnet.errors import OvsnetError
from ovsnet.model import Frozen

FROM = "reg0"
"""Register: where a packet came from."""
FROM_POD, FROM_GATEWAY, FROM_TUNNEL = 1, 2, 3
OUT = "reg1"
"""Register: the OpenFlow port that it leaves by."""


class Router(Frozen):
    """The virtual router between nodes. It is on no port: the switch answers for it.

    The node's kernel uses its addresses as next hop to the peers' ranges. They are link-local and
    the same on every node, so one neighbour entry serves all peers.
    """

    mac: str = "0a:58:a9:fe:4d:01"
    ipv4: ipaddress.IPv4Address = ipaddress.IPv4Address("169.254.77.1")
    ipv6: ipaddress.IPv6Address = ipaddress.IPv6Address("fe80::a9fe:4d01")


ROUTER = Router()

_TABLE_FILE = re.compile(r"(\d{2})-([a-z_]+)\.flows\.j2")


class Table(Frozen):
    """One table: its number and name are the file's."""

    number: int
    name: str
    path: Path


_HEADER = re.compile(r"\{#\n(.*?)(?:\n\n|\n#\})", re.DOTALL)
_DROP = re.compile(r"^ {3}(?:drops)? +priority (\d+) +(\S.*)$", re.MULTILINE)


def drops(table: Table) -> dict[int, str]:
    """Why the table drops, by the priority of the flow, as the header of its file says it."""
    header = _HEADER.match(table.path.read_text(encoding="utf-8"))
    return {int(found[1]): found[2] for found in _DROP.finditer(header[1])} if header else {}


def tables(folder: Path) -> tuple[Table, ...]:
    """The tables in `folder`, in the order in which a packet meets them.

    Raises OvsnetError for a file that is none, and for a number or name that occurs twice.
    """
    found: list[Table] = []
    for path in sorted(folder.iterdir()):
        match = _TABLE_FILE.fullmatch(path.name)
        if match is None:
            if path.suffix == ".j2":
                raise OvsnetError(f"{path}: not a table", "templates are called NN-name.flows.j2")
            continue
        table = Table(number=int(match[1]), name=match[2], path=path)
        for other in found:
            if table.number == other.number or table.name == other.name:
                raise OvsnetError(
                    f"{path} and {other.path} have one number or name", "renumber or rename one"
                )
        found.append(table)
    if not found:
        raise OvsnetError(f"{folder}: no table template", "is ovsnet installed completely?")
    return tuple(found)
