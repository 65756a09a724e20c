"""What rows remember of nodes: what was put into them comes back, and nothing that contradicts the store."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ovsnet import names, plan, recall, state
from ovsnet.config import Config
from ovsnet.model import Encap, Node, Tunnels
from ovsnet.rows import PortRow, PortSpec


def node(name: str, number: int, *addresses: str, encap: Encap | None = None) -> Node:
    return Node(
        name=name,
        pod_cidrs=(
            ipaddress.ip_network((f"10.{64 + number // 256}.{number % 256}.0", 24)),
            ipaddress.ip_network(f"fd00:{number:x}::/64"),
        ),
        addresses=tuple(ipaddress.ip_address(text) for text in addresses),
        encap=encap,
    )


def rows(config: Config, known: dict[str, Node], name: str = "a") -> dict[str, PortRow]:
    """Rows as the agent of the node writes them."""
    topo = state.topology(config, name, known[name].addresses, 1500, known)
    return {spec.name: _row(spec) for spec in plan.desired_ports(config, topo)}


def _row(spec: PortSpec) -> PortRow:
    return PortRow(
        name=spec.name,
        type=spec.type,
        options=spec.options,
        external_ids=spec.external_ids,
        mac=spec.mac,
        mtu_request=spec.mtu_request,
    )


A = node("a", 1, "192.0.2.1", "2001:db8::1")
ENCAPS = st.sampled_from([None, *Encap])


@pytest.mark.parametrize("tunnels", list(Tunnels))
@settings(deadline=None)
@given(st.sampled_from(Encap), ENCAPS, st.lists(st.tuples(ENCAPS, st.booleans(), st.booleans()), max_size=5))
def test_what_was_written_leads_to_the_same_ports(
    tunnels: Tunnels, encap: Encap, wants: Encap | None, peers: list[tuple[Encap | None, bool, bool]]
) -> None:
    """A start by rows alone changes nothing."""
    known = {"a": replace(A, encap=wants)}
    for at, (chosen, four, six) in enumerate(peers, 2):
        addresses = [f"192.0.2.{at}"] * four + [f"2001:db8::{at}"] * six
        if addresses:
            known[f"n{at}"] = node(f"n{at}", at, *addresses, encap=chosen)
    config = Config(tunnels=tunnels, encapsulation=encap)
    written = rows(config, known)
    remembered = recall.nodes(written, {})
    assert {name: replace(each, source="") for name, each in remembered.items()} == known
    assert rows(config, remembered) == written


def test_the_order_of_addresses_is_remembered_as_peers_know_it() -> None:
    """It decides about the family of tunnels, whatever the node itself prefers."""
    known = {"a": A, "b": node("b", 2, "192.0.2.2", "2001:db8::2")}
    topo = state.topology(Config(), "a", A.addresses[::-1], 1500, known)
    written = {spec.name: _row(spec) for spec in plan.desired_ports(Config(), topo)}
    assert recall.nodes(written, {})["a"].addresses == A.addresses


def test_the_store_counts_and_rows_fill_in() -> None:
    b, c = node("b", 2, "192.0.2.2"), node("c", 3, "192.0.2.3")
    written = rows(Config(tunnels=Tunnels.FLOW), {"a": A, "b": b, "c": c})
    moved = replace(b, addresses=(ipaddress.ip_address("192.0.2.22"),))
    found = recall.nodes(written, {"b": moved})
    assert found["b"] == moved
    assert found["c"].addresses == c.addresses


def test_only_who_may_be_missing_is_filled_in() -> None:
    """One Node that can't be read is no reason to keep all that are gone."""
    b, c = node("b", 2, "192.0.2.2"), node("c", 3, "192.0.2.3")
    written = rows(Config(tunnels=Tunnels.FLOW), {"a": A, "b": b, "c": c})
    assert set(recall.nodes(written, {"a": A}, {"c", "d"})) == {"a", "c"}
    assert set(recall.nodes(written, {"a": A}, frozenset())) == {"a"}
    assert set(recall.nodes(written, {"a": A})) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "known",
    [
        node("x", 2, "192.0.2.9"),
        node("x", 9, "192.0.2.2"),
        Node(name="x", pod_cidrs=(ipaddress.ip_network("192.0.2.0/29"),)),
        node("x", 9, "10.64.2.7"),
    ],
    ids=["its range", "its address", "its address in a range", "an address in its range"],
)
def test_who_has_been_succeeded_is_not_remembered(known: Node) -> None:
    written = rows(Config(tunnels=Tunnels.FLOW), {"a": A, "b": node("b", 2, "192.0.2.2")})
    assert "b" not in recall.nodes(written, {"x": known})


@pytest.mark.parametrize(
    "ids",
    [
        {names.KEY_PEERS + "b": "10.64.2.0/24"},
        {names.KEY_PEERS + "b": "|192.0.2.2|"},
        {names.KEY_PEERS + "b": "10.64.2.1/24|192.0.2.2|"},
        {names.KEY_PEERS + "b": "10.64.2.0/24|192.0.2.2|ipip"},
        {names.KEY_PEERS + "b": "10.64.2.0/24|192.0.2.2||"},
        {names.KEY_PEERS + "b": ""},
        {names.KEY_PEER: "b"},
        {names.KEY_PEER: "b", names.KEY_CIDRS: "x", names.KEY_ADDRESSES: "192.0.2.2"},
    ],
)
def test_what_someone_has_spoilt_is_passed_over(ids: dict[str, str]) -> None:
    row = PortRow(name="vxlan-flow", type="vxlan", external_ids={names.OWNER: names.ROLE_TUNNEL, **ids})
    assert recall.nodes({row.name: row}, {}) == {}
    stranger = replace(row, external_ids={names.KEY_PEERS + "b": "10.64.2.0/24|192.0.2.2|"})
    assert recall.nodes({row.name: stranger}, {}) == {}


def test_a_thousand_peers_on_one_port_are_cheap() -> None:
    known = {"a": A} | {
        f"n{at}": node(f"n{at}", at, f"198.18.{at // 256}.{at % 256}") for at in range(2, 1002)
    }
    config = Config(tunnels=Tunnels.FLOW)
    topo = state.topology(config, "a", A.addresses, 1500, known)
    started = time.process_time()
    desired = plan.desired_ports(config, topo)
    row = _row(desired[1])
    assert plan.ports(desired, {each.name: _row(each) for each in desired}).changes == []
    assert time.process_time() - started < 0.5
    assert sum(len(key) + len(value) for key, value in row.external_ids.items()) < 100_000
    started = time.process_time()
    assert len(recall.nodes({row.name: row}, {"a": A})) == 1001
    assert time.process_time() - started < 1
