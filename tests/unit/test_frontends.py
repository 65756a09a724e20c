"""One Service: where it is reached, by whom, and its groups."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovsnet import names, pipeline
from ovsnet.endpoints import Here
from ovsnet.frontends import BUCKETS, Frontend, Group, Maker, ServiceObject
from ovsnet.numbers import Numbers
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort

HERE = Here(node="here", addresses=tuple(map(ipaddress.ip_address, ("192.0.2.11", "2001:db8:9::11"))))
VIP, VIP6 = ipaddress.ip_address("10.96.0.1"), ipaddress.ip_address("fd00:96::1")
EXTERNAL, BALANCER = ipaddress.ip_address("203.0.113.1"), ipaddress.ip_address("203.0.113.2")
FIRST = ipaddress.ip_address("10.200.0.0")


def made(endpoints: list[Endpoint], **said: Any) -> ServiceObject:
    asked = {"cluster_ips": (VIP,), "ports": (ServicePort(port=80, node_port=30080),), **said}
    service = Service(namespace="default", name="web", **asked)
    piece = EndpointSlice(
        namespace="default",
        name="web-1",
        service="web",
        ports=(EndpointPort(port=8080),),
        endpoints=tuple(endpoints),
    )
    return Maker(service, [piece], HERE, Numbers()).make()


def at(number: int, node: str = "there") -> Endpoint:
    return Endpoint(address=FIRST + number, node=node)


def frontend(service: ServiceObject, address: Any) -> Frontend:
    (found,) = [each for each in service.frontends if each.address == address]
    return found


def members(service: ServiceObject, number: int) -> set[int]:
    """The endpoints that a group leads to, by the groups of a group if there are any."""
    (group,) = [each for each in service.groups if each.number == number]
    found = {int(backend.address) - int(FIRST) for backend in group.backends}
    for member in group.members:
        inner = members(service, member)
        assert inner, "a share for nobody"
        assert not found & inner
        found |= inner
    return found


LOCAL, AWAY = at(1, "here"), at(2)
NODE_PORT, LOCAL_NODE_PORT = pipeline.NODE_PORTS.of(4), pipeline.LOCAL_NODE_PORTS.of(4)


@pytest.mark.parametrize(
    ("internal_local", "endpoints", "reached", "refused"),
    [
        (False, [LOCAL, AWAY], {1, 2}, False),
        (True, [LOCAL, AWAY], {1}, False),
        (True, [AWAY], set(), False),
        (True, [], set(), True),
        (False, [], set(), True),
    ],
)
def test_internal_policy(
    internal_local: bool, endpoints: list[Endpoint], reached: set[int], refused: bool
) -> None:
    service = made(endpoints, internal_local=internal_local)
    found = frontend(service, VIP)
    assert (members(service, found.group) if found.group else set()) == reached
    assert (found.refused, found.external) == (refused, False)


@pytest.mark.parametrize("external_local", [False, True])
@pytest.mark.parametrize("address", [EXTERNAL, BALANCER])
def test_external_policy_is_for_clients_outside(address: Any, external_local: bool) -> None:
    service = made(
        [LOCAL, AWAY], external_local=external_local, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,)
    )
    found = frontend(service, address)
    assert members(service, found.group) == {1, 2}, "pods and nodes"
    assert members(service, found.outside_group) == ({1} if external_local else {1, 2})
    assert (found.external, found.masquerade) == (True, not external_local)


def test_a_node_port_has_an_address_for_each_policy() -> None:
    service = made([LOCAL, AWAY], external_local=True)
    cluster, local = frontend(service, NODE_PORT), frontend(service, LOCAL_NODE_PORT)
    assert (cluster.port, cluster.masquerade, members(service, cluster.outside_group)) == (
        30080,
        True,
        {1, 2},
    )
    assert (local.port, local.masquerade, members(service, local.outside_group)) == (30080, False, {1})
    assert members(service, local.group) == {1, 2}
    kept_there = frontend(made([AWAY], external_local=True), LOCAL_NODE_PORT)
    assert (kept_there.outside_group, kept_there.refused) == (0, False)
    assert {each.address for each in made([], external_local=True).frontends} == {VIP}, "the kernel refuses"


def test_load_balancers_are_told_of_ready_endpoints_of_this_node() -> None:
    """A pod counts once, whatever families it has; one that terminates is served, but not told of."""
    six = Endpoint(address=ipaddress.ip_address("fd00::1"), node="here")
    ending = Endpoint(address=FIRST + 3, node="here", ready=False, terminating=True)
    asked: dict[str, Any] = {"cluster_ips": (VIP, VIP6), "external_local": True, "health_check_port": 30081}
    for endpoints, count in (([LOCAL, six, AWAY], 1), ([LOCAL, at(4, "here"), six], 2), ([six], 1)):
        assert made(endpoints, **asked).local_endpoints == count
    service = made([ending, AWAY], **asked)
    assert (service.local_endpoints, service.health_check_port) == (0, 30081)
    assert members(service, frontend(service, LOCAL_NODE_PORT).outside_group) == {3}
    assert made([LOCAL], **{**asked, "external_local": False}).local_endpoints == 0


def test_source_ranges_are_for_load_balancers_in_their_own_family() -> None:
    ranges = tuple(map(ipaddress.ip_network, ("198.51.100.0/24", "2001:db8::/32")))
    service = made([AWAY], source_ranges=ranges, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,))
    assert frontend(service, BALANCER).sources == ranges[:1]
    assert frontend(service, EXTERNAL).sources is None
    only_six = made([AWAY], source_ranges=ranges[1:], load_balancer_ips=(BALANCER,))
    assert frontend(only_six, BALANCER).sources == (), "nobody, not everybody"
    everybody = frontend(made([AWAY], load_balancer_ips=(BALANCER,)), BALANCER)
    assert (everybody.sources, everybody.admits_node) == (None, True)


@pytest.mark.parametrize(
    ("ranges", "admitted"),
    [
        (["198.51.100.0/24"], False),
        (["198.51.100.0/24", "192.0.2.8/29"], True),
        (["192.0.2.11/32"], True),
        (["192.0.2.12/32"], False),
        (["0.0.0.0/0"], True),
        (["2001:db8:9::/64"], False),
    ],
)
def test_source_ranges_bind_the_node_by_its_addresses_of_the_family(
    ranges: list[str], admitted: bool
) -> None:
    service = made(
        [AWAY],
        source_ranges=tuple(map(ipaddress.ip_network, ranges)),
        external_ips=(EXTERNAL,),
        load_balancer_ips=(BALANCER,),
    )
    assert frontend(service, BALANCER).admits_node == admitted
    assert frontend(service, EXTERNAL).admits_node, "no load balancer's address"


@pytest.mark.parametrize(
    ("said", "entries"),
    [
        ({}, {"/4": True}),
        ({"internal_local": True}, {"/4": True, "/4/local": True}),
        ({"internal_local": True, "ports": (ServicePort(port=80),)}, {"/4/local": True}),
        ({"external_local": True}, {"/4": True, "/4/local": False}),
        ({"external_local": True, "internal_local": True}, {"/4": True, "/4/local": True}),
        ({"external_local": True, "ports": (ServicePort(port=80),)}, {"/4": True}),
    ],
)
def test_clients_stay_with_endpoints_of_groups_that_they_use(
    said: dict[str, Any], entries: dict[str, bool]
) -> None:
    service = made([LOCAL, AWAY], affinity=60, **said)
    numbers = Numbers()
    found = {each.group.number: each.inside for each in service.entries}
    assert found == {numbers.number(service.key, f"tcp/80{view}"): inside for view, inside in entries.items()}
    assert {each.protocol for each in service.entries} == {"tcp"}


def test_a_flow_says_as_much_of_an_affinity_as_it_can() -> None:
    found = [made([LOCAL], affinity=seconds) for seconds in (60, 65535, 65536, 86400)]
    assert [each.affinity for each in found] == [60, 65535, 65536, 86400]
    assert [each.idle_timeout for each in found] == [60, 65535, 65535, 65535]


def test_clients_enter_a_group_of_groups_and_none_of_its_parts() -> None:
    service = made([at(number) for number in range(300)], affinity=60)
    (entry,) = service.entries
    assert len(service.groups) > len(service.entries)
    assert len(service.backends(entry.group.number)) == 300


def test_what_is_learned_of_each_frontend_from_outside_has_a_cookie_of_its_own() -> None:
    service = made([LOCAL, AWAY], affinity=60, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,))
    cookies = {service.learned_outside(each) for each in service.frontends} | {service.learned}
    assert len(cookies) == len(service.frontends) + 1
    assert {names.kind_of(each) for each in cookies} == {names.AFFINITY}


def test_each_family_has_its_own_endpoints() -> None:
    six = Endpoint(address=ipaddress.ip_address("fd00::1"))
    service = made([at(1), six], cluster_ips=(VIP, VIP6))
    groups = {group.number: group for group in service.groups}
    for address in (VIP, VIP6):
        group = groups[frontend(service, address).group]
        assert group.version == address.version
        assert {each.address.version for each in group.backends} == {address.version}
    assert frontend(made([at(1)], cluster_ips=(VIP, VIP6)), VIP6).refused
    assert len({group.mark for group in service.groups}) == 1, "of the port, not of the family"


def test_outer_addresses_of_a_family_that_it_lacks_are_not_its() -> None:
    """kube-proxy ignores them; the address may well be somebody's."""
    six = ipaddress.ip_address("2001:db8::1")
    service = made([at(1)], external_ips=(EXTERNAL, six), load_balancer_ips=(six + 1,))
    assert {each.address for each in service.frontends if each.external and each.port == 80} == {EXTERNAL}


