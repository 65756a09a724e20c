"""Which ports are listened on, and which addresses are the node's own, as the kernel tells."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from ovsnet.host import sockets
from ovsnet.servicemodel import Protocol

EVERY = {4: ipaddress.ip_address("0.0.0.0"), 6: ipaddress.ip_address("::")}


@pytest.mark.parametrize(
    ("kind", "protocol"), [(socket.SOCK_STREAM, Protocol.TCP), (socket.SOCK_DGRAM, Protocol.UDP)]
)
@pytest.mark.parametrize(("family", "versions"), [(socket.AF_INET, {4}), (socket.AF_INET6, {4, 6})])
def test_a_socket_is_found_while_it_is_there(
    kind: int, protocol: Protocol, family: int, versions: set[int]
) -> None:
    with socket.socket(family, kind) as one:
        one.bind(("", 0))
        if kind == socket.SOCK_STREAM:
            one.listen()
        port = one.getsockname()[1]
        assert {(EVERY[version], protocol, port) for version in versions} <= sockets.listening()
        other = Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP
        assert (EVERY[4], other, port) not in sockets.listening() or family == socket.AF_INET
    assert (EVERY[4], protocol, port) not in sockets.listening()


@pytest.mark.parametrize(
    ("family", "bound", "told"),
    [
        (socket.AF_INET, "127.0.0.2", "127.0.0.2"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::ffff:127.0.0.3", "127.0.0.3"),
    ],
)
def test_a_socket_on_one_address_is_on_no_other(family: int, bound: str, told: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.bind((bound, 0))
        port = one.getsockname()[1]
        found = {
            address for address, protocol, at in sockets.listening() if (protocol, at) == (Protocol.UDP, port)
        }
        assert found == {ipaddress.ip_address(told)}


def test_a_connection_is_no_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getsockname()[1] not in {port for _, _, port in sockets.listening()}


def test_a_kernel_without_a_family(tmp_path: object) -> None:
    assert sockets.listening(str(tmp_path)) == set()


def test_addresses_of_this_host_are_its_own() -> None:
    found = sockets.own()
    assert ipaddress.ip_address("127.0.0.1") in found
    assert ipaddress.ip_address("192.0.2.200") not in found


def test_addresses_of_both_families(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Local:\n  +-- 10.0.0.0/8 2 0 2\n     |-- 10.0.0.0\n        /8 link UNICAST\n     |-- 10.0.0.7\n"
        "        /32 host LOCAL\n     |-- 10.255.255.255\n        /32 link BROADCAST\n"
    )
    (tmp_path / "if_inet6").write_text("fd000000000000000000000000000007 02 40 00 80     eth0\n")
    assert sockets.own(str(tmp_path)) == {ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("fd00::7")}
