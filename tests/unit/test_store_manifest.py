"""Manifests to nodes: what is read, what is refused with which words, and which nodes go together."""

from __future__ import annotations

import json
import re
import time
from ipaddress import ip_address, ip_network

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ovsnet.errors import StoreError
from ovsnet.model import Encap, Node
from ovsnet.store import cluster, documents, manifest
from ovsnet.store.nodes import NodeReader

NODE = """\
apiVersion: v1
kind: Node
metadata:
  name: node-a
  annotations:
    ovsnet.io/encapsulation: geneve
    example.com/other: "yes"
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs:
  - 10.244.1.0/24
  - fd00:10:244:1::/64
  taints: [{effect: NoSchedule, key: a}]
status:
  addresses:
  - {type: Hostname, address: node-a}
  - {type: InternalIP, address: 192.0.2.11}
  - {type: InternalIP, address: "2001:db8::11"}
"""
EXPECTED = Node(
    name="node-a",
    pod_cidrs=(ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")),
    addresses=(ip_address("192.0.2.11"), ip_address("2001:db8::11")),
    encap=Encap.GENEVE,
    source="a.yaml",
)
SMALL = "{kind: Node, metadata: {name: NAME}, spec: {podCIDR: 10.244.NUMBER.0/24}}"


def small(name: str, number: int) -> str:
    return SMALL.replace("NAME", name).replace("NUMBER", str(number))


def node(name: str, number: int, address: str = "", file: str = "") -> Node:
    return Node(
        name=name,
        pod_cidrs=(ip_network(f"10.244.{number}.0/24"),),
        addresses=(ip_address(address),) if address else (),
        source=file or f"{name}.yaml",
    )


def nodes(contents: manifest.Contents) -> tuple[Node, ...]:
    return tuple(manifest.of(contents.objects, NodeReader).values())


def problem(text: str) -> str:
    contents = manifest.read(text, "a.yaml")
    assert len(contents.problems) == 1, contents
    return contents.problems[0]


def test_a_node_is_read() -> None:
    assert manifest.read(NODE, "a.yaml") == manifest.Contents(objects={"Node": {"node-a": EXPECTED}})


def test_json_is_read() -> None:
    text = json.dumps(yaml.safe_load(NODE), indent=1)
    assert nodes(manifest.read(text, "a.yaml")) == (EXPECTED,)


def test_several_documents_and_other_kinds() -> None:
    text = f"---\n{small('a', 1)}\n---\nkind: Secret\nmetadata: 5\n---\n# nothing\n---\n{small('b', 2)}\n"
    contents = manifest.read(text, "x")
    assert [each.name for each in nodes(contents)] == ["a", "b"]
    assert nodes(contents)[1].source == "x, document 4 (line 9)"
    assert not contents.problems


@pytest.mark.parametrize(
    ("old", "new", "leaving"),
    [
        ("key: a}", "key: ToBeDeletedByClusterAutoscaler, value: '1700000000'}", True),
        ("key: a}", "key: DeletionCandidateOfClusterAutoscaler}", False),
        ("  name: node-a", "  name: node-a\n  deletionTimestamp: 2026-01-31T12:00:00Z", True),
        ("  name: node-a", "  name: node-a\n  deletionTimestamp: null", False),
    ],
)
def test_a_node_that_is_about_to_go_is_told_from_others(old: str, new: str, leaving: bool) -> None:
    assert old in NODE
    (found,) = nodes(manifest.read(NODE.replace(old, new), "a.yaml"))
    assert found == msgspec.structs.replace(EXPECTED, leaving=leaving)


@pytest.mark.parametrize("kind", ["List", "NodeList"])
def test_a_list_of_nodes(kind: str) -> None:
    item = yaml.safe_load(NODE)
    if kind == "NodeList":
        del item["kind"]
    text = yaml.safe_dump({"kind": kind, "items": [item, {"kind": "Service"}] if kind == "List" else [item]})
    (found,) = nodes(manifest.read(text, "a.yaml"))
    assert found.name == "node-a"
    assert found.source == "a.yaml, items[0]"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n"])
def test_nothing_at_all_is_told_from_nothing_of_ours(text: str) -> None:
    assert manifest.read(text, "x") == manifest.Contents(empty=True)
    assert not manifest.read("kind: Secret", "x").empty


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: node-a", "nme: node-a", "metadata.name: is missing"),
        ("name: node-a", "name: Node_A", "metadata.name: 'Node_A' is not a node name"),
        ("name: node-a", "name: 17", "metadata.name: must be text, is a number"),
        ("encapsulation: geneve", "encapsulation: ipip", "'ipip' is unknown; one of vxlan, geneve, gre"),
        ("encapsulation: geneve", "encapsulation: true", "must be text, is true or false"),
        (
            "  - 10.244.1.0/24",
            "  - 10.244.1.5/24",
            "Node node-a: spec.podCIDRs[0]: 10.244.1.5/24 has host bits set; write 10.244.1.0/24",
        ),
        ("  - 10.244.1.0/24", "  - 10.244.1.0", "spec.podCIDRs[0]: '10.244.1.0' is not a range"),
        ("  - 10.244.1.0/24", "  - 10.244.1.0/33", "spec.podCIDRs[0]: '10.244.1.0/33' does not appear"),
        ("  - 10.244.1.0/24", "  - 5", "spec.podCIDRs[0]: a number"),
        (
            "  - 10.244.1.0/24",
            "  - 10.244.2.0/24",
            "spec.podCIDR: 10.244.1.0/24 is not the first of podCIDRs (10.244.2.0/24)",
        ),
        (
            "fd00:10:244:1::/64",
            "10.244.1.128/25",
            "spec.podCIDRs[1]: 10.244.1.128/25 overlaps 10.244.1.0/24 of the same node",
        ),
        ("fd00:10:244:1::/64", "ff02::/64", "ff02::/64 has multicast addresses"),
        ("fd00:10:244:1::/64", "::/0", "spec.podCIDRs[1]: ::/0 has unspecified addresses"),
        ("fd00:10:244:1::/64", "168.0.0.0/5", "168.0.0.0/5 has link-local addresses"),
        ("fd00:10:244:1::/64", "64.0.0.0/2", "64.0.0.0/2 has loopback addresses"),
        ("fd00:10:244:1::/64", "fe00::/8", "fe00::/8 has link-local addresses"),
        ("fd00:10:244:1::/64", "fd00::/127", "fd00::/127 is too small for pods; /125 is the smallest range"),
        ("fd00:10:244:1::/64", "10.244.2.0/31", "10.244.2.0/31 is too small for pods; /29 is the smallest"),
        (
            "address: 192.0.2.11",
            "address: node-a.example",
            "status.addresses[1].address: 'node-a.example' is not an IP address",
        ),
        ("address: 192.0.2.11", "address: 127.0.0.1", "127.0.0.1 is loopback; other nodes can't reach it"),
        ("type: InternalIP, address: 192.0.2.11", "type: 3", "status.addresses[1].type: must be text"),
        ("- {type: Hostname, address: node-a}", "- node-a", "status.addresses[0]: must be a mapping"),
        ("kind: Node", "kid: Node", "kind: is missing"),
        ("metadata:\n", "metadata: []\nm:\n", "metadata: must be a mapping, is a list"),
        ("apiVersion: v1", "status: {}", "the key status stands twice"),
        ("name: node-a", "name: &x node-b\n  again: *x", "an alias (*) is not supported"),
        ("kind: Node", "kind: Node\n  x: y", "not YAML"),
        ("apiVersion: v1", "apiVersion: [v1", "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in NODE
    assert expected in problem(NODE.replace(old, new, 1))


def test_missing_ranges() -> None:
    text = "kind: Node\nmetadata: {name: a}\n"
    assert problem(text) == (
        "Node a: spec.podCIDRs: is missing; give the node's ranges, for example 10.244.1.0/24 or fd00:10:244:1::/64"
    )
    assert (
        "spec.podCIDRs: must be a list, is a mapping"
        in manifest.read(text + "spec: {podCIDRs: {}}", "x").problems[0]
    )


def test_every_problem_is_told_and_the_good_nodes_are_read() -> None:
    text = "---\n".join(
        [small("a", 1) + "\n", small("b", 300) + "\n", small("B", 3) + "\n", small("a", 4) + "\n", "- 1\n"]
    )
    contents = manifest.read(text, "x")
    assert [each.name for each in nodes(contents)] == ["a"]
    assert [line.split(":")[0] for line in contents.problems] == [
        "document 2 (line 3), Node b",
        "document 3 (line 5)",
        "document 4 (line 7), Node a",
        "document 5 (line 9)",
    ]
    with pytest.raises(StoreError, match=r"x: document 2 .*; x: document 3"):
        manifest.nodes(text, "x")


@pytest.mark.parametrize(
    "text",
    ["5", "[]", "text", '"\\', "\x00", "{", "{]", "%YAML 9", "\t", "!!python/object:os.system {}", "&a [*a]"],
)
def test_anything_that_is_no_object_is_a_problem(text: str) -> None:
    contents = manifest.read(text, "x")
    assert contents.problems
    assert not nodes(contents)


@pytest.mark.parametrize("opening", ["[", "{a: ", '{"a":', "- "])
def test_deep_nesting_exhausts_nothing(opening: str) -> None:
    started = time.process_time()
    assert manifest.read(opening * 200_000, "x").problems
    assert time.process_time() - started < 1
    assert manifest.read(f"kind: Node\nmetadata: {{name: a}}\nx: {'[' * 100 + ']' * 100}\n", "x").problems


def test_addresses_are_not_taken_for_numbers_as_yaml_1_1_does() -> None:
    text = small("a", 1).replace(
        "}}", "}, status: {addresses: [{type: InternalIP, address: 10:20:30:40:50:10:20:30}]}}"
    )
    (found,) = nodes(manifest.read(text, "x"))
    assert found.addresses == (ip_address("10:20:30:40:50:10:20:30"),)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Node", "10.1.0.0/16"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "metadata",
                    "name",
                    "spec",
                    "podCIDRs",
                    "podCIDR",
                    "status",
                    "addresses",
                    "type",
                    "items",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_VALUES)
def test_no_document_raises(value: object) -> None:
    for text in (json.dumps(value), yaml.safe_dump(value), str(value)):
        assert isinstance(manifest.read(text, "x"), manifest.Contents)


@given(
    st.dictionaries(
        st.text(max_size=5), st.text(max_size=8) | st.lists(st.text(max_size=5), max_size=3), max_size=4
    ).filter(
        lambda value: not re.search(r"\d[eE]\d", repr(value))
    )  # 1E5 is text in YAML 1.1 and no longer in 1.2
)
def test_text_is_read_as_yaml_says(value: dict[str, object]) -> None:
    (document,) = documents.read(yaml.safe_dump(value))
    assert document.value == value


# --- which nodes go together ----------------------------------------------------------------------


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
