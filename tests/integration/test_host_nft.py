"""The egress table with real packets: two pods behind a gateway, a node, and a host outside."""

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
from host_world import World, run
from lab_world import SLOWER

from ovsnet import pipeline
from ovsnet.errors import HostFailure
from ovsnet.host import sysctl
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import EgressSpec

TEMPLATES = Path(__file__).parents[2] / "templates"
EGRESS = EgressSpec(
    gateway="ovsnet0",
    pod_cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")),
    no_masquerade=(ip_network("10.244.0.0/16"), ip_network("198.51.100.0/24"), ip_network("10.244.0.0/15")),
)
INET, INET6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def world() -> Iterator[World]:
    """A bridge stands in for the gateway port, so that two pods are behind one interface of the node."""
    with World() as world:
        # A router asks for no neighbour before its link-local address has been through detection.
        sysctl.ensure("ipv6/conf/default/accept_dad", 0)
        run("ip link add ovsnet0 type bridge")
        run("ip addr add 10.244.1.1/24 dev ovsnet0")
        run("ip addr add fd00:244:1::1/64 dev ovsnet0 nodad")
        run("ip link set ovsnet0 up")
        for translator in (pipeline.NODE_PORTS, pipeline.LOCAL_NODE_PORTS):
            for address in translator.addresses:
                run(f"ip -{address.version} route add {address} dev ovsnet0")
        for number, name in ((5, "a"), (6, "b")):
            world.add(name)
            world.run(name, "sysctl -qw net.ipv6.conf.default.accept_dad=0")
            world.cable(f"port-{name}", name, "eth0")
            run(f"ip link set port-{name} master ovsnet0")
            world.run(name, f"ip addr add 10.244.1.{number}/24 dev eth0")
            world.run(name, f"ip addr add fd00:244:1::{number}/64 dev eth0 nodad")
            world.run(name, "ip route add default via 10.244.1.1")
            world.run(name, "ip -6 route add default via fd00:244:1::1")
        world.add("outside")
        world.run("outside", "sysctl -qw net.ipv6.conf.default.accept_dad=0")
        world.cable("uplink", "outside", "eth0")
        run("ip addr add 192.0.2.7/24 dev uplink")
        run("ip addr add 2001:db8::7/64 dev uplink nodad")
        world.run("outside", "ip addr add 192.0.2.1/24 dev eth0")
        world.run("outside", "ip addr add 198.51.100.1/24 dev eth0")
        world.run("outside", "ip addr add 2001:db8::1/64 dev eth0 nodad")
        world.run("outside", "ip route add default via 192.0.2.7")
        world.run("outside", "ip -6 route add default via 2001:db8::7")
        run("ip route add 198.51.100.0/24 via 192.0.2.1")
        # With br_netfilter the bridge would translate by itself what passes it, which no OVS bridge does.
        for key in ("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"):
            sysctl.ensure(key, 0)
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            sysctl.ensure(key, 1)
        yield world


