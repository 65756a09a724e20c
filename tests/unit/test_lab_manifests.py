"""The manifests that a lab keeps in its store's folder, read as agents read them."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import pytest
import yaml

from ovsnet.lab.manifests import Manifests
from ovsnet.lab.spec import LabError, LabSpec, PodSpec, node_spec
from ovsnet.lab.state import State
from ovsnet.store import Snapshot
from ovsnet.store.file import read_folder

WEB = PodSpec(
    name="web", node="node-a", container="c", namespace="shop", labels={"app": "web"}, ports={"http": 8080}
)
IPS = (ipaddress.ip_address("10.244.1.2"), ipaddress.ip_address("fd00:10:244:1::2"))


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    manifests = Manifests(tmp_path)
    manifests.write_all(State(spec=LabSpec(), nodes={"node-a": node_spec(0)}, pods={"web": WEB}))
    return manifests


def seen(manifests: Manifests) -> Snapshot:
    snapshot = asyncio.run(read_folder(manifests.path))
    assert snapshot.problems == {}
    return snapshot


def test_a_pod_is_known_before_it_has_addresses(manifests: Manifests) -> None:
    manifests.write_pod(WEB, ())
    pod = seen(manifests).pods["shop/web"]
    assert (pod.labels, pod.node, pod.ips) == ({"app": "web"}, "node-a", ())
    assert [(each.name, each.port) for each in pod.ports] == [("http", 8080)]
    manifests.write_pod(WEB, IPS)
    assert seen(manifests).pods["shop/web"].ips == IPS


def test_every_namespace_in_use_is_there_with_its_name(manifests: Manifests) -> None:
    found = seen(manifests).namespaces
    assert {name: each.labels["kubernetes.io/metadata.name"] for name, each in found.items()} == {
        "default": "default",
        "shop": "shop",
    }


def test_what_people_have_edited_stays(manifests: Manifests) -> None:
    manifests.write_pod(WEB, ())
    path = manifests.pod("web")
    document = yaml.safe_load(path.read_text())
    document["metadata"]["labels"] = {"app": "other"}
    path.write_text(yaml.safe_dump(document))
    manifests.write_pod(WEB, IPS)
    pod = seen(manifests).pods["shop/web"]
    assert (pod.labels, pod.ips) == ({"app": "other"}, IPS)
    manifests.label_pod(WEB)
    pod = seen(manifests).pods["shop/web"]
    assert (pod.labels, pod.ips) == ({"app": "web"}, IPS)


@pytest.mark.parametrize("text", ["{", "- a", "kind: Pod", ""])
def test_what_is_no_pod_is_told_of(manifests: Manifests, text: str) -> None:
    manifests.pod("web").write_text(text)
    with pytest.raises(LabError, match=r"pod\.web\.yaml is not"):
        manifests.write_pod(WEB, IPS)
