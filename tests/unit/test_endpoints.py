"""Which endpoints a node sends connections to."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from ovsnet.endpoints import Chosen, Here, choose
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, ServicePort

HERE = Here(node="here", zone="east")
PORT = ServicePort(port=80, name="web")


def endpoint(number: int, **said: Any) -> Endpoint:
    return Endpoint(address=ipaddress.ip_address(f"10.0.0.{number}"), **said)


def piece(*endpoints: Endpoint, ports: tuple[EndpointPort, ...] | None = None) -> EndpointSlice:
    known = (EndpointPort(port=8080, name="web"),) if ports is None else ports
    return EndpointSlice(namespace="default", name="s", service="s", ports=known, endpoints=endpoints)


def last(backends: Any) -> list[int]:
    return [int(backend.address) & 0xFF for backend in backends]


def chosen(*endpoints: Endpoint, here: Here = HERE) -> Chosen:
    return choose(PORT, [piece(*endpoints)], 4, here)


ENDING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}
UNREADY = {"ready": False, "serving": False}


@pytest.mark.parametrize(
    ("shows", "endpoints", "everywhere"),
    [
        ("ready ones", [endpoint(1), endpoint(2, **UNREADY), endpoint(3)], [1, 3]),
        ("not those that terminate while others are ready", [endpoint(1), endpoint(2, **ENDING)], [1]),
        ("those if none is ready", [endpoint(1, **UNREADY), endpoint(2, **ENDING)], [2]),
        ("not those that serve no more", [endpoint(1, **GONE)], []),
        ("serving but neither ready nor terminating", [endpoint(1, ready=False, serving=True)], []),
        ("none", [], []),
    ],
)
def test_readiness(shows: str, endpoints: list[Endpoint], everywhere: list[int]) -> None:
    found = chosen(*endpoints)
    assert last(found.everywhere) == everywhere, shows
    assert found.any == bool(everywhere)


@pytest.mark.parametrize(
    ("shows", "endpoints", "here", "everywhere"),
    [
        ("the own zone", [endpoint(1, for_zones=("east",)), endpoint(2, for_zones=("west",))], HERE, [1]),
        (
            "several zones",
            [endpoint(1, for_zones=("west", "east")), endpoint(2, for_zones=("west",))],
            HERE,
            [1],
        ),
        ("all if one says nothing", [endpoint(1, for_zones=("east",)), endpoint(2)], HERE, [1, 2]),
        (
            "all if nobody means it",
            [endpoint(1, for_zones=("west",)), endpoint(2, for_zones=("south",))],
            HERE,
            [1, 2],
        ),
        (
            "all for a node without a zone",
            [endpoint(1, for_zones=("east",)), endpoint(2, for_zones=("west",))],
            Here(node="here"),
            [1, 2],
        ),
        ("the own node", [endpoint(1, for_nodes=("here",)), endpoint(2, for_nodes=("there",))], HERE, [1]),
        (
            "the node before the zone",
            [
                endpoint(1, for_nodes=("here",), for_zones=("west",)),
                endpoint(2, for_nodes=("there",), for_zones=("east",)),
            ],
            HERE,
            [1],
        ),
        (
            "the zone if the node has none",
            [
                endpoint(1, for_nodes=("there",), for_zones=("east",)),
                endpoint(2, for_nodes=("there",), for_zones=("west",)),
            ],
            HERE,
            [1],
        ),
        (
            "what an unready one says does not count",
            [
                endpoint(1, for_zones=("west",)),
                endpoint(2, for_zones=("east",), **UNREADY),
                endpoint(3, **UNREADY),
            ],
            HERE,
            [1],
        ),
    ],
)
def test_hints(shows: str, endpoints: list[Endpoint], here: Here, everywhere: list[int]) -> None:
    assert last(chosen(*endpoints, here=here).everywhere) == everywhere, shows


def test_local_ones_are_judged_by_themselves() -> None:
    """A node whose only endpoint terminates still sends its Local connections there (KEP-1669)."""
    found = chosen(endpoint(1, node="there"), endpoint(2, node="here", **ENDING))
    assert (last(found.everywhere), last(found.here)) == ([1], [2])
    assert found.ready_here == (), "load balancers are to send no more"
    found = chosen(endpoint(1, node="there", **UNREADY), endpoint(2, node="here", for_zones=("west",)))
    assert (last(found.everywhere), last(found.here)) == ([2], [2])
    assert len(found.ready_here) == 1


def test_ports_go_by_name_and_protocol_and_may_differ_by_slice() -> None:
    slices = [
        piece(endpoint(1), ports=(EndpointPort(port=8080, name="web"), EndpointPort(port=1, name="other"))),
        piece(endpoint(2), endpoint(1), ports=(EndpointPort(port=9090, name="web"),)),
        piece(endpoint(3), ports=(EndpointPort(port=8080, name="web", protocol=Protocol.UDP),)),
    ]
    found = choose(PORT, slices, 4, HERE)
    assert [(int(each.address) & 0xFF, each.port) for each in found.everywhere] == [
        (1, 8080),
        (1, 9090),
        (2, 9090),
    ]


def test_an_endpoint_of_two_slices_counts_once_and_families_are_apart() -> None:
    six = Endpoint(address=ipaddress.ip_address("fd00::1"))
    slices = [piece(endpoint(2), endpoint(1)), piece(endpoint(1)), piece(six)]
    assert last(choose(PORT, slices, 4, HERE).everywhere) == [1, 2]
    assert [str(each.address) for each in choose(PORT, slices, 6, HERE).everywhere] == ["fd00::1"]
