"""The store's folder: the Node, Namespace and Pod manifests that all agents of a lab watch.

Owns the files NODE.yaml, namespace.NAME.yaml and pod.NAME.yaml in it; nothing else that people put there. Each is
replaced as a whole, so that an agent never reads half of one. Called by `lab`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ovsnet.lab import files
from ovsnet.lab.spec import DEFAULT, IPAddress, LabError, PodSpec
from ovsnet.lab.state import State, write_atomically

NAME_LABEL = "kubernetes.io/metadata.name"
"""The label that every namespace has, with its name."""
Document = dict[str, Any]


class Manifests:
    """The folder, as `ovsnet lab` keeps it. Who edits a manifest of a running lab means it: what is there stays."""

    def __init__(self, lab: Path) -> None:
        self.path = lab / "cluster"

    def write_all(self, state: State) -> None:
        """What is missing: nodes and namespaces; a pod's is written when it is attached."""
        self.path.mkdir(exist_ok=True)
        for node in state.nodes.values():
            if not (path := self.node(node.name)).exists():
                write_atomically(path, files.manifest(state.spec, node))
        for namespace in {DEFAULT} | {pod.namespace for pod in state.pods.values()}:
            self.write_namespace(namespace)

    def write_namespace(self, name: str) -> None:
        if not (path := self.namespace(name)).exists():
            write_atomically(path, text(namespace_document(name)))

    def write_pod(self, pod: PodSpec, addresses: Iterable[IPAddress]) -> None:
        """With these addresses; all else stays as it is if there is one already."""
        document = self.read_pod(pod)
        status = {"phase": "Running" if (ips := [str(each) for each in addresses]) else "Pending"}
        document["status"] = status | ({"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]} if ips else {})
        write_atomically(self.pod(pod.name), text(document))

    def label_pod(self, pod: PodSpec) -> None:
        """With the labels that it has now."""
        document = self.read_pod(pod)
        document["metadata"] = {**document.get("metadata", {}), "labels": dict(pod.labels)}
        write_atomically(self.pod(pod.name), text(document))

    def read_pod(self, pod: PodSpec) -> Document:
        """Raises LabError when somebody made something else of it."""
        path = self.pod(pod.name)
        try:
            document = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            return pod_document(pod)
        except yaml.YAMLError as error:
            raise LabError(
                f"{path} is not YAML: {error}", "correct it, or remove it: it is written anew"
            ) from error
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise LabError(
                f"{path} is not one Pod's manifest", "correct it, or remove it: it is written anew"
            )
        return document

    def node(self, name: str) -> Path:
        return self.path / f"{name}.yaml"

    # No node's or pod's name has a dot.

    def namespace(self, name: str) -> Path:
        return self.path / f"namespace.{name}.yaml"

    def pod(self, name: str) -> Path:
        return self.path / f"pod.{name}.yaml"


def text(document: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=False))


def namespace_document(name: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {NAME_LABEL: name}},
    }


def pod_document(pod: PodSpec) -> Document:
    """What the scheduler leaves for kubelet: with a node, without addresses."""
    ports = [{"name": name, "containerPort": number} for name, number in pod.ports.items()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": dict(pod.labels)},
        "spec": {"nodeName": pod.node, "containers": [{"name": "server", "ports": ports}]},
    }
