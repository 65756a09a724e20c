"""Connections through a Service on the kernel's datapath, against upstream's kube-proxy in nftables mode.

Packets of one that is established, bytes of one, and how long it takes to open one. The reference has nodes of a lab
of its own, set up as flannel's: pods on a Linux bridge, a VXLAN device between nodes, rules that masquerade; kube-proxy
writes the others. Both serve the same Services. Called by `bench_kernel`.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import kube_proxy
from bench_lab import running
from bench_traffic import Path, iperf, server
from figures import Figure
from kernel_paths import (
    CROSS,
    FLANNEL_NET,
    OVSNET,
    SAME,
    Ways,
    bridged,
    filter_bridges,
    flannel,
    masquerade,
    pods_mtu,
)
from kernel_traffic import (
    COUNT,
    FIRST,
    PYTHON,
    ROUNDS,
    SIZE,
    TCP_ROUNDS,
    TCP_SECONDS,
    WARM_UP,
    Samples,
    Say,
    count_and_drop,
    ends,
    generate,
    judge,
    packet_by_packet,
    send,
)

from ovsnet.lab import server as echo_and_web
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.state import write_atomically

ON_BRIDGE, WITH_FLANNEL = "kube-proxy, Linux bridge", "kube-proxy, flannel's way"
FEW, MANY = 10, 1000
"""Services in all; two of them are called."""
OPEN_ROUNDS, OPENED = 9, 300
"""Of the connections of a round the median is one sample."""
WEB, ECHO, BULK = 80, 7, 5201
"""Ports of each Service, and of its endpoints."""
SOURCE_PORT = 40009
SHORT, HEADERS = 64, 34
"""Bytes of UDP that are no packet generator's; of Ethernet and IP in front of UDP."""
NUMBERS = {SAME: 1, CROSS: 2}
"""Of the Services that are called."""


def services(ours: Lab, _others: Lab, _found: Ways, rounds: int, say: Say) -> Iterator[Figure]:
    say("Services: a lab for kube-proxy")
    both = {"families": "dual", "underlay": "dual", "datapath": "system"}
    with running(nodes=2, pods=0, plugin="none", **both) as theirs:
        pods = reference(theirs, pods_mtu(ours))
        addresses = [str(ours.pod(name).address(4)) for name in ("a2", "b1")]
        found = called(ours, pods)
        for count in (FEW, MANY):
            say(f"Services: {count}")
            write_services(ours, count, addresses)
            for node in theirs.nodes:
                say(f"Services: {count}, kube-proxy on {node.name}")
                objects = api_objects(node, count, [path.address for path in pods])
                kube_proxy.serve(node, f"10.{FLANNEL_NET}.0.0/16", objects, cluster_ip(count))
            for path in every(found):
                send(path, {"do": "echo", "target": path.address, "port": ECHO, "source_port": SOURCE_PORT})
            if count == FEW:
                yield from packets(found, rounds, say)
                yield from throughput([ours, theirs], found, rounds, say)
            yield from opening(found, count, rounds, say)


def reference(lab: Lab, mtu: int) -> list[Path]:
    """From a pod to another one of its node and to one of the other node, as the Services' two endpoints."""
    a, b = lab.nodes
    for node in (a, b):
        masquerade(node)
        filter_bridges(node, on=True)
    filter_bridges(lab.underlay, on=False)
    cross = flannel(a, b, mtu)
    near = f"{cross.address.rsplit('.', 2)[0]}.{a.node.index}.3"
    bridged(a, "cni0", "fl2", near, mtu)
    same = Path(a, cross.source_netns, a, "/run/netns/fl2", near)
    for path in (same, cross):
        argv = [*PYTHON, echo_and_web.__file__, path.address]
        path.target.launch(f"server-{path.address}", argv, netns=path.target_netns)
    return [same, cross]


def called(ours: Lab, pods: list[Path]) -> Ways:
    """The ways by the Services' addresses."""
    one = ours.pod("a1")
    found: Ways = {}
    for place, target, who, path in zip(NUMBERS, ("a2", "b1"), (ON_BRIDGE, WITH_FLANNEL), pods, strict=True):
        other, address = ours.pod(target), cluster_ip(NUMBERS[place])
        mine = Path(one.node, one.netns, other.node, other.netns, address)
        found[place] = {OVSNET: mine, who: path._replace(address=address)}
    return found


def every(found: Ways) -> list[Path]:
    return [path for paths in found.values() for path in paths.values()]


# --- what is measured ----------------------------------------------------------------------------


