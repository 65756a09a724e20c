"""Flows from any state to any state: a plan carried out ends in what was wanted and leaves nothing to plan."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from ovsnet import flowplan, names, resources
from ovsnet.model import Encap, LocalNode, Peer, Pod
from ovsnet.objects import Object
from ovsnet.render import Lines, Renderer


class Table:
    """Flows as an OpenFlow switch keeps them: by table, priority and match, whoever's they are. Groups by number."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.flows: dict[tuple[str, frozenset[str]], tuple[str, str]] = {}
        self.groups: dict[int, str] = {}
        for line in lines:
            if flowplan.group_of(line) is None:
                self.add(line)
            else:
                self.add_group(flowplan.without_cookie(line))

    def add(self, line: str) -> None:
        head, _, actions = line.partition(" actions=")
        cookie, _, match = head.partition(",")
        self.flows[self._key(match)] = (cookie, actions)

    def delete_strict(self, line: str) -> None:
        cookie, _, match = line.partition(",")
        value, slash, mask = cookie.partition("/")
        assert (slash, mask) == ("/", flowplan.OWN), "else it would be anybody's flow"
        found = self.flows.get(self._key(match))
        if found is not None and found[0] == value:
            del self.flows[self._key(match)]

    def add_group(self, line: str) -> None:
        assert self._number(line) not in self.groups, "OFPGMFC_GROUP_EXISTS"
        self.groups[self._number(line)] = line

    def modify_group(self, line: str) -> None:
        assert self._number(line) in self.groups, "OFPGMFC_UNKNOWN_GROUP"
        self.groups[self._number(line)] = line

    def delete_group(self, line: str) -> None:
        """With it goes every flow that sends packets to it (OpenFlow 1.5, section 6.5.2)."""
        number = self._number(line)
        del self.groups[number]
        self.flows = {
            key: flow for key, flow in self.flows.items() if f"group:{number}" not in flow[1].split(",")
        }

    def bundle(self, lines: Iterable[str]) -> None:
        does = {
            ("flow", "add"): self.add,
            ("flow", "delete_strict"): self.delete_strict,
            ("group", "add"): self.add_group,
            ("group", "modify"): self.modify_group,
            ("group", "delete"): self.delete_group,
        }
        for line in lines:
            what, verb, rest = line.split(" ", 2)
            does[what, verb](rest)
            self.check()

    def check(self) -> None:
        """No flow sends packets to a group that is not there (OFPBAC_BAD_OUT_GROUP)."""
        for _, actions in self.flows.values():
            assert "group:" not in actions or int(actions.removeprefix("group:")) in self.groups

    @staticmethod
    def _key(match: str) -> tuple[str, frozenset[str]]:
        table, _, rest = match.partition(",")
        return table, frozenset(rest.split(","))

    @staticmethod
    def _number(line: str) -> int:
        number = flowplan.group_of(line)
        assert number is not None
        return number


def everything(rendered: Mapping[int, Lines]) -> Table:
    return Table(line for lines in rendered.values() for line in lines)


def reached(before: Mapping[int, Lines], after: Mapping[int, Lines]) -> None:
    switch = everything(before)
    switch.bundle(flowplan.bundle(before, after))
    assert switch.flows == everything(after).flows
    assert switch.groups == everything(after).groups
    assert flowplan.bundle(after, after) == []


MATCHES = st.sampled_from(
    [f"table={t},priority={p},in_port={i}" for t in (0, 10) for p in (1, 2) for i in (1, 2, 3)]
)


@st.composite
def rendered(draw: st.DrawFn) -> dict[int, Lines]:
    """Flows of up to four objects; one match belongs to one of them."""
    owners = draw(
        st.dictionaries(
            MATCHES, st.tuples(st.integers(1, 4), st.sampled_from(["drop", "output:1", "output:2"]))
        )
    )
    found: dict[int, list[str]] = {}
    for match, (cookie, actions) in owners.items():
        found.setdefault(cookie, []).append(f"cookie=0x{cookie:x},{match} actions={actions}")
    return {cookie: tuple(lines) for cookie, lines in found.items()}


@settings(deadline=None)
@given(rendered(), rendered())
def test_flows_from_any_state_to_any_state(before: dict[int, Lines], after: dict[int, Lines]) -> None:
    reached(before, after)


@st.composite
def with_groups(draw: st.DrawFn) -> dict[int, Lines]:
    """The same with groups of the same objects, and flows to the groups of any of them."""
    groups = draw(
        st.dictionaries(st.integers(1, 5), st.tuples(st.integers(1, 4), st.sampled_from(["1", "2"])))
    )
    found = {cookie: list(lines) for cookie, lines in draw(rendered()).items()}
    for number, (cookie, port) in groups.items():
        found.setdefault(cookie, []).append(group(cookie, number, f"output:{port}"))
    if groups:
        users = st.dictionaries(
            st.integers(1, 4), st.tuples(st.integers(1, 4), st.sampled_from(sorted(groups)))
        )
        for where, (cookie, number) in draw(users).items():
            line = f"cookie=0x{cookie:x},table=38,priority={where} actions=group:{number}"
            found.setdefault(cookie, []).append(line)
    return {cookie: tuple(lines) for cookie, lines in found.items()}


