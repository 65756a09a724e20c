"""UDP connections to node ports in the node's own conntrack when its table changes, with real packets."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest
from host_world import World, behind_a_gateway, run
from lab_world import SLOWER

from ovsnet import pipeline
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import EgressSpec
from ovsnet.nodeports import NodePortAddresses

TEMPLATES = Path(__file__).parents[2] / "templates"
EGRESS = EgressSpec(
    gateway="ovsnet0",
    pod_cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")),
    no_masquerade=(ip_network("10.244.0.0/16"),),
)
INET, INET6 = socket.AF_INET, socket.AF_INET6
PORT = 30020
REACH = [(INET, "192.0.2.7"), (INET6, "2001:db8::7")]


@pytest.fixture
def world() -> Iterator[World]:
    with behind_a_gateway() as world:
        yield world


def with_port(*, local: bool = False, protocol: str = "udp", port: int = PORT) -> EgressSpec:
    """The port is a Service's. Connections to it go to the gateway's network, where nobody answers them."""
    ports = ((4, protocol, port), (6, protocol, port))
    return msgspec.structs.replace(EGRESS, node_ports=ports, local_node_ports=ports if local else ())


def known(family: int, port: int = PORT) -> dict[int, str]:
    """By the client's port: who answers a connection to the node's port, as conntrack has it."""
    found = {}
    for line in run("cat /proc/net/nf_conntrack").splitlines():
        ports = re.findall(r"[sd]port=(\d+)", line)
        words = line.split()
        if words[0] == ("ipv4" if family == INET else "ipv6") and words[2] == "udp" and ports[1] == str(port):
            found[int(ports[0])] = str(ip_address(re.findall(r"src=(\S+)", line)[1]))
    return found


def send(client: socket.socket, address: str, port: int = PORT) -> int:
    """Sends a datagram and waits until the node has seen it; the client's port."""
    client.sendto(b"?", (address, port))
    mine = int(client.getsockname()[1])
    for _ in range(200):
        if mine in known(client.family, port):
            return mine
        time.sleep(0.01)
    raise AssertionError(f"conntrack does not know {mine}: {known(client.family, port)}")


@pytest.mark.parametrize(("family", "address"), REACH)
async def test_who_keeps_sending_to_a_udp_node_port_follows_its_service(
    world: World, family: int, address: str
) -> None:
    """A client that never stops, as NTP, syslog and VoIP are."""
    version = 4 if family == INET else 6
    anywhere, here = str(pipeline.NODE_PORTS.of(version)), str(pipeline.LOCAL_NODE_PORTS.of(version))
    rules = Ruleset(TEMPLATES)
    await rules.reconcile(EGRESS)
    with world.socket("outside", family) as client:
        mine = send(client, address)
        assert known(family) == {mine: address}
        for now, target in (
            (with_port(), anywhere),
            (with_port(local=True), here),
            (with_port(), anywhere),
            (EGRESS, address),
            (with_port(local=True), here),
        ):
            await rules.reconcile(now)
            assert known(family) == {}, "the next datagram is a new choice"
            send(client, address)
            assert known(family) == {mine: target}
        # Nothing of it changes with the ports of others, nor with the table that is repaired.
        both = (*with_port(local=True).node_ports, *with_port(port=PORT + 1).node_ports)
        more = msgspec.structs.replace(with_port(local=True), node_ports=both)
        await rules.reconcile(more)
        run("nft add rule inet ovsnet postrouting counter")
        assert "repaired" in (await rules.reconcile(more, verify=True))[0]
        assert known(family) == {mine: target}


@pytest.mark.parametrize(
    ("family", "address", "other"),
    [(INET, "192.0.2.7", "192.0.2.77"), (INET6, "2001:db8::7", "2001:db8::77")],
)
async def test_who_keeps_sending_follows_the_addresses_that_answer(
    world: World, family: int, address: str, other: str
) -> None:
    run(f"ip addr add {other}/{24 if family == INET else '64 nodad'} dev uplink")
    anywhere = str(pipeline.NODE_PORTS.of(4 if family == INET else 6))

    def at(*addresses: str, local: bool = False) -> EgressSpec:
        networks = NodePortAddresses(networks=tuple(map(ip_network, addresses)))
        return msgspec.structs.replace(with_port(local=local), node_port_addresses=networks)

    rules = Ruleset(TEMPLATES)
    await rules.reconcile(with_port())
    with world.socket("outside", family) as one, world.socket("outside", family) as two:
        first, second = send(one, address), send(two, other)
        assert known(family) == {first: anywhere, second: anywhere}
        await rules.reconcile(at(address))
        assert known(family) == {first: anywhere}
        nowhere = "ip6" if family == INET else "ip"
        assert f"@node_ports_{nowhere} " not in run("nft list table inet ovsnet")
        send(two, other)
        assert known(family) == {first: anywhere, second: other}
        await rules.reconcile(at(other))
        assert known(family) == {}, "the next datagram is a new choice"
        send(one, address)
        send(two, other)
        assert known(family) == {first: address, second: anywhere}
        await rules.reconcile(at(other, local=True))
        assert known(family) == {first: address}
        send(two, other)
        await rules.reconcile(at(address, local=True))
        assert known(family) == {}


