"""NetworkPolicies at size, and what they cost a packet: `python tests/bench/bench_policy.py`, or `tox -e bench-policy`.

In a lab: the agent's start, what a change of a label, a namespace or a policy takes, flows, memory, work. Then packets
per second on the kernel's datapath, see `kernel_policy`. Writes docs/benchmarks-policy.json, and docs/benchmarks.md
anew. With `agent` or `packets` only that part is measured, and with `--rounds N` only so often; nothing is written
then. Needs root, and tests/kernel in PYTHONPATH. Fails only if something does not work, never because it is slow.

A recorded cluster stands in the store's folder. The node's own pods run and do nothing: what costs is deriving,
rendering and programming.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator

import documents
import figures
import kernel_policy
import on_kernel
import recorded_policies as recorded
from at_size import METRICS, agent_of, count, folder, memory, page, restarted, seconds, told
from bench_lab import running
from figures import Figure, figure
from recorded_policies import EACH, Remote, Size

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, VSWITCHD, Node
from ovsnet.lab.state import wait_for, write_atomically

MANY, FEW = Size(1_000, 10_000), Size(100, 1_000)
STARTS, CHANGES, SPACES = 3, 15, 9
"""Of each kind that is measured."""
IDLES, IDLE = 3, 20.0
"""Seconds in which nothing changes."""
_PATIENCE = 180.0
_LOOK = 0.02
_PAUSE = 0.3
"""Seconds between two changes: none is taken up together with the last one."""
_REST = 45.0
"""Seconds until the comparisons are over that follow so many new flows."""
_EGRESS, _INGRESS = 46, 47
MOVER = Remote(3, 50)
"""The pod that gets other labels."""
PARTS = ("agent", "packets")
Say = Callable[[str], None]


# --- the agent -------------------------------------------------------------------------------------


def agent(say: Say, rounds: int) -> Iterator[Figure]:
    with running(nodes=1, pods=0, agent={"metrics": {"port": METRICS}}) as lab:
        node = lab.nodes[0]
        say(f"{MANY.namespaces} pods")
        for number in range(MANY.namespaces):
            name, namespace, labels = recorded.local(number)
            lab.add_pod(node.name, name, namespace=namespace, labels=labels)
            write_space(lab, number)
        say(f"{FEW}, {FEW.namespaces} of them here")
        write_all(lab, FEW)
        settled(node, FEW)
        few = relabelled(lab, node, rounds or CHANGES)
        say(f"{MANY}, {MANY.namespaces} of them here")
        write_all(lab, MANY)
        yield from flows(settled(node, MANY))
        time.sleep(_REST)
        yield from changes(lab, node, few, say, rounds)
        say("nothing happens")
        shares = [idle(node) for _ in range(rounds or IDLES)]
        yield figure(f"agent's processor time when nothing changes: {MANY}", "%", shares)
        yield figure(f"resident memory of the agent and its child for links: {MANY}", "MB", [memory(node)])
        say("restarts")
        warm = [restarted(node) for _ in range(rounds or STARTS)]
        yield figure(f"agent restarted, all unchanged: {MANY}", "s", warm)
        cold = [from_nothing(node) for _ in range(rounds or STARTS)]
        yield figure(
            f"agent and Open vSwitch started from nothing, until all is installed: {MANY}", "s", cold
        )


def changes(lab: Lab, node: Node, few: list[float], say: Say, rounds: int) -> Iterator[Figure]:
    say("labels of a pod")
    taken = relabelled(lab, node, rounds or CHANGES)
    title = "one pod's labels changed, a peer of policies: until its flows are in"
    yield figure(f"{title}, {MANY}", "ms", taken)
    yield figure(f"{title}, against {FEW.policies} policies", "ms", taken, few, str(FEW), limit=1.5)
    say("labels of a namespace")
    taken = moved(lab, node, rounds or SPACES)
    title = f"one namespace's labels changed, {EACH} pods: until their flows are in"
    yield figure(f"{title}, {MANY}", "ms", taken, limit=100)
    say("a policy")
    taken = rewritten(lab, node, rounds or CHANGES)
    yield figure(f"one policy gets another port: until its flows are in, {MANY}", "ms", taken)


def flows(installed: int) -> Iterator[Figure]:
    yield figure(f"flows that say what policies allow: {MANY}", "flows", [installed])
    each = installed / MANY.policies
    yield figure("the same for each policy", "flows", [each])


def write_all(lab: Lab, size: Size) -> None:
    changing = recorded.changing(MOVER.namespace, 443)
    recorded.record(folder(lab), size, [MOVER], [recorded.key(changing)])
    write(lab, "pod", MOVER.manifest())
    write(lab, "policy", changing)


def write(lab: Lab, name: str, document: dict[str, object]) -> None:
    """One object in a file of its own."""
    write_atomically(folder(lab) / f"changed-{name}.json", json.dumps(document))


def write_space(lab: Lab, number: int, team: int | None = None) -> None:
    """In place of the one that the lab has written."""
    path = lab.manifests.namespace(recorded.namespace(number))
    write_atomically(path, json.dumps(recorded.space_manifest(number, team)))


def settled(node: Node, size: Size) -> int:
    """Waits until all is installed, by the agent's own account; how many flows that are."""

    def known() -> bool:
        found = re.search(r"^ovsnet_policies (\d+)", page(node), re.M)
        if not found or int(found[1]) != size.policies:
            return False
        return node.run(["/run/ovsnet/bin/ovsnet", "audit"]).returncode == 0

    if not wait_for(known, _PATIENCE, 0.5):
        raise RuntimeError(f"{size}: not all installed after {_PATIENCE:g} s; see the agent's log")
    return installed(node)


