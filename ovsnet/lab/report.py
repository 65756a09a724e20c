"""What people see of a lab: its status as a table, the connectivity check as a matrix, failures in words.

Collects nothing but each node's OVSDB rows and pods' MTUs (`survey`); the rest is formatting with rich.
Called by `ovsnet.cli.lab`.
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import msgspec
from rich.table import Table
from rich.text import Text

from ovsnet.lab.check import Report, Result
from ovsnet.lab.lab import WORKERS, Lab
from ovsnet.lab.namespaces import INIT
from ovsnet.lab.node import CONFIG, OVSDB, Node
from ovsnet.lab.pods import IFNAME, Pod
from ovsnet.lab.spec import LabError
from ovsnet.model import Encap

MAX_FAILURES = 12


class PodStatus(msgspec.Struct, kw_only=True):
    name: str
    running: bool
    addresses: list[str]
    mtu: int


class NodeStatus(msgspec.Struct, kw_only=True):
    """missing: daemons that should run and don't; tunnels: names of peers, or "flow"."""

    name: str
    missing: list[str]
    addresses: list[str]
    tunnels: list[str]
    pods: list[PodStatus]


class Status(msgspec.Struct, kw_only=True):
    name: str
    datapath: str
    encapsulation: str
    nodes: list[NodeStatus]

    @property
    def whole(self) -> bool:
        return not any(node.missing or not all(pod.running for pod in node.pods) for node in self.nodes)


def survey(lab: Lab) -> Status:
    """Look at every node and pod of the lab."""
    state = lab.state
    remotes = {str(address): node.name for node in lab.nodes for address in node_addresses(node)}
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        pods = list(pool.map(pod_status, lab.pods))
        nodes = list(pool.map(lambda node: node_status(node, remotes), lab.nodes))
    by_name = {node.name: node for node in nodes}
    for pod, spec in zip(pods, state.pods.values(), strict=True):
        by_name[spec.node].pods.append(pod)
    return Status(name=lab.name, datapath=state.datapath, encapsulation=state.spec.encap.value, nodes=nodes)


def node_addresses(node: Node) -> list[str]:
    return [str(node.node.address(version)) for version in node.spec.underlay_families]


def node_status(node: Node, remotes: dict[str, str]) -> NodeStatus:
    missing = [name for name in (INIT, *node.daemons) if not node.daemon(name)]
    tunnels: list[str] = []
    if INIT not in missing and OVSDB not in missing:
        tunnels = [remotes.get(remote, remote) for remote in tunnel_remotes(node)]
    return NodeStatus(
        name=node.name, missing=missing, addresses=node_addresses(node), tunnels=tunnels, pods=[]
    )


def tunnel_remotes(node: Node) -> list[str]:
    """The far ends of the node's tunnel ports, or "flow" for a port that serves all."""
    done = node.run(
        ["ovs-vsctl", "--timeout=5", "--format=json", "--columns=type,options", "list", "Interface"]
    )
    if done.returncode:
        return []
    types = {encap.value for encap in Encap}
    options = [dict(row[1][1]) for row in json.loads(done.stdout)["data"] if row[0] in types]
    return sorted(option["remote_ip"] for option in options if "remote_ip" in option)


def pod_status(pod: Pod) -> PodStatus:
    mtu = 0
    running = pod.node.daemon(pod.sandbox) is not None
    if running:
        with contextlib.suppress(LabError, ValueError, KeyError, IndexError):
            done = pod.node.run(["ip", "-j", "link", "show", "dev", IFNAME], netns=pod.netns)
            mtu = json.loads(done.stdout)[0]["mtu"]
    addresses = [str(address) for address in pod.addresses]
    return PodStatus(name=pod.name, running=running and mtu > 0, addresses=addresses, mtu=mtu)


def status_table(status: Status) -> Table:
    title = Text(
        f"lab {status.name}: {status.encapsulation}, {status.datapath} datapath", "bold", overflow="fold"
    )
    table = Table(title=title, title_justify="left", title_style="none")
    for column in ("node", "pod", "addresses", "MTU", "tunnel peers"):
        table.add_column(column, justify="right" if column == "MTU" else "left", overflow="fold")
    for node in status.nodes:
        peers = ", ".join(node.tunnels) or "-"
        state = Text(f"{node.name}: {', '.join(node.missing)} not running" if node.missing else node.name)
        state.stylize("red" if node.missing else "")
        table.add_row(state, "", "\n".join(node.addresses), "", peers)
        for pod in node.pods:
            name = Text(
                pod.name if pod.running else f"{pod.name}: not running", style="" if pod.running else "red"
            )
            table.add_row("", name, "\n".join(pod.addresses), str(pod.mtu or "-"), "")
        table.add_section()
    return table


