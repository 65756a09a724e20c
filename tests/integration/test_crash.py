"""SIGKILL of the agent at every step of an ADD and of a DEL: after the next start nothing is leaked."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from cni_world import Cni, finish, launch_agent, new_container, path
from lab_world import running

from ovsnet.lab.node import AGENT
from ovsnet.lab.state import Process

SWEEPS = {"ADD": range(0, 100, 4), "DEL": range(0, 80, 4)}
"""Milliseconds between the start of the first client and the kill; that of the second is 2 or 3 ms later.
An ADD takes 50 to 60, two at once up to 90; a DEL 40 to 50."""
RANGE = {"podCIDRs": ["10.244.1.0/28"], "reuseAfter": 0}
FREE = 13
"""Addresses of a /28 without those of network, gateway and broadcast."""


@pytest.fixture(scope="module")
def cni() -> Iterator[Cni]:
    with running(nodes=1, pods=0, families="4", agent=RANGE) as lab:
        yield Cni(lab.nodes[0])


def agent_of(cni: Cni) -> Process:
    agent = cni.node.daemon(AGENT)
    assert agent is not None
    return agent


def kill_agent(cni: Cni) -> None:
    agent_of(cni).kill(signal.SIGKILL)


def start_agent(cni: Cni) -> None:
    cni.node.start(AGENT)


def assert_all_free(cni: Cni) -> None:
    """As many pods as there are addresses get one: none is held by what nobody knows of."""
    with contextlib.ExitStack() as stack:
        given = {stack.enter_context(cni.pod())[1].addresses[0] for _ in range(FREE)}
        assert len(given) == FREE
        with cni.namespaces("onemore"):
            assert cni.call("ADD", "onemore", netns=path("onemore")).code == 11
    cni.assert_nothing_leaked()


def kill_amid(cni: Cni, command: str, containers: list[str], milliseconds: int) -> None:
    """Start a client for each container and kill the agent so long afterwards."""
    agent = agent_of(cni)
    begun = time.monotonic()
    clients = [cni.process(command, each, netns=path(each)) for each in containers]
    time.sleep(max(0.0, begun + milliseconds / 1000 - time.monotonic()))
    agent.kill(signal.SIGKILL)
    for client in clients:
        answer = finish(client)
        # Done, or "try again later" because the agent is not there or broke off.
        assert answer.code in (0, 11), answer


@pytest.mark.slow
@pytest.mark.parametrize("command", SWEEPS)
def test_nothing_is_leaked_whenever_the_agent_is_killed(cni: Cni, command: str) -> None:
    """One of two containers is deleted after the restart, the namespace of the other destroyed before it."""
    for milliseconds in SWEEPS[command]:
        both = [new_container(), new_container()]
        deleted, destroyed = both if milliseconds % 8 else both[::-1]
        with cni.namespaces(*both):
            if command == "DEL":
                cni.add(deleted)
                cni.add(destroyed)
            kill_amid(cni, command, both, milliseconds)
            links = cni.links()
            cni.remove_namespace(destroyed)
            settled(cni, links)
            start_agent(cni)
            try:
                cni.delete(deleted)
                cni.assert_nothing_leaked()
                assert cni.attached() == set()
            except AssertionError as error:
                raise AssertionError(f"killed after {milliseconds} ms: {error}") from error
    assert_all_free(cni)


def settled(cni: Cni, before: set[str]) -> None:
    """The kernel takes a namespace apart in the background; wait for it, where there was an interface in it."""
    orphans = {name for name in before if name.startswith("pod-")}
    end = time.monotonic() + 0.3
    while orphans and orphans <= cni.links() and time.monotonic() < end:
        time.sleep(0.01)


def flows_of_a_pod(line: str) -> bool:
    return "ADDED" in line or "DELETED" in line


WATCHES: dict[str, tuple[list[str], Callable[[str], bool]]] = {
    "row": (
        ["ovsdb-client", "monitor", "Port", "external_ids", "--format=json"],
        lambda line: "ovsnet-container" in line,
    ),
    "flows": (["ovs-ofctl", "monitor", "br-int", "watch:!initial"], flows_of_a_pod),
    "link": (["ip", "-o", "monitor", "link"], lambda line: "pod-" in line),
}


@contextlib.contextmanager
def watching(cni: Cni, what: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["stdbuf", "-oL", *cni.becoming, *WATCHES[what][0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        time.sleep(0.2)  # until it listens
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize("what", WATCHES)
def test_nothing_is_leaked_when_the_agent_is_killed_at_a_visible_step(
    cni: Cni, what: str, command: str
) -> None:
    container = new_container()
    with cni.namespaces(container):
        if command == "DEL":
            cni.add(container)
        agent = agent_of(cni)
        with watching(cni, what) as watch:
            assert watch.stdout is not None
            client = cni.process(command, container, netns=path(container))
            for line in watch.stdout:
                if WATCHES[what][1](line):
                    break
            agent.kill(signal.SIGKILL)
        assert finish(client).code in (0, 11)
        start_agent(cni)
        cni.delete(container)
        cni.assert_nothing_leaked()
        assert cni.attached() == set()


@pytest.mark.parametrize("delay", [0.35, 0.45, 0.55, 0.65])
def test_nothing_is_leaked_when_the_next_start_is_killed_too(cni: Cni, delay: float) -> None:
    """Clearing up is as crash-safe as what it clears up."""
    containers = [new_container() for _ in range(3)]
    with cni.namespaces(*containers):
        cni.add(containers[0])
        kill_amid(cni, "ADD", containers[1:], 40)
        cni.remove_namespace(containers[0])
        launch_agent(cni.node)
        time.sleep(delay)
        kill_agent(cni)
        start_agent(cni)
        for each in containers:
            cni.delete(each)
        cni.assert_nothing_leaked()
        assert cni.attached() == set()


def test_a_link_that_never_got_a_row_goes(cni: Cni) -> None:
    """The agent died between the two."""
    with cni.namespaces("half"):
        kill_agent(cni)
        cni.tool("ip", "link", "add", "pod-0000beef", "type", "veth", "peer", "eth0", "netns", "half")
        start_agent(cni)
        cni.assert_nothing_leaked()
        assert cni.add("half").status == 0


def test_a_pod_is_known_again_after_the_kill(cni: Cni) -> None:
    """What an ADD answered holds: CHECK is content, the address is taken, a second ADD is refused."""
    with cni.pod() as (container, answer):
        kill_agent(cni)
        start_agent(cni)
        assert cni.check(container, answer.document).code == 0
        assert cni.call("ADD", container, netns=path(container)).code == 100
        with cni.pod() as (_, other):
            assert other.addresses != answer.addresses
