"""One Pod object of any node, as far as policies mind.

Pure. Left alone, without a word: pods that have come to their end, whose addresses others may have. An address or port
that can't be used is told of and left out; a label that can't be read makes the object unusable, since without it other
policies might select the pod. There are many, and each is told of whenever anything in its status changes: what is read
here is the work of every agent. Called through `manifest.READERS`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypedDict

from ovsnet.model import IPAddress
from ovsnet.policymodel import LabelledPod, NamedPort
from ovsnet.servicemodel import Protocol
from ovsnet.store.reading import SUBDOMAIN, Reader, address_of, shown

ENDED = ("Succeeded", "Failed")
"""Phases of pods that never run again."""


_MIRROR = "kubernetes.io/config.mirror"
_Annotations = TypedDict("_Annotations", {"kubernetes.io/config.mirror": object}, total=False)


class _Metadata(TypedDict, total=False):
    name: object
    namespace: object
    uid: object
    labels: object
    annotations: _Annotations | None


class _Container(TypedDict, total=False):
    restartPolicy: object
    ports: object


class _Spec(TypedDict, total=False):
    nodeName: object
    hostNetwork: object
    containers: list[_Container] | None
    initContainers: list[_Container] | None


class Status(TypedDict, total=False):
    """What is read of a Pod's status."""

    phase: object
    podIP: object
    podIPs: object


class _Pod(TypedDict, total=False):
    metadata: _Metadata | None
    spec: _Spec | None
    status: Status | None


class PodReader(Reader[LabelledPod]):
    kind = "Pod"
    fields = "kind, metadata, spec and status"
    shape = _Pod

    def _object(self, value: dict[str, object]) -> LabelledPod | None:
        metadata = self._get(value, "metadata", dict, {})
        namespace, name = self._own_key(
            metadata, SUBDOMAIN, "name of a Pod: lower case letters, digits, '-' and '.' (RFC 1123)"
        )
        spec = self._get(value, "spec", dict, {})
        status = self._get(value, "status", dict, {})
        if status.get("phase") in ENDED:
            return None
        return LabelledPod(
            namespace=namespace,
            name=name,
            uid=self._uid(metadata),
            # Thousands have the same.
            labels={key: sys.intern(value) for key, value in self._labels(metadata).items()},
            node=sys.intern(self._get(spec, "spec.nodeName", str, "")),
            ips=self._ips(status),
            host_network=self._get(spec, "spec.hostNetwork", bool, False),
            ports=self._ports(spec),
            source=self._source,
        )

    def _uid(self, metadata: dict[str, object]) -> str:
        """As runtimes know it: of a static pod, which the API has a mirror of, kubelet's own."""
        annotations = metadata.get("annotations")
        mirrored = annotations.get(_MIRROR) if isinstance(annotations, dict) else None
        return mirrored if isinstance(mirrored, str) else self._get(metadata, "metadata.uid", str, "")

    def _ips(self, status: dict[str, object]) -> tuple[IPAddress, ...]:
        """podIPs, or podIP if there are none."""
        entries = status.get("podIPs")
        if entries is not None and not isinstance(entries, list):
            self._remark("status.podIPs", f"must be a list, is {shown(entries)}; there are none")
            return ()
        found: dict[IPAddress, None] = {}
        for path, text in given_ips(status, entries or ()):
            address = address_of(text)
            if isinstance(address, str):
                self._remark(path, f"{address}; it is left out")
            else:
                found[address] = None
        return tuple(found)

    def _ports(self, spec: dict[str, object]) -> tuple[NamedPort, ...]:
        """What has a name in containers and sidecars (initContainers that always run, KEP-753)."""
        found: dict[tuple[str, Protocol], set[int]] = {}
        for path, entry in self._containers(spec):
            for name, protocol, number in self._named(entry, path):
                found.setdefault((name, protocol), set()).add(number)
        for name, protocol in sorted(found):
            if len(found[name, protocol]) > 1:
                self._remark(
                    "spec.containers",
                    f"{protocol.value} port {shown(name)} has several numbers; no rule allows it by that name, give "
                    "each a name",
                )
        return tuple(
            NamedPort(name=name, port=number, protocol=protocol, several=len(found[name, protocol]) > 1)
            for name, protocol in sorted(found)
            for number in sorted(found[name, protocol])
        )

    def _containers(self, spec: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
        for path, entry in self._entries(spec.get("containers"), "spec.containers"):
            if entry.get("ports"):
                yield path, entry
        for path, entry in self._entries(spec.get("initContainers"), "spec.initContainers"):
            if entry.get("ports") and entry.get("restartPolicy") == "Always":
                yield path, entry

    def _named(self, container: dict[str, object], path: str) -> Iterator[tuple[str, Protocol, int]]:
        for at, entry in self._entries(container.get("ports"), f"{path}.ports"):
            name, number = entry.get("name"), entry.get("containerPort")
            if name is None or name == "":
                continue
            protocol = self._protocol(entry, at)
            if not isinstance(name, str):
                self._remark(f"{at}.name", f"must be text, is {shown(name)}; the port is left out")
            elif not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 65535:
                self._remark(f"{at}.containerPort", "is not a number from 1 to 65535; the port is left out")
            elif protocol is not None:
                yield name, protocol, number

    def _entries(self, value: object, path: str) -> Iterator[tuple[str, dict[str, object]]]:
        """(path, mapping) of each entry of a list, as far as they are there."""
        if value is None:
            return
        if not isinstance(value, list):
            self._remark(path, f"must be a list, is {shown(value)}; ports in it have no names")
            return
        for index, entry in enumerate(value):
            if isinstance(entry, dict):
                yield f"{path}[{index}]", entry
            else:
                self._remark(f"{path}[{index}]", f"must be a mapping, is {shown(entry)}; it is left out")


def given_ips(status: dict[str, object], entries: Sequence[object]) -> list[tuple[str, object]]:
    """(path, address as it is given) of `entries`, which are the status's podIPs, or of its podIP if there are none."""
    given = [
        (f"status.podIPs[{index}]", entry.get("ip") if isinstance(entry, dict) else entry)
        for index, entry in enumerate(entries)
    ]
    if not given and (single := status.get("podIP")) is not None and single != "":
        given = [("status.podIP", single)]
    return given
