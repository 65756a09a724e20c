"""What a runtime's result cache says of pods, and that entries of others say nothing."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ovsnet.cni import resultcache
from ovsnet.lab import cni_runner
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


OURS = {"cniVersion": "1.0.0", "name": "ovsnet", "plugins": [{"type": "ovsnet"}, {"type": "portmap"}]}


def encoded(config: object) -> str:
    return base64.b64encode(json.dumps(config).encode()).decode()


def document() -> dict[str, Any]:
    """As containerd writes it, with a chained plugin's interface in front."""
    return {
        "kind": "cniCacheV1",
        "containerId": "c0ffee",
        "config": encoded(OURS),
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


def changed(**changes: Any) -> dict[str, Any]:
    """With another interface in the pod."""
    result = document()["result"]
    result["interfaces"][2] |= changes
    return {"result": result}


def addressed(*addresses: str) -> dict[str, Any]:
    return {
        "result": document()["result"] | {"ips": [{"address": each, "interface": 2} for each in addresses]}
    }


def called(**args: str) -> dict[str, Any]:
    return {"cniArgs": [[name, value] for name, value in args.items()]}


def read(folder: Path, *texts: str) -> resultcache.Cached:
    for number, text in enumerate(texts):
        (folder / f"ovsnet-{number}-eth0").write_text(text)
    return resultcache.pods([folder, folder / "missing"])


def test_a_pod_is_read_as_it_was_added(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(document())) == ((POD,), ())


def test_a_single_plugin_is_a_network_as_well(tmp_path: Path) -> None:
    single = {"cniVersion": "1.0.0", "name": "ours", "type": "ovsnet"}
    (pod,) = read(tmp_path, json.dumps(document() | {"config": encoded(single)})).pods
    assert pod.network == "ours"


def test_what_the_labs_runner_keeps_is_read(tmp_path: Path) -> None:
    args = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "cart-7d4b9"}
    entry = cni_runner.cached_info(OURS, "c0ffee", NETNS, "eth0", args, None, document()["result"])
    assert read(tmp_path, json.dumps(entry)) == ((POD,), ())
    assert list(entry) == [
        "kind",
        "containerId",
        "config",
        "ifName",
        "networkName",
        "netns",
        "cniArgs",
        "result",
    ]


def test_older_entries_have_no_namespace_of_their_own(tmp_path: Path) -> None:
    old = document()
    del old["netns"], old["cniArgs"]
    (pod,) = read(tmp_path, json.dumps(old)).pods
    assert (pod.netns, pod.namespace, pod.name) == (NETNS, "", "c0ffee")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "cniCacheV2"},
        {"config": ""},
        {"config": encoded({"name": "ovsnet", "plugins": [{"type": "bridge"}]}), "result": None},
        {"config": encoded({"name": "ovsnet", "type": "multus", "delegates": [OURS]})},
    ],
)
def test_entries_of_others_say_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    assert read(tmp_path, json.dumps(document() | change)) == ((), ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "eyJjbmlWZXJzaW9uIjoi"}, "not as libcni writes"),
        ({"config": "="}, "not as libcni writes"),
        ({"config": encoded(OURS | {"name": "a\nb"})}, "network: 'a\\nb' is none"),
        ({"config": encoded({"plugins": OURS["plugins"]})}, "network: '' is none"),
        ({"ifName": "eth1"}, "no interface 'eth1' in a pod"),
        ({"containerId": "c0\x00ffee"}, "container: 'c0\\x00ffee' is none"),
        ({"containerId": "c" * 254}, "container: longer than 253"),
        ({"netns": "/run/netns/\x1b[2J"}, "netns: "),
        ({"netns": "netns/5"}, "netns: 'netns/5' is none"),
        ({"netns": "/" + "n" * 4095}, "netns: longer than 4095"),
        (called(K8S_POD_NAMESPACE="shop\n"), "namespace: "),
        (called(K8S_POD_NAMESPACE="s" * 254), "namespace: longer"),
        (called(K8S_POD_NAME="cart\x00"), "name: "),
        ({"ifName": "eth0\t"} | changed(name="eth0\t"), "interface: "),
        (changed(mac=""), "MAC"),
        (changed(mac="0a:58:0a:f4:01"), "MAC"),
        (changed(mac="0a:58:0a:f4:01:05,actions=drop"), "MAC"),
        (changed(mac="0a:58:0a:f4:01:05\n"), "MAC"),
        (changed(mac="0a-58-0a-f4-01-05"), "MAC"),
        (changed(mac="01:00:5e:00:00:01"), "no interface's own"),
        (changed(mac="00:00:00:00:00:00"), "no interface's own"),
        ({"result": None}, "not as libcni writes"),
        (
            {"result": {"interfaces": [{"name": "v1"}, {"name": "eth0", "sandbox": NETNS}], "ips": []}},
            "no interfaces",
        ),
        (addressed(), "no addresses"),
        (addressed("10.244.1.5/240"), "is not an address"),
        (addressed("fe80::1%eth0/64"), "is not an address"),
        (addressed("224.0.0.1/24"), "no pod can have 224.0.0.1"),
    ],
)
def test_what_no_add_would_have_answered_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "zzz").write_text(json.dumps(document()))
    found = read(tmp_path, json.dumps(document() | change))
    assert found.pods == (POD,)
    (line,) = found.refused
    assert line.startswith(f"{tmp_path}/ovsnet-0-eth0 gives no pod its row back: ")
    assert words in line
    assert line.isprintable()


def test_macs_are_as_rows_have_them(tmp_path: Path) -> None:
    (pod,) = read(tmp_path, json.dumps(document() | changed(mac="0A:58:0A:F4:01:05"))).pods
    assert pod.mac == POD.mac


def test_a_broken_entry_hides_no_other(tmp_path: Path) -> None:
    found = read(tmp_path, "", '{"kind": "cniCa', json.dumps(document()), "[]", "[" * 50_000)
    assert found.pods == (POD,)
    assert len(found.refused) == 4


def test_what_is_no_file_is_not_waited_for_or_followed(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "elsewhere").write_text(json.dumps(document()))
    (folder / "1").symlink_to(tmp_path / "elsewhere")
    (folder / "2").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "3")
    (folder / "4").mkdir()
    (folder / "5\n").write_text("")
    found = read(folder, json.dumps(document()))
    assert found.pods == (POD,)
    assert ["no regular file" in line for line in found.refused] == [False, False, True, True, False]
    assert all(line.isprintable() for line in found.refused)


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    text = json.dumps(document())
    found = read(tmp_path, text + " " * resultcache.LARGEST, text + " " * (resultcache.LARGEST - len(text)))
    assert found.pods == (POD,)
    assert "more than 65536 bytes" in found.refused[0]


def test_files_of_other_users_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    found = read(tmp_path, json.dumps(document()))
    assert found.pods == ()
    assert f"belongs to user {user}" in found.refused[0]
