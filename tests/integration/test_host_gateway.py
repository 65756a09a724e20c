"""The gateway port's addresses and routes on a real kernel, and the node's uplink."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from host_world import World, run

from ovsnet import resources
from ovsnet.agent.hostside import HostSide
from ovsnet.config import Config, NodeAddress
from ovsnet.errors import HostFailure, RouteRefused
from ovsnet.host import gateway, uplink
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import (
    STEERED_TABLE,
    GatewaySpec,
    NeighbourSpec,
    RouteSpec,
    RuleSpec,
    Uplink,
    UplinkChoice,
)
from ovsnet.servicemodel import Protocol
from ovsnet.services import Reach
from ovsnet.state import Topology

ROUTER4, ROUTER6 = ip_address("169.254.77.1"), ip_address("fe80::a9fe:4d01")
OWN4, OWN6 = ip_address("10.244.1.1"), ip_address("fd00:244:1::1")


def to_peer(number: int) -> RouteSpec:
    return RouteSpec(
        cidr=ip_network(f"10.{number // 250}.{number % 250}.0/24"), next_hop=ROUTER4, source=OWN4
    )


def to_peer6(number: int) -> RouteSpec:
    return RouteSpec(cidr=ip_network(f"fd00:{number + 1:x}::/64"), next_hop=ROUTER6, source=OWN6)


SPEC = GatewaySpec(
    interface="ovsnet0",
    mac="0a:58:0a:f4:01:01",
    mtu=1450,
    addresses=(ip_interface("10.244.1.1/24"), ip_interface("fd00:244:1::1/64")),
    routes=(to_peer(1), to_peer(2), to_peer6(1), to_peer6(2)),
    neighbours=(NeighbourSpec(address=ROUTER4, mac="0a:58:a9:fe:4d:01"),),
)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.add("outside")
        world.cable("ovsnet0", "outside", "switch")
        world.cable("eth0", "outside", "eth0")
        run("ip link set ovsnet0 down")
        run("ip addr add 192.0.2.7/24 dev eth0")
        run("ip addr add 2001:db8::7/64 dev eth0 nodad")
        run("ip route add default via 192.0.2.1")
        yield world


def setting(key: str) -> str:
    return Path("/proc/sys/net", key).read_text().strip()


def set_to(key: str, value: int) -> None:
    Path("/proc/sys/net", key).write_text(str(value))


def shown(words: str, *keys: str) -> set[tuple[str, ...]]:
    """These fields of everything that `ip` shows, but for what the kernel makes by itself."""
    found = [entry for family in "46" for entry in json.loads(run(f"ip -{family} -j {words} dev ovsnet0"))]
    return {
        tuple(str(entry.get(key)) for key in keys) for entry in found if entry.get("protocol") != "kernel"
    }


def addresses() -> set[str]:
    found = json.loads(run("ip -j addr show dev ovsnet0"))[0]["addr_info"]
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in found if entry["scope"] == "global"}


def routes() -> set[tuple[str, ...]]:
    return shown("route show", "dst", "gateway", "prefsrc")


def written(specs: Iterable[RouteSpec]) -> set[tuple[str, ...]]:
    return {(str(spec.cidr), str(spec.next_hop), str(spec.source)) for spec in specs}


async def test_what_is_asked_for_is_there_and_asking_again_changes_nothing(world: World) -> None:
    set_to("ipv4/ip_forward", 0)
    changes = await gateway.reconcile(SPEC)
    assert "net.ipv4.ip_forward set to 1" in changes
    assert "address 10.244.1.1/24 added" in changes
    assert "route 10.0.1.0/24 via 169.254.77.1 from 10.244.1.1 added" in changes
    link = json.loads(run("ip -j link show dev ovsnet0"))[0]
    assert "UP" in link["flags"]
    assert (link["address"], link["mtu"]) == (SPEC.mac, SPEC.mtu)
    assert addresses() == {"10.244.1.1/24", "fd00:244:1::1/64"}
    assert routes() == written(SPEC.routes)
    assert ("169.254.77.1", "0a:58:a9:fe:4d:01", "['PERMANENT']") in shown(
        "neigh show", "dst", "lladdr", "state"
    )
    assert setting("ipv4/ip_forward") == "1"
    assert setting("ipv6/conf/all/forwarding") == "1"
    assert setting("ipv4/conf/ovsnet0/rp_filter") == "2"
    assert setting("ipv4/conf/ovsnet0/send_redirects") == "0"
    assert await gateway.reconcile(SPEC) == []
    assert "src 10.244.1.1" in run("ip route get 10.0.1.9")


async def test_the_kernels_routes_to_the_ranges_of_pods_come_back(world: World) -> None:
    """The kernel makes them with the addresses, and never again; nor is there any other way to this node's pods."""
    await gateway.reconcile(SPEC)
    before = {family: run(f"ip -{family} route show dev ovsnet0") for family in "46"}
    assert "10.244.1.0/24 proto kernel scope link src 10.244.1.1" in before["4"]
    assert "fe80::/64 proto kernel" in before["6"]
    for family in "46":
        run(f"ip -{family} route flush dev ovsnet0")
    assert "to be done: route 10.244.1.0/24 added" in gateway.differences(SPEC)
    changes = await gateway.reconcile(SPEC)
    assert {"route 10.244.1.0/24 added", "route fd00:244:1::/64 added", "route fe80::/64 added"} < set(
        changes
    )
    for family in "46":
        assert sorted(run(f"ip -{family} route show dev ovsnet0").splitlines()) == sorted(
            before[family].splitlines()
        )
    assert await gateway.reconcile(SPEC) == []
    # They go with their address, as the kernel's own do.
    run("ip addr del 10.244.1.1/24 dev ovsnet0")
    assert "10.244.1.0/24" not in run("ip -4 route show dev ovsnet0")


