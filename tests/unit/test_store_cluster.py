"""Which nodes go together, and who has what two claim."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ovsnet.model import Node
from ovsnet.store import cluster


def node(name: str, number: int, address: str = "", file: str = "") -> Node:
    return Node(
        name=name,
        pod_cidrs=(ip_network(f"10.244.{number}.0/24"),),
        addresses=(ip_address(address),) if address else (),
        source=file or f"{name}.yaml",
    )


def combine(
    before: dict[str, Node], **files: list[Node]
) -> tuple[dict[str, Node], dict[str, tuple[str, ...]]]:
    found = cluster.combine(files, before)
    return found.nodes, found.problems


def test_the_first_file_with_a_name_counts() -> None:
    first, second = node("a", 1, file="x"), node("a", 2, file="y")
    nodes, problems = combine({}, y=[second], x=[first])
    assert nodes == {"a": first}
    assert problems == {"y": ("Node a stands in x too, which counts; remove one of both",)}


def test_a_copy_of_a_file_does_not_take_over() -> None:
    """An editor's backup, or half a renaming: what was in force stays, whatever the copy is called."""
    first, copy = node("a", 1, file="x"), node("a", 2, file="b")
    nodes, problems = combine({"a": first}, b=[copy], x=[first])
    assert nodes == {"a": first}
    assert problems == {"b": ("Node a stands in x too, which counts; remove one of both",)}


def test_an_overlapping_newcomer_is_refused_whichever_file_comes_first() -> None:
    old, new = node("b", 1), node("a", 1)
    nodes, problems = combine({"b": old}, a=[new], b=[old])
    assert nodes == {"b": old}
    assert problems == {
        "a": ("Node a: 10.244.1.0/24 overlaps a range of node b (b.yaml); give each node its own",)
    }
    assert combine({}, a=[new], b=[old])[0] == {"a": new}


def test_of_newcomers_the_elder_has_the_range_whatever_their_names() -> None:
    """An agent that starts now comes to the same as one that saw them come."""
    elder = replace(node("b", 1), created="2026-01-02T03:04:05Z")
    later = replace(node("a", 1), created="2026-01-02T03:04:06Z")
    undated = node("0", 1)
    nodes, problems = combine({}, a=[later], b=[elder], c=[undated])
    assert nodes == {"b": elder}
    assert "overlaps a range of node b (b.yaml)" in problems["a"][0]
    assert "overlaps a range of node b (b.yaml)" in problems["c"][0]
    assert combine({}, a=[later], c=[undated])[0] == {"a": later}


@pytest.mark.parametrize("wide", ["10.244.0.0/16", "10.244.1.128/25", "8.0.0.0/5"])
def test_overlaps_of_any_width_are_found(wide: str) -> None:
    other = Node(name="z", pod_cidrs=(ip_network("fd00::/64"), ip_network(wide)), source="z.yaml")
    nodes, problems = combine({}, a=[node("a", 1), node("b", 2)], z=[other])
    assert list(nodes) == ["a", "b"]
    assert "overlaps a range of node" in problems["z"][0]


def test_an_address_belongs_to_one_node() -> None:
    nodes, problems = combine({}, a=[node("a", 1, "192.0.2.1")], b=[node("b", 2, "192.0.2.1")])
    assert list(nodes) == ["a"]
    assert problems["b"] == ("Node b: 192.0.2.1 is node a's (a.yaml) already; give each node its own",)


@pytest.mark.parametrize("swap", [False, True], ids=["range last", "range first"])
def test_a_range_with_a_nodes_address_is_refused_with_both_named(swap: bool) -> None:
    """Its tunnels' own packets would go into the tunnel."""
    wide = Node(name="w", pod_cidrs=(ip_network("192.0.2.0/25"),), source="w.yaml")
    a = node("a", 1, "192.0.2.1")
    nodes, problems = combine({}, **({"a": [wide], "z": [a]} if swap else {"a": [a], "z": [wide]}))
    assert list(nodes) == (["w"] if swap else ["a"])
    assert problems["z"] == (
        "Node a: 192.0.2.1 lies in a range of node w (w.yaml); pods' ranges and nodes' addresses must lie apart"
        if swap
        else "Node w: 192.0.2.0/25 contains 192.0.2.1, the address of node a (a.yaml); "
        "pods' ranges and nodes' addresses must lie apart",
    )


