"""One NetworkPolicy object, in the strictest way that it can be read.

Pure. What can't be understood allows nothing, and is told of: a peer, port or rule that is wrong or has a field that is
unknown here (a newer API's, or a slip of the pen) is left out, and never stands for everybody. A policy whose
podSelector can't be read in full isolates whom the rest of it selects, which are more, and allows nothing; one whose
policyTypes can't be read isolates both ways. So an object is only unusable, and a problem, if it has no name. Left
alone, without a word: kinds of this name in other API groups. Called through `manifest.READERS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ovsnet.model import IPNetwork
from ovsnet.policymodel import (
    Block,
    Direction,
    NetworkPolicy,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Selector,
)
from ovsnet.policynets import parts
from ovsnet.servicemodel import Protocol
from ovsnet.store import selectors
from ovsnet.store.policyfields import Unreadable, network, only, port_number, selector
from ovsnet.store.reading import PORT_NAME, PROTOCOLS, SUBDOMAIN, Reader, shown

_GROUPS = ("networking.k8s.io", "extensions")
"""Where it is, and where it was before."""
_SPEC = frozenset({"podSelector", "policyTypes", "ingress", "egress"})
_PEER = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
_BLOCK = frozenset({"cidr", "except"})
_PORT = frozenset({"protocol", "port", "endPort"})
_DIRECTIONS: dict[object, Direction] = {each.value: each for each in Direction}
_FAR_ENDS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}

_RANGES = 20_000
"""What one block may come to: whoever writes policies in one namespace must not hold up all others."""
_MANY = 5
"""Remarks on one policy; more are counted."""


class PolicyReader(Reader[NetworkPolicy]):
    kind = "NetworkPolicy"
    fields = "kind, metadata and spec"

    def _object(self, value: dict[str, object]) -> NetworkPolicy | None:
        version = value.get("apiVersion")
        if isinstance(version, str) and "/" in version and version.partition("/")[0] not in _GROUPS:
            return None
        metadata = self._get(value, "metadata", dict, {})
        namespace, name = self._own_key(
            metadata,
            SUBDOMAIN,
            "name of a NetworkPolicy: lower case letters, digits, '-' and '.' (RFC 1123)",
        )
        spec, directions = self._spec(value)
        pods, readable = self._pods(spec)
        rules = {
            direction: self._rules(spec, direction) if counts and readable else ()
            for direction, counts in directions.items()
        }
        if (more := len(self.remarks) - _MANY) > 0:
            del self.remarks[_MANY:]
            self._remark("spec", f"and {more} more that can't be read and allow nothing")
        return NetworkPolicy(
            namespace=namespace,
            name=name,
            pods=pods,
            ingress=rules.get(Direction.INGRESS),
            egress=rules.get(Direction.EGRESS),
            source=self._source,
        )

    def _spec(self, value: dict[str, object]) -> tuple[dict[str, object], dict[Direction, bool]]:
        """spec, and the directions that it isolates, each with whether its rules count there."""
        spec = value.get("spec")
        if spec is None:
            # As the API reads it.
            spec = {}
        if isinstance(spec, dict):
            faults = list(selectors.unknown_fields(spec, _SPEC, "spec"))
        else:
            faults, spec = [selectors.Fault("spec", f"must be a mapping, is {shown(spec)}")], {}
        for path, text in faults:
            self._remark(path, f"{text}; the policy isolates both ways and allows nothing")
        return spec, dict.fromkeys(Direction, False) if faults else self._directions(spec)

    def _directions(self, spec: dict[str, object]) -> dict[Direction, bool]:
        given = spec.get("policyTypes")
        if given is None or given == []:
            # As the API does it, to which an empty list is none (SetDefaults_NetworkPolicy).
            egress = spec.get("egress") not in (None, [])
            return dict.fromkeys(Direction, True) if egress else {Direction.INGRESS: True}
        if not isinstance(given, list):
            self._remark(
                "spec.policyTypes",
                f"must be a list, is {shown(given)}; both ways are isolated, nothing is allowed",
            )
            return dict.fromkeys(Direction, False)
        known: set[Direction] = set()
        odd = False
        for word in given:
            if isinstance(word, str) and word in _DIRECTIONS:
                known.add(_DIRECTIONS[word])
            else:
                odd = True
                self._remark(
                    "spec.policyTypes",
                    f"{shown(word)} is unknown here ({', '.join(map(str, _DIRECTIONS))}); both ways are isolated",
                )
        return {each: each in known for each in Direction} if odd else dict.fromkeys(known, True)

    def _pods(self, spec: dict[str, object]) -> tuple[Selector, bool]:
        """Whom it isolates, and whether that is just whom it names."""
        value = spec.get("podSelector")
        found, faults = selectors.read({} if value is None else value, "spec.podSelector")
        for path, text in faults:
            self._remark(path, f"{text}; the policy isolates whom the rest selects, and allows nothing")
        return found, not faults

    # --- rules ---

    def _rules(self, spec: dict[str, object], direction: Direction) -> tuple[PolicyRule, ...]:
        field, far = direction.value.lower(), _FAR_ENDS[direction]
        entries = self._entries(spec.get(field), f"spec.{field}", frozenset({far, "ports"}), "rule")
        return tuple(
            PolicyRule(
                peers=self._peers(entry.get(far), f"{path}.{far}"),
                ports=self._ports(entry.get("ports"), f"{path}.ports"),
            )
            for path, entry in entries
        )

    def _entries(
        self, value: object, path: str, known: frozenset[str], what: str
    ) -> Iterator[tuple[str, dict[str, object]]]:
        """(path, mapping) of each entry of a list, but for those that can't be understood. what: one of them."""
        if value is None:
            return
        if not isinstance(value, list):
            self._remark(path, f"must be a list, is {shown(value)}; it allows nothing")
            return
        for index, entry in enumerate(value):
            at = f"{path}[{index}]"
            if not isinstance(entry, dict):
                self._remark(at, f"must be a mapping, is {shown(entry)}; the {what} is left out")
                continue
            fault = next(selectors.unknown_fields(entry, known, at), None)
            if fault is not None:
                self._remark(at, f"{fault.text}; the {what} is left out")
                continue
            yield at, entry

    def _peers(self, value: object, path: str) -> tuple[PolicyPeer, ...] | None:
        """None: everybody, which only a list without entries means."""
        if value is None or value == []:
            return None
        found: dict[PolicyPeer, None] = {}
        for at, entry in self._entries(value, path, _PEER, "peer"):
            try:
                found[_peer(entry, at)] = None
            except Unreadable as reason:
                self._remark(reason.path, f"{reason}; the peer is left out")
        return tuple(found)

    def _ports(self, value: object, path: str) -> tuple[PolicyPort, ...] | None:
        if value is None or value == []:
            return None
        found: dict[PolicyPort, None] = {}
        for at, entry in self._entries(value, path, _PORT, "port"):
            try:
                found[_port(entry, at)] = None
            except Unreadable as reason:
                self._remark(reason.path, f"{reason}; the port is left out")
        return tuple(found)


