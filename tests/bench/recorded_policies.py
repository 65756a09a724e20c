"""A large cluster with NetworkPolicies as manifests: nodes, namespaces, pods and policies, the same ones each time.

Each namespace has EACH pods, of which the first is on the node that is measured (`local`), and RULES policies. All but
two of these select that pod; what they allow are the pods of its namespace, those of others by their team, blocks, and
ports in numbers and ranges. Nearly every pod of the cluster is somebody's peer.

Pure but for the files that it writes. Called by `bench_policy`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import recorded

from ovsnet.lab.state import write_atomically

EACH, RULES = 100, 10
TEAMS, APPS = 20, 10
NODES = 99
"""Others than the one that is measured."""
TEAM, NAME = "team", "kubernetes.io/metadata.name"
_FILE = 2_000
"""Objects in each file: below the store's limit for one."""
_FIRST, _NODE = ipaddress.ip_address("10.128.0.0"), 256
Document = dict[str, Any]


class Size(NamedTuple):
    policies: int
    pods: int
    """Those of the node that is measured included."""

    @property
    def namespaces(self) -> int:
        return self.pods // EACH

    def __str__(self) -> str:
        return f"{self.policies} policies, {self.pods} pods"


class Remote(NamedTuple):
    """A pod of another node."""

    namespace: int
    number: int

    @property
    def address(self) -> str:
        host, node = divmod(self.namespace * EACH + self.number, NODES)
        return str(_FIRST + node * _NODE + 2 + host)

    def manifest(self, **labels: str) -> Document:
        """labels: those that differ from what it has at first."""
        place = (self.namespace * EACH + self.number) % NODES
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"p-{self.number}",
                "namespace": namespace(self.namespace),
                "labels": {**labels_of(self.number), **labels},
            },
            "spec": {"nodeName": f"n-{place}", "containers": [{"name": "server", "ports": []}]},
            "status": {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]},
        }


def namespace(number: int) -> str:
    return f"space-{number}"


def local(number: int) -> tuple[str, str, dict[str, str]]:
    """Name, namespace and labels of the node's own pod in that namespace."""
    return f"local-{number}", namespace(number), labels_of(number % APPS)


def labels_of(number: int) -> dict[str, str]:
    return {"app": f"app-{number % APPS}", "tier": "front" if number % 2 else "back"}


def record(target: Path, size: Size, apart: Sequence[Remote], changing: Sequence[str]) -> None:
    """Writes it into a store's folder, in place of what was recorded there before.

    apart: pods that are left out. changing: keys of policies that are, too. Their files are the caller's.
    """
    for old in target.glob("recorded-*.json"):
        old.unlink()
    _write(target, "nodes", [recorded.node(number) for number in range(NODES)])
    _write(target, "pods", [each.manifest() for each in remotes(size) if each not in apart])
    found = [each for number in range(size.namespaces) for each in policies(number)]
    _write(target, "policies", [each for each in found if key(each) not in changing])


def _write(target: Path, name: str, items: Sequence[Document]) -> None:
    for start in range(0, len(items), _FILE):
        text = json.dumps({"kind": "List", "items": items[start : start + _FILE]})
        write_atomically(target / f"recorded-{name}-{start:05}.json", text)


def remotes(size: Size) -> Iterator[Remote]:
    for space in range(size.namespaces):
        for number in range(1, EACH):
            yield Remote(space, number)


def space_manifest(number: int, team: int | None = None) -> Document:
    name = namespace(number)
    labels = {NAME: name, TEAM: f"team-{number % TEAMS if team is None else team}"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


# --- policies --------------------------------------------------------------------------------------


def key(policy: Document) -> str:
    return f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"


def policies(number: int) -> list[Document]:
    """Those of one namespace."""
    team, next_team = number % TEAMS, (number + 1) % TEAMS
    found = [
        policy(number, "deny", ingress=[], egress=[]),
        policy(
            number,
            "dns",
            egress=[{"to": [peer({NAME: namespace(0)}, app="app-0")], "ports": ports(53, "UDP")}],
        ),
        policy(
            number,
            "inside",
            ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 8080, "endPort": 8089}]}],
            egress=[{"to": [{"podSelector": {}}]}],
        ),
        policy(number, "team", ingress=[_from_team(team)]),
        policy(number, "to-team", egress=[{"to": [peer({TEAM: f"team-{next_team}"})], "ports": ports(8443)}]),
        policy(
            number,
            "watched",
            ingress=[{"from": [peer({NAME: namespace(1)}, app="app-1")], "ports": ports(9090)}],
        ),
        changing(number, 443),
    ]
    for step in range(RULES - len(found)):
        app, other = (number + step) % APPS, (number + step + 1) % APPS
        rule = {"from": [{"podSelector": selector(app=f"app-{other}")}], "ports": ports(5000 + app, "UDP")}
        found.append(policy(number, f"app-{app}", selector(app=f"app-{app}"), ingress=[rule]))
    return found


def _from_team(team: int) -> Document:
    return {"from": [peer({TEAM: f"team-{team}"}, tier="front")], "ports": ports(8080) + ports(8443)}


def changing(number: int, port: int) -> Document:
    """The policy that is the same but for a port."""
    block = {"cidr": f"198.51.{number}.0/24", "except": [f"198.51.{number}.64/26"]}
    rule = {"from": [{"ipBlock": block}, peer({TEAM: f"team-{(number + 2) % TEAMS}"})], "ports": ports(port)}
    return policy(number, "outside", ingress=[rule])


def policy(number: int, name: str, pods: Document | None = None, **rules: list[Document]) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace(number)},
        "spec": {"podSelector": pods or {}, "policyTypes": [each.capitalize() for each in rules], **rules},
    }


def selector(**labels: str) -> Document:
    return {"matchLabels": labels}


def peer(space: Mapping[str, str], **pods: str) -> Document:
    """Pods of all namespaces with these labels."""
    found: Document = {"namespaceSelector": {"matchLabels": dict(space)}}
    return {**found, "podSelector": selector(**pods)} if pods else found


def ports(number: int, protocol: str = "TCP") -> list[Document]:
    return [{"port": number, "protocol": protocol}]