def installed(node: Node) -> int:
    """Flows in the tables of what is allowed."""
    return count(node, f"table={_EGRESS}") + count(node, f"table={_INGRESS}")


def timed(node: Node, rounds: int, change: Callable[[int], set[str]]) -> list[float]:
    """Milliseconds from a change until ovs-vswitchd has told of a flow with each of the words that it returned.

    A first one more does not count.
    """
    found = []
    with told(node, _INGRESS) as lines:
        for number in range(rounds + 1):
            time.sleep(_PAUSE)
            begun = time.perf_counter()
            missing = change(number)
            for line in lines:
                if "event=DELETED" not in line:
                    missing.difference_update(re.split("[ ,\n]", line))
                if not missing:
                    break
            else:
                raise RuntimeError(f"ovs-vswitchd tells of nothing more, and {missing} were not there")
            if number:
                found.append(1000 * (time.perf_counter() - begun))
    return found


def relabelled(lab: Lab, node: Node, rounds: int) -> list[float]:
    """A pod goes in turns into and out of what rules of other namespaces mean."""

    def change(number: int) -> set[str]:
        write(lab, "pod", MOVER.manifest(tier="back" if number % 2 else "front"))
        return {f"nw_src={MOVER.address}"}

    return timed(node, rounds, change)


def moved(lab: Lab, node: Node, rounds: int) -> list[float]:
    """A namespace goes from one team to another and back."""
    space = 5
    addresses = {f"nw_src={Remote(space, number).address}" for number in range(1, EACH)}

    def change(number: int) -> set[str]:
        write_space(lab, space, None if number % 2 else space + 7)
        return set(addresses)

    found = timed(node, rounds, change)
    write_space(lab, space)
    return found


def rewritten(lab: Lab, node: Node, rounds: int) -> list[float]:
    def change(number: int) -> set[str]:
        write(lab, "policy", recorded.changing(MOVER.namespace, 20_000 + number))
        return {f"tp_dst={20_000 + number}"}

    found = timed(node, rounds, change)
    write(lab, "policy", recorded.changing(MOVER.namespace, 443))
    time.sleep(_PAUSE)
    return found


def idle(node: Node) -> float:
    """Per cent of a processor, with the tools that it runs."""
    pid = agent_of(node).pid
    before = seconds(pid)[1]
    time.sleep(IDLE)
    return 100 * (seconds(pid)[1] - before) / IDLE


def from_nothing(node: Node) -> float:
    """Seconds. ovs-vswitchd has lost all flows, and the agent all that it knew."""
    wanted = installed(node)
    node.kill(AGENT)
    node.kill(VSWITCHD)
    begun = time.monotonic()
    node.start(VSWITCHD)
    node.start(AGENT)
    if not wait_for(lambda: installed(node) == wanted, _PATIENCE, _LOOK):
        raise RuntimeError(f"{installed(node)} of {wanted} flows after {_PATIENCE:g} s: see the agent's log")
    return time.monotonic() - begun


# --- the whole -------------------------------------------------------------------------------------


def main() -> None:
    given = on_kernel.arguments("bench_policy", PARTS)
    packets = functools.partial(kernel_policy.measure, given.rounds)
    if given.inside:
        on_kernel.inside(packets)
    else:
        outside(given.parts, given.rounds, packets)


def outside(parts: list[str], rounds: int, packets: on_kernel.Measure) -> None:
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {text}", file=sys.stderr, flush=True)

    about = figures.machine()
    found: list[Figure] = []

    def take(each: Figure) -> None:
        found.append(each)
        print(figures.table([each]).splitlines()[-1], flush=True)

    if "agent" in (parts or PARTS):
        for each in agent(say, rounds):
            take(each)
    if "packets" in (parts or PARTS):
        argv = [sys.executable, __file__, "--inside", f"--rounds={rounds}"]
        about["packets"] = on_kernel.run(argv, packets, take, say)
    if not parts and not rounds:
        documents.store(found, about, documents.POLICY)


if __name__ == "__main__":
    main()
