"""Addresses and node ports that no Service can have: which, who is told, what stays, and what follows nodes."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store_frontends import service

from ovsnet import config, pipeline, ranges
from ovsnet.model import Node
from ovsnet.nodeports import PortRange
from ovsnet.servicemodel import ServicePort
from ovsnet.store import choice, taken
from ovsnet.store.frontends import Frontends
from ovsnet.store.taken import Limits

A = Node(
    name="a",
    pod_cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")),
    addresses=(ip_address("192.0.2.11"), ip_address("2001:db8::11")),
    others=(ip_address("203.0.113.11"),),
    source="a.yaml",
)
B = Node(
    name="b", pod_cidrs=(ip_network("10.244.2.0/24"),), addresses=(ip_address("192.0.2.12"),), source="b.yaml"
)
NODES = {"a": A, "b": B}
NOT_THERE = "the Service is not reached there, give it another clusterIP"
REST = "the rest of the Service works without it"


def followed(nodes: dict[str, Node] = NODES, limits: Limits = Limits()) -> Frontends:  # noqa: B008
    found = Frontends(limits)
    found.follow(nodes)
    return found


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.244.2.7", "lies in 10.244.2.0/24, a range of pods of node b (b.yaml)"),
        ("10.244.1.1", "lies in 10.244.1.0/24, a range of pods of node a (a.yaml)"),
        ("fd00:10:244:1::7", "lies in fd00:10:244:1::/64, a range of pods of node a (a.yaml)"),
        ("192.0.2.12", "is an address of node b (b.yaml)"),
        ("2001:db8::11", "is an address of node a (a.yaml)"),
        ("203.0.113.11", "is an address of node a (a.yaml)"),
        ("10.9.0.7", "lies in podCIDRs 10.9.0.0/24 in the agent's configuration"),
        ("198.51.100.7", "is nodeAddress in the agent's configuration"),
    ],
)
def test_a_cluster_ip_that_is_a_pods_or_a_nodes_is_refused_with_both_named(address: str, why: str) -> None:
    limits = Limits(pod_cidrs=(ip_network("10.9.0.0/24"),), addresses=(ip_address("198.51.100.7"),))
    found = followed(limits=limits)
    bad = service("bad", address, node_port=30000)
    good = service("good", "10.96.0.1")
    found.replace({each.key: each for each in (bad, good)})
    assert found.problems == {"n/bad": f"{address} {why}; {NOT_THERE}"}
    assert found.services["n/good"] is good
    kept = found.services["n/bad"]
    assert (kept.inner_ips, kept.ports) == ((), bad.ports)


@pytest.mark.parametrize(("store", "kept"), [("kubernetes: {}", "192.0.2.12"), ("file: /folder", None)])
def test_a_cluster_ip_of_the_api_server_goes_before_what_kubelets_write(store: str, kept: str | None) -> None:
    """Not before pods' ranges, nor what the node's configuration says."""
    text = f"store: {{{store}}}\nnodeAddress: {{address: 198.51.100.7}}"
    found = followed(limits=choice._limits(config.parse(text)))
    asked = [service(f"s{at}", ip) for at, ip in enumerate(("192.0.2.12", "10.244.2.7", "198.51.100.7"))]
    found.replace({each.key: each for each in asked})
    assert [str(ip) for each in found.services.values() for ip in each.inner_ips] == ([kept] if kept else [])
    assert len(found.problems) == (2 if kept else 3)


def test_of_two_cluster_ips_the_other_stays() -> None:
    found = followed()
    both = msgspec.structs.replace(
        service("web", "10.244.2.7"), cluster_ips=(ip_address("10.244.2.7"), ip_address("fd00:10:96::1"))
    )
    found.replace({both.key: both})
    assert found.services["n/web"].inner_ips == (ip_address("fd00:10:96::1"),)


def test_a_service_that_nothing_is_left_of_is_left_out() -> None:
    found = followed()
    found.replace({"n/web": service("web", "10.244.2.7")})
    assert found.services == {}
    assert found.problems.keys() == {"n/web"}


@pytest.mark.parametrize("kind", ["external", "balancer"])
def test_outside_a_pods_address_is_refused_and_a_nodes_is_usual(kind: str) -> None:
    """kube-proxy takes a node's address too: k3s' load balancer gives nothing else."""
    found = followed()
    nodes = ("192.0.2.12", "2001:db8::11", "203.0.113.11")
    asked = msgspec.structs.replace(
        service("web", "10.96.0.1", **{kind: ("10.244.2.7", *nodes)}),  # type: ignore[arg-type]
        cluster_ips=(ip_address("10.96.0.1"), ip_address("fd00:10:96::1")),
    )
    found.replace({asked.key: asked})
    kept = found.services["n/web"]
    assert kept.outer_ips == tuple(map(ip_address, nodes))
    assert kept.inner_ips == asked.cluster_ips
    assert found.problems == {
        "n/web": f"10.244.2.7 lies in 10.244.2.0/24, a range of pods of node b (b.yaml); {REST}"
    }


def test_what_is_refused_is_claimed_by_nobody() -> None:
    """A ClusterIP goes before external addresses, but this one is none."""
    found = followed()
    thief = service("a", "192.0.2.12", node_port=30000)
    owner = service("b", "10.96.0.2", external=("192.0.2.12",))
    found.replace({each.key: each for each in (thief, owner)})
    assert found.services["n/b"] is owner
    assert found.problems.keys() == {"n/a"}


def test_nodes_that_come_and_go_are_followed() -> None:
    found = followed({"a": A})
    web, other = service("web", "10.244.2.7", external=("10.244.2.8",)), service("other", "10.96.0.1")
    found.replace({each.key: each for each in (web, other)})
    before = found.services
    assert (before["n/web"], found.problems) == (web, {})
    assert not found.follow({"a": msgspec.structs.replace(A, labels={"some": "label"})})
    assert found.services is before
    assert found.follow(NODES)
    assert found.services == {"n/other": other}
    assert found.services["n/other"] is other
    assert "of node b (b.yaml)" in found.problems["n/web"]
    moved = msgspec.structs.replace(B, pod_cidrs=(ip_network("10.244.3.0/24"),))
    assert found.follow({"a": A, "b": moved})
    assert (found.services, found.problems) == ({"n/web": web, "n/other": other}, {})


def test_a_node_that_comes_costs_what_it_has_and_not_what_all_have(monkeypatch: pytest.MonkeyPatch) -> None:
    found, made, spans = followed(), [], taken._spans

    def counted(node: Node) -> Iterator[taken.Span]:
        made.append(node.name)
        return spans(node)

    monkeypatch.setattr(taken, "_spans", counted)
    found.follow({**NODES, "c": msgspec.structs.replace(B, name="c", pod_cidrs=(), addresses=())})
    found.follow({"a": A})
    assert made == ["c"]


numbers = st.integers(0, 7)


@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=8), st.lists(st.sets(numbers), max_size=4))
def test_whatever_changed_before_the_answer_is_that_of_a_start(
    asked: list[tuple[int, int, int]], steps: list[set[int]]
) -> None:
    services = {
        each.key: each
        for name, inner, outer in asked
        for each in (service(str(name), f"10.0.{inner}.9", external=(f"10.0.{outer}.9", "192.0.2.3")),)
    }
    known = [
        Node(
            name=f"n{at}",
            pod_cidrs=(ip_network(f"10.0.{at}.0/28"),),
            addresses=(ip_address(f"192.0.2.{at}"),),
        )
        for at in range(8)
    ]
    found = Frontends()
    found.replace(services)
    for there in steps:
        nodes = {known[at].name: known[at] for at in sorted(there)}
        found.follow(nodes)
        fresh = followed(nodes)
        fresh.replace(services)
        assert (found.services, found.problems) == (fresh.services, fresh.problems)


def test_node_ports_outside_of_the_range_are_refused_alone() -> None:
    found = followed(limits=Limits(node_ports=PortRange(first=30000, last=32767)))
    asked = msgspec.structs.replace(
        service("web", "10.96.0.1", external=("203.0.113.1",), health=29999),
        ports=(
            ServicePort(port=80, name="http", node_port=22),
            ServicePort(port=443, name="https", node_port=30000),
            ServicePort(port=53, name="dns", node_port=32767),
        ),
    )
    single = service("single", "10.96.0.2", node_port=32768, health=32766)
    found.replace({each.key: each for each in (asked, single)})
    outside = "is outside of 30000-32767, nodePortRange in the agent's configuration"
    assert found.problems == {
        "n/web": f"node port 22/TCP of port http {outside}; {REST}; healthCheckNodePort 29999 {outside}; {REST}",
        "n/single": f"node port 32768/TCP of port 80 {outside}; {REST}",
    }
    kept = found.services["n/web"]
    assert [port.node_port for port in kept.ports] == [0, 30000, 32767]
    assert kept.health_check_port == 0
    assert kept.outer_ips == asked.external_ips
    assert found.services["n/single"].health_check_port == 32766


def test_without_a_range_any_node_port_is_taken() -> None:
    """Who widened the API server's range need not tell us."""
    found = followed()
    asked = service("web", "10.96.0.1", node_port=22, health=80)
    found.replace({asked.key: asked})
    assert (found.services, found.problems) == ({"n/web": asked}, {})


def test_the_switchs_own_addresses_are_nobodys() -> None:
    translators = (pipeline.CLIENT, pipeline.NODE_PORTS, pipeline.LOCAL_NODE_PORTS, pipeline.PORT_CLIENT)
    own = {address for each in (*translators, pipeline.REFUSED) for address in each.addresses}
    own |= {pipeline.ROUTER.ipv4, pipeline.ROUTER.ipv6}
    assert [address for address in own if ranges.unusable_address(address) is None] == []
