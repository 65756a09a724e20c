"""Pods of this node to what has to be attached here."""

from __future__ import annotations

import copy
from ipaddress import ip_address
from typing import Any

import pytest

from ovsnet.model import OwnPod
from ovsnet.store.ownpods import OwnPodReader

ADDRESSES = ("10.244.1.5", "fd00:10:244:1::5")
POD: dict[str, Any] = {
    "metadata": {"name": "web-0", "namespace": "shop", "labels": [1]},
    "spec": {"nodeName": "node-a", "containers": 7},
    "status": {"phase": "Running", "podIP": ADDRESSES[0], "podIPs": [{"ip": each} for each in ADDRESSES]},
}


def read(**changed: Any) -> tuple[OwnPod | None, list[str]]:
    """changed: fields of metadata, spec or status."""
    value = copy.deepcopy(POD)
    for part, fields in changed.items():
        value[part] = {**value[part], **fields} if isinstance(fields, dict) else fields
    reader = OwnPodReader(value, "", "Pod shop/web-0")
    return reader.read(), reader.problems + reader.remarks


def test_its_addresses() -> None:
    """What is none of its business may be odd."""
    pod, wrong = read()
    assert pod is not None
    assert (pod.key, pod.ips, wrong) == ("shop/web-0", tuple(map(ip_address, ADDRESSES)), [])
    pod, wrong = read(status={"podIPs": None})
    assert pod is not None
    assert (pod.ips, wrong) == ((ip_address(ADDRESSES[0]),), [])


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": {"hostNetwork": True}},
        {"status": {"phase": "Succeeded"}},
        {"status": {"phase": "Failed"}},
        {"metadata": {"deletionTimestamp": "2025-01-01T00:00:00Z"}},
        {"status": {"podIPs": [], "podIP": ""}},
        {"status": None},
        {"status": {"podIPs": [{"ip": "pigeon"}, 7, {}]}},
        {"status": {"podIPs": 7, "podIP": None}},
    ],
)
def test_one_that_needs_no_port_is_there_all_the_same(changed: dict[str, Any]) -> None:
    pod, wrong = read(**changed)
    assert pod is not None
    assert (pod.key, pod.ips, wrong) == ("shop/web-0", (), [])


def test_one_that_can_not_be_read() -> None:
    pod, wrong = read(spec=[1])
    assert (pod, wrong) == (None, ["Pod shop/web-0: spec: must be a mapping, is a list"])
