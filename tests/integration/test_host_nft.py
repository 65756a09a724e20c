"""The egress table with real packets: two pods behind a gateway, a node, and a host outside."""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest
from host_world import World, behind_a_gateway, run

from ovsnet.errors import HostFailure
from ovsnet.host import nft
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import STEERED_MARK, STEERED_TABLE, EgressSpec
from ovsnet.pipeline import PORT_CLIENT

TEMPLATES = Path(__file__).parents[2] / "templates"
EGRESS = EgressSpec(
    gateway="ovsnet0",
    pod_cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")),
    no_masquerade=(ip_network("10.244.0.0/16"), ip_network("198.51.100.0/24"), ip_network("10.244.0.0/15")),
)
INET, INET6 = socket.AF_INET, socket.AF_INET6
INIT = bytes.fromhex("9c400050 00000000 6c681fc5 01000014 00001234 0000ffff 000a000a 00000007")
"""Of SCTP (RFC 9260, 3.3.2), from port 40000 to 80, with its checksum: conntrack follows nothing with a wrong one."""


@pytest.fixture
def world() -> Iterator[World]:
    with behind_a_gateway() as world:
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
    assert seen(world, "a", "b", INET, "192.0.2.7") == str(PORT_CLIENT.of(4))
    assert seen(world, "outside", "b", INET, "192.0.2.7") == "192.0.2.1"


async def test_an_answer_that_comes_too_late_is_refused(world: World) -> None:
    """Nobody has the address; by the uplink it would become a connection to somebody else."""
    await Ruleset(TEMPLATES).reconcile(EGRESS)
    for family, version in ((INET, 4), (INET6, 6)):
        with (
            world.socket("a", family, socket.SOCK_STREAM) as late,
            pytest.raises(ConnectionRefusedError),
        ):
            late.connect((str(PORT_CLIENT.of(version)), 7))


@pytest.mark.parametrize(
    ("family", "posing", "pod"),
    [
        (INET6, "fd00:244:1::1", "fd00:244:1::5"),
        (INET6, str(PORT_CLIENT.of(6)), "fd00:244:1::5"),
        (INET, str(PORT_CLIENT.of(4)), "10.244.1.5"),
    ],
)
async def test_who_poses_as_the_node_reaches_no_pod(world: World, family: int, posing: str, pod: str) -> None:
    """Linux checks that of IPv4 alone, and of addresses that it has."""
    length, more = (32, "") if family == INET else (128, " nodad")
    world.run("outside", f"ip addr add {posing}/{length} dev eth0{more}")
    with world.socket("a", family) as receiver, world.socket("outside", family) as sender:
        receiver.bind(("", 7))
        receiver.settimeout(1)
        sender.bind((posing, 0))
        sender.sendto(b"before", (pod, 7))
        assert receiver.recv(64) == b"before"
        await Ruleset(TEMPLATES).reconcile(EGRESS)
        sender.sendto(b"after", (pod, 7))
        with pytest.raises(TimeoutError):
            receiver.recv(64)
    assert seen(world, "outside", "a", INET, "10.244.1.5") == "192.0.2.1"


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


async def test_a_change_at_the_moment_of_our_own_is_somebody_elses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stay for ever if the table were right as it is found afterwards."""
    run_nft = nft._nft

    async def meddled_with(*arguments: str, text: str = "") -> str:
        out = await run_nft(*arguments, text=text)
        if "-f" in arguments:
            run("nft insert rule inet ovsnet postrouting tcp dport 7777 drop")
        return out

    rules = Ruleset(TEMPLATES)
    monkeypatch.setattr(nft, "_nft", meddled_with)
    await rules.reconcile(EGRESS)
    monkeypatch.undo()
    assert "7777" in run("nft list table inet ovsnet")
    assert "repaired" in (await rules.reconcile(EGRESS, verify=True))[0]
    assert "7777" not in run("nft list table inet ovsnet")
    assert await rules.reconcile(EGRESS, verify=True) == []


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


@pytest.mark.parametrize(
    ("family", "service"),
    [(INET, "10.96.0.9"), (INET6, "fd00:10:96::9"), (INET, "203.0.113.9"), (INET6, "2001:db8:f::9")],
)
async def test_sctp_that_the_bridge_hands_back_is_refused(world: World, family: int, service: str) -> None:
    """With what ends a client's attempt: from a kernel that has SCTP an ABORT, else that it has not."""
    external = tuple((ip_address(address), "sctp", 80) for address in ("203.0.113.9", "2001:db8:f::9"))
    assert await Ruleset(TEMPLATES).reconcile(msgspec.structs.replace(EGRESS, external=external))
    run("ip route add 10.96.0.0/16 dev ovsnet0")
    run("ip route add fd00:10:96::/112 dev ovsnet0")
    # What is for an external address would go elsewhere, but for its mark.
    for version, outside in ((4, "192.0.2.1"), (6, "2001:db8::1")):
        run(f"ip -{version} route add default via {outside}")
        run(f"ip -{version} route add default dev ovsnet0 table {STEERED_TABLE}")
        run(f"ip -{version} rule add pref 777 fwmark {STEERED_MARK}/{STEERED_MARK} lookup {STEERED_TABLE}")
    errors = socket.getprotobyname("icmp" if family == INET else "ipv6-icmp")
    with (
        world.socket("a", family, socket.SOCK_RAW, errors) as told,
        world.socket("a", family, socket.SOCK_RAW, socket.IPPROTO_SCTP) as client,
    ):
        client.sendto(INIT, (service, 0))
        answer, by, neighbours = b"", told, range(133, 138)
        while not answer or (by is told and answer[0] in neighbours):
            readable, _, _ = select.select([told, client], [], [], 2)
            assert readable, "silence"
            by = readable[0]
            answer, sender = by.recvfrom(2048)
            answer = answer[20:] if family == INET else answer
    assert sender[0] == service
    if by is client:
        assert answer[:4] == struct.pack("!HH", 80, 40000)
        assert answer[12] == 6, "ABORT (RFC 9260, 3.3.7)"
    else:
        # Protocol unreachable (RFC 792); unrecognized next header (RFC 4443).
        assert tuple(answer[:2]) == ((3, 2) if family == INET else (4, 1))


async def test_what_nft_refuses_is_told_in_its_words(world: World) -> None:
    rules = Ruleset(TEMPLATES)
    with pytest.raises(HostFailure, match="Error"):
        await rules.reconcile(msgspec.structs.replace(EGRESS, gateway='"'))
    assert await rules.reconcile(EGRESS) == ["nftables table inet ovsnet set"]
