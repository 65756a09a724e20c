"""What changes costs what changed, and ends in what would have been derived at once."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ovsnet import conntrack, resources
from ovsnet.endpoints import Here
from ovsnet.numbers import Numbers
from ovsnet.render import Renderer
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from ovsnet.services import Services

HERE = Here(node="n0", zone="z0")
VIP = ipaddress.ip_address("10.96.0.10")
RENDERER = Renderer(resources.flows_dir())


def service(number: int, **said: Any) -> Service:
    asked = {
        "cluster_ips": (
            ipaddress.ip_address("10.96.0.1") + number,
            ipaddress.ip_address("fd00:96::1") + number,
        ),
        "ports": (ServicePort(port=80, node_port=30000 + number),),
        **said,
    }
    return Service(namespace="default", name=f"s{number}", **asked)


def piece(
    number: int, owner: int, endpoints: tuple[Endpoint, ...], protocol: Protocol = Protocol.TCP
) -> EndpointSlice:
    return EndpointSlice(
        namespace="default",
        name=f"e{number}",
        service=f"s{owner}",
        ports=(EndpointPort(port=8080, protocol=protocol),),
        endpoints=endpoints,
    )


def endpoint(number: int, **said: Any) -> Endpoint:
    return Endpoint(address=ipaddress.ip_address("10.244.0.1") + number, node=f"n{number % 2}", **said)


def keyed(objects: list[Any]) -> dict[str, Any]:
    return {each.key: each for each in objects}


ENDPOINTS = st.lists(
    st.builds(
        lambda number, ready, zones: endpoint(number, ready=ready, for_zones=zones),
        st.integers(0, 3),
        st.booleans(),
        st.sampled_from([(), ("z0",), ("z1",)]),
    ),
    max_size=3,
    unique_by=lambda each: each.address,
)


@st.composite
def snapshots(draw: st.DrawFn) -> tuple[dict[str, Service], dict[str, EndpointSlice], Here]:
    protocols = st.sampled_from([Protocol.TCP, Protocol.UDP])
    services = [
        service(
            number,
            internal_local=draw(st.booleans()),
            affinity=draw(st.sampled_from([0, 60])),
            ports=(ServicePort(port=80, node_port=30000 + number, protocol=draw(protocols)),),
        )
        for number in draw(st.sets(st.integers(0, 2)))
    ]
    slices = [
        piece(number, draw(st.integers(0, 2)), tuple(draw(ENDPOINTS)), draw(protocols))
        for number in draw(st.sets(st.integers(0, 3)))
    ]
    return keyed(services), keyed(slices), draw(st.sampled_from([HERE, Here(node="n1", zone="z1")]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(snapshots(), st.booleans()), min_size=1, max_size=6),
    st.sampled_from([40, 0xFFFFFEFF]),
)
def test_any_history_ends_in_what_is_derived_at_once(history: list[Any], last: int) -> None:
    """Also where numbers collide all the time: of 40 there are up to 9 in use. Until conntrack has forgotten what left,
    answers from there are translated."""
    lived, fresh = Services(), Services()
    lived._numbers, fresh._numbers = Numbers(last), Numbers(last)
    for snapshot, forgets in history:
        lived.update(*snapshot)
        translated = {(address, port) for each in lived.slices for address, _, port in each.members}
        assert lived.departures.endpoints <= translated
        if forgets:
            forget(lived)
    forget(lived)
    lived.update(*history[-1][0])
    fresh.update(*history[-1][0])
    assert lived.objects == fresh.objects
    assert lived.reach == fresh.reach
    assert RENDERER.state(lived.objects) == Renderer(resources.flows_dir()).state(fresh.objects)


def test_what_did_not_change_stays_the_same_instance() -> None:
    services = keyed([service(0), service(1)])
    slices = keyed([piece(0, 0, (endpoint(0),)), piece(1, 1, (endpoint(1),)), piece(2, 1, (endpoint(2),))])
    made = Services()
    made.update(services, slices, HERE)
    before = {(type(each), each.key): each for each in made.objects}
    changed = piece(1, 1, (endpoint(1), endpoint(3)))
    made.update(services, {**slices, changed.key: changed}, HERE)
    after = {(type(each), each.key): each for each in made.objects}
    others = {key[1] for key in before if after[key] is not before[key]}
    assert others == {"default/s1", "default/e1"}


def test_a_change_that_makes_no_difference_makes_no_new_object() -> None:
    services, slices = keyed([service(0)]), keyed([piece(0, 0, (endpoint(0),))])
    made = Services()
    made.update(services, slices, HERE)
    before = made.objects
    made.update(keyed([service(0)]), keyed([piece(0, 0, (endpoint(0, zone="elsewhere"),))]), HERE)
    assert all(one is other for one, other in zip(before, made.objects, strict=True))


def test_endpoints_that_come_and_go_concern_no_route() -> None:
    services = keyed([service(0, ports=(ServicePort(port=80),)), service(1, ports=(ServicePort(port=80),))])
    made = Services()
    made.update(services, keyed([piece(0, 0, (endpoint(0),))]), HERE)
    before = made.reach
    for endpoints in ((), (endpoint(1),), (endpoint(1), endpoint(2)), ()):
        made.update(services, keyed([piece(0, 0, endpoints)]), HERE)
        assert made.reach is before


def udp(number: int) -> Service:
    return service(number, ports=(ServicePort(port=53, protocol=Protocol.UDP),))


def test_a_successor_with_the_same_address_and_endpoint_loses_no_datagram() -> None:
    """Whichever of the two is looked at first."""
    addresses = (ipaddress.ip_address("10.96.0.1"),)
    for first, second in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
        old, new = (
            service(each, cluster_ips=addresses, ports=(ServicePort(port=53, protocol=Protocol.UDP),))
            for each in (first, second)
        )
        made = Services()
        made.update(keyed([old]), keyed([piece(first, first, (endpoint(0),), Protocol.UDP)]), HERE)
        made.update(keyed([new]), keyed([piece(second, second, (endpoint(0),), Protocol.UDP)]), HERE)
        assert made.departures.left == set()


def test_a_start_spares_connections_to_endpoints_that_still_serve() -> None:
    """As an agent does that saw them begin to terminate."""
    slices = keyed([piece(0, 0, (endpoint(0), endpoint(1)), Protocol.UDP)])
    first = Services()
    first.update(keyed([udp(0)]), slices, HERE)
    ways = set(conntrack.ways(next(iter(first.services))))
    going = (endpoint(0), endpoint(1, ready=False, serving=True, terminating=True))
    made = Services()
    made.update(keyed([udp(0)]), keyed([piece(0, 0, going, Protocol.UDP)]), HERE)
    made.found(ways)
    assert made.departures.left == set()
    gone = (endpoint(0), endpoint(1, ready=False, serving=False, terminating=True))
    made.update(keyed([udp(0)]), keyed([piece(0, 0, gone, Protocol.UDP)]), HERE)
    assert {way.endpoint for way in made.departures.left} == {endpoint(1).address}
    other = Services()
    other.update(keyed([udp(1)]), keyed([piece(1, 1, going, Protocol.UDP)]), HERE)
    other.found(ways)
    assert other.departures.left == ways, "of a Service that is gone"


def test_slices_wait_for_their_service_and_go_with_it() -> None:
    slices = keyed([piece(0, 0, (endpoint(0),))])
    made = Services()
    made.update({}, slices, HERE)
    assert made.objects == []
    made.update(keyed([service(0)]), slices, HERE)
    assert [each.key for each in made.objects] == ["default/s0", "default/e0"]
    made.update({}, slices, HERE)
    assert made.objects == []
    assert made.reach == Services().reach


def test_reach() -> None:
    """Networks that cover the ClusterIPs and never an external address, of which ports alone are taken; node ports by
    family and policy."""
    far = service(
        9,
        cluster_ips=(ipaddress.ip_address("10.97.3.4"),),
        external_ips=(ipaddress.ip_address("203.0.113.1"),),
        external_local=True,
    )
    none = service(3, ports=(ServicePort(port=80, node_port=30003, protocol=Protocol.UDP),))
    made = Services()
    slices = keyed([piece(0, 0, (endpoint(0),)), piece(9, 9, (endpoint(1),))])
    made.update(keyed([service(0), service(2), none, far]), slices, HERE)
    assert [str(network) for network in made.reach.networks] == [
        "10.96.0.0/29",
        "10.97.3.4/32",
        "fd00:96::/125",
    ]
    assert made.reach.external == ((ipaddress.ip_address("203.0.113.1"), Protocol.TCP, 80),)
    assert made.reach.node_ports == ((4, Protocol.TCP, 30000), (4, Protocol.TCP, 30009)), (
        "those with endpoints"
    )
    assert made.reach.local_node_ports == ((4, Protocol.TCP, 30009),)


def test_udp_leaves_an_endpoint_when_it_serves_no_more() -> None:
    """Not while it terminates and still answers those that it has."""
    services = Services()
    dns = service(0, ports=(ServicePort(port=53, protocol=Protocol.UDP),), cluster_ips=(VIP,))

    def left(*endpoints: Endpoint) -> set[str]:
        port = EndpointPort(port=8080, protocol=Protocol.UDP)
        one = EndpointSlice(namespace="default", name="e", service="s0", ports=(port,), endpoints=endpoints)
        services.update({dns.key: dns}, {one.key: one}, HERE)
        return forget(services)

    ending = {"ready": False, "terminating": True}
    assert left(endpoint(1), endpoint(2)) == set()
    assert left(endpoint(1, serving=True, **ending), endpoint(2)) == set()
    assert left(endpoint(1, serving=False, **ending), endpoint(2)) == {"10.244.0.2"}
    assert left(endpoint(2)) == set()
    assert left() == {"10.244.0.3"}
    assert left(endpoint(2)) == set()
    services.update({}, {}, HERE)
    assert forget(services) == {"10.244.0.3"}


def test_answers_of_an_endpoint_that_went_are_translated_until_conntrack_has_forgotten_it() -> None:
    """A client that sends from a port of which conntrack remembers the choice still reaches it."""
    services = Services()
    dns = service(0, ports=(ServicePort(port=53, protocol=Protocol.UDP),), cluster_ips=(VIP,))
    first, second = (f"10.244.0.{number}" for number in (2, 3))

    def shown() -> dict[str, set[str]]:
        return {each.key: {str(address) for address, _, _ in each.members} for each in services.slices}

    def has(*pieces: EndpointSlice, known: bool = True) -> dict[str, set[str]]:
        services.update({dns.key: dns} if known else {}, keyed(list(pieces)), HERE)
        return shown()

    def of(number: int, *endpoints: Endpoint) -> EndpointSlice:
        return piece(number, 0, endpoints, Protocol.UDP)

    assert has(of(0, endpoint(1), endpoint(2))) == {"default/e0": {first, second}}
    alone = of(0, endpoint(2))
    assert has(alone) == {"default/e0": {first, second}}
    services.news()
    assert forget(services) == {first}
    # Nothing that the store says is different.
    services.update(services_of := {dns.key: dns}, slices_of := keyed([alone]), HERE)
    assert (shown(), set(services.news()[1])) == ({"default/e0": {second}}, {"default/e0"})
    services.update(services_of, slices_of, HERE)
    assert services.news() == ({}, {})

    assert has() == {"default/e0": {second}}, "its slice is gone"
    assert has(of(1, endpoint(2))) == {"default/e1": {second}}, "another slice has it now"
    assert forget(services) == set()
    assert has(of(1, endpoint(2)), known=False) == {"default/e1": {second}}, "its Service is gone"
    forget(services)
    assert has(of(1, endpoint(2)), known=False) == {}


def test_it_tells_when_a_group_chooses_by_less_of_the_hash_than_before() -> None:
    services = Services()
    assert services.narrowed, "perhaps: an agent may have run before"
    services.narrowed = False
    web = service(0)

    def narrowed(count: int, known: bool = True) -> bool:
        one = piece(0, 0, tuple(endpoint(number) for number in range(count)))
        services.update({web.key: web} if known else {}, {one.key: one}, HERE)
        found, services.narrowed = services.narrowed, False
        return found

    assert [narrowed(count) for count in (1, 2, 3, 4, 3, 2, 1, 0)] == [False] * 5 + [True] * 3
    assert not narrowed(4)
    assert narrowed(4, known=False)
    assert not narrowed(0)


def forget(services: Services) -> set[str]:
    """What conntrack is to forget, as if it had; the endpoints."""
    ways = set(services.departures.left)
    for way in ways:
        services.forgot(way)
    return {str(way.endpoint) for way in ways}
