"""One Pod object of this node, as far as its interface here goes.

Pure. Unlike `labelledpods` it has those that have come to their end as well: they are not gone. Called through the
`kubernetes` store.
"""

from __future__ import annotations

from typing import TypedDict

from ovsnet.model import IPAddress, OwnPod
from ovsnet.store.labelledpods import ENDED, Status, given_ips
from ovsnet.store.reading import SUBDOMAIN, Reader, address_of


class _Metadata(TypedDict, total=False):
    name: object
    namespace: object
    deletionTimestamp: object


class _Spec(TypedDict, total=False):
    hostNetwork: object


class _Pod(TypedDict, total=False):
    metadata: _Metadata | None
    spec: _Spec | None
    status: Status | None


class OwnPodReader(Reader[OwnPod]):
    kind = "Pod"
    fields = "kind, metadata, spec and status"
    shape = _Pod

    def _object(self, value: dict[str, object]) -> OwnPod:
        metadata = self._get(value, "metadata", dict, {})
        namespace, name = self._own_key(
            metadata, SUBDOMAIN, "name of a Pod: lower case letters, digits, '-' and '.' (RFC 1123)"
        )
        spec = self._get(value, "spec", dict, {})
        status = self._get(value, "status", dict, {})
        # One that is being deleted may lose its sandbox long before its object goes, which finalizers or volumes keep.
        without = (
            self._get(spec, "spec.hostNetwork", bool, False)
            or status.get("phase") in ENDED
            or metadata.get("deletionTimestamp") is not None
        )
        return OwnPod(
            namespace=namespace, name=name, ips=() if without else _ips(status), source=self._source
        )


def _ips(status: dict[str, object]) -> tuple[IPAddress, ...]:
    """Those that can be read."""
    entries = status.get("podIPs")
    found = (address_of(text) for _, text in given_ips(status, entries if isinstance(entries, list) else ()))
    return tuple(dict.fromkeys(each for each in found if not isinstance(each, str)))
