"""The cases in policies/*.yaml, and what each of their steps makes of the cluster.

Owns the format of the files, which policies/README.md describes. Pure but for reading them; imports nothing of ovsnet.
Called by `policy_agreement`, which asks the oracle, and `kube_policies`, which makes it so on a cluster.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from policy_matrix import HOSTS, MATRIX, NAMES, NAMESPACES, NODES, OUTSIDE, PODS, Table, Way, line, table

Object = dict[str, Any]
Labels = dict[str, str]
Book = Mapping[str, Mapping[int, str]]
"""Addresses by family: of pods, nodes and `outside`; also `gateway of NODE`, and `pods of NODE`, which is a range."""
FOLDER = Path(__file__).with_name("policies")
FIELDS = ("policies", "remove", "labels", "recreate", "expect", "ask", "judged as", "said")
POD_LABELS: Mapping[str, Labels] = {
    "a": {"pod": "a", "tier": "front"},
    "b": {"pod": "b", "tier": "back"},
    "c": {"pod": "c"},
}
NAMESPACE_LABELS: Mapping[str, Labels] = {
    "x": {"ns": "x", "team": "red"},
    "y": {"ns": "y", "team": "red"},
    "z": {"ns": "z"},
}
PLACEHOLDER = re.compile(r"<([^<>]+) IPv([46])>")
HOST_PODS = {f"{namespace}/host": node for namespace, node in zip(NAMESPACES, NODES, strict=True)}
"""On their node's network; it is these that answer there. They have the labels of a."""


@dataclass(frozen=True)
class Situation:
    """What there is: labels by pod and by namespace, and specs of policies by NAMESPACE/NAME."""

    pods: Mapping[str, Labels] = field(
        default_factory=lambda: {pod: dict(POD_LABELS[pod[-1]]) for pod in PODS}
    )
    namespaces: Mapping[str, Labels] = field(
        default_factory=lambda: {name: dict(NAMESPACE_LABELS[name]) for name in NAMESPACES}
    )
    policies: Mapping[str, Object] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A change, and what is true after it. ask: ways beside the matrix.

    judged: what the oracle is to take policies for, of which it can't judge what they say.
    said: words that the log of some agent has about it.
    """

    policies: Mapping[str, Object]
    remove: Sequence[str]
    labels: Mapping[str, Mapping[str, str | None]]
    recreate: Mapping[str, Labels]
    table: Table
    ask: tuple[Way, ...]
    judged: Mapping[str, Object]
    said: Sequence[str]

    @property
    def ways(self) -> tuple[Way, ...]:
        return (*MATRIX, *self.ask)

    def after(self, before: Situation) -> Situation:
        """What there is then. Raises ValueError for what is not there."""
        pods, namespaces, policies = dict(before.pods), dict(before.namespaces), dict(before.policies)
        for name, labels in self.recreate.items():
            pods[_known(name, pods)] = {**POD_LABELS[name[-1]], **labels}
        for name, changes in self.labels.items():
            of = namespaces if name in namespaces else pods
            changed = {**of[_known(name, of)], **changes}
            of[name] = {label: value for label, value in changed.items() if value is not None}
        for name in self.remove:
            del policies[_known(name, policies)]
        return replace(before, pods=pods, namespaces=namespaces, policies={**policies, **self.policies})


def _known(name: str, among: Mapping[str, object]) -> str:
    if name not in among:
        raise ValueError(f"there is no {name!r}; there are {', '.join(among) or 'none'}")
    return name


@dataclass(frozen=True)
class Case:
    name: str
    shows: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return self.name

    def situations(self) -> Iterator[tuple[Step, Situation]]:
        """Each step with what there is after it."""
        now = Situation()
        for step in self.steps:
            now = step.after(now)
            yield step, now


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.yaml"))


def load(path: Path) -> Case:
    """Raises ValueError with the file's name."""
    try:
        read = yaml.safe_load(path.read_text())
        shows = read.pop("shows")
        steps = read.pop("steps", None) or [read]
        if steps[0] is not read and read:
            raise ValueError(f"{', '.join(read)} stand beside steps; move them into one")
        case = Case(path.stem, " ".join(shows.split()), tuple(map(_step, steps)))
        list(case.situations())
    except (ValueError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name}: {error!r}; policies/README.md says how cases are written") from error
    return case


def _step(read: Object) -> Step:
    if unknown := {*read} - {*FIELDS}:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(FIELDS)}")
    return Step(
        policies=read.get("policies", {}),
        remove=read.get("remove", ()),
        labels=read.get("labels", {}),
        recreate=read.get("recreate", {}),
        table=table(read["expect"]),
        ask=tuple(way for words in read.get("ask", ()) for way in line(words).ways()),
        judged=read.get("judged as", {}),
        said=read.get("said", ()),
    )


# objects


def filled(spec: Object, book: Book) -> Object:
    """The same with addresses for `<PLACE IPv4>`. Raises ValueError."""

    def address(found: re.Match[str]) -> str:
        name, family = found[1], int(found[2])
        if name not in book:
            raise ValueError(f"{found[0]}: there is no {name!r}; there are {', '.join(book)}")
        return book[name][family]

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: fill(value) for key, value in part.items()}
        if isinstance(part, list):
            return [fill(each) for each in part]
        return PLACEHOLDER.sub(address, part) if isinstance(part, str) else part

    return dict(fill(spec))


def policy(name: str, spec: Object) -> Object:
    namespace, _, own = name.partition("/")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": own, "namespace": namespace},
        "spec": spec,
    }


def namespace(name: str, labels: Labels) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


NAMED: Mapping[str, Sequence[Object]] = {
    "a": ({"name": "web", "containerPort": 80}, {"name": "dns", "containerPort": 80, "protocol": "UDP"}),
    "b": ({"name": "web", "containerPort": 81}, {"name": "dns", "containerPort": 81, "protocol": "UDP"}),
    "c": (),
}
"""The ports of a pod's server that have a name."""
BESIDE: Mapping[str, tuple[str, Object]] = {
    "z/c": ("containers", {"name": "twice", "containerPort": 81}),
    "z/b": ("initContainers", {"name": "mesh", "containerPort": 80}),
}
"""A container that only waits, and the port that its manifest has. Of z/c the server has the same name for another."""


def pod(name: str, labels: Labels) -> Object:
    """Without images and commands. A pod of HOST_PODS is on its node's network."""
    namespace, _, own = name.partition("/")
    ports = copy.deepcopy([*NAMED.get(own, ())])
    if name == "z/c":
        ports.append({"name": "twice", "containerPort": 80})
    spec: Object = {"containers": [{"name": "server", **({"ports": ports} if ports else {})}]}
    if name in BESIDE:
        kind, port = BESIDE[name]
        sidecar = {"restartPolicy": "Always"} if kind == "initContainers" else {}
        spec.setdefault(kind, []).append({"name": "beside", "ports": [dict(port)], **sidecar})
    spec["nodeName"] = HOSTS[name] if name in HOSTS else HOST_PODS[name]
    if name in HOST_PODS:
        spec["hostNetwork"] = True
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": own, "namespace": namespace, "labels": dict(labels)},
        "spec": spec,
    }


def places() -> tuple[str, ...]:
    """Whose addresses a book has."""
    return (*PODS, *NODES, OUTSIDE, *(f"{kind} of {node}" for kind in ("gateway", "pods") for node in NODES))


assert {*NAMES} == {*POD_LABELS} == {*NAMED}