def test_a_range_with_the_nodes_own_address_is_refused() -> None:
    nodes, problems = combine({}, a=[node("a", 1, "10.244.1.77")])
    assert nodes == {}
    assert "10.244.1.0/24 contains the node's own address 10.244.1.77" in problems["a"][0]


def test_a_refused_change_keeps_what_the_node_had() -> None:
    a, b = node("a", 1), node("b", 2)
    nodes, problems = combine({"a": a, "b": b}, a=[node("a", 2)], b=[b])
    assert nodes == {"a": a, "b": b}
    assert list(problems) == ["a"]


def test_who_is_remembered_keeps_its_range_at_a_start_whoever_is_older() -> None:
    """A date in a folder is anybody's."""
    living = replace(node("b", 2, "192.0.2.2"), labels={"zone": "x"})
    rogue = replace(node("a", 2, "192.0.2.3"), created="2000-01-01T00:00:00Z")
    files = {"a": [rogue], "b": [living]}
    remembered = {"b": node("b", 2, "192.0.2.2", file="port vxlan-1"), "gone": node("gone", 9)}
    before = cluster.recognised(files, remembered)
    assert list(before) == ["b"]
    found = cluster.combine(files, before)
    assert found.nodes == {"b": living}
    assert found.nodes["b"] is living
    assert found.problems == {
        "a": ("Node a: 10.244.2.0/24 overlaps a range of node b (b.yaml); give each node its own",)
    }


def test_of_copies_of_a_remembered_node_that_counts_which_says_the_same() -> None:
    first, second = node("b", 3, file="1.yaml"), node("b", 2, file="2.yaml")
    files = {"1": [first], "2": [second]}
    assert cluster.combine(files, cluster.recognised(files, {"b": node("b", 2)})).nodes == {"b": second}
    assert cluster.combine(files, {}).nodes == {"b": first}


def test_a_remembered_node_whose_new_range_is_refused_keeps_what_it_had_and_its_labels() -> None:
    a, moved = node("a", 1), replace(node("b", 1), labels={"zone": "x"})
    files = {"a": [a], "b": [moved]}
    before = cluster.recognised(files, {"a": a, "b": node("b", 2)})
    found = cluster.combine(files, before)
    assert found.nodes == {"a": a, "b": replace(moved, pod_cidrs=node("b", 2).pod_cidrs)}
    assert list(found.problems) == ["b"]


def test_nodes_that_swapped_ranges_while_nobody_looked_swap_them() -> None:
    files = {"a": [node("a", 2)], "b": [node("b", 1)]}
    before = cluster.recognised(files, {"a": node("a", 1), "b": node("b", 2)})
    assert cluster.combine(files, before) == cluster.Cluster(
        nodes={"a": node("a", 2), "b": node("b", 1)}, problems={}
    )


def test_two_nodes_that_swap_addresses_step_by_step() -> None:
    a, b = node("a", 1, "192.0.2.1"), node("b", 2, "192.0.2.2")
    swapped_a, swapped_b = node("a", 1, "192.0.2.2"), node("b", 2, "192.0.2.1")
    nodes, problems = combine({"a": a, "b": b}, a=[swapped_a], b=[b])
    assert nodes == {"a": a, "b": b}
    assert problems
    assert combine(nodes, a=[swapped_a], b=[swapped_b]) == ({"a": swapped_a, "b": swapped_b}, {})


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(20, 26), st.integers(0, 1700)), max_size=12), st.data()
)
def test_accepted_nodes_never_touch_one_another(
    entries: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    def files() -> dict[str, list[Node]]:
        chosen = data.draw(st.permutations(entries))
        return {
            f"f{index}": [
                Node(
                    name=f"n{index % 8}",
                    pod_cidrs=(ip_network((f"10.0.{number}.0", length), strict=False),),
                    addresses=(ip_address(f"10.0.{host % 41}.{host % 7}"),),
                    source=f"f{index}",
                )
            ]
            for index, (number, length, host) in enumerate(chosen)
        }

    before: dict[str, Node] = {}
    for _ in range(3):
        result = cluster.combine(files(), before)
        nodes = list(result.nodes.values())
        for index, one in enumerate(nodes):
            assert one.addresses[0] not in one.pod_cidrs[0]
            for two in nodes[:index]:
                assert not one.pod_cidrs[0].overlaps(two.pod_cidrs[0])
                assert one.addresses != two.addresses
                assert one.addresses[0] not in two.pod_cidrs[0]
                assert two.addresses[0] not in one.pod_cidrs[0]
        before = result.nodes
