"""What a runtime's notes say of pods, and that notes of others say nothing."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from ovsnet.cni import kept
from ovsnet.model import Pod

NETNS = "/var/run/netns/cni-5f0c"
POD = Pod(
    namespace="shop",
    name="cart-7d4b9",
    container="c0ffee",
    ifname="eth0",
    netns=NETNS,
    network="ovsnet",
    port="pod-0123abcd",
    ofport=0,
    mac="0a:58:0a:f4:01:05",
    ips=(ipaddress.ip_address("10.244.1.5"), ipaddress.ip_address("fd00::5")),
)


def document() -> dict[str, Any]:
    """As containerd writes it, with a chained plugin's interface in front."""
    return {
        "kind": "cniCacheV1",
        "containerId": "c0ffee",
        "config": "eyJjbmlWZXJzaW9uIjoi",
        "ifName": "eth0",
        "networkName": "ovsnet",
        "netns": NETNS,
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", "shop"],
            ["K8S_POD_NAME", "cart-7d4b9"],
            ["K8S_POD_INFRA_CONTAINER_ID", "c0ffee"],
        ],
        "capabilityArgs": {"portMappings": []},
        "result": {
            "cniVersion": "1.0.0",
            "dns": {},
            "interfaces": [
                {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": NETNS},
                {"name": "pod-0123abcd"},
                {"name": "eth0", "mac": "0a:58:0a:f4:01:05", "sandbox": NETNS},
            ],
            "ips": [
                {"address": "127.0.0.1/8", "interface": 0},
                {"address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 2},
                {"address": "fd00::5/64", "interface": 2},
            ],
        },
    }


def read(folder: Path, *texts: str) -> list[Pod]:
    for number, text in enumerate(texts):
        (folder / f"ovsnet-{number}-eth0").write_text(text)
    return list(kept.pods([folder, folder / "missing"]))


def test_a_pod_is_read_as_it_was_added(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(document())) == [POD]


def test_older_notes_have_no_namespace_of_their_own(tmp_path: Path) -> None:
    old = document()
    del old["netns"], old["cniArgs"]
    (pod,) = read(tmp_path, json.dumps(old))
    assert (pod.netns, pod.namespace, pod.name) == (NETNS, "", "c0ffee")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cniCacheV2"},
        {"ifName": "eth1"},
        {"result": None},
        {"result": {"interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": NETNS}], "ips": []}},
        {"result": document()["result"] | {"ips": []}},
        {"result": document()["result"] | {"ips": [{"address": "10.244.1.5/240", "interface": 2}]}},
    ],
)
def test_what_is_no_pod_of_ours_says_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    assert read(tmp_path, json.dumps(document() | change)) == []


def test_a_broken_note_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert read(tmp_path, "", '{"kind": "cniCa', json.dumps(document()), "[]") == [POD]
