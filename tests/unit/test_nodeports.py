"""Which addresses node ports answer on, from the configuration and the node's own."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from ovsnet import config, nodeports
from ovsnet.nodeports import NodePortAddresses

OWN = tuple(map(ip_address, ("192.0.2.11", "2001:db8::b", "192.0.2.12", "2001:db8::c")))


def chosen(listed: str, own: tuple[str, ...] | None = None) -> NodePortAddresses:
    settings = config.parse(f"nodePortAddresses: [{listed}]")
    return nodeports.chosen(settings.node_port_addresses, OWN if own is None else map(ip_address, own))


@pytest.mark.parametrize(
    ("listed", "yes", "no"),
    [
        ("", "192.0.2.11 10.244.1.1 2001:db8::b fe80::1", "127.0.0.1 ::1"),
        ("192.0.2.0/24", "192.0.2.11 192.0.2.12 2001:db8::b fd00::1", "10.244.1.1 127.0.0.1 ::1"),
        ("'2001:db8::/64'", "192.0.2.11 10.244.1.1 2001:db8::c", "fd00::1"),
        ("0.0.0.0/0, '2001:db8::b/128'", "192.0.2.11 10.244.1.1 2001:db8::b", "127.0.0.1 2001:db8::c"),
        ("primary", "192.0.2.11 2001:db8::b", "192.0.2.12 10.244.1.1 2001:db8::c fe80::1"),
        ("primary, 10.244.1.0/24", "192.0.2.11 10.244.1.1 2001:db8::b", "192.0.2.12 2001:db8::c"),
    ],
)
def test_what_answers(listed: str, yes: str, no: str) -> None:
    found = chosen(listed)
    assert [each for each in yes.split() if not found.include(ip_address(each))] == []
    assert [each for each in no.split() if found.include(ip_address(each))] == []


def test_a_family_that_the_node_has_not_answers_nowhere() -> None:
    """Whoever asks for the Node's addresses does not ask for those that a Node does not name."""
    found = chosen("primary", own=("192.0.2.11",))
    assert found.networks == (ip_network("192.0.2.11/32"),)
    assert (found.words(4), found.words(6)) == (" at 192.0.2.11/32", " at no address")


def test_everything_is_no_limit_and_says_nothing() -> None:
    for listed in ("", "0.0.0.0/0, '::/0'", "192.0.2.0/24, 0.0.0.0/0"):
        assert [chosen(listed).limits(version) for version in (4, 6)] == [False, False]
        assert chosen(listed).words(4) == ""
    assert chosen("") == NodePortAddresses()
    assert [chosen("192.0.2.0/24").limits(version) for version in (4, 6)] == [True, False]
