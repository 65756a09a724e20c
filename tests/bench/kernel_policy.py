"""Packets per second on the kernel's datapath where there are policies, against the same pods without.

Of a pod that POLICIES policies isolate, and of one that none is about beside it on the same node: UDP of a connection
that is established, on one node and between two. One lab; its policies come and go from round to round, and which of
the two is first alternates. What policies need is conntrack; what that costs by itself is told by a bare bridge which
asks it in turns with the same bridge which does not. Called by `bench_policy`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path as File
from typing import Any

import send_on_node
from at_size import count, folder
from bench_lab import running
from bench_traffic import Path, bare_bridge, pods
from figures import Figure, figure
from kernel_services import ECHO, HEADERS, SHORT, SOURCE_PORT
from kernel_traffic import COUNT, FIRST, ROUNDS, SIZE, WARM_UP, count_and_drop, ends, generate, send

from ovsnet.lab import server
from ovsnet.lab.lab import Lab
from ovsnet.lab.state import wait_for, write_atomically

POLICIES = 100
ISOLATED, UNTOUCHED = f"a pod with {POLICIES} policies", "a pod without any beside it"
SAME, CROSS = "same node", "cross node"
WAYS = {
    (ISOLATED, SAME): ("a1", "a2"),
    (ISOLATED, CROSS): ("a1", "b1"),
    (UNTOUCHED, SAME): ("a3", "a4"),
    (UNTOUCHED, CROSS): ("a3", "b2"),
}
BARE = "a bare bridge"
LEAST = {ISOLATED: 0.9, UNTOUCHED: 0.97}
"""Of the rate without policies."""
_ZONE = 4242
"""Of conntrack, for the bare bridge."""
_CLIENT, _SERVERS = "a1", ("a2", "b1")
_PATIENCE = 60.0
Say = Callable[[str], None]


def measure(rounds: int, say: Say) -> Iterator[Figure]:
    if not File(send_on_node.PKTGEN).is_dir():
        sys.exit("error: this kernel has no packet generator: modprobe pktgen")
    say("a lab with policies")
    with running(nodes=2, pods=4, datapath="system") as lab, contextlib.ExitStack() as stack:
        for name in _SERVERS:
            lab.label_pod(name, {"app": "server"})
        lab.label_pod(_CLIENT, {"app": "client"})
        ways = {key: pods(lab, *ends) for key, ends in WAYS.items()}
        ways[BARE, SAME] = stack.enter_context(bare(lab))
        jobs = {path: job(path) for path in ways.values()}
        samples: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
        for number in range(rounds or ROUNDS):
            for with_policies in (True, False) if number % 2 else (False, True):
                write(lab, POLICIES if with_policies else 0)
                ask_conntrack(ways[BARE, SAME], with_policies)
                for (who, place), path in ways.items():
                    samples[who, place, with_policies].append(generate(path, jobs[path]) / 1000)
            words = ", ".join(
                f"{key[0]}, {key[1]}, {key[2]}: {each[-1]:.0f}" for key, each in samples.items()
            )
            say(f"packets with and without policies: round {number + 1} of {rounds or ROUNDS}; {words}")
        for who, place in WAYS:
            yield figure(
                f"UDP of a connection, {SIZE} bytes, {place}: {who}", "k packets/s",
                samples[who, place, True], samples[who, place, False], "without policies", least=LEAST[who],
            )  # fmt: skip

        policed, asking = samples[ISOLATED, SAME, True], samples[BARE, SAME, True]
        title = f"UDP of a connection, {SIZE} bytes, {SAME}"
        words = f"{BARE} that asks conntrack"
        yield figure(f"{title}: {ISOLATED}", "k packets/s", policed, asking, words, least=0.95)
        yield figure(f"{title}: {words}", "k packets/s", asking, samples[BARE, SAME, False], "without")


@contextlib.contextmanager
def bare(lab: Lab) -> Iterator[Path]:
    """Two hosts on a bridge of the first node, of which the second one answers."""
    node = lab.nodes[0]
    mtu = node.run(["cat", "/sys/class/net/eth0/mtu"], netns=lab.pod(_CLIENT).netns, check=True).stdout
    path = bare_bridge(node, int(mtu))
    command = node.command([sys.executable, "-I", "-S", server.__file__, "bare"], path.target_netns)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield path
    finally:
        process.terminate()
        process.wait(10)


def ask_conntrack(path: Path, asked: bool) -> None:
    """Has the bare bridge hand on what conntrack knows, or whatever comes."""
    flows = [
        f"in_port={one},actions=output:{other}" for one, other in (("bare1", "bare2"), ("bare2", "bare1"))
    ]
    if asked:
        flows = [
            *(f"priority=1,{each}" for each in flows),
            f"priority=10,ip,actions=ct(zone={_ZONE},table=1)",
            *(f"table=1,ip,ct_state=+trk+est,{each}" for each in flows),
            *(
                f"table=1,ip,ct_state=+trk+new,{each}".replace(
                    "actions=", f"actions=ct(commit,zone={_ZONE}),"
                )
                for each in flows
            ),
        ]
    command = ["ovs-ofctl", "-O", "OpenFlow15", "replace-flows", "br-bare", "-"]
    path.source.run(command, input="\n".join(flows) + "\n", check=True)


def job(path: Path) -> dict[str, object]:
    """What warms up is told by its size, as in `kernel_services`."""
    path.source.run(["ping", "-q", "-c3", "-i0.2", path.address], netns=path.source_netns, check=True)
    send(path, {"do": "echo", "target": path.address, "port": ECHO, "source_port": SOURCE_PORT})
    rules = (f"length {SIZE - HEADERS} counter drop", f"length > {SHORT} drop")
    count_and_drop(path, *(f"udp dport {ECHO} udp {rule}" for rule in rules))
    runs = [{"count": each, "port": ECHO, "size": SIZE + 2} for each in (FIRST, WARM_UP)]
    runs.append({"count": COUNT, "port": ECHO, "size": SIZE})
    return {"do": "generate", "size": SIZE, "runs": runs, "source_port": SOURCE_PORT, **ends(path)}


# --- policies --------------------------------------------------------------------------------------


def write(lab: Lab, policies: int) -> None:
    """So many in the store, and waits until all nodes have them."""
    text = "\n---\n".join(json.dumps(policy(number)) for number in range(policies))
    path = folder(lab) / "bench-policies.yaml"
    if policies:
        write_atomically(path, text)
    else:
        path.unlink(missing_ok=True)

    def there() -> bool:
        # They come in one bundle, and go in one.
        return all((count(node, "table=47,udp") > 0) == bool(policies) for node in lab.nodes)

    if not wait_for(there, _PATIENCE, 0.2):
        raise RuntimeError(
            f"{policies} policies are not on all nodes after {_PATIENCE:g} s; see their agents' logs"
        )


def policy(number: int) -> dict[str, Any]:
    """Of the servers. One lets the client come; the others let come who is not there."""
    client = {"app": "client"} if number == POLICIES // 2 else {"app": f"nobody-{number}"}
    others = {"ipBlock": {"cidr": f"198.51.{number}.0/24", "except": [f"198.51.{number}.128/25"]}}
    ports = [{"port": ECHO, "protocol": "UDP"}, {"port": 5000 + number, "protocol": "TCP"}]
    rule = {"from": [{"podSelector": {"matchLabels": client}}, others], "ports": ports}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"bench-{number}", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "policyTypes": ["Ingress"],
            "ingress": [rule],
        },
    }
