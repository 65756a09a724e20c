"""What conntrack says, and which UDP connections lead nowhere any more."""

from __future__ import annotations

import asyncio
import ipaddress
from unittest.mock import AsyncMock

import pytest

from ovsnet import conntrack
from ovsnet.conntrack import Connection, Way, connection, taken, ways
from ovsnet.endpoints import Backend
from ovsnet.frontends import Frontend, Group, ServiceObject
from ovsnet.servicemodel import Protocol
from ovsnet.switch import conntrack as switch_conntrack

VIP, E1, E2 = (ipaddress.ip_address(text) for text in ("10.96.0.10", "10.244.1.5", "10.244.2.5"))


def way(endpoint: ipaddress.IPv4Address | ipaddress.IPv6Address, protocol: Protocol = Protocol.UDP) -> Way:
    return Way(protocol=protocol, address=VIP, port=53, endpoint=endpoint, endpoint_port=5353)


def test_a_line_of_each_sort() -> None:
    found = connection(
        "udp,orig=(src=10.244.1.9,dst=10.96.0.10,sport=40000,dport=53),"
        "reply=(src=10.244.2.5,dst=10.244.1.9,sport=5353,dport=40000),zone=65500,mark=77"
    )
    assert found == Connection(
        client=ipaddress.ip_address("10.244.1.9"), client_port=40000, way=way(E2), mark=77
    )
    found = connection(
        "tcp,orig=(src=fd00::9,dst=fd00:96::1,sport=1,dport=80),reply=(src=fd00::5,dst=fd00::9,sport=8080,dport=1),"
        "zone=65500,mark=4271162699,protoinfo=(state=TIME_WAIT)"
    )
    assert found is not None
    assert (found.state, found.mark, str(found.way.endpoint)) == ("TIME_WAIT", 4271162699, "fd00::5")
    found = connection(
        "sctp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1,dport=2),reply=(src=10.0.0.2,dst=10.0.0.1,sport=2,dport=1)"
    )
    assert found is not None
    assert found.way.protocol is Protocol.SCTP


@pytest.mark.parametrize(
    "line",
    [
        "",
        "icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id=1,type=8,code=0),reply=(src=10.0.0.2,dst=10.0.0.1,id=1)",
        "x",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert connection(line) is None


def service(*groups: Group, protocol: Protocol = Protocol.UDP) -> ServiceObject:
    frontend = Frontend(address=VIP, protocol=protocol, port=53, group=groups[0].number if groups else 0)
    return ServiceObject(namespace="default", name="dns", frontends=(frontend,), groups=groups)


def backend(endpoint: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Backend:
    return Backend(address=endpoint, port=5353)


def test_ways_of_plain_and_nested_groups() -> None:
    plain = Group(number=1, mark=9, backends=(backend(E1), backend(E2)))
    assert set(ways(service(plain))) == {way(E1), way(E2)}
    parts = [
        Group(number=2 + at, mark=9, backends=(backend(each),), level=1) for at, each in enumerate((E1, E2))
    ]
    whole = Group(number=1, mark=9, members=(2, 3))
    assert set(ways(service(whole, *parts))) == {way(E1), way(E2)}
    assert set(ways(service(plain, protocol=Protocol.TCP))) == set()
    assert set(ways(service())) == set()


def line(
    protocol: str, address: object, port: int, endpoint: object, endpoint_port: int, sport: int = 4
) -> str:
    return (
        f"{protocol},orig=(src={E1},dst={address},sport={sport},dport={port}),"
        f"reply=(src={endpoint},dst={E1},sport={endpoint_port},dport={sport}),zone=65500"
    )


def test_only_translated_udp_takes_a_way() -> None:
    said = taken(line("udp", VIP, 53, E2, 5353))
    assert said is not None
    assert conntrack.way(said) == way(E2)
    assert taken(line("tcp", VIP, 53, E2, 5353)) is None
    assert taken(line("udp", E2, 5353, E2, 5353)) is None
    assert taken("udp,garbage") is None


async def test_a_large_table_holds_nobody_up_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others get their turn between a few hundred lines, and all clients of a way are one."""
    count = 20_000
    dump = "\n".join(
        line("udp" if at % 2 else "tcp", VIP, 53, (E1, E2)[at // 2 % 2], 5353, at) for at in range(count)
    )
    monkeypatch.setattr(switch_conntrack, "appctl", AsyncMock(return_value=dump))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    found = await switch_conntrack.ways("", "netdev")
    beside.cancel()
    assert found == {way(E1), way(E2)}
    assert turns >= count // 1000