def seen(world: World, sender: str, receiver: str, family: int, address: str) -> str:
    """Which source address a receiver of a TCP connection sees; it only sees one if its answers arrive."""
    with (
        world.socket(receiver, family, socket.SOCK_STREAM) as server,
        world.socket(sender, family, socket.SOCK_STREAM) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", 7))
        server.listen()
        client.connect((address, 7))
        connection, source = server.accept()
        connection.close()
        return str(source[0])


async def test_the_outside_sees_the_node_and_direct_ranges_see_the_pod(world: World) -> None:
    assert await Ruleset(TEMPLATES).reconcile(EGRESS) == ["nftables table inet ovsnet set"]
    assert seen(world, "a", "outside", INET, "192.0.2.1") == "192.0.2.7"
    assert seen(world, "a", "outside", INET, "198.51.100.1") == "10.244.1.5"
    assert seen(world, "a", "outside", INET6, "2001:db8::1") == "2001:db8::7"
    assert seen(world, "a", "b", INET, "10.244.1.6") == "10.244.1.5"
    assert seen(world, "outside", "a", INET, "10.244.1.5") == "192.0.2.1"


async def test_a_pod_through_a_host_port_to_its_neighbour_gets_its_answer(world: World) -> None:
    run("nft add table ip hostport")
    run("nft add chain ip hostport pre { type nat hook prerouting priority dstnat; }")
    run("nft add rule ip hostport pre ip daddr 192.0.2.7 tcp dport 7 dnat to 10.244.1.6:7")
    with pytest.raises(TimeoutError):
        seen(world, "a", "b", INET, "192.0.2.7")
    await Ruleset(TEMPLATES).reconcile(EGRESS)
    assert seen(world, "a", "b", INET, "192.0.2.7") == "10.244.1.1"
    assert seen(world, "outside", "b", INET, "192.0.2.7") == "192.0.2.1"


async def test_without_masquerading_everybody_sees_the_pod(world: World) -> None:
    await Ruleset(TEMPLATES).reconcile(msgspec.structs.replace(EGRESS, masquerade=False))
    assert seen(world, "a", "outside", INET, "192.0.2.1") == "10.244.1.5"
    assert seen(world, "a", "outside", INET6, "2001:db8::1") == "fd00:244:1::5"


async def test_it_is_applied_when_it_must_be_and_only_then(world: World) -> None:
    run("nft add table inet stranger")
    rules = Ruleset(TEMPLATES)
    assert await rules.reconcile(EGRESS)
    assert await rules.reconcile(EGRESS) == []
    assert await rules.reconcile(EGRESS, verify=True) == []
    run("nft add rule inet ovsnet postrouting counter")
    assert await rules.reconcile(EGRESS) == []
    assert "repaired" in (await rules.reconcile(EGRESS, verify=True))[0]
    run("nft delete table inet ovsnet")
    assert "repaired" in (await rules.reconcile(EGRESS, verify=True))[0]
    assert "fully-random" in run("nft list table inet ovsnet")
    assert await rules.reconcile(msgspec.structs.replace(EGRESS, random_fully=False))
    assert "fully-random" not in run("nft list table inet ovsnet")
    await rules.remove()
    await rules.remove()
    assert run("nft list tables").split() == ["table", "inet", "stranger"]


def arrives(world: World, receiver: str, family: int, address: str, port: int) -> bool:
    """Whether a datagram of pod a comes to the receiver, "" being the node.

    One to another port follows it, and always arrives.
    """
    with (
        world.socket("a", family) as sender,
        world.socket(receiver, family) if receiver else socket.socket(family, socket.SOCK_DGRAM) as suspect,
        world.socket(receiver, family) if receiver else socket.socket(family, socket.SOCK_DGRAM) as honest,
    ):
        honest.settimeout(2)
        suspect.bind(("", port))
        honest.bind(("", 9))
        sender.sendto(b"?", (address, port))
        sender.sendto(b"!", (address, 9))
        assert honest.recv(10) == b"!"
        suspect.setblocking(False)
        try:
            return suspect.recv(10) == b"?"
        except BlockingIOError:
            return False


GUARDED = msgspec.structs.replace(EGRESS, tunnel_ports=(4789, 8472))


@pytest.mark.parametrize(
    ("receiver", "family", "address"),
    [("outside", INET, "192.0.2.1"), ("outside", INET6, "2001:db8::1"), ("", INET, "192.0.2.7")],
)
async def test_a_pod_can_not_send_with_the_nodes_address_what_a_tunnel_sends(
    world: World, receiver: str, family: int, address: str
) -> None:
    await Ruleset(TEMPLATES).reconcile(EGRESS)
    assert arrives(world, receiver, family, address, 8472)
    await Ruleset(TEMPLATES).reconcile(GUARDED)
    assert not arrives(world, receiver, family, address, 8472)
    assert not arrives(world, receiver, family, address, 4789)
    assert arrives(world, receiver, family, address, 6081)


async def test_what_keeps_the_pods_address_may_be_a_tunnel_of_its_own(world: World) -> None:
    await Ruleset(TEMPLATES).reconcile(GUARDED)
    assert arrives(world, "outside", INET, "198.51.100.1", 4789)
    assert arrives(world, "b", INET, "10.244.1.6", 4789)
    await Ruleset(TEMPLATES).reconcile(msgspec.structs.replace(GUARDED, masquerade=False))
    assert arrives(world, "outside", INET, "192.0.2.1", 4789)


def untracked() -> list[int]:
    """Packets of no connection to UDP port 4789 or 6081 that have come in and gone out."""
    return [
        int(count)
        for count in re.findall(r"untracked counter packets (\d+)", run("nft list table inet watch"))
    ]


@pytest.mark.parametrize(
    ("family", "node", "peer"), [(INET, "192.0.2.7", "192.0.2.1"), (INET6, "2001:db8::7", "2001:db8::1")]
)
async def test_no_connection_is_followed_in_what_tunnels_carry(
    world: World, family: int, node: str, peer: str
) -> None:
    """Only between nodes: what pods send, or anybody else, is followed for masquerading."""
    run("nft add table inet watch")
    for chain in ("input", "output"):
        run(f"nft add chain inet watch {chain} {{ type filter hook {chain} priority 0 ; }}")
        run(f"nft add rule inet watch {chain} udp dport {{ 4789, 6081 }} ct state untracked counter")
    rules = Ruleset(TEMPLATES)
    seen = []
    for peers in ((), (ip_address(peer),)):
        await rules.reconcile(msgspec.structs.replace(GUARDED, peers=peers))
        with socket.socket(family, socket.SOCK_DGRAM) as here, world.socket("outside", family) as there:
            for port in (4789, 6081):
                here.sendto(b"?", (peer, port))
                there.sendto(b"?", (node, port))
        seen.append(untracked())
    assert seen == [[0, 0], [1, 1]]


async def test_gre_is_kept_in_where_tunnels_are_gre(world: World) -> None:
    rules = Ruleset(TEMPLATES)
    for gre in (False, True):
        await rules.reconcile(msgspec.structs.replace(EGRESS, gre=gre))
        with (
            world.socket("a", INET, socket.SOCK_RAW, socket.IPPROTO_GRE) as sender,
            world.socket("outside", INET, socket.SOCK_RAW, socket.IPPROTO_GRE) as receiver,
        ):
            receiver.settimeout(0.5)
            sender.sendto(bytes([0x20, 0, 0x65, 0x58, 0, 0, 0, 77]), ("192.0.2.1", 0))
            try:
                assert receiver.recvfrom(100)[1][0] == "192.0.2.7"
                assert not gre
            except TimeoutError:
                assert gre


async def test_what_the_table_counted_is_no_difference(world: World) -> None:
    rules = Ruleset(TEMPLATES)
    await rules.reconcile(GUARDED)
    assert not arrives(world, "outside", INET, "192.0.2.1", 4789)
    assert "packets 1 " in run("nft list chain inet ovsnet forward")
    assert await rules.reconcile(GUARDED, verify=True) == []


async def test_one_family_alone(world: World) -> None:
    four = msgspec.structs.replace(EGRESS, pod_cidrs=EGRESS.pod_cidrs[:1])
    six = msgspec.structs.replace(EGRESS, pod_cidrs=EGRESS.pod_cidrs[1:], no_masquerade=())
    rules = Ruleset(TEMPLATES)
    await rules.reconcile(four)
    assert "ip6" not in run("nft list table inet ovsnet")
    await rules.reconcile(six)
    assert seen(world, "a", "outside", INET6, "2001:db8::1") == "2001:db8::7"


PORT = 30020
REACH = [(INET, "192.0.2.7"), (INET6, "2001:db8::7")]


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


async def test_what_nft_refuses_is_told_in_its_words(world: World) -> None:
    rules = Ruleset(TEMPLATES)
    with pytest.raises(HostFailure, match="Error"):
        await rules.reconcile(msgspec.structs.replace(EGRESS, gateway='"'))
    assert await rules.reconcile(EGRESS) == ["nftables table inet ovsnet set"]


def test_the_kernel_and_the_bridge_give_the_nodes_address_with_different_ports() -> None:
    """Else the answer to one's client goes to the other's, of whichever conntrack knows first."""
    theirs, ours = (
        range(int(first), int(last) + 1)
        for first, _, last in (
            text.partition("-") for text in (pipeline.NODE_MASQUERADE_PORTS, pipeline.MASQUERADE_PORTS)
        )
    )
    assert not set(theirs) & set(ours)
    peers = (ip_address("192.0.2.12"), ip_address("2001:db8::12"))
    text = Ruleset(TEMPLATES).render(msgspec.structs.replace(EGRESS, peers=peers))
    hosted = [line for line in text.splitlines() if "ct status dnat" in line and "masquerade" in line]
    assert len(hosted) == 3
    assert all(f"masquerade to :{pipeline.NODE_MASQUERADE_PORTS} " in line for line in hosted)
