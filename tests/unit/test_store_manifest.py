"""Manifests to nodes: what is read, and what is refused with which words."""

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

from ovsnet.errors import StoreError
from ovsnet.model import Encap, Node
from ovsnet.store import documents, manifest
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


def test_what_is_wrong_with_a_whole_list_is_told_once() -> None:
    service = "{kind: Service, metadata: {name: s%d}, spec: {clusterIP: 10.96.0.%d, ports: [{port: 80}]}}"
    items = "".join(f"- {service % (each, each)}\n" for each in range(1, 57))
    text = "kind: List\nx: &x 1\ny: *x\nitems:\n"
    contents = manifest.read(text + items, "x")
    assert contents.problems == (
        "line 3: an alias (*) is not supported: write the value out; none of the 56 objects of this list is taken",
    )
    assert not contents.objects
    assert contents.doubtful == {"Service"}
    assert manifest.read(f"{text}{items}- {{kind: *x}}\n", "x").doubtful == manifest.KINDS


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
