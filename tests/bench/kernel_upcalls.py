"""The kernel's flows: how many new pairs of pods a second get one, and how many it takes for many connections.

Each pair needs a flow of its own, so ovs-vswitchd is asked for every first packet (an upcall). The reference is a bare
bridge with as many ports and one flow for each address. Called by `bench_kernel`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import send_on_node
from bench_lab import OVSNET, Helper, Plugin
from figures import Figure, figure
from kernel_paths import Ways
from kernel_traffic import PYTHON, Say

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.state import wait_for

PODS, SENDERS, ROUNDS = 100, 20, 9
CONNECTIONS = 1000
AT_ONCE = 10
PORT = 7
"""Echo (RFC 862); nobody answers."""
LEAST = 0.7
MOST_FLOWS = 4
BRIDGE = "br-pairs"


def pairs(ours: Lab, others: Lab, _found: Ways, rounds: int, say: Say) -> Iterator[Figure]:
    """First packets."""
    rounds = rounds or ROUNDS
    node, other = ours.nodes[0], others.nodes[0]
    say(f"first packets: {PODS} pods, and as many on a bare bridge")
    names = [f"pair-{number}" for number in range(PODS)]
    attached(node, names)
    bare(other, names)
    rates: dict[str, list[float]] = {node.name: [], "bare": []}
    for number in range(-1, rounds):
        say(f"first packets: round {number + 1} of {rounds}")
        both = ((node, rates[node.name]), (other, rates["bare"]))
        for each, samples in both if number % 2 else reversed(both):
            rate = first_packets(each, names)
            if number >= 0:
                samples.append(rate / 1000)
    yield figure(
        "first packets of new pairs",
        "k pairs/s",
        rates[node.name],
        rates["bare"],
        f"bare Open vSwitch, {PODS} flows",
        least=LEAST,
    )


def attached(node: Node, names: Sequence[str]) -> None:
    """Pods without anything in them."""
    node.run(["ip", "-batch", "-"], input="\n".join(f"netns add {name}" for name in names), check=True)
    helper = Helper(node)
    plugin = Plugin("ovsnet", "/opt/cni/bin/ovsnet", OVSNET, helper)
    try:
        for start in range(0, len(names), AT_ONCE):
            plugin.add(names[start : start + AT_ONCE])
    finally:
        helper.close()


def bare(node: Node, names: Sequence[str]) -> None:
    """A port for each name, and a flow for each address."""
    lines, ports, flows = [], [], []
    for number, name in enumerate(names):
        lines += [
            f"netns add {name}",
            f"link add {name} type veth peer name eth0 netns {name}",
            f"link set {name} arp off up",
        ]
        ports += f"-- add-port {BRIDGE} {name} -- set Interface {name} ofport_request={number + 1}".split()
        flows.append(f"priority=100,ip,nw_dst={address(number)},actions=output:{number + 1}")
    node.run(["ip", "-batch", "-"], input="\n".join(lines), check=True)
    for number, name in enumerate(names):
        inside = f"address add {address(number)}/16 dev eth0\nlink set eth0 up"
        node.run(["ip", "-n", name, "-batch", "-"], input=inside, check=True)
    made = f"add-br {BRIDGE} -- set Bridge {BRIDGE} datapath_type={node.datapath} fail_mode=secure"
    node.run(["ovs-vsctl", *made.split(), *ports], check=True)
    node.run(["ovs-ofctl", "add-flows", BRIDGE, "-"], input="\n".join(flows), check=True)


def address(number: int) -> str:
    return f"198.19.{number // 250}.{number % 250 + 1}"


def first_packets(node: Node, names: Sequence[str]) -> float:
    """New pairs a second. Raises RuntimeError if a packet is lost or a pair has not got a flow of its own."""
    purge(node)
    job = {"do": "pairs", "senders": names[:SENDERS], "receivers": names, "port": PORT}
    done = node.run([*PYTHON, send_on_node.__file__], input=json.dumps(job), check=True)
    answer = json.loads(done.stdout)
    expected = SENDERS * (len(names) - 1)
    flows = len(ip_flows(node))
    if answer["arrived"] != expected or flows < expected:
        arrived = answer["arrived"]
        raise RuntimeError(f"{node.name}: of {expected} pairs {arrived} got through, with {flows} flows")
    return float(expected / sum(answer["seconds"]))


def purge(node: Node) -> None:
    node.run(["ovs-appctl", "revalidator/purge"], check=True)
    if not wait_for(lambda: not ip_flows(node), 10, 0.1):
        raise RuntimeError(f"{node.name}: the kernel keeps flows")


def ip_flows(node: Node) -> list[str]:
    """The kernel's flows of IPv4."""
    done = node.run(["ovs-appctl", "dpctl/dump-flows", "--names"], check=True)
    return [flow for flow in done.stdout.splitlines() if "eth_type(0x0800)" in flow]


def connections(ours: Lab, _others: Lab, _found: Ways, _rounds: int, say: Say) -> Iterator[Figure]:
    """The kernel's flows after many connections between two pods, on the node that has the most."""
    say(f"{CONNECTIONS} connections")
    for place, target in (("same node", "a2"), ("cross node", "b1")):
        nodes = {pod.node.name: pod.node for pod in (ours.pod("a1"), ours.pod(target))}.values()
        for node in nodes:
            purge(node)
        job = {"do": "connect", "target": str(ours.pod(target).address(4)), "port": 80, "count": CONNECTIONS}
        pod = ours.pod("a1")
        command = [*PYTHON, send_on_node.__file__]
        pod.node.run(command, netns=pod.netns, input=json.dumps(job), check=True)
        most = max(len(ip_flows(node)) for node in nodes)
        title = f"the kernel's flows for {CONNECTIONS} connections, {place}"
        yield figure(title, "flows", [float(most)], limit=MOST_FLOWS)
