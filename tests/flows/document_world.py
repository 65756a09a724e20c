"""What docs/services.md shows of node-a, and what is really there: flows and groups as ovs-ofctl prints them, rules of
nftables and routes as the agent makes them, for the Services of docs/services.yaml in a lab of two nodes.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from flow_world import TABLES, make_bridge, pod
from msgspec.structs import replace
from ovs_sandbox import Sandbox

from ovsnet import names, resources, state
from ovsnet.agent.hostside import egress_spec, gateway_spec
from ovsnet.config import Config
from ovsnet.endpoints import Here
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import MAIN_TABLE
from ovsnet.model import Frozen, Node, Pod, Tunnels
from ovsnet.services import Services
from ovsnet.store.file import read_folder

DOCUMENT = Path(__file__).parents[2] / "docs/services.md"
EXAMPLE = DOCUMENT.with_name("services.yaml")
GROUP = "group"
STAYS = "nw_dst=10.96.0.7,tcp_dst=80,tcp_flags=syn"
"""What opens a connection to the Service with session affinity."""
NEW = "--ct-next", "trk,new"
_COMMANDS = ("ovsnet ", "ovs-ofctl ", "ovs-appctl ")
_LINE = re.compile(r" *(\d+ \w+|group|nft \w+|ip \w+) +(\S.*)")
_CONTINUED = " " * 20
"""What a line that goes on with the one before begins with."""


class Shown(Frozen):
    """A flow, group, rule or route in the document."""

    number: int
    """Of the line."""
    place: str
    """A table as "30 track", "group", "nft CHAIN" or "ip rule"."""
    text: str


def shown(document: str) -> Iterator[Shown]:
    """What the document's blocks show. Raises ValueError for a line in them that is none of that, nor a command."""
    last: Shown | None = None
    for number, line in enumerate(document.splitlines(), 1):
        if not line.startswith("    ") or line.strip().startswith(("# ", *_COMMANDS)):
            continue
        if line.startswith(_CONTINUED) and last is not None:
            joint = " " if last.place.startswith("nft") else ""
            last = Shown(number=last.number, place=last.place, text=last.text + joint + line.strip())
            continue
        if last is not None:
            yield last
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} shows nothing that is known: {line}")
        last = Shown(number=number, place=found[1], text=found[2])
    if last is not None:
        yield last


def is_there(one: Shown, there: Mapping[str, Sequence[str]]) -> bool:
    """Whether that is there, with whatever `...` stands for. A flow or group is shown with its actions."""
    if "actions=" not in one.text and (one.place == GROUP or one.place[0].isdigit()):
        return False
    pattern = re.compile(".*".join(map(re.escape, one.text.split("..."))))
    return any(map(pattern.fullmatch, there.get(one.place, ())))


def what_is_there(ovs: Sandbox, folder: Path) -> dict[str, list[str]]:
    """By place, as in `Shown`. folder: an empty one."""
    shutil.copy(EXAMPLE, folder)
    snapshot = asyncio.run(read_folder(folder))
    assert not snapshot.problems, snapshot.problems
    nodes = {node.name: node for node in (_node("node-a", 1), _node("node-b", 2))}
    topo = state.topology(Config(), "node-a", nodes["node-a"].addresses, 1500, nodes)
    services = Services()
    services.update(snapshot.services, snapshot.slices, Here(node="node-a", addresses=topo.internal))
    return _on_the_bridge(ovs, topo, services) | _in_the_kernel(topo, services)


def _on_the_bridge(ovs: Sandbox, topo: state.Topology, services: Services) -> dict[str, list[str]]:
    pods = _pod("a1", 2, 16), _pod("a2", 3, 17)
    ports = {names.GATEWAY: 1, state.tunnel_port(topo.peers[0], Tunnels.PORTS): 20000}
    bridge = make_bridge(ovs, "br-document", pods)
    bridge.install([*state.objects(topo, Tunnels.PORTS, ports, pods), *services.objects])
    # The switch learns where a client stays.
    client = f"in_port=17,dl_src={pods[1].mac},dl_dst={topo.mac},tcp,nw_src={pods[1].ips[0]},nw_ttl=64"
    ovs.appctl("ofproto/trace", bridge.name, f"{client},{STAYS},tcp_src=40000", *NEW, "-generate")
    found: dict[str, list[str]] = {}
    for flow in bridge.dump():
        match = f"priority={flow.priority}" + (f",{flow.match}" if flow.match != "any" else "")
        place = f"{flow.table} {TABLES[flow.table]}"
        found.setdefault(place, []).append(f"{match} actions={flow.actions}")
    groups = ovs.ofctl("dump-groups", ovs.mgmt(bridge.name))
    ovs.vsctl("del-br", bridge.name)
    return found | {GROUP: list(map(str.strip, groups.splitlines()))}


def _in_the_kernel(topo: state.Topology, services: Services) -> dict[str, list[str]]:
    rules = Ruleset(resources.templates_dir()).render(egress_spec(topo, Config(), services.reach))
    gateway = gateway_spec(topo, services.reach)
    return {
        **_by_chain(rules),
        "ip rule": [
            f"{each.priority}: from all fwmark {each.mark:#x}/{each.mask:#x} lookup {each.table} proto static"
            for each in gateway.rules
        ],
        "ip route": [
            f"{each.cidr if each.cidr.prefixlen else 'default'} via {each.next_hop} dev {gateway.interface} "
            f"{'' if each.table == MAIN_TABLE else f'table {each.table} '}proto static src {each.source} onlink"
            for each in gateway.routes
        ],
    }


def _node(name: str, number: int) -> Node:
    """As a lab's."""
    return Node(
        name=name,
        pod_cidrs=(ip_network(f"10.244.{number}.0/24"), ip_network(f"fd00:10:244:{number}::/64")),
        addresses=(ip_address(f"192.0.2.1{number}"), ip_address(f"2001:db8:0:1::1{number}")),
    )


def _pod(name: str, number: int, ofport: int) -> Pod:
    ips = ip_address(f"10.244.1.{number}"), ip_address(f"fd00:10:244:1::{number}")
    return replace(pod(name, number, ofport), ips=ips)


def _by_chain(ruleset: str) -> dict[str, list[str]]:
    """The rules of each chain, numbers as nft lists them."""
    found: dict[str, list[str]] = {}
    rules: list[str] = []
    for line in map(str.strip, ruleset.splitlines()):
        if chain := re.fullmatch(r"chain (\w+) \{", line):
            rules = found.setdefault(f"nft {chain[1]}", [])
        elif line:
            rules.append(re.sub(r"\b0x[0-9a-f]+\b", lambda digits: f"0x{int(digits[0], 16):08x}", line))
    return found
