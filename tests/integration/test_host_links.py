"""Pods' veth pairs on a real kernel, from made to gone, and the child process that works on them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import msgspec
import pytest
from host_world import World, run

import ovsnet
from ovsnet.errors import AlreadyAttached, HostFailure
from ovsnet.host.types import AttachSpec, RouteSpec
from ovsnet.host.worker import LinkWorker

TOKEN, OTHER = "0000000a", "0000000b"
ETH_P_ALL = 3


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
async def links(world: World) -> AsyncIterator[LinkWorker]:
    links = LinkWorker()
    yield links
    links.close()


def spec_for(netns: int, token: str = TOKEN, ifname: str = "eth0", host: int = 5) -> AttachSpec:
    return AttachSpec(
        token=token,
        netns=netns,
        ifname=ifname,
        mac=f"0a:58:0a:f4:01:{host:02x}",
        mtu=1400,
        addresses=(ip_interface(f"10.244.1.{host}/24"), ip_interface(f"fd00:244:1::{host}/64")),
        gateways=(ip_address("10.244.1.1"), ip_address("fd00:244:1::1")),
    )


async def attach(links: LinkWorker, spec: AttachSpec, tx_off: bool = False) -> None:
    await links.make(spec)
    await links.set_up(spec, tx_off)


async def test_the_hosts_end_is_silent(world: World, links: LinkWorker) -> None:
    await links.make(spec_for(world.add("pod")))
    host = run(f"ip link show pod-{TOKEN}")
    assert ",UP" in host
    assert "NOARP" in host
    assert "mtu 1400" in host
    assert run(f"ip -6 addr show pod-{TOKEN}") == ""
    assert "DOWN" in world.run("pod", "ip -br link show eth0")


@pytest.mark.parametrize("off", [True, False])
async def test_the_offload_stays_on_unless_it_is_to_be_off(
    world: World, links: LinkWorker, off: bool
) -> None:
    await attach(links, spec_for(world.add("pod")), tx_off=off)
    features = world.run("pod", "ethtool -k eth0")
    assert f"tx-checksumming: {'off' if off else 'on'}" in features
    assert f"tx-tcp-segmentation: {'off' if off else 'on'}" in features


async def test_a_pod_gets_what_was_asked_for(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    spec = msgspec.structs.replace(
        spec_for(netns),
        routes=(
            RouteSpec(cidr=ip_network("192.0.2.0/24"), next_hop=ip_address("10.244.1.9")),
            RouteSpec(cidr=ip_network("198.51.100.0/24"), next_hop=ip_address("169.254.7.7")),
        ),
    )
    await attach(links, spec)
    host_index = int((run(f"ip -o link show pod-{TOKEN}")).split(":")[0])
    found = await links.inspect(netns, "eth0")
    assert found is not None
    assert (found.mac, found.mtu, found.up, found.peer) == (spec.mac, 1400, True, host_index)
    assert found.addresses == spec.addresses
    assert found.gateways == spec.gateways
    assert set(spec.routes) < set(found.routes)
    # At once, not after a second of duplicate address detection, the link-local address as well.
    shown = world.run("pod", "ip addr show eth0")
    assert "tentative" not in shown
    assert "fe80::858:aff:fef4:105" in shown
    assert "127.0.0.1" in world.run("pod", "ip addr show lo")
    assert world.run("pod", "cat /proc/sys/net/ipv6/conf/eth0/accept_ra").strip() == "0"
    assert await links.inspect(netns, "eth1") is None
    assert set(await links.list_ours()) == {TOKEN}


async def test_ipv6_that_the_runtime_turned_off_is_turned_on(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    for scope in ("all", "default"):
        world.run("pod", f"sysctl -qw net.ipv6.conf.{scope}.disable_ipv6=1")
    await attach(links, spec_for(netns))
    found = await links.inspect(netns, "eth0")
    assert found is not None
    assert found.addresses == spec_for(netns).addresses


async def test_a_second_interface_leaves_the_default_route_alone(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    await attach(links, spec_for(netns))
    await attach(links, spec_for(netns, OTHER, "net1", host=6))
    first, second = await links.inspect(netns, "eth0"), await links.inspect(netns, "net1")
    assert first is not None
    assert second is not None
    assert len(first.gateways) == 2
    assert second.gateways == ()
    assert second.addresses == spec_for(netns, host=6).addresses


async def test_an_interface_that_exists_is_not_replaced(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    await attach(links, spec_for(netns))
    with pytest.raises(AlreadyAttached, match="eth0"):
        await attach(links, spec_for(netns, OTHER))
    assert set(await links.list_ours()) == {TOKEN}
    assert await links.inspect(netns, "eth0") is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"routes": (RouteSpec(cidr=ip_network("192.0.2.0/24"), source=ip_address("10.9.9.9")),)},
            "add the route 192.0.2.0/24 over eth0 in the pod: Invalid prefsrc",
        ),
        ({"mac": "01:00:5e:00:00:01"}, "01:00:5e:00:00:01"),
        ({"mtu": 9}, "MTU 9"),
    ],
)
async def test_a_failure_leaves_nothing(
    world: World, links: LinkWorker, change: dict[str, object], words: str
) -> None:
    netns = world.add("pod")
    with pytest.raises(HostFailure, match=words):
        await attach(links, msgspec.structs.replace(spec_for(netns), **change))
    await links.detach(TOKEN)
    assert await links.inspect(netns, "eth0") is None
    assert len(world.run("pod", "ip -br link").splitlines()) == 1
    assert await links.list_ours() == {}


async def test_detaching_finds_the_pair_wherever_it_is_and_also_when_it_is_not(
    world: World, links: LinkWorker
) -> None:
    netns = world.add("pod")
    tokens = [f"{number:08x}" for number in range(12)]
    for number, token in enumerate(tokens):
        await attach(links, spec_for(netns, token, f"net{number}", host=number + 5))
    run("ip link add bystander type veth peer name other")
    await links.detach(tokens[0])
    await links.detach(tokens[0])
    assert await links.inspect(netns, "net0") is None
    await asyncio.gather(*(links.detach(token) for token in tokens))
    assert await links.list_ours() == {}
    assert "bystander" in run("ip -br link")


async def test_the_mtu_of_a_running_pod_follows(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    await attach(links, spec_for(netns))
    await links.set_mtu(f"pod-{TOKEN}", "eth0", 1300, netns)
    assert "mtu 1300" in run(f"ip link show pod-{TOKEN}")
    assert await links.list_ours() == {TOKEN: 1300}
    found = await links.inspect(netns, "eth0")
    assert found is not None
    assert found.mtu == 1300


async def test_the_mtu_of_what_is_not_the_pods_stays(world: World, links: LinkWorker) -> None:
    """The path of a pod's namespace may lead to another one by now, or to the node's own."""
    netns, other = world.add("pod"), world.add("other")
    await attach(links, spec_for(netns))
    await attach(links, spec_for(other, OTHER, host=6))
    run("ip link add eth0 type veth peer name bystander")
    node = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    for elsewhere in (other, node):
        with pytest.raises(HostFailure, match="eth0 there is not the other end"):
            await links.set_mtu(f"pod-{TOKEN}", "eth0", 1300, elsewhere)
    os.close(node)
    assert "mtu 1500" in run("ip link show eth0")
    assert await links.list_ours() == {TOKEN: 1400, OTHER: 1400}


async def test_what_somebody_set_down_is_set_up(world: World, links: LinkWorker) -> None:
    await attach(links, spec_for(world.add("pod")))
    run("ip link add pod-web type veth peer name far")
    assert await links.raise_fallen() == []
    run(f"ip link set pod-{TOKEN} down")
    assert await links.raise_fallen() == [TOKEN]
    assert ",UP" in run(f"ip link show pod-{TOKEN}")
    assert "DOWN" in run("ip -br link show pod-web"), "not ours"


async def test_links_of_others_are_not_ours(links: LinkWorker) -> None:
    for name in ("pod-web", "pod-0000000ag", "pod-0000000A", "xpod-0000000a"):
        run(f"ip link add {name} type veth peer name far")
        assert await links.list_ours() == {}
        run(f"ip link del {name}")


async def test_no_descriptor_is_left_open_and_no_thread_started(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    await links.list_ours()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    await attach(links, spec_for(netns))
    with pytest.raises(AlreadyAttached):
        await attach(links, spec_for(netns, OTHER))
    await links.inspect(netns, "eth0")
    await links.detach(TOKEN)
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads


async def test_checksums_are_right_on_the_wire_when_offload_is_off(world: World, links: LinkWorker) -> None:
    """What OVS's userspace datapath reads from the host end must be complete."""
    netns = world.add("pod")
    await attach(links, spec_for(netns), tx_off=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire, world.socket("pod", socket.AF_INET) as pod:
        wire.bind((f"pod-{TOKEN}", ETH_P_ALL))
        wire.settimeout(5)
        world.run("pod", "ip neigh replace 10.244.1.9 lladdr 0a:58:0a:f4:01:09 dev eth0")
        pod.sendto(b"checked", ("10.244.1.9", 9))
        while not (frame := wire.recv(2048)).endswith(b"checked") or frame[12:14] != b"\x08\x00":
            pass
    segment = frame[34:]
    pseudo = frame[26:34] + bytes((0, socket.IPPROTO_UDP)) + len(segment).to_bytes(2, "big")
    data = pseudo + segment + bytes(len(segment) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    assert segment[6:8] != b"\0\0"
    assert total % 0xFFFF == 0


# --- the child process -----------------------------------------------------------------------------


def children(pid: int | str = "self") -> list[int]:
    """Processes that a process has started and that live."""
    listed = Path(f"/proc/{pid}/task/{os.getpid() if pid == 'self' else pid}/children").read_text().split()
    return [int(each) for each in listed if "State:\tZ" not in Path(f"/proc/{each}/status").read_text()]


async def test_a_child_that_dies_fails_what_is_under_way_and_is_replaced(
    world: World, links: LinkWorker
) -> None:
    netns, before = world.add("pod"), set(children())
    await attach(links, spec_for(netns))
    (child,) = set(children()) - before
    os.kill(child, signal.SIGSTOP)
    under_way = [asyncio.create_task(links.inspect(netns, "eth0")) for _ in range(20)]
    leaving = asyncio.create_task(links.detach(OTHER))
    await asyncio.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    outcomes = await asyncio.gather(*under_way, leaving, return_exceptions=True)
    failed = [each for each in outcomes if isinstance(each, HostFailure)]
    assert [str(each) for each in failed] == ["the agent's child process for links died (repeat the request)"]
    assert set(await links.list_ours()) == {TOKEN}
    assert child not in children()


async def test_what_nobody_thought_of_fails_one_request_and_no_other(world: World, links: LinkWorker) -> None:
    netns = world.add("pod")
    wrong = msgspec.structs.replace(spec_for(netns), mac=None)
    with pytest.raises(Exception, match=r".+"):
        await links.make(wrong)
    with pytest.raises(TypeError):
        await links.inspect(netns, 7)  # type: ignore[arg-type]
    with pytest.raises(HostFailure):
        await links.detach("a-name-that-is-far-too-long")
    async with asyncio.timeout(5):
        await links.detach(OTHER)
        assert await links.list_ours() == {}


async def test_a_child_that_can_not_be_started_fails_what_was_asked_for_and_nothing_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without processes or descriptors left there is an error at once; what was refused is not done later."""
    netns, links = world.add("pod"), LinkWorker()

    def refused(*_: object, **__: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(os, "posix_spawn", refused)
        for _ in range(2):
            with pytest.raises(HostFailure, match="Resource temporarily unavailable"):
                await links.make(spec_for(netns))
            with pytest.raises(HostFailure, match="Resource temporarily unavailable"):
                await links.detach(TOKEN)
    async with asyncio.timeout(5):
        assert await links.list_ours() == {}
        await links.detach(TOKEN)
    links.close()


async def test_a_request_that_nobody_waits_for_any_more_is_done_before_the_next(
    world: World, links: LinkWorker
) -> None:
    netns = world.add("pod")
    task = asyncio.create_task(links.make(spec_for(netns)))
    await asyncio.sleep(0)
    task.cancel()
    assert set(await links.list_ours()) == {TOKEN}


async def test_a_namespace_that_its_owner_has_closed_is_still_the_one_meant(
    world: World, links: LinkWorker
) -> None:
    netns, other = world.add("pod"), world.add("other")
    await links.list_ours()
    mine = os.dup(netns)
    task = asyncio.create_task(links.make(spec_for(mine)))
    await asyncio.sleep(0)
    os.dup2(other, mine)
    await task
    os.close(mine)
    assert await links.inspect(netns, "eth0") is not None
    assert await links.inspect(other, "eth0") is None


async def test_a_child_that_is_about_to_start_outlives_its_agents_signals(world: World) -> None:
    before = set(children())
    links = LinkWorker()
    links.start()
    (child,) = set(children()) - before
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(child, number)
    assert await links.list_ours() == {}
    assert set(children()) - before == {child}
    links.close()


async def test_closing_ends_the_child(world: World) -> None:
    before = set(children())
    links = LinkWorker()
    await links.list_ours()
    (child,) = set(children()) - before
    links.close()
    for _ in range(500):
        if child not in children():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the child is still there")


WITH_A_CHILD = """
import asyncio
from ovsnet.host.worker import LinkWorker
async def main():
    await LinkWorker().list_ours()
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_ends_with_its_agent(world: World, number: int) -> None:
    root = Path(ovsnet.__file__).parents[1]
    agent = subprocess.Popen([sys.executable, "-c", WITH_A_CHILD], stdout=subprocess.PIPE, cwd=root)
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"ready\n"
    (child,) = children(agent.pid)
    agent.send_signal(number)
    agent.communicate(timeout=10)
    for _ in range(500):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.01)
    raise AssertionError("the child outlives its agent")
