"""What agents publish on Nodes, as others read it: nothing of it keeps a Node from being used."""

from __future__ import annotations

import ipaddress

import pytest

from ovsnet.model import Encap, Node, Published
from ovsnet.store.nodes import NodeReader


def read(**annotations: object) -> tuple[Node | None, NodeReader]:
    said = {f"ovsnet.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    value = {
        "metadata": {"name": "b", "annotations": {**said, "ovsnet.io/other": 5}},
        "spec": {"podCIDR": "10.244.2.0/24"},
    }
    reader = NodeReader(value, "", "Node b")
    return reader.read(), reader


def test_what_an_agent_published_is_read() -> None:
    node, reader = read(tunnel_encapsulation="geneve", tunnel_address="2001:db8::2", mtu="1430")
    assert node is not None
    address = ipaddress.ip_address("2001:db8::2")
    assert node.published == Published(encap=Encap.GENEVE, address=address, mtu=1430)
    assert node.encap is None, "the user's annotation is another one"
    assert not reader.remarks


def test_an_agent_may_have_published_nothing() -> None:
    node, reader = read(tunnel_address="")
    assert node is not None
    assert node.published == Published()
    assert not reader.remarks


@pytest.mark.parametrize("key", ["tunnel_encapsulation", "tunnel_address", "mtu"])
@pytest.mark.parametrize(
    "value",
    [
        "carrier pigeons",
        5,
        ["1450"],
        "192.0.2.1.5",
        "fe80::1%\n\x1b[31m",
        "127.0.0.1",
        "-1450",
        "1_450",
        "9" * 9,
    ],
)
def test_what_no_agent_writes_is_left_out_and_told(key: str, value: object) -> None:
    node, reader = read(**{key: value})
    assert node is not None
    assert node.published == Published()
    (remark,) = reader.remarks
    assert remark.startswith(f"Node b: metadata.annotations.ovsnet.io/{key.replace('_', '-')}: ")