def in_turns(found: Ways, rounds: int, words: str, say: Say, once: Callable[[Path], float]) -> Samples:
    samples: Samples = defaultdict(list)
    everything = [(place, who, path) for place, paths in found.items() for who, path in paths.items()]
    for number in range(rounds):
        for place, who, path in everything if number % 2 else reversed(everything):
            samples[place, who].append(once(path))
        last = "; ".join(f"{place}, {who}: {each[-1]:.2f}" for (place, who), each in samples.items())
        say(f"{words}: round {number + 1} of {rounds}; {last}")
    return samples


def packets(found: Ways, rounds: int, say: Say) -> Iterator[Figure]:
    """UDP by the kernel's packet generator, as of a connection that an echo has established. What warms up is told by
    its size."""
    for path in every(found):
        rules = (f"length {SIZE - HEADERS} counter drop", f"length > {SHORT} drop")
        count_and_drop(path, *(f"udp dport {ECHO} udp {rule}" for rule in rules))
    runs = [{"count": count, "port": ECHO, "size": SIZE + 2} for count in (FIRST, WARM_UP)]
    runs.append({"count": COUNT, "port": ECHO, "size": SIZE})

    def once(path: Path) -> float:
        options: dict[str, object] = {"size": SIZE, "runs": runs, "source_port": SOURCE_PORT}
        return generate(path, {"do": "generate", **options, **ends(path)}) / 1000

    samples = in_turns(found, rounds or ROUNDS, "packets through a Service", say, once)
    yield from judge(f"UDP through a Service, {SIZE} bytes", "k packets/s", found, samples, {})


def throughput(labs: list[Lab], found: Ways, rounds: int, say: Say) -> Iterator[Figure]:
    packet_by_packet(labs, found)
    with contextlib.ExitStack() as servers:
        for path in every(found):
            servers.enter_context(server(path))
        samples = in_turns(
            found, rounds or TCP_ROUNDS, "TCP through a Service", say, lambda path: iperf(path, TCP_SECONDS)
        )
    yield from judge("TCP through a Service", "Gbit/s", found, samples, {})


def opening(found: Ways, count: int, rounds: int, say: Say) -> Iterator[Figure]:
    def once(path: Path) -> float:
        answer = send(path, {"do": "open", "target": path.address, "port": WEB, "count": OPENED})
        return float(statistics.median(answer["us"]))

    samples = in_turns(found, rounds or OPEN_ROUNDS, f"opening, {count} Services", say, once)
    yield from judge(f"opening a TCP connection to one of {count} Services", "us", found, samples, {})


# --- the Services --------------------------------------------------------------------------------


def cluster_ip(number: int) -> str:
    return f"10.96.{number // 250}.{number % 250 + 1}"


def write_services(lab: Lab, count: int, endpoints: list[str]) -> None:
    """Into the store of ovsnet's lab."""
    documents = [each for number in range(1, count + 1) for each in manifests(number, endpoints)]
    text = "\n---\n".join(map(json.dumps, documents))
    write_atomically(lab.folder.path / "cluster" / "bench-services.yaml", text)


def api_objects(node: Node, count: int, endpoints: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What the node's kube-proxy is served."""
    pairs = [manifests(number, endpoints) for number in range(1, count + 1)]
    return {
        "/api/v1/nodes": [node_object(node)],
        "/api/v1/services": [pair[0] for pair in pairs],
        "/apis/discovery.k8s.io/v1/endpointslices": [pair[1] for pair in pairs],
    }


def node_object(node: Node) -> dict[str, Any]:
    address = {"type": "InternalIP", "address": str(node.node.address(4))}
    metadata = {"name": node.name, "resourceVersion": "1", "uid": node.name}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"addresses": [address]}}


def manifests(number: int, endpoints: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Service and its slice. Those that are called have one endpoint, the others both."""
    name, address = f"bench-{number}", cluster_ip(number)
    used = endpoints[number - 1 : number] if number <= len(endpoints) else endpoints
    metadata = {"name": name, "namespace": "default", "resourceVersion": "1", "uid": name}
    ports = [("web", "TCP", WEB), ("echo", "UDP", ECHO), ("bulk", "TCP", BULK)]
    spec = {
        "type": "ClusterIP",
        "clusterIP": address,
        "clusterIPs": [address],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [
            {"name": port, "protocol": protocol, "port": at, "targetPort": at} for port, protocol, at in ports
        ],
    }
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": port, "protocol": protocol, "port": at} for port, protocol, at in ports],
        "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in used],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}, piece