async def test_a_link_that_was_down_has_the_kernels_routes_from_the_kernel(world: World) -> None:
    await gateway.reconcile(SPEC)
    run("ip link set ovsnet0 down")
    changes = await gateway.reconcile(SPEC)
    assert "ovsnet0 set to up" in changes
    assert not {"route 10.244.1.0/24 added", "route fd00:244:1::/64 added"} & set(changes)
    assert await gateway.reconcile(SPEC) == []


async def test_drift_is_repaired_and_strangers_go_but_the_kernels_own_stays(world: World) -> None:
    await gateway.reconcile(SPEC)
    kernels = run("ip -6 route show dev ovsnet0 proto kernel")
    run("ip addr add 10.9.9.9/24 dev ovsnet0")
    run("ip route add 10.77.0.0/24 via 10.244.1.9 dev ovsnet0")
    run("ip -6 route add fd77::/64 via fe80::1 dev ovsnet0")
    run("ip route del 10.0.1.0/24")
    run("ip route replace 10.0.2.0/24 via 10.244.1.9 dev ovsnet0")
    run("ip neigh add 10.244.1.44 lladdr 0a:58:0a:f4:01:44 dev ovsnet0")
    changes = await gateway.reconcile(SPEC)
    assert len(changes) == 6
    assert "route 10.0.2.0/24 via 169.254.77.1 from 10.244.1.1 replaced" in changes
    assert await gateway.reconcile(SPEC) == []
    assert run("ip -6 route show dev ovsnet0 proto kernel") == kernels
    assert "192.0.2.1" in run("ip route show default")


async def test_routes_survive_a_change_of_the_address_they_depend_on(world: World) -> None:
    await gateway.reconcile(SPEC)
    moved = ip_interface("10.244.1.2/24")
    moved_routes = tuple(msgspec.structs.replace(route, source=moved.ip) for route in SPEC.routes[:2])
    spec = msgspec.structs.replace(
        SPEC, addresses=(moved, SPEC.addresses[1]), routes=moved_routes + SPEC.routes[2:]
    )
    await gateway.reconcile(spec)
    assert addresses() == {"10.244.1.2/24", "fd00:244:1::1/64"}
    assert routes() == written(spec.routes)
    assert await gateway.reconcile(spec) == []


async def test_a_thousand_peers_of_both_families_come_and_go(world: World) -> None:
    peers = tuple(map(to_peer, range(1000))) + tuple(map(to_peer6, range(1000)))
    spec = msgspec.structs.replace(SPEC, routes=peers)
    await gateway.reconcile(spec)
    assert len(routes()) == 2000
    assert await gateway.reconcile(spec) == []
    await gateway.reconcile(SPEC)
    assert routes() == written(SPEC.routes)


async def test_a_strangers_route_in_the_way_is_named_and_kept_and_the_rest_is_done(world: World) -> None:
    run("ip route add 10.0.1.0/24 via 192.0.2.1")
    run("ip -6 route add fd00:2::/64 via 2001:db8::1")
    with pytest.raises(HostFailure, match=r"10\.0\.1\.0/24.*fd00:2::/64.*remove them"):
        await gateway.reconcile(SPEC)
    assert routes() == written([to_peer(2), to_peer6(2)])
    assert "192.0.2.1" in run("ip route show 10.0.1.0/24")
    assert "eth0" in run("ip -6 route show fd00:2::/64")


