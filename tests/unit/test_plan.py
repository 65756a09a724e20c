"""Ports from any rows to any wish: a plan carried out ends in what was wanted and leaves nothing to plan."""

from __future__ import annotations

import collections
import ipaddress
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ovsnet import names, plan, state
from ovsnet.config import Config
from ovsnet.errors import OvsnetError
from ovsnet.model import Encap, Node, Tunnels
from ovsnet.rows import AddPort, Change, DeletePort, PortRow, PortSpec, SetIdentity, SetPort

OURS = (names.ROLE_GATEWAY, names.ROLE_TUNNEL)


class Rows:
    """The database's Port rows as honest memory, with an ovs-vswitchd that looks at them when told."""

    def __init__(self, rows: Iterable[PortRow]) -> None:
        self.by_name = {row.name: row for row in rows}

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case DeletePort(name=name):
                    del self.by_name[name]
                case AddPort(spec=spec):
                    assert spec.name not in self.by_name, "a name occurs once"
                    self.by_name[spec.name] = _with(PortRow(name=spec.name, type=spec.type), spec)
                case SetPort(spec=spec):
                    assert self.by_name[spec.name].type == spec.type, (
                        "OVS can't turn a port into another kind"
                    )
                    self.by_name[spec.name] = _with(self.by_name[spec.name], spec)
                case _:
                    raise AssertionError(f"not a change to a port: {change}")

    def look(self) -> None:
        """vswitchd gives new ports their numbers: first what is asked for, then what is left."""
        new = [row for row in self.by_name.values() if row.ofport is None]
        for row in sorted(new, key=lambda row: row.ofport_request is None):
            taken = {other.ofport for other in self.by_name.values()}
            wanted = row.ofport_request
            number = (
                wanted
                if wanted and wanted not in taken
                else next(n for n in range(1, 60000) if n not in taken)
            )
            self.by_name[row.name] = replace(row, ofport=number)


def _with(row: PortRow, spec: PortSpec) -> PortRow:
    others = {key: value for key, value in row.external_ids.items() if not key.startswith(names.OWNER)}
    return replace(
        row,
        options=spec.options,
        external_ids={**others, **spec.external_ids},
        ofport_request=spec.ofport_request,
        mac=spec.mac,
        mtu_request=spec.mtu_request,
    )


TUNNEL_NAMES = ["vxl-1", "vxl-2", "vxl-3", "gen-1", "geneve-flow"]
NUMBERS = st.one_of(st.none(), st.integers(1, 4), st.integers(16, 19), st.integers(20000, 20006))


@st.composite
def specs(draw: st.DrawFn) -> list[PortSpec]:
    gateway = PortSpec(
        name=names.GATEWAY,
        type="internal",
        mac=draw(st.sampled_from(["0a:58:00:00:00:01", "0a:58:00:00:00:02"])),
        mtu_request=draw(st.sampled_from([1400, 1450])),
        external_ids={names.OWNER: names.ROLE_GATEWAY},
    )
    tunnels = [
        PortSpec(
            name=name,
            type=draw(st.sampled_from(["vxlan", "geneve"])),
            options={"remote_ip": draw(st.sampled_from(["192.0.2.2", "192.0.2.3"])), "key": "1"},
            external_ids={names.OWNER: names.ROLE_TUNNEL, names.KEY_PEER: draw(st.sampled_from("bcd"))},
        )
        for name in draw(st.lists(st.sampled_from(TUNNEL_NAMES), unique=True))
    ]
    return [gateway, *tunnels]


@st.composite
def rows(draw: st.DrawFn) -> list[PortRow]:
    """Rows as crashes, other versions, other people and ovs-vswitchd leave them."""
    found = []
    live: set[int] = set()
    for name in draw(
        st.lists(
            st.sampled_from([names.GATEWAY, *TUNNEL_NAMES, "old-1", "pod-1", "pod-2", "eth7"]), unique=True
        )
    ):
        roles = {"pod-1": names.ROLE_POD, "pod-2": names.ROLE_POD, "eth7": None}
        role = roles[name] if name in roles else draw(st.sampled_from(OURS))
        ids = {names.OWNER: role} if role else {}
        if draw(st.booleans()):
            ids |= {names.KEY_PEER: draw(st.sampled_from("bcd"))} if role else {"theirs": "x"}
        if draw(st.booleans()):
            ids["note"] = "of someone else"
        ofport = draw(st.one_of(NUMBERS, st.just(-1)))
        if ofport in live:
            ofport = None
        live |= {ofport} if ofport is not None and ofport > 0 else set()
        found.append(
            PortRow(
                name=name,
                type=draw(st.sampled_from(["internal", "vxlan", "geneve", ""])),
                options=draw(
                    st.sampled_from([{}, {"remote_ip": "192.0.2.2", "key": "1"}, {"remote_ip": "192.0.2.9"}])
                ),
                external_ids=ids,
                ofport_request=draw(NUMBERS),
                mac=draw(st.sampled_from([None, "0a:58:00:00:00:01"])),
                mtu_request=draw(st.sampled_from([None, 1450])),
                ofport=ofport,
                error="no such device" if ofport == -1 else None,
            )
        )
    return found


