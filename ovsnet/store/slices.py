"""One EndpointSlice object, as far as the network is concerned.

Pure. Left alone, without a word: slices of no Service (label `kubernetes.io/service-name`), those of Services that
`services` leaves alone by their labels, and those of names instead of addresses (addressType FQDN), which no packet
can be sent to. An endpoint or port that can't be used is told of and left out; the others work. Called through
`manifest.READERS`.
"""

from __future__ import annotations

import sys

from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice
from ovsnet.store.reading import SUBDOMAIN, Reader, address_of, shown
from ovsnet.store.services import HEADLESS, OTHER_PROXY

SERVICE_NAME = "kubernetes.io/service-name"
"""Label: whose endpoints they are."""

_FAMILIES = {"IPv4": 4, "IPv6": 6}
_NOTHING: dict[str, object] = {}
_MANY = 5
"""Endpoints of one slice that are named; more are counted."""


class SliceReader(Reader[EndpointSlice]):
    kind = "EndpointSlice"
    fields = "kind, metadata, addressType, endpoints and ports"

    def _object(self, value: dict[str, object]) -> EndpointSlice | None:
        metadata = self._get(value, "metadata", dict, {})
        namespace, name = self._own_key(
            metadata,
            SUBDOMAIN,
            "name of an EndpointSlice: lower case letters, digits, '-' and '.' (RFC 1123)",
        )
        labels = self._get(metadata, "metadata.labels", dict, {})
        service = self._get(labels, f"metadata.labels.{SERVICE_NAME}", str, "", SERVICE_NAME)
        family = self._family(value)
        if not service or OTHER_PROXY in labels or HEADLESS in labels or not family:
            return None
        return EndpointSlice(
            namespace=namespace,
            name=name,
            service=service,
            ports=self._ports(value),
            endpoints=self._endpoints(value, family),
            source=self._source,
        )

    def _family(self, value: dict[str, object]) -> int:
        """4 or 6; 0 if there is none that packets have."""
        word = self._get(value, "addressType", str, "")
        if not word:
            self._complain("addressType", "is missing; IPv4 or IPv6")
        elif word not in _FAMILIES and word != "FQDN":
            self._remark("addressType", f"{shown(word)} is unknown here (IPv4, IPv6); the slice is left out")
        return _FAMILIES.get(word, 0)

    def _ports(self, value: dict[str, object]) -> tuple[EndpointPort, ...]:
        found: dict[str, EndpointPort] = {}
        for path, entry in self._mappings(value, "ports"):
            name = self._get(entry, f"{path}.name", str, "")
            protocol = self._protocol(entry, path)
            number = self._number(entry, f"{path}.port", 1, 65535)
            if name in found:
                self._complain(f"{path}.name", f"the name {shown(name)} is another port's too; keep one")
            elif not number:
                self._remark(f"{path}.port", "no number, which means all ports; it is left out")
            elif protocol is not None:
                found[name] = EndpointPort(name=name, protocol=protocol, port=number)
        return tuple(found.values())

    def _endpoints(self, value: dict[str, object], family: int) -> tuple[Endpoint, ...]:
        found: dict[object, Endpoint] = {}
        odd: list[tuple[str, str]] = []
        for index, entry in enumerate(self._get(value, "endpoints", list, [])):
            try:
                endpoint = _endpoint(entry, family)
            except _Unusable as reason:
                odd.append((f"endpoints[{index}]", f"{reason}; it is left out"))
                continue
            other = found.setdefault(endpoint.address, endpoint)
            if other is endpoint:
                continue
            # Pods that succeed one another on a node's own address: the better one counts.
            if _rank(endpoint) > _rank(other):
                found[endpoint.address] = endpoint
            elif endpoint.ready and other.ready:
                odd.append((f"endpoints[{index}]", f"{endpoint.address} stands twice; it counts once"))
        for path, text in odd[:_MANY]:
            self._remark(path, text)
        if len(odd) > _MANY:
            self._remark("endpoints", f"and {len(odd) - _MANY} more that are left out or stand twice")
        return tuple(found.values())


class _Unusable(Exception):
    """An endpoint that nothing can be sent to, and why."""


def _endpoint(entry: object, family: int) -> Endpoint:
    """Raises _Unusable."""
    if not isinstance(entry, dict):
        raise _Unusable(f"must be a mapping, is {shown(entry)}")
    addresses = entry.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        raise _Unusable("has no addresses")
    address = address_of(addresses[0])
    if isinstance(address, str):
        raise _Unusable(address)
    if address.version != family:
        raise _Unusable(f"{address} is not of the slice's addressType, IPv{family}")
    ready, serving, terminating = _conditions(entry.get("conditions"))
    node, zone, hints = entry.get("nodeName"), entry.get("zone"), entry.get("hints")
    return Endpoint(
        address=address,
        ready=ready,
        serving=serving,
        terminating=terminating,
        # Of few nodes and zones there are many endpoints: each name once in memory.
        node=sys.intern(node) if isinstance(node, str) else "",
        zone=sys.intern(zone) if isinstance(zone, str) else "",
        for_zones=_hinted(hints, "forZones") if hints is not None else (),
        for_nodes=_hinted(hints, "forNodes") if hints is not None else (),
    )


def _conditions(value: object) -> tuple[bool, bool, bool]:
    """ready, serving, terminating. The API reference: unknown is ready, serving as ready, and not terminating."""
    given = value if isinstance(value, dict) else _NOTHING
    ready = given.get("ready") is not False
    serving = given.get("serving")
    return ready, serving if isinstance(serving, bool) else ready, given.get("terminating") is True


def _hinted(hints: object, key: str) -> tuple[str, ...]:
    """The names in hints.forZones or hints.forNodes. A hint that can't be read is none: traffic goes anywhere then."""
    entries = hints.get(key) if isinstance(hints, dict) else None
    if not isinstance(entries, list):
        return ()
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return tuple(sys.intern(name) for name in names if isinstance(name, str)) if all(names) else ()


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return endpoint.ready, endpoint.serving, not endpoint.terminating