def steered(version: int) -> GatewaySpec:
    """With external addresses of that family to be served."""
    own, hop = (OWN4, ROUTER4) if version == 4 else (OWN6, ROUTER6)
    cidr = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    route = RouteSpec(cidr=cidr, next_hop=hop, source=own, table=STEERED_TABLE)
    return msgspec.structs.replace(SPEC, routes=(*SPEC.routes, route), rules=(RuleSpec(version=version),))


RULE = "777:\tfrom all fwmark 0x1000/0x1000 lookup 7077"


@pytest.mark.parametrize("version", [4, 6])
async def test_steered_packets_have_a_table_of_their_own(world: World, version: int) -> None:
    spec, hop = steered(version), ROUTER4 if version == 4 else ROUTER6
    await gateway.reconcile(SPEC)
    main = run(f"ip -{version} route show table main")
    await gateway.reconcile(spec)
    assert await gateway.reconcile(spec) == []
    assert RULE in run(f"ip -{version} rule")
    assert RULE not in run(f"ip -{10 - version} rule")
    assert run(f"ip -{version} route show table main") == main, "what is not steered keeps its ways"
    found = run(f"ip -{version} route show table {STEERED_TABLE}")
    assert found.startswith(f"default via {hop} dev ovsnet0"), found
    # They go with what needed them.
    assert f"IPv{version} rule 777: fwmark 0x1000/0x1000 lookup 7077 removed" in await gateway.reconcile(SPEC)
    assert RULE not in run(f"ip -{version} rule")
    assert f"table {STEERED_TABLE}" not in run(f"ip -{version} route show table all")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "damage",
    [
        "rule del pref 777",
        "rule add pref 99 lookup 7077",
        "rule add pref 777 fwmark 0x1000/0x1000 iif lo lookup 7077",
        "route flush table 7077",
    ],
)
async def test_what_steers_is_told_and_repaired(world: World, damage: str, version: int) -> None:
    spec = steered(version)
    await gateway.reconcile(spec)
    run(f"ip -{version} rule add pref 98 fwmark 0x1000/0x1000 lookup 55")
    rules, before = run(f"ip -{version} rule"), gateway.differences(spec)
    assert before == []
    run(f"ip -{version} {damage}")
    told = gateway.differences(spec)
    assert told
    assert [f"to be done: {words}" for words in await gateway.reconcile(spec)] == told
    assert run(f"ip -{version} rule") == rules, "others' stay"
    assert gateway.differences(spec) == []


async def test_a_refused_route_says_what_it_was_for_and_keeps_no_rule_from_being_set(world: World) -> None:
    run("ip route add 10.96.0.0/24 via 192.0.2.1")
    topo = Topology(
        name="node-a", addresses=(V4,), internal=(V4,), cidrs=(ip_network("10.244.1.0/24"),), gateways=(OWN4,),
        mac="0a:58:0a:f4:01:01", mtu=1400, encaps=(), tunnel_ports=(), peers=(),
    )  # fmt: skip
    reach = Reach(
        networks=(ip_network("10.96.0.0/24"),),
        external=(
            (ip_address("203.0.113.1"), Protocol.TCP, 80),
            (ip_address("2001:db8::9"), Protocol.TCP, 80),
        ),
    )
    host = HostSide(Ruleset(resources.templates_dir()))
    with pytest.raises(RouteRefused, match=r"10\.96\.0\.0/24 .*, for ClusterIPs of Services: File exists"):
        await host.reconcile(topo, Config(), reach)
    assert "203.0.113.1 . tcp . 80" in run("nft list table inet ovsnet")
    assert RULE in run("ip -4 rule")
    assert RULE not in run("ip -6 rule"), "pods have no IPv6"
    run("ip route del 10.96.0.0/24")
    assert await host.reconcile(topo, Config(), reach) == [
        "route 10.96.0.0/24 via 169.254.77.1 from 10.244.1.1 added"
    ]
    assert await host.differences(topo, Config(), reach) == []


async def test_forwarding_does_not_cost_a_node_the_default_route_it_learned(world: World) -> None:
    set_to("ipv6/conf/all/forwarding", 0)
    set_to("ipv6/conf/eth0/accept_ra", 1)
    run("ip -6 route add default via 2001:db8::1 dev eth0 proto ra")
    changes = await gateway.reconcile(SPEC)
    assert "net.ipv6.conf.eth0.accept_ra set to 2" in changes
    assert changes.index("net.ipv6.conf.eth0.accept_ra set to 2") < changes.index(
        "net.ipv6.conf.all.forwarding set to 1"
    )
    assert "2001:db8::1" in run("ip -6 route show default")


