"""One Node object, as far as the network is concerned.

Pure. Never compares Nodes with one another: `cluster` does. Called through `manifest.READERS`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TypeVar

from ovsnet import ranges
from ovsnet.model import Encap, IPAddress, IPNetwork, Node, Published
from ovsnet.store.reading import SUBDOMAIN, Reader, address_of, shown

ENCAPSULATION = "ovsnet.io/encapsulation"
"""Annotation, a user's: how this node is reached."""
TUNNEL_ENCAPSULATION = "ovsnet.io/tunnel-encapsulation"
TUNNEL_ADDRESS = "ovsnet.io/tunnel-address"
MTU = "ovsnet.io/mtu"
"""Annotations, the agent's: `model.Published`."""
ZONE = "topology.kubernetes.io/zone"
"""Label: which of a Service's endpoints are near."""

TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
"""Taint of a node that Cluster Autoscaler has chosen to remove, which load balancers heed (KEP-3836)."""

_MTU = re.compile(r"[1-9][0-9]{2,4}")
_Said = TypeVar("_Said")

_EXAMPLE = "10.244.1.0/24 or fd00:10:244:1::/64"


class NodeReader(Reader[Node]):
    kind = "Node"
    fields = "kind, metadata, spec and status"

    def _object(self, value: dict[str, object]) -> Node | None:
        metadata = self._get(value, "metadata", dict, {})
        name = self._own_name(
            metadata, SUBDOMAIN, "node name: lower case letters, digits, '-' and '.' (RFC 1123)"
        )
        annotations = self._get(metadata, "metadata.annotations", dict, {})
        encap = self._encap(annotations)
        cidrs = self._cidrs(self._get(value, "spec", dict, {}))
        status = self._get(value, "status", dict, {})
        labels = self._get(metadata, "metadata.labels", dict, {})
        zone = self._get(labels, f"metadata.labels.{ZONE}", str, "", ZONE)
        return Node(
            name=name,
            pod_cidrs=cidrs,
            addresses=self._addresses(status),
            encap=encap,
            zone=zone,
            labels={key: each for key, each in labels.items() if isinstance(each, str)},
            others=_others(status),
            published=Published(
                encap=self._said(annotations, TUNNEL_ENCAPSULATION, Encap),
                address=self._said(annotations, TUNNEL_ADDRESS, _address),
                mtu=self._said(annotations, MTU, _mtu),
            ),
            leaving=self._leaving(value, metadata),
            created=self._get(metadata, "metadata.creationTimestamp", str, ""),
            source=self._source,
        )

    def _leaving(self, value: dict[str, object], metadata: dict[str, object]) -> bool:
        taints = self._mappings(self._get(value, "spec", dict, {}), "spec.taints")
        keys = [self._get(taint, f"{path}.key", str, "") for path, taint in taints]
        return metadata.get("deletionTimestamp") is not None or TO_BE_DELETED in keys

    def _encap(self, annotations: dict[str, object]) -> Encap | None:
        text = self._get(annotations, f"metadata.annotations.{ENCAPSULATION}", str, "", ENCAPSULATION)
        try:
            return Encap(text) if text else None
        except ValueError:
            known = ", ".join(encap.value for encap in Encap)
            self._complain(f"metadata.annotations.{ENCAPSULATION}", f"{text!r} is unknown; one of {known}")
            return None

    def _said(self, annotations: dict[str, object], key: str, read: Callable[[str], _Said]) -> _Said | None:
        """What an agent published; what can't be read is left out, as the node works without it."""
        text = annotations.get(key)
        if text is None or text == "":
            return None
        if isinstance(text, str):
            try:
                return read(text)
            except ValueError:
                pass
        self._remark(
            f"metadata.annotations.{key}", f"{shown(text)} is nothing that an agent writes; left out"
        )
        return None

    def _cidrs(self, spec: dict[str, object]) -> tuple[IPNetwork, ...]:
        before = len(self.problems)
        single = self._get(spec, "spec.podCIDR", str, "")
        texts = self._get(spec, "spec.podCIDRs", list, [])
        cidrs = tuple(
            found
            for index, text in enumerate(texts)
            if (found := self._cidr(f"spec.podCIDRs[{index}]", text)) is not None
        )
        if len(self.problems) > before:
            return ()
        if single and texts and single != texts[0]:
            self._complain(
                "spec.podCIDR", f"{single} is not the first of podCIDRs ({texts[0]}); leave one of both out"
            )
        elif single and not texts:
            found = self._cidr("spec.podCIDR", single)
            return (found,) if found is not None else ()
        elif not texts:
            self._complain("spec.podCIDRs", f"is missing; give the node's ranges, for example {_EXAMPLE}")
        for index, cidr in enumerate(cidrs):
            for other in cidrs[:index]:
                if cidr.version == other.version and cidr.overlaps(other):
                    self._complain(
                        f"spec.podCIDRs[{index}]", f"{cidr} overlaps {other} of the same node; keep one"
                    )
        return cidrs

    def _cidr(self, path: str, text: object) -> IPNetwork | None:
        if not isinstance(text, str) or "/" not in text:
            self._complain(path, f"{shown(text)} is not a range of addresses such as {_EXAMPLE}")
            return None
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            whole = _without_host_bits(text)
            what = (
                f"{text} has host bits set; write {whole}"
                if whole
                else f"{error}; give a range such as {_EXAMPLE}"
            )
            self._complain(path, what)
            return None
        if (why := ranges.unusable_range(network)) is not None:
            self._complain(path, f"{text} {why}, which no pod can have; give a range such as {_EXAMPLE}")
            return None
        if (why := ranges.too_small(network)) is not None:
            self._complain(path, f"{text} {why}")
            return None
        return network

    def _addresses(self, status: dict[str, object]) -> tuple[IPAddress, ...]:
        found: dict[IPAddress, None] = {}
        for index, entry in enumerate(self._get(status, "status.addresses", list, [])):
            path = f"status.addresses[{index}]"
            if not isinstance(entry, dict):
                self._complain(path, "must be a mapping with type and address")
                continue
            if self._get(entry, f"{path}.type", str, "") != "InternalIP":
                continue
            text = self._get(entry, f"{path}.address", str, "")
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                self._complain(f"{path}.address", f"{text!r} is not an IP address, as an InternalIP must be")
                continue
            if (kind := ranges.unusable_address(address)) is not None:
                self._complain(f"{path}.address", f"{text} is {kind}; other nodes can't reach it")
                continue
            found[address] = None
        return tuple(found)


def _address(text: str) -> IPAddress:
    """Raises ValueError, of what no packet can have and of zones too: their text may be anything."""
    found = address_of(text)
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _mtu(text: str) -> int:
    """Raises ValueError."""
    if _MTU.fullmatch(text) is None:
        raise ValueError(text)
    return int(text)


def _others(status: dict[str, object]) -> tuple[IPAddress, ...]:
    """Addresses that are no InternalIP, such as ExternalIP; of names there are none."""
    entries = status.get("addresses")
    found: dict[IPAddress, None] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("type") != "InternalIP":
            address = address_of(entry.get("address"))
            if not isinstance(address, str):
                found[address] = None
    return tuple(found)


def _without_host_bits(text: str) -> IPNetwork | None:
    """The range that the text means in spite of host bits; None if it means none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
