"""Services that claim one address and port: who has it, what the other keeps, and who is told."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ovsnet.servicemodel import Protocol, Service, ServicePort
from ovsnet.store.frontends import Frontends


def service(
    name: str,
    cluster_ip: str,
    *,
    port: int = 80,
    protocol: Protocol = Protocol.TCP,
    node_port: int = 0,
    external: tuple[str, ...] = (),
    balancer: tuple[str, ...] = (),
    created: str = "",
    health: int = 0,
) -> Service:
    return Service(
        namespace="n",
        name=name,
        cluster_ips=(ip_address(cluster_ip),),
        ports=(ServicePort(port=port, protocol=protocol, node_port=node_port),),
        external_ips=tuple(map(ip_address, external)),
        load_balancer_ips=tuple(map(ip_address, balancer)),
        health_check_port=health,
        created=created,
        source=f"{name}.yaml",
    )


def without(service: Service, *lost: tuple[str, int]) -> Service:
    withheld = frozenset((ip_address(address), Protocol.TCP, port) for address, port in lost)
    return msgspec.structs.replace(service, withheld=withheld)


def settled(*services: Service) -> Frontends:
    frontends = Frontends()
    frontends.replace({each.key: each for each in services})
    return frontends


def test_services_that_share_nothing_are_left_as_they_are() -> None:
    one, other = service("a", "10.96.0.1", node_port=30000), service("b", "10.96.0.2", node_port=30001)
    udp = service("c", "10.96.0.1", protocol=Protocol.UDP, node_port=30000)
    shared = (
        service("d", "10.96.0.4", external=("192.0.2.1",)),
        service("e", "10.96.0.5", port=81, external=("192.0.2.1",)),
    )
    found = settled(one, other, udp, *shared)
    assert all(found.services[each.key] is each for each in (one, other, udp, *shared))
    assert found.problems == {}


def test_of_two_with_one_cluster_ip_the_elder_is_there() -> None:
    elder = service("z", "10.96.0.1", created="2026-01-01T00:00:00Z")
    younger = service("a", "10.96.0.1", created="2026-01-02T00:00:00Z")
    undated = service("b", "10.96.0.1")
    found = settled(younger, elder, undated)
    assert found.services == {"n/z": elder}
    assert found.problems["n/a"] == (
        "10.96.0.1 port 80/TCP is Service n/z's (z.yaml) already; the Service is left out, give it another clusterIP"
    )
    assert set(found.problems) == {"n/a", "n/b"}
    assert settled(service("b", "10.96.0.1"), service("a", "10.96.0.1")).services.keys() == {"n/a"}


def test_an_external_ip_never_takes_a_cluster_ip() -> None:
    thief = service("a", "10.96.0.1", external=("10.96.0.2", "192.0.2.1"), created="2025-01-01T00:00:00Z")
    victim = service("b", "10.96.0.2", created="2026-01-01T00:00:00Z")
    found = settled(thief, victim)
    assert found.services["n/b"] is victim
    assert found.services["n/a"] == without(thief, ("10.96.0.2", 80))
    assert "10.96.0.2 port 80/TCP is Service n/b's (b.yaml) already; the rest" in found.problems["n/a"]


def test_who_loses_a_load_balancers_address_or_a_node_port_keeps_the_rest() -> None:
    first = service("a", "10.96.0.1", balancer=("192.0.2.1",), node_port=30000, health=30001)
    second = service("b", "10.96.0.2", external=("192.0.2.1", "192.0.2.2"), node_port=30001)
    third = service("c", "10.96.0.3", node_port=30000, health=30000)
    found = settled(first, second, third)
    assert found.services["n/a"] is first
    kept = service("b", "10.96.0.2", external=("192.0.2.1", "192.0.2.2"))
    assert found.services["n/b"] == without(kept, ("192.0.2.1", 80))
    assert found.services["n/c"] == service("c", "10.96.0.3")
    assert "node port 30001/TCP is Service n/a's (a.yaml) already" in found.problems["n/b"]


def test_what_a_controller_gave_goes_before_what_a_user_wrote() -> None:
    thief = service("a", "10.96.0.1", external=("192.0.2.1",), created="2025-01-01T00:00:00Z")
    owner = service("b", "10.96.0.2", balancer=("192.0.2.1",), created="2026-01-01T00:00:00Z")
    found = settled(thief, owner)
    assert found.services["n/b"] is owner
    assert found.services["n/a"] == without(thief, ("192.0.2.1", 80))
    assert found.problems.keys() == {"n/a"}


def test_only_the_port_that_another_has_is_lost() -> None:
    ports = (ServicePort(port=80, name="a"), ServicePort(port=81, name="b"))
    elder = service("a", "10.96.0.1", external=("192.0.2.1",))
    younger = msgspec.structs.replace(service("b", "10.96.0.2", external=("192.0.2.1",)), ports=ports)
    found = settled(elder, younger)
    assert found.services["n/b"] == without(younger, ("192.0.2.1", 80))
    assert "192.0.2.1 port 80/TCP is Service n/a's" in found.problems["n/b"]
    assert "81" not in found.problems["n/b"]


def test_an_address_of_a_family_that_the_service_lacks_is_claimed_by_nobody() -> None:
    first = service("a", "10.96.0.1", external=("2001:db8::1",))
    second = msgspec.structs.replace(
        service("b", "10.96.0.2", external=("2001:db8::1",)),
        cluster_ips=(ip_address("10.96.0.2"), ip_address("fd00::2")),
    )
    found = settled(first, second)
    assert found.services == {"n/a": first, "n/b": second}
    assert found.problems == {}


def test_who_waited_has_it_when_it_is_free() -> None:
    elder, younger = service("a", "10.96.0.1"), service("b", "10.96.0.1")
    found = settled(elder, younger)
    before = found.services
    assert found.settle({"n/a": None})
    assert found.services == {"n/b": younger}
    assert found.problems == {}
    assert before == {"n/a": elder}


def test_what_did_not_change_is_the_same_instance() -> None:
    one = service("a", "10.96.0.1", external=("192.0.2.1",))
    other, third = service("b", "10.96.0.2", external=("192.0.2.1",)), service("c", "10.96.0.3")
    found = settled(one, other, third)
    before, loser = found.services, found.services["n/b"]
    assert not found.replace({each.key: each for each in (one, other, third)})
    assert found.services is before
    assert found.replace({each.key: each for each in (one, other)})
    assert found.services["n/b"] is loser


_SERVICES = st.builds(
    service,
    st.sampled_from("abcd"),
    st.sampled_from(["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00::1"]),
    port=st.sampled_from([80, 81]),
    node_port=st.sampled_from([0, 0, 30000, 30001]),
    external=st.sampled_from([(), ("192.0.2.1",), ("10.96.0.1",)]),
    balancer=st.sampled_from([(), ("192.0.2.1",), ("fd00::1",)]),
    created=st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    health=st.sampled_from([0, 0, 30000]),
)


@given(st.lists(st.lists(_SERVICES, max_size=6), min_size=1, max_size=4))
def test_step_by_step_is_as_all_at_once_and_nothing_is_shared(rounds: list[list[Service]]) -> None:
    stepwise = Frontends()
    for services in rounds:
        wanted = {each.key: each for each in services}
        stepwise.replace(wanted)
        at_once = settled(*wanted.values())
        assert stepwise.services == at_once.services
        assert stepwise.problems == at_once.problems
        seen: dict[object, str] = {}
        for key, each in stepwise.services.items():
            for port in each.ports:
                claims: list[object] = [
                    (address, port.protocol, port.port)
                    for address in {*each.cluster_ips, *each.outer_ips}
                    if (address, port.protocol, port.port) not in each.withheld
                ]
                claims += [("", port.protocol, port.node_port)] if port.node_port else []
                for claim in claims:
                    assert seen.setdefault(claim, key) == key
