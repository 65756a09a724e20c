"""Pods in a manifest file, as far as the network is concerned.

Pure. The agent learns of pods through CNI and never reads these; `ovsnet render` does, to show the flows of a
state that exists in files only.
"""

from __future__ import annotations

import ipaddress

import msgspec

from ovsnet.errors import StoreError
from ovsnet.model import Frozen, IPAddress
from ovsnet.store import documents, manifest


class ManifestPod(Frozen):
    """A Pod. node: where it runs, "" if that is not known."""

    namespace: str
    name: str
    node: str
    ips: tuple[IPAddress, ...]


class _Metadata(Frozen):
    name: str
    namespace: str = "default"


class _Spec(Frozen, rename="camel"):
    node_name: str = ""


class _PodIP(Frozen):
    ip: str


class _Status(Frozen, rename={"pod_ips": "podIPs"}):
    pod_ips: tuple[_PodIP, ...] = ()


class _Pod(Frozen):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


def read(text: str, source: str) -> tuple[ManifestPod, ...]:
    """The Pods in the text of a file; other kinds are passed over. Raises StoreError."""
    try:
        parsed = documents.read(text)
    except documents.Mistake as mistake:
        raise StoreError(f"{source}: {mistake}", "correct the manifest") from mistake
    return tuple(
        _pod(value, ", ".join(filter(None, (source, where))))
        for document in parsed
        for where, value in manifest.objects(
            document, f"document {document.number}" if len(parsed) > 1 else ""
        )
        if isinstance(value, dict) and value.get("kind") == "Pod"
    )


def _pod(value: object, where: str) -> ManifestPod:
    try:
        pod = msgspec.convert(value, _Pod)
        ips = tuple(ipaddress.ip_address(each.ip) for each in pod.status.pod_ips)
    except ValueError as error:
        # msgspec.ValidationError is one: it says which field.
        raise StoreError(f"{where}: Pod: {error}", "see the Kubernetes API reference of this kind") from error
    metadata = pod.metadata
    return ManifestPod(namespace=metadata.namespace, name=metadata.name, node=pod.spec.node_name, ips=ips)
