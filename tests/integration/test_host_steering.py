"""Which packets of the node go to the bridge for external addresses of Services: real packets, and no bridge.

A namespace stands for the bridge: it is the router behind ovsnet0 and has the external addresses. The host outside has
them as well, as it may be with a host, or another node, that a Service names.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest
import pytest_asyncio
from host_world import World, run

from ovsnet import resources
from ovsnet.host import gateway, sysctl
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import STEERED_TABLE, EgressSpec, GatewaySpec, RouteSpec, RuleSpec

PORT, OTHER, CLOSED = 80, 81, 82
"""Of the Service; another of the host that has the address; of nobody."""
KIND = {4: socket.AF_INET, 6: socket.AF_INET6}
ROUTER = {4: "169.254.77.1", 6: "fe80::a9fe:4d01"}
EXTERNAL = {4: "203.0.113.9", 6: "2001:db8:f::9"}
GATEWAY = {4: "10.244.1.1", 6: "fd00:244:1::1"}
UPLINK, OUTSIDE = {4: "192.0.2.7", 6: "2001:db8::7"}, {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENT = {4: "198.51.100.2", 6: "2001:db8:c::2"}
MASK = {4: 24, 6: 64}
ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
VERSIONS = pytest.mark.parametrize("version", [4, 6])
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])

EGRESS = EgressSpec(
    gateway="ovsnet0",
    pod_cidrs=tuple(ip_network(f"{GATEWAY[v]}/{MASK[v]}", strict=False) for v in (4, 6)),
    peers=tuple(ip_address(EXTERNAL[v]) for v in (4, 6)),
    tunnel_ports=(4789,),
    external=tuple(
        (ip_address(EXTERNAL[v]), protocol, port)
        for v in (4, 6)
        for protocol in ("tcp", "udp")
        for port in (PORT, CLOSED, 4789)
    ),
)
SPEC = GatewaySpec(
    interface="ovsnet0",
    addresses=tuple(ip_interface(f"{GATEWAY[v]}/{MASK[v]}") for v in (4, 6)),
    routes=tuple(
        RouteSpec(
            cidr=ip_network(ANYWHERE[v]),
            next_hop=ip_address(ROUTER[v]),
            source=ip_address(GATEWAY[v]),
            table=STEERED_TABLE,
        )
        for v in (4, 6)
    ),
    rules=tuple(RuleSpec(version=v) for v in (4, 6)),
)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    with World() as world:
        sysctl.ensure("ipv6/conf/default/accept_dad", 0)
        for name, link in (("bridge", "ovsnet0"), ("outside", "uplink")):
            world.add(name)
            world.run(
                name,
                "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            )
            world.cable(link, name, "eth0")
            for address in EXTERNAL.values():
                world.run(name, f"ip addr add {address} dev lo")
            world.run(name, "ip link set lo up")
        world.add("client")
        world.run("client", "sysctl -qw net.ipv6.conf.default.accept_dad=0")
        world.cable("lan", "client", "eth0")
        for version in (4, 6):
            nodad = " nodad" if version == 6 else ""
            run(f"ip addr add {UPLINK[version]}/{MASK[version]} dev uplink{nodad}")
            world.run("outside", f"ip addr add {OUTSIDE[version]}/{MASK[version]} dev eth0{nodad}")
            run(f"ip -{version} route add default via {OUTSIDE[version]}")
            world.run("client", f"ip addr add {CLIENT[version]}/{MASK[version]} dev eth0{nodad}")
            run(f"ip addr add {CLIENT[version][:-1]}1/{MASK[version]} dev lan{nodad}")
            world.run("client", f"ip -{version} route add default via {CLIENT[version][:-1]}1")
            world.run("outside", f"ip -{version} route add default via {UPLINK[version]}")
            length = 16 if version == 4 else 64
            world.run("bridge", f"ip addr add {ROUTER[version]}/{length} dev eth0{nodad}")
        await gateway.reconcile(SPEC)
        for version in (4, 6):
            world.run("bridge", f"ip -{version} route add {GATEWAY[version]} dev eth0")
            world.run("bridge", f"ip -{version} route add default via {GATEWAY[version]}")
        yield world


def server(world: World, name: str, version: int, kind: int, port: int) -> socket.socket:
    listening = world.socket(name, KIND[version], kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((EXTERNAL[version], port))
    if kind == socket.SOCK_STREAM:
        listening.listen()
    return listening


def asked(world: World, client: socket.socket, version: int, port: int) -> tuple[str, str]:
    """Who answers at that port of the external address, and whom it sees."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(client)
        servers = {
            stack.enter_context(server(world, name, version, client.type, port)): name
            for name in ("bridge", "outside")
        }
        client.settimeout(2)
        client.connect((EXTERNAL[version], port))
        client.send(b"?")
        (found,), _, _ = select.select([*servers], [], [], 2)
        if client.type == socket.SOCK_STREAM:
            connection, source = found.accept()
            stack.enter_context(connection).sendall(b"!")
        else:
            _, source = found.recvfrom(10)
            found.sendto(b"!", source)
        assert client.recv(10) == b"!"
        return servers[found], source[0]


