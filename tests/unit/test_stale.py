"""Ways of datagrams that are gone: those of endpoints, of ports and of whole Services; never those that there are."""

from __future__ import annotations

import ipaddress

from ovsnet import stale
from ovsnet.endpoints import Backend, Here
from ovsnet.frontends import Maker, ServiceObject
from ovsnet.numbers import Numbers
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort


def made(*endpoints: str, protocol: Protocol = Protocol.UDP, version: int = 4) -> ServiceObject:
    service = Service(
        namespace="default",
        name="dns",
        cluster_ips=(ipaddress.ip_address("10.96.0.10" if version == 4 else "fd00:96::10"),),
        ports=(ServicePort(port=53, protocol=protocol),),
    )
    piece = EndpointSlice(
        namespace="default",
        name="dns-1",
        service="dns",
        ports=(EndpointPort(port=5353, protocol=protocol),),
        endpoints=tuple(Endpoint(address=ipaddress.ip_address(each)) for each in endpoints),
    )
    return Maker(service, [piece], Here(node="node-a"), Numbers()).make()


def way(endpoint: str) -> stale.Way:
    backend = Backend(address=ipaddress.ip_address(endpoint), port=5353)
    return stale.Way(address=ipaddress.ip_address("10.96.0.10"), port=53, backend=backend)


def test_an_endpoint_that_is_gone() -> None:
    assert stale.gone(made("10.244.1.2", "10.244.2.2"), made("10.244.2.2")) == {way("10.244.1.2")}
    assert stale.gone(made("10.244.1.2"), made("10.244.1.2", "10.244.2.2")) == frozenset()


def test_a_service_that_is_gone() -> None:
    assert stale.gone(made("10.244.1.2", "10.244.2.2"), None) == {way("10.244.1.2"), way("10.244.2.2")}
    assert stale.ways(None) == frozenset()


def test_endpoints_in_groups_of_groups() -> None:
    many = [f"10.244.{number // 200}.{number % 200}" for number in range(1, 301)]
    assert stale.gone(made(*many), made(*many[1:])) == {way(many[0])}


def test_connections_of_tcp_end_by_themselves() -> None:
    assert stale.ways(made("10.244.1.2", protocol=Protocol.TCP)) == frozenset()


def test_the_tuples_name_both_ends_as_ct_flush_reads_them() -> None:
    assert way("10.244.1.2").tuples == (
        "ct_nw_dst=10.96.0.10,ct_nw_proto=17,ct_tp_dst=53",
        "ct_nw_src=10.244.1.2,ct_nw_proto=17,ct_tp_src=5353",
    )
    (six,) = stale.ways(made("fd00:1::2", version=6))
    assert six.tuples[0] == "ct_ipv6_dst=fd00:96::10,ct_nw_proto=17,ct_tp_dst=53"
