"""The OpenFlow pipeline's fixed points: registers, their values, the virtual router, the tables.

Pure. Templates use these names; nothing else writes a register. Tables are found by listing the
folder of templates: `50-route.flows.j2` is table 50, called `route` wherever it is referred to.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from ovsnet.errors import OvsnetError
from ovsnet.model import Frozen, IPAddress

FROM = "reg0"
"""Register: where a packet came from."""
FROM_POD, FROM_GATEWAY, FROM_TUNNEL = 1, 2, 3
OUT = "reg1"
"""Register: the OpenFlow port that it leaves by."""
BACK = "reg2"
"""Register: 1 if it leaves by the port that it came from, translated, so that the receiver is not its own client."""
OUTSIDE = "reg3"
"""Register: 1 if the node's kernel forwards it for a client outside of the cluster, 2 if it is the node's own packet
and has one of its addresses on the underlay, 4 if it forwards it for one of this node's pods, through a node port,
8 if it comes from PORT_CLIENT."""
ANSWER = "reg4"
"""Register: 1 for an answer in a connection that conntrack follows."""
ENDPOINT_PORT, GROUP, LEARNED, ENDPOINT = "reg5", "reg6", "reg7", "reg8"
"""Registers, for Services whose clients stay with their endpoint: the endpoint's port; the group that it must be of;
1 if it was learned or has just been chosen; the endpoint's address (IPv6: xxreg2, which begins with it)."""
VERDICT = "reg5"
"""The same register, after that: what policies say of a new connection. Bits: 1 egress allows it, 2 ingress does, 4 the
packet was judged as an answer, 8 the connection is known, 16 it may be older than its policies. For egress and ingress,
of ClusterNetworkPolicies: 32 and 64 the Admin tier is passed, 128 and 256 the Baseline tier is asked, 512 and 1024 a
rule denies it. 2048: nobody has seen the connection begin."""
DENIED_BY = "reg6"
"""The same register as GROUP, after that: the OpenFlow priority of the rule that denies it, of egress in the lower
half, of ingress in the upper."""
JUDGED = "metadata"
"""Field: 1 while an answer is judged that may have to be translated back, 2 afterwards."""
JUDGED_BITS = 32
"""Bits of that field that are used; the other 32 are never set."""
WHOLE = "reg11"
"""Register: 1 for fragments that conntrack has put together, as far as the datapath does."""
KEEP_CLIENT = {4: "move:NXM_OF_IP_SRC[]->NXM_NX_REG12[]", 6: "move:NXM_NX_IPV6_SRC[]->NXM_NX_XXREG3[]"}
"""By IP version: what keeps a client's address, as it is before it gets this node's, for session affinity."""
SERVICE_ZONE, BACK_ZONE, POLICY_ZONE, REFUSED_ZONE = 65500, 65501, 65502, 65503
"""Zones of connection tracking: where Services' addresses become endpoints', where clients' addresses become this
node's or the translator's, where the connections are that policies have allowed, and where the node's are that are to
be refused. The kernel's datapath shares them with the node's own; 0 is what the node itself uses."""


class Router(Frozen):
    """The virtual router between nodes. It is on no port: the switch answers for it.

    The node's kernel uses its addresses as next hop to the peers' ranges. They are link-local and
    the same on every node, so one neighbour entry serves all peers.
    """

    mac: str = "0a:58:a9:fe:4d:01"
    ipv4: ipaddress.IPv4Address = ipaddress.IPv4Address("169.254.77.1")
    ipv6: ipaddress.IPv6Address = ipaddress.IPv6Address("fe80::a9fe:4d01")


ROUTER = Router()


class Translator(Frozen):
    """An address that is on no port and the same on every node, in both families."""

    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address

    @property
    def addresses(self) -> tuple[IPAddress, IPAddress]:
        return self.ipv4, self.ipv6

    def of(self, version: int) -> IPAddress:
        return self.ipv4 if version == 4 else self.ipv6


def _translator(number: int) -> Translator:
    return Translator(
        ipv4=ipaddress.IPv4Address(f"169.254.77.{number}"),
        ipv6=ipaddress.IPv6Address(f"fd6f:7673:6e65::{number}"),
    )


CLIENT = _translator(2)
"""The client of a connection that goes back to where it came from."""
NODE_PORTS = _translator(3)
"""Where the node's kernel sends what comes to node ports."""
LOCAL_NODE_PORTS = _translator(4)
"""The same for Services that only this node's endpoints serve, if the client is outside of the cluster."""

PORT_CLIENT = _translator(5)
"""Who asks for a port of this node and has to get the answer by its kernel: another node, or a pod that calls a
`hostPort`. Not the node itself, which no policy keeps out."""
REFUSED = _translator(6)
"""The client of what the node sends to nobody, or a client outside through it: its kernel does not refuse itself. In a
zone of its own, where nothing stands in the way of the same client when there is an endpoint."""

MASQUERADE_PORTS = "1024-32767"
"""Ports that a client outside gets with this node's address: below those that Linux takes for connections of its own
(ip_local_port_range, 32768 to 60999)."""
NODE_MASQUERADE_PORTS = "32768-65535"
"""Ports that the node's kernel gives with the same address to what it sends to other nodes' pods for others."""
ERRORS = (
    *(f"icmp,icmp_type={kind}" for kind in (3, 11, 12)),
    *(f"icmp6,icmp_type={kind}" for kind in (1, 2, 3, 4)),
)
"""What tells a sender that a packet did not arrive (RFC 792; RFC 4443, section 2.1)."""
GROUPS = "groups.j2"
"""The template of groups and meters."""
DENIED_METER = 1
"""The meter that packets pass which policies deny, before they come to the agent to be logged."""


def denied_meter(per_second: int) -> str:
    """That meter, as ovs-ofctl prints it: so many packets each second, as many at once."""
    return f"meter={DENIED_METER} pktps burst bands=type=drop rate={per_second} burst_size={per_second}"


DENY_AND_TELL = f"meter:{DENIED_METER},controller(max_len=128)"
"""Actions that drop a packet, and show the agent its headers as often as the meter lets it."""
_DROP_AND_TELL = re.compile(r"meter:\d+,(?:controller\(max_len=\d+\)|CONTROLLER:\d+)")
_TABLE_FILE = re.compile(r"(\d{2})-([a-z_]+)\.flows\.j2")


class Table(Frozen):
    """One table: its number and name are the file's."""

    number: int
    name: str
    path: Path


_HEADER = re.compile(r"\{#\n(.*?)(?:\n\n|\n#\})", re.DOTALL)
_DROP = re.compile(r"^ {3}(?:drops)? +priority (\d+) +(\S.*)$", re.MULTILINE)


def is_drop(actions: str) -> bool:
    """Whether a flow drops its packets, in the words of a template or of ovs-ofctl; the agent may be told of some."""
    return actions == "drop" or _DROP_AND_TELL.fullmatch(actions) is not None


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
            if path.suffix == ".j2" and path.name != GROUPS:
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