@VERSIONS
@KINDS
async def test_the_node_goes_to_the_bridge_for_a_services_port_alone(
    world: World, version: int, kind: int
) -> None:
    def ask(port: int) -> tuple[str, str]:
        return asked(world, socket.socket(KIND[version], kind), version, port)

    assert ask(PORT) == ("outside", UPLINK[version])
    await Ruleset(resources.templates_dir()).reconcile(EGRESS)
    assert ask(PORT) == ("bridge", GATEWAY[version]), "as for a ClusterIP"
    assert ask(OTHER) == ("outside", UPLINK[version])
    if kind == socket.SOCK_DGRAM:
        assert ask(4789) == ("outside", UPLINK[version]), "no Service takes the tunnels to a peer away"
    run(f"ping -c 1 -W 2 {EXTERNAL[version]}")


@VERSIONS
@KINDS
async def test_so_do_clients_that_send_through_the_node(world: World, version: int, kind: int) -> None:
    def ask(port: int) -> tuple[str, str]:
        return asked(world, world.socket("client", KIND[version], kind), version, port)

    assert ask(PORT) == ("outside", CLIENT[version])
    await Ruleset(resources.templates_dir()).reconcile(EGRESS)
    assert ask(PORT) == ("bridge", CLIENT[version])
    assert ask(OTHER) == ("outside", CLIENT[version])
    world.run("client", f"ping -c 1 -W 2 {EXTERNAL[version]}")


@VERSIONS
async def test_errors_about_answers_come_to_where_these_are_from(world: World, version: int) -> None:
    """Such as one that says which size the client's path takes: it is to the address, and tells of no port."""
    await Ruleset(resources.templates_dir()).reconcile(EGRESS)
    with server(world, "bridge", version, socket.SOCK_DGRAM, PORT) as answering:
        with world.socket("client", KIND[version]) as client:
            client.sendto(b"?", (EXTERNAL[version], PORT))
            _, source = answering.recvfrom(10)
        answering.connect(source)
        answering.send(b"!")
        with pytest.raises(ConnectionRefusedError):
            answering.recv(10)


async def test_of_packets_marks_one_bit_is_ours_and_gone_at_the_bridge(world: World) -> None:
    """Open vSwitch would put it on the packet of a tunnel, which must not come back here."""
    await Ruleset(resources.templates_dir()).reconcile(EGRESS)
    run("nft add table inet other")
    run("nft add chain inet other early { type filter hook output priority -300 ; }")
    run("nft add rule inet other early meta mark set 0xe0ff")
    run("nft add chain inet other late { type filter hook postrouting priority 300 ; }")
    run("nft add rule inet other late oifname ovsnet0 meta mark 0xe0ff counter")
    run("nft add rule inet other late oifname ovsnet0 meta mark != 0xe0ff tcp dport 80 counter drop")
    client = socket.socket(KIND[4], socket.SOCK_STREAM)
    assert asked(world, client, 4, PORT)[0] == "bridge"
    first = next(
        line for line in run("nft list chain inet other late").splitlines() if "0x0000e0ff counter" in line
    )
    assert "packets 0 " not in first


async def test_what_the_bridge_hands_back_is_refused_at_once(world: World) -> None:
    """A Service without endpoints: the bridge has the node's kernel tell the client."""
    await Ruleset(resources.templates_dir()).reconcile(EGRESS)
    for version in (4, 6):
        world.run("bridge", f"ip addr del {EXTERNAL[version]} dev lo")
        client = world.socket("client", KIND[version], socket.SOCK_STREAM)
        there = server(world, "outside", version, client.type, CLOSED)
        with client, there, pytest.raises(ConnectionRefusedError):
            client.connect((EXTERNAL[version], CLOSED))