def test_a_port_that_another_service_has_is_left_out_of_that_address_alone() -> None:
    ports = (ServicePort(port=80, name="a"), ServicePort(port=81, name="b"))
    lost = frozenset({(EXTERNAL, Protocol.TCP, 80)})
    service = made([at(1)], ports=ports, external_ips=(EXTERNAL, BALANCER, VIP), withheld=lost)
    found = {(each.address, each.port) for each in service.frontends}
    assert found == {(VIP, 80), (VIP, 81), (BALANCER, 80), (BALANCER, 81), (EXTERNAL, 81)}
    assert len(service.frontends) == len(found), "each once"


def leaves(service: ServiceObject) -> dict[int, Group]:
    return {group.number: group for group in service.groups if group.backends}


@pytest.mark.parametrize("affinity", [0, 60])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 300, 1000, 5000])
def test_all_endpoints_in_parts_of_at_most_256(count: int, affinity: int) -> None:
    service = made([at(number) for number in range(count)], affinity=affinity)
    assert members(service, frontend(service, VIP).group) == set(range(count))
    assert all(group.sticky == bool(affinity) for group in service.groups)
    assert all(group.level == (count > BUCKETS) for group in leaves(service).values())
    for group in service.groups:
        assert {backend for backend, _ in group.shares} == set(group.backends)