async def test_what_began_without_the_table_or_under_another_agent_is_found(world: World) -> None:
    await Ruleset(TEMPLATES).reconcile(with_port())
    with world.socket("outside", INET) as served, world.socket("outside", INET) as early:
        theirs = send(served, "192.0.2.7")
        run("nft flush chain inet ovsnet prerouting")
        send(early, "192.0.2.7")
        await Ruleset(TEMPLATES).reconcile(with_port())
        assert known(INET) == {theirs: str(pipeline.NODE_PORTS.of(4))}
        send(early, "192.0.2.7")
        await Ruleset(TEMPLATES).reconcile(EGRESS)
        assert known(INET) == {}


async def test_connections_of_others_to_the_same_port_stay(world: World) -> None:
    """A pod's to a host outside, with the node's address; one through a hostPort; the node's own by loopback; and all
    that are in another zone, as the bridge's are on the kernel's datapath."""
    run("nft add table ip others")
    run("nft add chain ip others pre { type nat hook prerouting priority dstnat - 1 ; }")
    run(f"nft add rule ip others pre ip daddr 192.0.2.7 udp dport {PORT} udp sport 7 dnat to 10.244.1.6:7")
    run("nft add chain ip others zones { type filter hook prerouting priority raw ; }")
    run(f"nft add rule ip others zones udp dport {PORT} udp sport 8 ct zone set 65500")
    rules = Ruleset(TEMPLATES)
    await rules.reconcile(EGRESS)
    with (
        world.socket("a", INET) as pod,
        world.socket("outside", INET) as hosted,
        world.socket("outside", INET) as zoned,
        socket.socket(INET, socket.SOCK_DGRAM) as looped,
    ):
        hosted.bind(("", 7))
        zoned.bind(("", 8))
        kept = {
            send(pod, "192.0.2.1"): "192.0.2.1",
            send(hosted, "192.0.2.7"): "10.244.1.6",
            send(zoned, "192.0.2.7"): "192.0.2.7",
            send(looped, "127.0.0.1"): "127.0.0.1",
        }
        assert known(INET) == kept
        await rules.reconcile(with_port())
        await rules.reconcile(EGRESS)
        assert known(INET) == kept


async def test_tcp_alone_forgets_nothing_and_many_ports_are_one_question(world: World) -> None:
    rules = Ruleset(TEMPLATES)
    await rules.reconcile(EGRESS)
    with world.socket("outside", INET) as client:
        mine = send(client, "192.0.2.7")
        await rules.reconcile(with_port(protocol="tcp"))
        assert known(INET) == {mine: "192.0.2.7"}
        many = tuple((4, "udp", port) for port in range(PORT, PORT + 300))
        await rules.reconcile(msgspec.structs.replace(EGRESS, node_ports=many))
        assert known(INET) == {}


@pytest.mark.parametrize(("family", "address"), REACH)
async def test_a_flood_to_a_port_that_comes_is_forgotten_in_time(
    world: World, family: int, address: str
) -> None:
    rules = Ruleset(TEMPLATES)
    await rules.reconcile(EGRESS)
    for _ in range(20):
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(world.socket("outside", family)).sendto(b"?", (address, PORT))
    # Ports of the client's are used again now and then.
    assert len(known(family)) > 1500
    started = time.monotonic()
    await rules.reconcile(with_port())
    assert time.monotonic() - started < 2 * SLOWER
    assert known(family) == {}


@pytest.mark.parametrize(("family", "address"), [(INET, "192.0.2.1"), (INET6, "2001:db8::1")])
async def test_a_late_answer_of_a_node_port_goes_nowhere_and_is_not_in_the_way(
    world: World, family: int, address: str
) -> None:
    version = 4 if family == INET else 6
    source = str(pipeline.NODE_PORTS.of(version))
    world.run("a", f"ip addr add {source}/{32 if version == 4 else 128} dev eth0")
    rules = Ruleset(TEMPLATES)
    for translated in (False, True):
        if translated:
            await rules.reconcile(with_port())
        with world.socket("a", family) as endpoint, world.socket("outside", family) as client:
            client.settimeout(0.5)
            client.bind(("", 45678))
            endpoint.bind((source, PORT))
            endpoint.sendto(b"late", (address, 45678))
            try:
                assert client.recv(10) == b"late"
                assert not translated
            except TimeoutError:
                assert translated
    assert known(family, 45678) == {}, "no connection is made of it"
