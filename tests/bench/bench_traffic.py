"""Throughput and latency of pods against a bare bridge with two flows, on one node and between two."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench_lab import running
from figures import Figure, figure

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.state import wait_for

SECONDS, ROUNDS, PINGS = 3, 5, 1000
_KEY = 4242
"""VNI of the bare bridges' tunnel: not the agents'."""


class Path(NamedTuple):
    """From one network namespace to another."""

    source: Node
    source_netns: str
    target: Node
    target_netns: str
    address: str


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    with running(nodes=2, pods=2) as lab:
        node = lab.nodes[0]
        mtu = int(node.run(["cat", "/sys/class/net/eth0/mtu"], netns="/run/netns/a1", check=True).stdout)
        ways = {
            "on one node": (pods(lab, "a1", "a2"), bare_bridge(node, mtu)),
            "between nodes": (pods(lab, "a1", "b1"), bare_tunnel(node, lab.nodes[1], mtu)),
        }
        say("throughput")
        with contextlib.ExitStack() as servers:
            for path in {path[2:4]: path for pair in ways.values() for path in pair}.values():
                servers.enter_context(server(path))
            for title, (ours, bare) in ways.items():
                yield from compare(title, ours, bare)


def compare(title: str, ours: Path, bare: Path) -> Iterator[Figure]:
    """In turns, who is first alternating."""
    bits: dict[Path, list[float]] = defaultdict(list)
    round_trips: dict[Path, list[float]] = defaultdict(list)
    for path in (ours, bare):
        iperf(path, 1)
    for number in range(ROUNDS):
        for path in (ours, bare) if number % 2 else (bare, ours):
            bits[path].append(iperf(path, SECONDS))
            round_trips[path].append(ping(path))
    share = statistics.median(bits[ours]) / statistics.median(bits[bare])
    note = f"{100 * share:.0f} % of the bare bridge's"
    yield figure(
        f"TCP throughput, {title}", "Gbit/s", bits[ours], bits[bare], "bare bridge, two flows", note=note
    )
    yield figure(f"ping, {title}", "us", round_trips[ours], round_trips[bare], "bare bridge, two flows")


def pods(lab: Lab, source: str, target: str) -> Path:
    one, other = lab.pod(source), lab.pod(target)
    return Path(one.node, one.netns, other.node, other.netns, str(other.address(4)))


def bare_bridge(node: Node, mtu: int) -> Path:
    """Two ports: what comes in at one leaves at the other."""
    for number in (1, 2):
        host(node, f"bare{number}", f"198.18.1.{number}/24", mtu)
    switch(node, "br-bare", "add-port br-bare bare1 -- add-port br-bare bare2", "bare1", "bare2")
    return Path(node, "/run/netns/bare1", node, "/run/netns/bare2", "198.18.1.2")


def bare_tunnel(a: Node, b: Node, mtu: int) -> Path:
    """The same on each of two nodes, with a port and a tunnel."""
    for number, node, peer in ((1, a, b), (2, b, a)):
        host(node, f"far{number}", f"198.18.2.{number}/24", mtu)
        tunnel = (
            f"add-port br-far far{number} -- add-port br-far tunnel -- set Interface tunnel type=vxlan "
            f"options:key={_KEY} options:remote_ip={peer.node.address(4)}"
        )
        switch(node, "br-far", tunnel, f"far{number}", "tunnel")
    return Path(a, "/run/netns/far1", b, "/run/netns/far2", "198.18.2.2")


def host(node: Node, name: str, address: str, mtu: int) -> None:
    """A network namespace like a pod's: the same kind of link with the same settings."""
    node.run(["ip", "netns", "add", name], check=True)
    lines = [
        f"link add {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}",
        f"link set {name} arp off up",
    ]
    node.run(["ip", "-batch", "-"], input="\n".join(lines), check=True)
    inside = [f"address add {address} dev eth0", "link set eth0 up", "link set lo up"]
    node.run(["ip", "-n", name, "-batch", "-"], input="\n".join(inside), check=True)
    if node.datapath == "netdev":
        node.run(["ethtool", "-K", "eth0", "tx", "off"], netns=f"/run/netns/{name}", check=True)


def switch(node: Node, bridge: str, ports: str, one: str, other: str) -> None:
    """A bridge of the same datapath with two flows."""
    make = f"ovs-vsctl add-br {bridge} -- set Bridge {bridge} datapath_type={node.datapath} fail_mode=secure"
    node.run(shlex.split(f"{make} -- {ports}"), check=True)
    for source, target in ((one, other), (other, one)):
        flow = f"in_port={source},actions=output:{target}"
        node.run(["ovs-ofctl", "add-flow", bridge, flow], check=True)


@contextlib.contextmanager
def server(path: Path) -> Iterator[None]:
    command = path.target.command(["iperf3", "-s", "-p", "5201"], path.target_netns)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listening() -> bool:
        done = path.target.run(["ss", "-Hltn", "sport", "=", "5201"], netns=path.target_netns)
        return bool(done.stdout)

    try:
        if not wait_for(listening, 10, 0.05):
            raise RuntimeError(f"iperf3 does not listen in {path.target_netns}")
        yield
    finally:
        process.terminate()
        process.wait(10)


def iperf(path: Path, seconds: int) -> float:
    """Gbit/s that arrived: TCP, one stream, one way."""
    command = ["iperf3", "-c", path.address, "-p", "5201", "-t", str(seconds), "-O", "1", "-J"]
    done = path.source.run(command, netns=path.source_netns, check=True)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def ping(path: Path) -> float:
    """Mean round trip in microseconds, each packet sent when the last has come back."""
    command = ["ping", "-f", "-q", "-c", str(PINGS), path.address]
    done = path.source.run(command, netns=path.source_netns, check=True)
    found = re.search(r"= [\d.]+/([\d.]+)/", done.stdout)
    if not found:
        raise RuntimeError(f"ping says: {done.stdout}")
    return 1000 * float(found[1])