@given(st.integers(1, 3000))
@example(60_000)
def test_no_group_has_more_than_256_buckets(count: int) -> None:
    """However many there are: with 60,000 some groups of a group are groups of groups themselves."""
    service = made([at(number) for number in range(count)])
    top = frontend(service, VIP).group
    assert members(service, top) == set(range(count))
    assert len(service.backends(top)) == count
    assert max(max(len(group.shares), len(group.members)) for group in service.groups) <= BUCKETS
    assert (max(group.level for group in service.groups) == 2) == (count == 60_000)


@pytest.mark.parametrize("count", [300, 1000, 4000])
def test_one_endpoint_changes_one_group(count: int) -> None:
    """Not the group of groups."""
    everybody = [at(number) for number in range(count)]
    before = {group.number: group for group in made(everybody).groups}
    for after, changes in ((everybody[1:], 1), ([*everybody, at(9000)], 1), ([*everybody[1:], at(9000)], 2)):
        now = {group.number: group for group in made(after).groups}
        assert before.keys() == now.keys()
        changed = {number for number in before if before[number] != now[number]}
        assert len(changed) == changes


def test_numbers_that_are_not_used_any_more_are_free() -> None:
    numbers = Numbers(5000)
    piece = EndpointSlice(
        namespace="default",
        name="w",
        service="web",
        ports=(EndpointPort(port=8080),),
        endpoints=tuple(at(number) for number in range(300)),
    )
    service = Service(namespace="default", name="web", cluster_ips=(VIP,), ports=(ServicePort(port=80),))
    Maker(service, [piece], HERE, numbers).make()
    used = len(numbers._names)
    Maker(service, [], HERE, numbers).make()
    assert (used > 3, len(numbers._names)) == (True, 1), "the mark of its connections stays"
