"""Rows follow ovsdb-server's updates, in which sets and maps come as what changed."""

from __future__ import annotations

from typing import Any

import pytest

from ovsnet.switch.cache import Cache
from ovsnet.switch.replica import Replica


def put(replica: Replica, verb: str, table: str, uuid: str, columns: dict[str, Any] | None = None) -> None:
    replica.update({table: {uuid: {verb: columns}}})


@pytest.mark.parametrize(
    ("table", "column", "before", "difference", "after"),
    [
        ("Interface", "name", "a", "b", "b"),
        ("Interface", "ofport", 3, ["set", []], None),
        ("Interface", "ofport", ["set", []], 3, 3),
        ("Interface", "ofport", 3, 4, 4),
        ("Interface", "error", ["set", ["no"]], ["set", []], None),
        ("Interface", "options", ["map", [["a", "1"]]], ["map", [["b", "2"]]], {"a": "1", "b": "2"}),
        ("Interface", "options", ["map", [["a", "1"]]], ["map", [["a", "2"]]], {"a": "2"}),
        ("Interface", "options", ["map", [["a", "1"], ["b", "2"]]], ["map", [["a", "1"]]], {"b": "2"}),
        ("Bridge", "ports", ["uuid", "p"], ["uuid", "q"], {"p", "q"}),
        ("Bridge", "ports", ["set", [["uuid", "p"], ["uuid", "q"]]], ["uuid", "p"], {"q"}),
        ("Bridge", "ports", ["uuid", "p"], ["set", [["uuid", "p"], ["uuid", "q"]]], {"q"}),
        ("Open_vSwitch", "datapath_types", "netdev", ["set", ["system"]], {"netdev", "system"}),
    ],
)
def test_a_modified_column(
    table: str, column: str, before: object, difference: object, after: object
) -> None:
    replica = Replica()
    put(replica, "insert", table, "u", {column: before})
    put(replica, "modify", table, "u", {column: difference})
    assert replica.tables[table]["u"][column] == after


def test_a_column_that_is_left_out_of_a_new_row_has_its_default() -> None:
    replica = Replica()
    put(replica, "initial", "Interface", "u", {"name": "eth0"})
    assert replica.tables["Interface"]["u"] == {
        "name": "eth0",
        "type": "",
        "options": {},
        "mac": None,
        "mtu_request": None,
        "ofport": None,
        "ofport_request": None,
        "error": None,
    }


def port(replica: Replica, uuid: str, name: str) -> dict[str, Any]:
    return {
        "Interface": {f"i{uuid}": {"insert": {"name": name}}},
        "Port": {uuid: {"insert": {"name": name, "interfaces": ["uuid", f"i{uuid}"]}}},
    }


def test_a_port_that_is_made_again_in_one_transaction_is_the_new_one() -> None:
    replica = Replica()
    cache = Cache(replica, "br-int")
    bridge = {"Bridge": {"b": {"insert": {"name": "br-int", "ports": ["uuid", "p1"]}}}}
    cache.settle(replica.update(bridge | port(replica, "p1", "tun")))
    again = port(replica, "p2", "tun")
    again["Interface"]["ip2"] = {"insert": {"name": "tun", "type": "gre"}}
    again["Interface"]["ip1"] = again["Port"]["p1"] = {"delete": None}
    swap = {"Bridge": {"b": {"modify": {"ports": ["set", [["uuid", "p1"], ["uuid", "p2"]]]}}}}
    cache.settle(replica.update(again | swap))
    assert cache.ports["tun"].type == "gre"
    assert cache.uuids == {"tun": "p2"}


def test_what_did_not_change_is_the_same_object_in_another_dict() -> None:
    replica = Replica()
    cache = Cache(replica, "br-int")
    bridge = {
        "Bridge": {"b": {"insert": {"name": "br-int", "ports": ["set", [["uuid", "p1"], ["uuid", "p2"]]]}}}
    }
    both = port(replica, "p1", "one")
    for table, rows in port(replica, "p2", "two").items():
        both[table] |= rows
    cache.settle(replica.update(bridge | both))
    before = cache.ports
    cache.settle(replica.update({"Interface": {"ip1": {"modify": {"ofport": 7}}}}))
    assert before["one"].ofport is None
    assert cache.ports["one"].ofport == 7
    assert cache.ports["two"] is before["two"]
    cache.rebuild()
    assert cache.ports["two"] is before["two"]


def test_ports_of_another_bridge_are_not_ours() -> None:
    replica = Replica()
    cache = Cache(replica, "br-int")
    other = {"Bridge": {"b": {"insert": {"name": "br-ex", "ports": ["uuid", "p1"]}}}}
    cache.settle(replica.update(other | port(replica, "p1", "eth0")))
    assert cache.bridge is None
    assert cache.ports == {}
    assert cache.bridge_of("eth0") == "br-ex"
