"""Packets and bytes per second between two pods on the kernel's datapath, against the ways in `kernel_paths`.

What shows the datapath's cost is many packets, each handled alone: the kernel's packet generator, whose packets end at
the receiver's ingress, and TCP where nothing segments or merges. Called by `bench_kernel`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import kernel_paths as ways
import send_on_node
from bench_traffic import Path, iperf, server
from figures import Figure, figure
from kernel_paths import OVSNET, Ways

from ovsnet.lab.lab import Lab

SIZE, FIRST, WARM_UP, COUNT, ROUNDS = 128, 3, 20_000, 200_000, 11
"""Bytes of a frame. Packets for which ovs-vswitchd makes flows, with time to do so: else it would work on what it was
handed while others are measured; then those that make caches warm; then those of a round."""
TCP_ROUNDS, TCP_SECONDS = 5, 2
PORT = 9
"""Discard (RFC 863). The warm-up goes to the port before: some of it may be lost while ovs-vswitchd makes a flow."""
_LOSS = 0.001
"""The share of packets that may be missing at the receiver; more is a fault of the measurement."""
_TRIES = 3
"""The generator may keep a guest's one processor from what has arrived until there is no room for more."""
_SETTLE = 0.2
"""Seconds in which what is still under way arrives."""
PYTHON = [sys.executable, "-I", "-S"]
GOALS = {
    ways.BARE: 0.95,
    ways.BARE_TUNNEL: 0.95,
    ways.BARE_MASQUERADING: 0.95,
    ways.FLANNEL: 1.2,
    ways.FLANNEL_MASQUERADING: 1.2,
}
"""The least packets per second in comparison."""
Say = Callable[[str], None]
Samples = dict[tuple[str, str], list[float]]
"""By place and who."""


def packets(_ours: Lab, _others: Lab, found: Ways, rounds: int, say: Say) -> Iterator[Figure]:
    """UDP by the kernel's packet generator."""
    rounds = rounds or ROUNDS
    samples: Samples = defaultdict(list)
    everything = [(place, who, path) for place, paths in found.items() for who, path in paths.items()]
    jobs = {path: job(path) for _, _, path in everything}
    for path in {path[2:4]: path for path in jobs}.values():
        count_and_drop(path, f"udp dport {PORT} counter drop", f"udp dport {PORT - 1} drop")
    for number in range(rounds):
        for place, who, path in everything if number % 2 else reversed(everything):
            samples[place, who].append(generate(path, jobs[path]) / 1000)
        rates = (f"{place}, {who}: {each[-1]:.0f}" for (place, who), each in samples.items())
        say(f"packets: round {number + 1} of {rounds}; {'; '.join(rates)}")
    yield from judge(f"UDP, {SIZE} bytes", "k packets/s", found, samples, GOALS)


def tcp(ours: Lab, others: Lab, found: Ways, rounds: int, say: Say) -> Iterator[Figure]:
    """TCP, packet by packet."""
    rounds = rounds or TCP_ROUNDS
    packet_by_packet([ours, others], found)
    samples: Samples = defaultdict(list)
    everything = [(place, who, path) for place, paths in found.items() for who, path in paths.items()]
    with ExitStack() as servers:
        for path in {path[2:4]: path for _, _, path in everything}.values():
            servers.enter_context(server(path))
        for number in range(rounds):
            say(f"TCP: round {number + 1} of {rounds}")
            for place, who, path in everything if number % 2 else reversed(everything):
                samples[place, who].append(iperf(path, TCP_SECONDS))
    yield from judge("TCP", "Gbit/s", found, samples, {})


def judge(title: str, unit: str, found: Ways, samples: Samples, goals: dict[str, float]) -> Iterator[Figure]:
    for place, paths in found.items():
        ours = samples[place, OVSNET]
        for who in paths:
            if who != OVSNET:
                least = goals.get(who)
                yield figure(f"{title}, {place}", unit, ours, samples[place, who], who, least=least)


def job(path: Path) -> dict[str, object]:
    """For `send_on_node`: packets as the sender's kernel would make them, after a first exchange."""
    ping = ["ping", "-q", "-c3", "-i0.2", path.address]
    path.source.run(ping, netns=path.source_netns, check=True)
    runs = [{"count": count, "port": PORT - 1} for count in (FIRST, WARM_UP)]
    runs.append({"count": COUNT, "port": PORT})
    return {"do": "generate", "size": SIZE, "runs": runs, **ends(path)}


def ends(path: Path) -> dict[str, object]:
    """Addresses of the sender's packets, of whom it has sent one before."""
    route = json_of(path, ["ip", "-j", "route", "get", path.address])[0]
    hop = route.get("gateway", path.address)
    mac = json_of(path, ["ip", "-j", "neighbour", "show", "to", hop])[0]["lladdr"]
    return {"source": route["prefsrc"], "target": path.address, "mac": mac}


def json_of(path: Path, command: list[str]) -> list[dict[str, str]]:
    done = path.source.run(command, netns=path.source_netns, check=True)
    answer: list[dict[str, str]] = json.loads(done.stdout)
    return answer


def count_and_drop(path: Path, *rules: str) -> None:
    """At the receiver's ingress, before its stack. The first rule counts; they replace any before."""
    text = (
        "table netdev bench\ndelete table netdev bench\n"
        "table netdev bench {\n  chain ingress {\n    type filter hook ingress device eth0 priority 0;\n"
        + "".join(f"    {rule}\n" for rule in rules)
        + "  }\n}\n"
    )
    path.target.run(["nft", "-f", "-"], netns=path.target_netns, input=text, check=True)


def seen(path: Path) -> int:
    """Packets until now."""
    command = ["nft", "-j", "list", "chain", "netdev", "bench", "ingress"]
    done = path.target.run(command, netns=path.target_netns, check=True)
    rules = [each["rule"]["expr"] for each in json.loads(done.stdout)["nftables"] if "rule" in each]
    return int(next(each["counter"]["packets"] for each in rules[0] if "counter" in each))


def generate(path: Path, job: dict[str, object]) -> float:
    """Packets per second that the receiver counted. Raises RuntimeError if it misses more than a few time and again."""
    for _ in range(_TRIES):
        before = seen(path)
        taken = float(send(path, job)["us"][-1])
        time.sleep(_SETTLE)
        counted = seen(path) - before
        if (1 - _LOSS) * COUNT <= counted <= COUNT:
            return 1e6 * counted / taken
    raise RuntimeError(f"{counted} of {COUNT} packets came to {path.address}, after {_TRIES} tries")


def send(path: Path, job: dict[str, object]) -> dict[str, Any]:
    """What `send_on_node` answers in the sender's pod."""
    command = [*PYTHON, send_on_node.__file__]
    done = path.source.run(command, netns=path.source_netns, input=json.dumps(job), check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def packet_by_packet(labs: list[Lab], found: Ways) -> None:
    """Neither segmentation nor merging by any interface: on nodes, in pods, in the underlay."""
    for lab in labs:
        for place in (*lab.nodes, lab.underlay):
            for interface in place.interfaces() - {"lo"}:
                place.call_on_network(["ethtool", "-K", interface, "gso", "off", "tso", "off", "gro", "off"])
    ends = {end for paths in found.values() for path in paths.values() for end in (path[0:2], path[2:4])}
    for node, netns in ends:
        command = ["ethtool", "-K", "eth0", "gso", "off", "tso", "off", "gro", "off"]
        node.run(command, netns=netns, check=True)
