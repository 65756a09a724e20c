"""Which pods get rows back that the database has lost, and that rows which are there win."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest
from lost_pods import GATEWAY, NODE, PEER, TOPOLOGY, pod
from msgspec.structs import replace

from ovsnet import names, plan, state
from ovsnet.model import IPAddress, Pod
from ovsnet.rows import AddPort, PortRow


def row(pod: Pod, ofport: int = plan.POD_NUMBERS) -> PortRow:
    return PortRow(name=pod.port, external_ids=state.identity(pod), ofport=ofport)


def lost(rows: Mapping[str, PortRow], orphans: set[str], pods: list[Pod]) -> tuple[list[AddPort], list[str]]:
    found = plan.lost_ports(rows, orphans, pods, TOPOLOGY)
    return found.changes, found.refused


def test_pods_are_in_their_rows_as_they_were() -> None:
    pods = [pod(2), pod(3)]
    changes, refused = lost({}, {each.port for each in pods}, pods)
    assert not refused
    rows = [
        PortRow(
            name=each.spec.name,
            external_ids=each.spec.external_ids,
            ofport_request=each.spec.ofport_request,
        )
        for each in changes
    ]
    first = plan.POD_NUMBERS
    assert [state.pod(each) for each in rows] == [
        replace(pods[0], ofport=first),
        replace(pods[1], ofport=first + 1),
    ]


def test_numbers_that_are_had_are_passed_over() -> None:
    rows = {pod(2).port: row(pod(2))}
    (change,), _ = lost(rows, {pod(3).port}, [pod(2), pod(3)])
    assert (change.spec.name, change.spec.ofport_request) == (pod(3).port, plan.POD_NUMBERS + 1)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (pod(3), "an interface that is gone"),
        (replace(pod(3), port=pod(2).port, ips=pod(2).ips), "an address that a row gives to another"),
        (replace(pod(3), port=pod(2).port, ips=pod(2).ips[1:]), "one address of several"),
        (replace(pod(3), port=pod(2).port, container="c2"), "an attachment that has another interface"),
    ],
)
def test_a_row_says_it_better(other: Pod, what: str) -> None:
    rows = {"pod-000000aa": row(replace(pod(2), port="pod-000000aa"))}
    assert lost(rows, {pod(2).port}, [other]) == ([], []), what


def test_two_entries_of_one_address_give_one_row() -> None:
    first, second = pod(2), replace(pod(3), ips=pod(2).ips)
    changes, _ = lost({}, {first.port, second.port}, [first, second])
    assert [change.spec.name for change in changes] == [first.port]


def test_a_port_that_is_named_for_several_is_nobodys() -> None:
    first, second = pod(2), replace(pod(3), port=pod(2).port)
    changes, refused = lost({}, {first.port, pod(4).port}, [first, pod(4), second])
    assert [change.spec.name for change in changes] == [pod(4).port]
    (line,) = refused
    assert line.startswith(f"port {first.port} is given back to nobody")
    assert "default/p2 (c2 eth0), default/p3 (c3 eth0)" in line


def test_the_same_entry_twice_is_one() -> None:
    changes, refused = lost({}, {pod(2).port}, [pod(2), pod(2)])
    assert ([change.spec.name for change in changes], refused) == ([pod(2).port], [])


def test_an_entry_that_a_row_contradicts_makes_nothing_ambiguous() -> None:
    stale = replace(pod(3), port=pod(2).port)
    changes, refused = lost({pod(3).port: row(pod(3))}, {pod(2).port}, [stale, pod(2)])
    assert [change.spec.external_ids[names.KEY_CONTAINER] for change in changes] == ["c2"]
    assert not refused


@pytest.mark.parametrize("address", [NODE, PEER, GATEWAY])
def test_what_a_node_has_is_no_pods(address: IPAddress) -> None:
    bad = replace(pod(2), ips=(pod(2).ips[0], address))
    changes, refused = lost({}, {bad.port, pod(3).port}, [bad, pod(3)])
    assert [change.spec.name for change in changes] == [pod(3).port]
    assert refused == [f"pod default/p2 does not get its port {bad.port} back: {address} belongs to a node"]


def test_an_address_outlives_its_range() -> None:
    elsewhere = replace(pod(2), ips=(ipaddress.ip_address("10.99.0.2"),))
    changes, refused = lost({}, {elsewhere.port}, [elsewhere])
    assert (len(changes), refused) == (1, [])
