"""Which pods get rows back that the database has lost, and that rows which are there win."""

from __future__ import annotations

import ipaddress

import pytest
from msgspec.structs import replace

from ovsnet import plan, state
from ovsnet.model import Pod
from ovsnet.rows import PortRow


def pod(number: int) -> Pod:
    return Pod(
        namespace="default",
        name=f"p{number}",
        container=f"c{number}",
        ifname="eth0",
        netns=f"/run/netns/p{number}",
        network="ovsnet",
        port=f"pod-0000000{number}",
        ofport=0,
        mac=f"0a:58:0a:f4:01:0{number}",
        ips=(ipaddress.ip_address(f"10.244.1.{number}"), ipaddress.ip_address(f"fd00::{number}")),
    )


def row(pod: Pod, ofport: int = plan.POD_NUMBERS) -> PortRow:
    return PortRow(name=pod.port, external_ids=state.identity(pod), ofport=ofport)


def test_pods_are_in_their_rows_as_they_were() -> None:
    pods = [pod(2), pod(3)]
    changes = plan.lost_ports({}, {each.port for each in pods}, pods)
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
    (change,) = plan.lost_ports(rows, {pod(3).port}, [pod(2), pod(3)])
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
    assert plan.lost_ports(rows, {pod(2).port}, [other]) == [], what


def test_two_notes_of_one_address_give_one_row() -> None:
    first, second = pod(2), replace(pod(3), ips=pod(2).ips)
    changes = plan.lost_ports({}, {first.port, second.port}, [first, second])
    assert [change.spec.name for change in changes] == [first.port]