def says(row: PortRow, spec: PortSpec) -> bool:
    ids = {key: value for key, value in row.external_ids.items() if key.startswith(names.OWNER)}
    return (row.type, row.options, ids, row.mac, row.mtu_request) == (
        spec.type,
        spec.options,
        spec.external_ids,
        spec.mac,
        spec.mtu_request,
    )


@settings(deadline=None)  # others may keep the machine busy
@given(rows(), specs())
def test_ports_from_any_rows_to_any_wish(before: list[PortRow], desired: list[PortSpec]) -> None:
    database = Rows(before)
    planned = plan.ports(desired, database.by_name)
    database.apply(planned.changes)
    found = database.by_name
    assert all(says(found[spec.name], spec) for spec in desired)
    assert {row.name for row in found.values() if row.role in OURS} == {spec.name for spec in desired}
    for row in before:
        if row.role not in OURS:
            assert found[row.name] == row, "not ours to touch"
        elif row.name in found:
            note = row.external_ids.get("note")
            deleted = any(
                isinstance(change, DeletePort) and change.name == row.name for change in planned.changes
            )
            assert deleted or found[row.name].external_ids.get("note") == note, "others' keys stay"
    assert plan.ports(desired, found).changes == []
    database.look()
    assert plan.ports(desired, database.by_name).changes == []


@settings(deadline=None)
@given(rows(), specs())
def test_numbers_are_unique_and_come_true(before: list[PortRow], desired: list[PortSpec]) -> None:
    database = Rows(before)
    planned = plan.ports(desired, database.by_name)
    numbers = list(planned.numbers.values())
    assert len(set(numbers)) == len(numbers)
    claims = collections.Counter(number for row in before for number in {row.ofport, row.ofport_request})
    kept = {row.name: row.ofport for row in before if row.ofport is not None and row.ofport > 0}
    for name, number in planned.numbers.items():
        assert number not in {other for port, other in kept.items() if port != name}, (
            "a packet would go astray"
        )
    added = {
        change.spec.name: change.spec.ofport_request
        for change in planned.changes
        if isinstance(change, AddPort)
    }
    assert added.items() <= planned.numbers.items()
    database.apply(planned.changes)
    database.look()
    # Where rows contradict one another vswitchd chooses, and the rows say what.
    asking = [row.ofport_request for row in before if row.ofport is None and row.ofport_request is not None]
    agreed = all(claims[number] == 1 for number in asking)
    for name in added if agreed else ():
        assert database.by_name[name].ofport == added[name]
    after = plan.ports(desired, database.by_name).numbers
    live = {spec.name for spec in desired if database.by_name[spec.name].ofport != -1}
    assert {name: after.get(name) for name in live} == {name: database.by_name[name].ofport for name in live}


@pytest.mark.parametrize("role", [None, names.ROLE_POD])
def test_a_name_that_someone_else_has_is_an_error(role: str | None) -> None:
    row = PortRow(name=names.GATEWAY, type="internal", external_ids={names.OWNER: role} if role else {})
    with pytest.raises(OvsnetError, match="ovsnet0 exists on the bridge") as caught:
        plan.ports(
            [PortSpec(name=names.GATEWAY, external_ids={names.OWNER: names.ROLE_GATEWAY})], {row.name: row}
        )
    assert "external_ids:ovsnet=gateway" in caught.value.hint


def test_a_row_that_is_ours_to_the_letter_gets_its_lost_mark_back() -> None:
    spec = PortSpec(
        name="vxl-1",
        type="vxlan",
        options={"remote_ip": "192.0.2.2", "key": "1"},
        external_ids={names.OWNER: names.ROLE_TUNNEL, names.KEY_PEER: "b"},
    )
    row = PortRow(
        name=spec.name, type=spec.type, options=spec.options, external_ids={"note": "x"}, ofport=20000
    )
    planned = plan.ports([spec], {row.name: row})
    assert planned.changes == [SetIdentity(name=spec.name, external_ids=spec.external_ids, reclaim=True)]
    assert planned.numbers == {spec.name: 20000}
    other = replace(row, options={**spec.options, "remote_ip": "192.0.2.3"})
    with pytest.raises(OvsnetError, match="not ovsnet's"):
        plan.ports([spec], {other.name: other})


def test_free_numbers_pass_over_what_is_had_or_asked_for() -> None:
    taken = [PortRow(name="a", ofport=16), PortRow(name="b", ofport_request=17), PortRow(name="c", ofport=-1)]
    numbers = plan.free_numbers(taken, 16)
    assert [next(numbers) for _ in range(3)] == [18, 19, 20]