async def test_a_node_with_ipv4_ranges_alone_does_not_forward_ipv6(world: World) -> None:
    set_to("ipv6/conf/all/forwarding", 0)
    await gateway.reconcile(
        msgspec.structs.replace(SPEC, addresses=SPEC.addresses[:1], routes=SPEC.routes[:2])
    )
    assert setting("ipv6/conf/all/forwarding") == "0"


async def test_a_port_that_is_not_there_is_an_error(world: World) -> None:
    with pytest.raises(HostFailure, match="no interface ovsnet9"):
        await gateway.reconcile(msgspec.structs.replace(SPEC, interface="ovsnet9"))


V4, V6 = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7")


@pytest.mark.parametrize(
    ("choice", "addresses"),
    [
        ({}, (V4, V6)),
        ({"address": V6}, (V6,)),
        ({"interface": "eth0"}, (V4, V6)),
        ({"route_to": ip_address("198.51.100.1")}, (V4, V6)),
        ({"route_to": ip_address("2001:db8::9")}, (V6, V4)),
    ],
)
async def test_the_uplink_is_found(world: World, choice: dict[str, Any], addresses: tuple[Any, ...]) -> None:
    run("ip link set eth0 mtu 1480")
    assert await uplink.resolve(UplinkChoice(**choice)) == Uplink(
        interface="eth0", addresses=addresses, mtu=1480
    )


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({}, "no default route"),
        ({"address": ip_address("192.0.2.8")}, "no interface has the address 192.0.2.8"),
        ({"interface": "eth9"}, "no interface 'eth9'"),
        ({"interface": "ovsnet0"}, "ovsnet0 has no global address"),
        ({"route_to": ip_address("198.51.100.1")}, "no route to 198.51.100.1"),
        ({"route_to": V4}, "an address of this node"),
    ],
)
async def test_an_uplink_that_is_not_found_says_what_there_is(
    world: World, choice: dict[str, Any], words: str
) -> None:
    run("ip route del default")
    with pytest.raises(HostFailure, match=words) as caught:
        await uplink.resolve(UplinkChoice(**choice))
    assert "eth0: 192.0.2.7, 2001:db8::7" in caught.value.message


async def test_the_uplinks_address_is_neither_temporary_nor_deprecated(world: World) -> None:
    run("ip addr del 2001:db8::7/64 dev eth0")
    run("ip addr add 2001:db8::99/64 dev eth0 nodad preferred_lft 0")
    run("ip addr add 2001:db8::8/64 dev eth0 nodad")
    run("ip addr add 192.0.2.8/24 dev eth0")
    found = await uplink.resolve(UplinkChoice(interface="eth0"))
    assert found.addresses == (V4, IPv6Address("2001:db8::8"))


LATE4, LATE6 = IPv4Address("192.0.2.8"), IPv6Address("2001:db8::8")
ABSENT = ip_address("192.0.2.99")


@pytest.mark.parametrize(
    ("choice", "internal", "addresses"),
    [
        (NodeAddress(), (), (V4, V6)),
        (NodeAddress(), (V6, V4), (V6, V4)),
        (NodeAddress(), (V4, LATE4, LATE6, V6), (V4, LATE6)),
        (NodeAddress(), (ABSENT, V6), (V6,)),
        (NodeAddress(), (ABSENT,), (V4, V6)),
        (NodeAddress(address=V6), (V4, V6), (V6, V4)),
        (NodeAddress(address=V6), (V6,), (V6,)),
        (NodeAddress(interface="eth0"), (LATE6,), (V4, LATE6)),
        (NodeAddress(interface="eth0"), (), (V4, V6)),
        (NodeAddress(route_to=ip_address("2001:db8::9")), (LATE4, V6), (V6, LATE4)),
    ],
)
async def test_tunnels_end_at_the_internal_ips_of_both_families(
    world: World, choice: NodeAddress, internal: tuple[Any, ...], addresses: tuple[Any, ...]
) -> None:
    run("ip addr add 192.0.2.8/24 dev eth0")
    run("ip addr add 2001:db8::8/64 dev eth0 nodad")
    run("ip addr del 2001:db8::7/64 dev eth0")
    run("ip addr add 2001:db8::7/64 dev eth0 nodad")
    host = HostSide(Ruleset(resources.templates_dir()))
    assert (await host.uplink(choice, internal)).addresses == addresses


async def test_two_uplinks_have_the_lesser_mtu(world: World) -> None:
    run("ip addr del 2001:db8::7/64 dev eth0")
    run("ip link set ovsnet0 up mtu 1400")
    run("ip addr add 2001:db8::7/64 dev ovsnet0 nodad")
    host = HostSide(Ruleset(resources.templates_dir()))
    assert await host.uplink(NodeAddress(), (V4, V6)) == Uplink(
        interface="eth0", addresses=(V4, V6), mtu=1400
    )