@settings(deadline=None)
@given(with_groups(), with_groups())
def test_groups_from_any_state_to_any_state(before: dict[int, Lines], after: dict[int, Lines]) -> None:
    """A number may go from one object to another, and its flows stay."""
    reached(before, after)


def test_a_group_that_goes_to_another_object_is_neither_added_nor_deleted() -> None:
    bundle = flowplan.bundle({1: (group(1, 7),)}, {2: (group(2, 7),)})
    assert bundle == []
    changed = flowplan.bundle({1: (group(1, 7),)}, {2: (group(2, 7, "output:3"),)})
    assert [line.partition(",")[0] for line in changed] == ["group modify group_id=7"]


def pod_object(name: str, octet: int, ofport: int) -> Pod:
    ips = (ipaddress.ip_address(f"10.244.1.{octet}"), ipaddress.ip_address(f"fd00:1::{octet:x}"))
    return Pod(
        namespace="default",
        name=name,
        container=name,
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=f"pod-{ofport:08x}",
        ofport=ofport,
        mac=names.mac_of(ips[0]),
        ips=ips,
    )


def peer_object(name: str, number: int, ofport: int, by_flow: bool) -> Peer:
    return Peer(
        name=name,
        remote=ipaddress.ip_address(f"192.0.2.{number}"),
        encap=Encap.GENEVE,
        cidrs=(ipaddress.ip_network(f"10.245.{number}.0/24"),),
        addresses=(ipaddress.ip_address(f"192.0.2.{number}"),),
        port="gen",
        ofport=20000 if by_flow else ofport,
        by_flow=by_flow,
    )


@st.composite
def objects(draw: st.DrawFn) -> list[Object]:
    """A node, pods and peers; addresses and ports wander between them, but each is one's at a time."""

    def some(what: list[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(what), unique=True))

    octets = draw(st.permutations([2, 3, 4, 5]))
    ports = draw(st.permutations([16, 17, 18, 19]))
    numbers = draw(st.permutations([12, 13, 14]))
    by_flow = draw(st.booleans())
    node = LocalNode(
        name="node-a",
        addresses=(ipaddress.ip_address("192.0.2.11"),),
        cidrs=(ipaddress.ip_network("10.244.1.0/24"), ipaddress.ip_network("fd00:1::/64")),
        gateways=(ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("fd00:1::1")),
        mac="0a:58:0a:f4:01:01",
        ofport=draw(st.sampled_from([1, 2])),
    )
    pods = [pod_object(name, octets[at], ports[at]) for at, name in enumerate(some(["A", "B", "C", "D"]))]
    peers = [
        peer_object(name, numbers[at], 20000 + at, by_flow) for at, name in enumerate(some(["b", "c", "d"]))
    ]
    return [node, *pods, *peers]


RENDERER = Renderer(resources.flows_dir())


@settings(deadline=None)
@given(objects(), objects())
def test_flows_of_any_objects_to_any_objects(before: list[Object], after: list[Object]) -> None:
    reached(RENDERER.state(before), RENDERER.state(after))


def test_an_address_moves_to_another_pod() -> None:
    before = RENDERER.state([pod_object("A", 5, 16)])
    after = RENDERER.state([pod_object("B", 5, 17)])
    reached(before, after)
    switch = everything(before)
    switch.bundle(flowplan.bundle(before, after))
    owners = {cookie for cookie, _ in switch.flows.values()}
    assert owners == {f"cookie=0x{cookie:x}" for cookie in after}


def test_what_stays_is_not_written_again() -> None:
    before = RENDERER.state([pod_object("A", 5, 16), pod_object("B", 6, 17)])
    after = RENDERER.state([pod_object("A", 5, 16)])
    bundle = flowplan.bundle(before, after)
    (gone,) = before.keys() - after.keys()
    assert len(bundle) == len(before[gone])
    assert all(line.startswith("flow delete_strict ") for line in bundle)


def group(cookie: int, number: int, actions: str = "drop") -> str:
    return f"cookie=0x{cookie:x},group_id={number},type=all,bucket=bucket_id:0,actions={actions}"


def test_groups_come_before_flows_and_go_after_them() -> None:
    flow = "cookie=0x1,table=0,in_port=1 actions=group:{}"
    before = {1: (flow.format(1), group(1, 1), group(1, 2)), 2: (group(2, 3),)}
    after = {1: (flow.format(4), group(1, 2, "output:2"), group(1, 4)), 2: (group(2, 3),)}
    bundle = flowplan.bundle(before, after)
    assert [line.partition(",")[0] for line in bundle] == [
        "group modify group_id=2",
        "group add group_id=4",
        "flow add cookie=0x1",
        "group delete group_id=1",
    ]
    assert "cookie" not in bundle[0] + bundle[1]


def test_groups_differ_by_what_they_do_not_by_the_cookie_that_the_switch_does_not_keep() -> None:
    def bare(line: str) -> str:
        return flowplan.without_cookie(line)

    same, other, missing, foreign = group(1, 1), group(1, 2), group(1, 3), group(2, 4)
    installed = {1: bare(same), 2: bare(group(1, 2, "output:9")), 4: bare(foreign)}
    found = flowplan.group_differences(installed, {1: same, 2: other, 3: missing})
    assert sorted(found) == sorted([f"-{installed[2]}", f"+{other}", f"+{missing}", f"-{bare(foreign)}"])