# Ports that a topology asks for.


def nodes(**remotes: str) -> dict[str, Node]:
    return {
        name: Node(
            name=name,
            pod_cidrs=(ipaddress.ip_network(f"10.244.{at}.0/24"),),
            addresses=tuple(ipaddress.ip_address(text) for text in remote.split()),
        )
        for at, (name, remote) in enumerate(remotes.items(), 1)
    }


def wish(config: Config, known: dict[str, Node]) -> list[PortSpec]:
    own = (ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1"))
    return plan.desired_ports(config, state.topology(config, "a", own, 1500, known))


def test_a_port_for_each_peer() -> None:
    gateway, four, six = wish(Config(), nodes(a="192.0.2.1 2001:db8::1", b="192.0.2.2", c="2001:db8::3"))
    assert (gateway.name, gateway.mac, gateway.mtu_request) == ("ovsnet0", "0a:58:0a:f4:01:01", 1430)
    assert (four.options["remote_ip"], four.options["local_ip"]) == ("192.0.2.2", "192.0.2.1")
    assert (six.options["remote_ip"], six.options["local_ip"]) == ("2001:db8::3", "2001:db8::1")
    assert [spec.external_ids[names.KEY_PEER] for spec in (four, six)] == ["b", "c"]


def test_one_port_for_all_peers() -> None:
    config = Config(tunnels=Tunnels.FLOW, encapsulation=Encap.GENEVE)
    _, shared = wish(config, nodes(a="192.0.2.1 2001:db8::1", b="192.0.2.2", c="2001:db8::3"))
    assert (shared.name, shared.type, shared.options["remote_ip"]) == ("geneve-flow", "geneve", "flow")
    assert names.KEY_PEER not in shared.external_ids
    assert "local_ip" not in shared.options, "one address would shut out the peers of the other family"


@pytest.mark.parametrize(("peers", "local"), [("192.0.2.{}", "192.0.2.1"), ("2001:db8::{}", "2001:db8::1")])
def test_a_shared_port_takes_only_what_is_sent_to_this_nodes_end_of_tunnels(peers: str, local: str) -> None:
    known = nodes(a="192.0.2.1 2001:db8::1", b=peers.format(2), c=peers.format(3))
    _, shared = wish(Config(tunnels=Tunnels.FLOW), known)
    assert shared.options["local_ip"] == local


def test_a_peer_on_a_shared_port_is_one_key_of_its_row() -> None:
    config = Config(tunnels=Tunnels.FLOW)
    before, after = (
        wish(config, nodes(a="192.0.2.1", b="192.0.2.2", **more)) for more in ({}, {"c": "192.0.2.3"})
    )
    new = after[1].external_ids.items() - before[1].external_ids.items()
    assert new == {("ovsnet-peer/c", "10.244.3.0/24|192.0.2.3|")}
    assert before[1].external_ids.items() <= after[1].external_ids.items()


def test_the_udp_port_is_that_of_the_configured_encapsulation() -> None:
    """Two kinds of tunnel can't have one UDP port: the kernel binds it once."""
    known = nodes(a="192.0.2.1", b="192.0.2.2", c="192.0.2.3")
    known["c"] = replace(known["c"], encap=Encap.GENEVE)
    _, vxlan, geneve = wish(Config(udp_port=8472), known)
    assert (vxlan.options["dst_port"], geneve.type) == ("8472", "geneve")
    assert "dst_port" not in geneve.options


def test_two_tunnels_with_one_name_are_an_error() -> None:
    known = nodes(a="192.0.2.1", b="192.0.2.2", c="192.0.2.3")
    topo = state.topology(Config(), "a", known["a"].addresses, 1500, known)
    one, other = topo.peers
    twins = replace(topo, peers=(one, replace(other, remote=one.remote)))
    with pytest.raises(OvsnetError, match="the tunnels to b and c would have one name, vxl-"):
        plan.desired_ports(Config(), twins)


def test_peers_that_swap_addresses_swap_ports() -> None:
    """A port stays with its address: vswitchd refuses two that have one remote_ip, however short."""
    before = wish(Config(), nodes(a="192.0.2.1", b="192.0.2.2", c="192.0.2.3"))
    database = Rows([])
    database.apply(plan.ports(before, {}).changes)
    old = dict(database.by_name)
    changes = plan.ports(wish(Config(), nodes(a="192.0.2.1", b="192.0.2.3", c="192.0.2.2")), old).changes
    assert [type(change) for change in changes] == [SetPort, SetPort]
    database.apply(changes)
    for name, row in database.by_name.items():
        assert (row.options, row.ofport_request) == (old[name].options, old[name].ofport_request)
    owners = {
        row.options.get("remote_ip"): row.external_ids.get(names.KEY_PEER)
        for row in database.by_name.values()
    }
    assert owners == {None: "a", "192.0.2.2": "c", "192.0.2.3": "b"}
