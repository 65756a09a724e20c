"""What must hold a while after everything was healed, however much was broken.

Only looks, apart from repeating the runtime's requests. Every look returns what is wrong in words, an empty list when
nothing is. Called by the state machine after its steps, and by scripts that replay what it found.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
from cni_world import Cni, finish, new_container, path
from fault_guest import tell
from fault_world import DAEMONS, FREE, RESTS, SPEC, World
from lab_world import SLOWER, agent_log

from ovsnet import names, state
from ovsnet.lab import check
from ovsnet.lab.lab import node_host, outside_host, pod_host
from ovsnet.lab.node import OVSDB, VSWITCHD, Node
from ovsnet.lab.pods import IFNAME
from ovsnet.lab.spec import LabError, host
from ovsnet.lab.state import wait_for

OVERHEAD = 50
"""Bytes of a tunnel over IPv4, at most."""
LIMIT = 40.0
"""Seconds from the end of the last fault until all is well; mostly it takes two, and up to 30 where nobody tells."""
DENIED = 0.5
"""Seconds in which nothing gets to where policies let nobody, where they have just changed."""
KNOCKED = 10.0
"""Seconds in which knocks that are allowed arrive; mostly it takes one."""
TOOLS = ("/run/ovsnet/bin/ovsnet", "audit")
RUN = {"agent.sock", "agent.sock.lock", "bin"}
"""What ovsnet has in /run/ovsnet."""


def settle(world: World) -> float:
    """Ends all faults and waits until all is well; the seconds that took. Fails with what still is not."""
    assert_alive(world)
    changing = world.changing or world.policing.changed
    if world.mistaken and not world.broken and not changing and not world.leaving:
        # It withdraws nothing: all goes on as before.
        wrong = world.complete() + connectivity(world)
        assert not wrong, "\n".join(["a mistake in a manifest:", *wrong])
    world.heal()
    begun = time.monotonic()
    while wrong := look(world):
        if time.monotonic() > begun + LIMIT * SLOWER:
            raise AssertionError("\n".join([f"not well after {LIMIT * SLOWER:g} s:", *wrong]))
        time.sleep(0.1)
    world.broken = world.changing = False
    assert_closed(world)
    assert_alive(world)
    assert_silent(world)
    return time.monotonic() - begun


def look(world: World) -> list[str]:
    """Everything that must hold, the cheap first; what is wrong with the first that fails."""
    nodes = world.lab.nodes
    for one in (status, None, audit, leaks, checks, None):
        tell()
        wrong = (
            world.complete()
            if one is None
            else [f"{node.name}: {said}" for node, said in per_node(world, nodes, one)]
        )
        if wrong:
            return wrong
    tell()
    return addresses(world) + files(world) + sizes(world) + connectivity(world)


def per_node(
    world: World, nodes: list[Node], one: Callable[[World, Node], list[str]]
) -> list[tuple[Node, str]]:
    def on(node: Node) -> list[str]:
        try:
            return list(one(world, node))
        except (LabError, AssertionError) as error:
            # Its switch or database does not answer yet.
            return [str(error)]

    return [(node, said) for node, found in zip(nodes, world.each(on, nodes), strict=True) for said in found]


# --- on one node -----------------------------------------------------------------------------------


def status(world: World, node: Node) -> list[str]:
    answer = Cni(node).call("STATUS")
    return [answer.words] if answer.status else []


def audit(world: World, node: Node) -> list[str]:
    done = node.run(TOOLS)
    return (done.stderr + done.stdout).splitlines() or ["audit failed"] if done.returncode else []


def leaks(world: World, node: Node) -> list[str]:
    """What belongs to nobody, and what is missing of somebody."""
    cni = Cni(node)
    pods = world.pods_of(node)
    found = cni.leaks()
    attached, wanted = cni.attached(), {(pod.pod.container, IFNAME) for pod in pods}
    found += [f"row of nobody: {each}" for each in attached - wanted]
    found += [f"no row: {each}" for each in wanted - attached]
    found += odd(
        "link", {name for name in cni.links() if not name.startswith("pod-")} - usual_links(node), set()
    )
    found += odd("namespace", names_in(node, "run/netns"), {pod.name for pod in pods})
    found += odd("file in /run/ovsnet", names_in(node, "run/ovsnet"), RUN)
    results = {f"ovsnet-{pod.pod.container}-{IFNAME}" for pod in pods}
    found += odd("result", names_in(node, "var/lib/cni/results"), results)
    tables = {line for line in cni.tool("nft", "list", "tables").splitlines() if "lab_uplink" not in line}
    found += odd("nft table", tables, {"table inet ovsnet"})
    return found


def usual_links(node: Node) -> set[str]:
    """The node's own, Open vSwitch's, and those that the kernel has in every namespace or makes for tunnels."""
    kernels = {name for name in node.interfaces() if name.endswith(("0", "_sys")) or "_sys_" in name}
    return {"lo", node.uplink, "eth0", "ovsnet0", "br-int", "ovs-netdev", "ovs-system"} | kernels


def names_in(node: Node, folder: str) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in (node.root / folder).iterdir()}
    return set()


def odd(what: str, found: set[str], wanted: set[str]) -> list[str]:
    return [f"{what} of nobody: {each}" for each in sorted(found - wanted)] + [
        f"{what} missing: {each}" for each in sorted(wanted - found)
    ]


def checks(world: World, node: Node) -> list[str]:
    """CHECK of every pod with the result of its ADD."""
    wrong = []
    for pod in world.pods_of(node):
        answer = Cni(node).check(pod.pod.container, pod.result(), netns=pod.netns, version="1.0.0")
        wrong += [f"CHECK of {pod.name}: {answer.words}"] if answer.status else []
    return wrong


# --- all together ----------------------------------------------------------------------------------


def addresses(world: World) -> list[str]:
    """Each is held once, by the pod to which it was given."""
    wrong = []
    given = collections.Counter(address for pod in world.lab.pods for address in pod.addresses)
    wrong += [f"{address} was given {count} times" for address, count in given.items() if count > 1]
    held = {ip for node in world.lab.nodes for pod in state.pods(Cni(node).rows()) for ip in pod.ips}
    return wrong + [f"{address} is in one of rows and results only" for address in held ^ set(given)]


def files(world: World) -> list[str]:
    found = {path.name for path in (world.lab.folder.path / "cluster").iterdir()}
    return odd("manifest", found, {*world.policing.files, *(f"{node.name}.yaml" for node in world.lab.nodes)})


def sizes(world: World) -> list[str]:
    """All links of pods and all gateways have one MTU: that of the narrowest tunnel."""
    found = {
        f"{node.name} {name}": int((node.root / f"sys/class/net/{name}/mtu").read_text())
        for node in world.lab.nodes
        for name in node.interfaces()
        if name == names.GATEWAY or names.is_host_interface(name)
    }
    if len(set(found.values())) == 1 and min(found.values()) >= SPEC.mtu - OVERHEAD:
        return []
    return [f"{name}: MTU {mtu}" for name, mtu in found.items()]


def connectivity(world: World) -> list[str]:
    """As `ovsnet lab check`, with nodes at the addresses that they have now: who may reaches whom it may, and after
    policies or labels were changed, who may not does not."""
    probers, targets = hosts(world)
    verdicts = world.policing.verdicts([each.host for each in probers], targets)
    wrong = probed(probers, targets, verdicts, allowed=True, seconds=4.0)
    if not wrong and world.policing.changed:
        wrong = probed(probers, targets, verdicts, allowed=False, seconds=DENIED)
        world.policing.changed = bool(wrong)
    return wrong


def probed(
    probers: list[check.Prober],
    targets: list[check.Host],
    verdicts: dict[tuple[str, str], bool | None],
    *,
    allowed: bool,
    seconds: float,
) -> list[str]:
    """From all to those that they may reach, or may not: what is otherwise."""

    def of(one: check.Prober) -> list[check.Result]:
        wanted = [each for each in targets if verdicts.get((one.host.name, each.name)) is allowed]
        return check.check([one], wanted, seconds * SLOWER).results if wanted else []

    with ThreadPoolExecutor(max_workers=max(1, len(probers))) as pool:
        results = [result for found in pool.map(of, probers) for result in found]
    return [
        str(each) if allowed else f"{each}, which policies deny" for each in results if each.ok is not allowed
    ]


def hosts(world: World) -> tuple[list[check.Prober], list[check.Host]]:
    lab, pods, nodes = world.lab, world.lab.pods, world.lab.nodes
    pod_hosts = lab.each(pod_host, pods)
    node_hosts = []
    for node in nodes:
        one = node_host(node.spec, node.node)
        if node.name in world.moved:
            now = host(4, world.moved[node.name])
            one = msgspec.structs.replace(
                one,
                addresses=(now, *(each for each in one.addresses if each.version == 6)),
                sources=(now, *one.sources),
                outside_sources=(now, *one.outside_sources),
            )
        node_hosts.append(one)
    # What a node masquerades may have any of its addresses.
    outside_sources = {one.name: one.outside_sources for one in node_hosts}
    pod_hosts = [
        msgspec.structs.replace(one, outside_sources=outside_sources[pod.node.name])
        for one, pod in zip(pod_hosts, pods, strict=True)
    ]
    probers = [check.Prober(one, place.command) for one, place in zip(pod_hosts, pods, strict=True)]
    probers += [check.Prober(one, place.command) for one, place in zip(node_hosts, nodes, strict=True)]
    return probers, [*pod_hosts, *node_hosts, outside_host(nodes[0].spec)]


def assert_alive(world: World) -> None:
    """No daemon has ended that nobody killed."""
    for node, daemon in itertools.product(world.lab.nodes, DAEMONS):
        if not node.daemon(daemon) and (node.name, daemon) not in world.ended:
            raise AssertionError(f"{daemon} of {node.name} ended by itself: {node.last_words(daemon, 30)}")


def assert_closed(world: World) -> None:
    """No packet has ever come through that policies denied all the time."""
    arrived = world.knocks.arrived()
    assert not arrived, "\n".join(["let through what is denied all the time:", *arrived])


def assert_knocking(world: World) -> None:
    """It would have been noticed: without policies every knock arrives. Called last, when all is well."""
    wanted = world.knocks.names
    world.policing.clear()

    def met() -> bool:
        return {line.partition(" ")[0] for line in world.knocks.arrived()} >= wanted

    assert wait_for(met, KNOCKED * SLOWER, 0.1), f"of {wanted} noticed: {world.knocks.arrived()}"


def assert_silent(world: World) -> None:
    """No log tells of a mistake in a program."""
    for node in world.lab.nodes:
        said = agent_log(node)
        assert "Traceback" not in said, f"{node.name}: {said[said.index('Traceback') - 500 :][:4000]}"
        for daemon in (OVSDB, VSWITCHD):
            said = node.log(daemon).read_text(errors="replace")
            assert "|EMER|" not in said, f"{daemon} of {node.name}: {said[-2000:]}"


def assert_all_free(world: World) -> None:
    """Each node has as many addresses for more pods as none of its pods has. Called when all is well."""

    def fill(node: Node) -> None:
        cni, count = Cni(node), FREE - len(world.pods_of(node))
        containers = [new_container() for _ in range(count)]
        with cni.namespaces(*containers):
            answers = [
                finish(each) for each in [cni.process("ADD", each, netns=path(each)) for each in containers]
            ]
            refused = [answer.words for answer in answers if answer.status]
            assert not refused, (
                f"{node.name}: {len(refused)} of {count} addresses are held by nobody: {refused[0]}"
            )

    time.sleep(RESTS)
    world.each(fill, world.lab.nodes)