def _peer(entry: dict[str, object], path: str) -> PolicyPeer:
    """Raises Unreadable."""
    pods, namespaces, block = (entry.get(each) for each in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        if pods is not None or namespaces is not None:
            raise Unreadable(path, "has an ipBlock and a selector, of which only one can be")
        return PolicyPeer(block=_block(block, f"{path}.ipBlock"))
    if pods is None and namespaces is None:
        raise Unreadable(path, f"is nobody; give {', '.join(sorted(_PEER))}")
    return PolicyPeer(
        pods=None if pods is None else selector(pods, f"{path}.podSelector"),
        namespaces=None if namespaces is None else selector(namespaces, f"{path}.namespaceSelector"),
    )


def _block(value: object, path: str) -> Block:
    if not isinstance(value, dict):
        raise Unreadable(path, f"must be a mapping, is {shown(value)}")
    only(value, _BLOCK, path)
    cidr = network(value.get("cidr"), f"{path}.cidr")
    excepts = value.get("except")
    if not isinstance(excepts, list | None):
        raise Unreadable(f"{path}.except", f"must be a list, is {shown(excepts)}")
    found: set[IPNetwork] = set()
    for index, text in enumerate(excepts or ()):
        at = f"{path}.except[{index}]"
        part = network(text, at)
        if part == cidr or not _is_within(part, cidr):
            raise Unreadable(at, f"{text} is not a part of {cidr}")
        found.add(part)
    block = Block(cidr=cidr, excepts=tuple(sorted(found, key=_order)))
    if (
        len(found) > _RANGES // cidr.max_prefixlen
        and sum(1 for _ in islice(parts(block), _RANGES + 1)) > _RANGES
    ):
        raise Unreadable(
            f"{path}.except",
            f"{len(found)} exceptions make more than {_RANGES} ranges of {cidr}, each a flow",
        )
    return block


def _is_within(part: IPNetwork, whole: IPNetwork) -> bool:
    return (
        part.version == whole.version and part.prefixlen >= whole.prefixlen and part.network_address in whole
    )


def _order(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen


def _port(entry: dict[str, object], path: str) -> PolicyPort:
    """Raises Unreadable."""
    word, port, end = entry.get("protocol"), entry.get("port"), entry.get("endPort")
    protocol = Protocol.TCP if word is None or word == "" else None
    if isinstance(word, str):
        protocol = PROTOCOLS.get(word, protocol)
    if protocol is None:
        raise Unreadable(
            f"{path}.protocol", f"{shown(word)} is unknown here ({', '.join(map(str, PROTOCOLS))})"
        )
    if port is None or isinstance(port, str):
        if end is not None:
            raise Unreadable(f"{path}.endPort", "needs a port that is a number")
        if port is None:
            return PolicyPort(protocol=protocol)
        if not PORT_NAME.match(port):
            raise Unreadable(f"{path}.port", f"{shown(port)} is not the name of a port")
        return PolicyPort(protocol=protocol, name=port)
    first = port_number(port, f"{path}.port")
    last = first if end is None else port_number(end, f"{path}.endPort")
    if last < first:
        raise Unreadable(f"{path}.endPort", f"{last} is below port, {first}")
    return PolicyPort(protocol=protocol, first=first, last=last)