def matrices(report: Report, width: int) -> list[Table]:
    """Sources down, targets across; a cell has a mark per kind of probe that failed, or a tick for all.

    As many tables as it takes for each to fit in `width` columns.
    """
    size = sorted({result.size for result in report.results if result.size})
    sizes = f"{size[0]}" if len(size) == 1 else f"{size[0]} to {size[-1]}" if size else "no"
    title = f"from left to top, {sizes}-byte packets"
    heads = max((len(source) for source in report.sources), default=0)
    cells = {
        (source, target): cell(report.cell(source, target))
        for source in report.sources
        for target in report.targets
    }
    needed = {
        target: max(len(target), *(cells[source, target].cell_len for source in report.sources), 1)
        for target in report.targets
    }
    tables: list[Table] = []
    for targets in fitting(needed, width - heads - 4):
        table = Table(title=None if tables else title, title_justify="left", title_style="bold")
        table.add_column("", overflow="fold", min_width=heads)
        for target in targets:
            table.add_column(target, justify="center", overflow="fold")
        for source in report.sources:
            table.add_row(source, *(cells[source, target] for target in targets))
        tables.append(table)
    return tables


def fitting(needed: dict[str, int], width: int) -> list[list[str]]:
    """The names in rows of at most `width` columns; each takes what it needs, two blanks and a line."""
    rows: list[list[str]] = [[]]
    left = width
    for name, size in needed.items():
        if rows[-1] and size + 3 > left:
            rows.append([])
            left = width
        rows[-1].append(name)
        left -= size + 3
    return rows


def cell(results: list[Result]) -> Text:
    if not results:
        return Text("·", style="dim")
    failed = sorted({f"{result.protocol}{result.version}" for result in results if not result.ok})
    if not failed:
        return Text("✓", style="green")
    return Text("✗ all" if len(failed) == len(results) else "✗ " + " ".join(failed), style="bold red")


def failures(report: Report) -> list[str]:
    """What failed, in words: a line per pair and reason, and how much more of it there is."""
    if not report.results:
        return ["nothing was probed: the lab has no pods and no nodes"]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for result in report.failures:
        kinds = grouped.setdefault((result.source, result.target, result.detail), [])
        kinds.append(f"{result.protocol} over IPv{result.version}")
    lines = [
        f"{source} -> {target}: {detail} ({', '.join(sorted(kinds))})"
        for (source, target, detail), kinds in grouped.items()
    ]
    more = len(lines) - MAX_FAILURES
    return [*lines[:MAX_FAILURES], f"and {more} more like these"] if more > 0 else lines


def summary(report: Report) -> str:
    """One line; what was not probed is not counted."""
    kinds = sorted({result.version for result in report.results})
    families = " and ".join(f"IPv{version}" for version in kinds)
    return (
        f"{len(report.results) - len(report.failures)} of {len(report.results)} probes over {families} passed"
    )


def next_commands(lab: Lab) -> list[str]:
    """What to try next, with names of this lab."""
    option = "" if lab.name == "lab" else f" --name {lab.name}"
    state = lab.state
    pods, nodes = list(state.pods), list(state.nodes)
    if state.spec.kubernetes:
        return [
            f"ovsnet lab{option} kubectl get nodes -o wide",
            f"ovsnet lab{option} kubectl create deployment web --image=localhost/agnhost:lab --replicas=3"
            " -- /agnhost netexec",
            f"ovsnet lab{option} kubectl get pods -o wide",
            f"ovsnet lab{option} exec web-... -- curl -s http://ADDRESS:8080/clientip",
            f"ovsnet lab{option} run {nodes[0]} -- ovsnet show",
            f"ovsnet lab{option} down",
        ]
    lines = [f"ovsnet lab{option} exec {pods[0]} -- ping -c1 {pods[-1]}"] if pods else []
    lines += [
        f"ovsnet lab{option} ovs {nodes[0]} -- ovs-vsctl show",
        f"ovsnet lab{option} run {nodes[0]} -- ovsnet show",
        f"vi {lab.node(nodes[0]).private(CONFIG)}",
        f"ovsnet lab{option} run {nodes[0]} -- pkill -f 'ovsnet agent'; ovsnet lab{option} up",
        f"ovsnet lab{option} add-node",
        f"ovsnet lab{option} down",
    ]
    return lines
