"""What grows with the cluster: the 200th pod, 1,000 peers, the agent's start and memory with both."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from bench_cni import PAUSE
from bench_lab import OVSNET, Helper, Plugin, health, plugins, running, sandboxes
from figures import Figure, figure

from ovsnet.cni import framing
from ovsnet.lab import files
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, DATABASE_SOCKET, Node
from ovsnet.lab.state import write_atomically

PODS, PEERS = 200, 1000
FEW = 5
"""Pods at either end that are looked at; each is added ROUNDS times."""
ROUNDS, STARTS = 3, 5
_GROUP = 15
_PATIENCE = 60.0
_LOOK = 0.05
"""Seconds between two looks at the switch."""


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    with (
        running(nodes=1, pods=0, agent={"reuseAfter": 0}) as lab,
        plugins(lab.nodes[0], PODS) as (ours, theirs),
    ):
        node = lab.nodes[0]
        say(f"{PEERS} peers")
        yield from peers(lab, node)
        say(f"{PODS} pods")
        yield from pods(node, ours, theirs)
        say(f"the agent's start with {PODS} pods and {PEERS} peers")
        write_atomically(manifest(lab), nodes())
        settled(node, PEERS)
        node.kill(AGENT)
        yield from starts(node)


# the 200th pod


def pods(node: Node, ours: Plugin, theirs: Plugin) -> Iterator[Figure]:
    """Adds pods up to PODS; they stay."""
    first, first_mods = lone(node, ours, 0)
    ours_missing = sandboxes(ours, PODS - FEW)
    for start in range(0, len(ours_missing), _GROUP):
        ours.add(ours_missing[start : start + _GROUP])
    last, last_mods = lone(node, ours, PODS - FEW)
    ours.add(sandboxes(ours, FEW, PODS - FEW))
    title = f"CNI ADD of the {PODS}th pod"
    reference = "the first"
    yield figure(title, "ms", last, first, reference, limit=1.2)
    for start in range(0, PODS - FEW, _GROUP):
        theirs.add(sandboxes(theirs, min(_GROUP, PODS - FEW - start), start))
    samples: list[float] = []
    for name in sandboxes(theirs, FEW, PODS - FEW):
        time.sleep(PAUSE)
        samples += theirs.add([name])
    yield figure(title, "ms", last, samples, "bridge's")
    yield figure(f"{title}: flow modifications", "", last_mods, first_mods, reference, limit=1.0)


def lone(node: Node, ours: Plugin, start: int) -> tuple[list[float], list[float]]:
    """FEW pods one by one, several times: milliseconds and flow modifications of each; none stays."""
    times, modifications = [], []
    names = sandboxes(ours, FEW, start)
    for number in range(-1, ROUNDS):
        for name in names:
            time.sleep(PAUSE)
            before = health(node)["modifications"]
            taken = ours.add([name])
            if number >= 0:
                times += taken
                modifications.append(float(health(node)["modifications"] - before))
        ours.delete(names)
    return times, modifications


# 1,000 peers


def peers(lab: Lab, node: Node) -> Iterator[Figure]:
    """From the file's appearance in the store until ports and flows are there, seen from outside."""
    samples, bare = [], []
    for _ in range(ROUNDS):
        bare.append(bare_ports(node))
        write_atomically(manifest(lab), nodes())
        begun = time.perf_counter()
        samples.append(settled(node, PEERS) - begun)
        manifest(lab).unlink()
        settled(node, 0)
    yield figure(f"{PEERS} peers, from the store to ports and flows", "s", samples, limit=2.0)
    yield figure(
        f"{PEERS} tunnel ports on a bare bridge by one ovs-vsctl", "s", bare, note="what OVS alone takes"
    )


def manifest(lab: Lab) -> Path:
    return lab.folder.path / "cluster" / "many.yaml"


