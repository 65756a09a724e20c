"""`ovsnet show`: what its tables make of ports and Services. The whole command is tested in a lab."""

from __future__ import annotations

import io
from ipaddress import ip_network
from typing import Any

from ovsnet import pipeline
from ovsnet.cli import console
from ovsnet.cli.show import ports_table
from ovsnet.cli.showservices import services, services_table
from ovsnet.frontends import Frontend, ServiceObject
from ovsnet.nodeports import NodePortAddresses
from ovsnet.servicemodel import Protocol


def port(ofport: int | None, role: str = "pod", error: str | None = None, **more: object) -> dict[str, Any]:
    return {
        "name": f"pod-{ofport}",
        "ofport": ofport,
        "role": role,
        "type": "system",
        "who": "",
        "addresses": [],
        "error": error,
        "leftOver": False,
        **more,
    }


def test_the_table_tells_what_is_wrong_and_has_no_trailing_blanks() -> None:
    ports = [port(16), port(18), port(None), port(20, error="no such device")]
    ports.append(port(21, leftOver=True))
    out = io.StringIO()
    console.table(console.console(out), ports_table(ports))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "pod-16", "pod-18", "pod-None", "pod-20", "pod-21"]
    assert "no such device" in lines[4]
    assert [line for line in lines if "left over" in line] == lines[5:]
    assert [line for line in lines if line != line.rstrip()] == []


def test_node_ports_are_shown_with_the_addresses_that_answer() -> None:
    service = ServiceObject(
        namespace="default",
        name="web",
        frontends=tuple(
            Frontend(address=address, protocol=Protocol.TCP, port=30080)
            for each in (pipeline.NODE_PORTS, pipeline.LOCAL_NODE_PORTS)
            for address in each.addresses
        ),
        groups=(),
    )
    for networks, shown in (
        ((), (" at no address", " at no address")),
        (("192.0.2.0/24", "198.51.100.7/32", "::/0"), (" at 192.0.2.0/24, 198.51.100.7/32", "")),
    ):
        answering = NodePortAddresses(networks=tuple(map(ip_network, networks)))
        (found,) = services([service], answering)
        assert [each["address"] for each in found["frontends"]] == [
            f"{what}, IPv{version}{at}"
            for what in ("node port", "node port from outside")
            for version, at in zip((4, 6), shown, strict=True)
        ]


def test_of_many_endpoints_a_few_are_named() -> None:
    def endpoints(count: int, **more: Any) -> str:
        found = {"endpoints": [f"10.244.1.{each}:80" for each in range(count)], "endpointsForOutside": None}
        said = {"address": "10.96.0.1", "port": 80, "protocol": "TCP", "sourceRanges": None, "refused": False}
        out = io.StringIO()
        shown = services_table(
            [{"name": "default/web", "frontends": [{**said, **found, **more}]}], everything
        )
        console.table(console.console(out), shown)
        return " ".join(out.getvalue().split()).partition("80/tcp ")[2]

    few = " ".join(f"10.244.1.{each}:80" for each in range(5))
    everything = False
    assert endpoints(10).count(":80") == 10
    assert endpoints(257) == f"257: {few} and 252 more (--all)"
    assert endpoints(1, endpointsForOutside=["10.244.9.9:80"] * 11).count(":80") == 1 + 5
    everything = True
    assert endpoints(257).count(":80") == 257
    assert "more" not in endpoints(257)
