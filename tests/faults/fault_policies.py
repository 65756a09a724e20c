"""The policies of a world in which things break, the labels that they go by, and what the oracle says of them.

GUARD is always there. It lets pods of its namespace meet one another, as long as namespace and pods are labelled so,
and nodes and the outside; strangers neither come in by it nor does anybody go to them. What comes and goes beside it
allows more of the former, never anything of the latter over UDP. Owns these manifests and the Pods'; never asks
ovsnet what is allowed. Called by the world, by the state machine's steps and by what must hold in the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import policy_world
import yaml
from fault_knocks import STRANGERS
from oracle import verdict
from policy_world import Cluster, Connection, End, Object

from ovsnet.lab.check import Host
from ovsnet.lab.lab import Lab
from ovsnet.lab.manifests import namespace_document
from ovsnet.lab.pods import Pod
from ovsnet.lab.prober import ECHO_PORT, HTTP_PORT
from ovsnet.lab.spec import DEFAULT, UNDERLAY_RANGES
from ovsnet.lab.state import write_atomically

APPS, OTHERS = ("x", "y"), "z"
"""What pods are at first, and what the guard does not know."""
TEAMS = ("red", "blue")
"""Of the pods' namespace: with the second one the guard lets nobody meet."""
UNDERLAY = [{"ipBlock": {"cidr": str(each)}} for each in UNDERLAY_RANGES.values()]
_KNOWN = {"matchExpressions": [{"key": "app", "operator": "In", "values": list(APPS)}]}
_MEMBERS = [{"namespaceSelector": {"matchLabels": {"team": TEAMS[0]}}, "podSelector": _KNOWN}, *UNDERLAY]
_EVERYBODY_HERE = [{"podSelector": {}}, *UNDERLAY]
_SOME_PORTS = [{"protocol": "TCP", "port": 9000, "endPort": 9100}]
GUARD, FEW = "guard", ("p1", "p2")
"""Names."""
KINDS: dict[str, Object] = {
    GUARD: {"ingress": [{"from": _MEMBERS}], "egress": [{"to": _MEMBERS}]},
    "everybody of the namespace": {
        "ingress": [{"from": _EVERYBODY_HERE}],
        "egress": [{"to": _EVERYBODY_HERE}],
    },
    "some to some": {
        "podSelector": {"matchLabels": {"app": "x"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "y"}}}]}],
        "egress": [{"to": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]}],
    },
    "ports, from everybody": {"ingress": [{"ports": _SOME_PORTS}], "egress": [{"ports": _SOME_PORTS}]},
    "a block with a hole": {
        "podSelector": {"matchLabels": {"app": "y"}},
        "egress": [
            {
                "to": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24"]}}],
                "ports": [{"protocol": "TCP"}],
            }
        ],
    },
    "nothing": {"ingress": [], "egress": []},
}
_PROBES = (("TCP", HTTP_PORT), ("UDP", ECHO_PORT), (None, 0))
"""What `ovsnet lab check` tries."""


class Policing:
    """What the store's folder says of them. changed: since all was found as it should be."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.changed = True
        self._folder.mkdir(parents=True, exist_ok=True)
        self.label_namespace(TEAMS[0])
        stranger = namespace_document(STRANGERS)
        write_atomically(lab.manifests.namespace(STRANGERS), yaml.safe_dump(stranger))
        self.put(GUARD, GUARD)

    @property
    def _folder(self) -> Path:
        return self._lab.manifests.path

    def _file(self, name: str) -> Path:
        return self._folder / f"policy.{name}.yaml"

    def put(self, name: str, kind: str) -> None:
        """A policy of that name, whatever it was before."""
        self.changed = True
        spec = KINDS[kind]
        types = [each.capitalize() for each in ("ingress", "egress") if each in spec]
        document = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": DEFAULT},
            "spec": {"podSelector": {}, "policyTypes": types, **spec},
        }
        write_atomically(self._file(name), json.dumps(document))

    def remove(self, name: str) -> None:
        self.changed = True
        self._file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        for name in (GUARD, *FEW):
            self.remove(name)

    def relabel(self, pod: Pod, known: bool) -> None:
        """One whose object is there; so that the guard knows it, or no longer."""
        self.changed = True
        wanted = labels(int(pod.name.removeprefix(pod.node.node.letter))) if known else {"app": OTHERS}
        self._lab.manifests.label_pod(msgspec.structs.replace(pod.pod, labels=wanted))

    def label_namespace(self, team: str) -> None:
        self.changed = True
        document = namespace_document(DEFAULT)
        document["metadata"]["labels"]["team"] = team
        write_atomically(self._lab.manifests.namespace(DEFAULT), yaml.safe_dump(document))

    @property
    def files(self) -> set[str]:
        """Names of those that are there with right."""
        of_pods = {self._lab.manifests.pod(pod.name).name for pod in self._lab.pods}
        of_namespaces = {self._lab.manifests.namespace(name).name for name in (DEFAULT, STRANGERS)}
        return of_pods | of_namespaces | {self._file(name).name for name in self._names()}

    def _names(self) -> list[str]:
        return [name for name in (GUARD, *FEW) if self._file(name).exists()]

    # what the oracle says

    def verdicts(
        self, sources: Iterable[Host], targets: Iterable[Host]
    ) -> dict[tuple[str, str], bool | None]:
        """Whether all probes from one to the other are allowed, or none; None: some. By names."""
        cluster = self._cluster(targets)
        who: dict[str, Any] = {pod["metadata"]["name"]: pod for pod in cluster.pods}
        who |= {node.name: node for node in cluster.nodes}
        targets = list(targets)
        return {
            (source.name, target.name): _verdict(cluster, who, source, target)
            for source in sources
            for target in targets
            if source.name != target.name
        }

    def _cluster(self, hosts: Iterable[Host]) -> Cluster:
        pods = [_read(path) for path in self._folder.glob("pod.*.yaml")]
        namespaces = [_read(self._lab.manifests.namespace(name)) for name in (DEFAULT, STRANGERS)]
        gateways = {
            node.name: tuple(str(node.node.gateway(version)) for version in (4, 6))
            for node in self._lab.nodes
        }
        nodes = [
            policy_world.Node(host.name, tuple(map(str, host.addresses)), gateways[host.name])
            for host in hosts
            if host.kind == "node"
        ]
        policies = [_read(self._file(name)) for name in self._names()]
        return Cluster(tuple(namespaces), tuple(pods), tuple(policies), tuple(nodes))


def _verdict(cluster: Cluster, who: dict[str, Any], source: Host, target: Host) -> bool | None:
    asked = {
        verdict(
            cluster,
            Connection(End(who.get(source.name), str(own)), End(who.get(target.name), str(address)), *probe),
        ).allowed
        for address in target.addresses
        for own in source.addresses
        if own.version == address.version
        for probe in _PROBES
    }
    return asked.pop() if len(asked) == 1 else None


def _read(path: Path) -> Object:
    document: Object = yaml.safe_load(path.read_text())
    return document


def labels(number: int) -> dict[str, str]:
    """Of the pod of that number, at first."""
    return {"app": APPS[number % len(APPS)]}