def nodes() -> str:
    """PEERS Node manifests in one file."""
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"peer-{i}"},
            "spec": {"podCIDRs": [f"10.{128 + i // 256}.{i % 256}.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": f"198.18.{i // 250}.{i % 250 + 1}"}]},
        }
        for i in range(PEERS)
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def settled(node: Node, tunnels: int) -> float:
    """When the switch got to where it stays: the agent is through with so many peers, and its word holds."""
    changed, last = time.perf_counter(), (-1, -1, -1)
    deadline = changed + _PATIENCE
    while True:
        seen = look(node)
        now = time.perf_counter()
        if seen != last:
            changed, last = now, seen
        flows, ports, unnumbered = seen
        if ports == tunnels and not unnumbered and now - changed > 0.5:
            said = health(node)
            if (said["peers"], said["flows"]) == (tunnels, flows):
                return changed
        if now > deadline:
            raise RuntimeError(f"flows, ports and ports without number are still {seen}")
        time.sleep(_LOOK)


def look(node: Node) -> tuple[int, int, int]:
    """Flows on the bridge, tunnel ports in OVSDB, and how many of these have no OpenFlow number."""
    command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-aggregate"]
    target = f"unix:{node.root}/run/openvswitch/br-int.mgmt"
    done = subprocess.run([*command, target], capture_output=True, text=True, check=True)
    flows = int(done.stdout.rpartition("flow_count=")[2])
    where = [["type", "==", "vxlan"]]
    rows = select(node, {"op": "select", "table": "Interface", "where": where, "columns": ["ofport"]})
    return flows, len(rows), sum(not isinstance(row["ofport"], int) for row in rows)


def select(node: Node, operation: dict[str, Any]) -> list[dict[str, Any]]:
    """One OVSDB operation by itself (RFC 7047, section 4.1.3)."""
    request = {"id": 0, "method": "transact", "params": ["Open_vSwitch", operation]}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"{node.root}/{DATABASE_SOCKET}")
        server.sendall(json.dumps(request).encode())
        answer = b""
        while True:
            answer += server.recv(1 << 20)
            try:
                rows: list[dict[str, Any]] = json.loads(answer)["result"][0]["rows"]
            except json.JSONDecodeError:
                continue
            return rows


def bare_ports(node: Node) -> float:
    """Seconds that OVS takes for as many tunnel ports when nobody watches: another bridge, one transaction."""
    bridge = f"-- add-br br-bare -- set Bridge br-bare datapath_type={node.datapath}"
    words = [bridge] + [
        f"-- add-port br-bare bare{i} -- set Interface bare{i} type=vxlan options:key=9 "
        f"options:remote_ip=198.19.{i // 250}.{i % 250 + 1}"
        for i in range(PEERS)
    ]
    script = node.private("/etc/ovsnet") / "bare.sh"
    script.write_text(f"exec ovs-vsctl --no-syslog {' '.join(words)}\n")
    begun = time.perf_counter()
    node.run(["sh", "/etc/ovsnet/bare.sh"], check=True)
    taken = time.perf_counter() - begun
    node.run(shlex.split("ovs-vsctl --no-syslog del-br br-bare"), check=True)
    return taken


# the agent's start


def starts(node: Node) -> Iterator[Figure]:
    """From exec until CNI STATUS is good, and the memory at that moment."""
    helper = Helper(node)
    command = [sys.executable, "-P", "-m", "ovsnet", "agent", "--config", "/etc/ovsnet/agent.yaml"]
    job = {
        "do": "start",
        "argv": command,
        "env": files.python_environment(),
        "socket": files.CNI_SOCKET,
        "request": framing.frame(
            {"CNI_COMMAND": "STATUS"}, json.dumps({**OVSNET, "cniVersion": "1.1.0"}).encode()
        ).decode(),
        "then": framing.frame({"OVSNET_COMMAND": "health"}).decode(),
        "seconds": _PATIENCE,
    }
    # The first one writes compiled modules, as an installation does.
    answers = [helper.do(job) for _ in range(STARTS + 1)][1:]
    helper.close()
    for answer in answers:
        said = json.loads(framing.unframe_reply(answer["said"].encode())[1])
        if (said["pods"], said["peers"]) != (PODS, PEERS):
            raise RuntimeError(f"the agent found {said['pods']} pods and {said['peers']} peers")
    title = f"agent with {PODS} pods and {PEERS} peers"
    yield figure(f"{title}: start to ready", "s", [each["ms"] / 1000 for each in answers], limit=1.5)
    yield figure(f"{title}: resident", "MB", [each["rss"] / 1000 for each in answers], limit=90)
    yield figure(f"{title}: resident at most", "MB", [each["peak"] / 1000 for each in answers], limit=90)
