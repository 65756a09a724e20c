"""One ClusterNetworkPolicy object, in the strictest way that it can be read.

Pure. What is strict depends on the action, and the API says what it is (ClusterNetworkPolicyIngressPeer, "fail
closed"): a rule that can't be read in full (a peer, selector, protocol or field that is wrong or unknown here)
matches nothing if it is an Accept, and is a Deny of everything, for the policy's subject, if it is a Deny, a Pass, or
says neither. A policy of which something else can't be read (subject, tier, priority) may not be meant for whom it is
about, or not to come so soon: it is about whom the rest of its subject selects, comes first of the Admin tier if it
doesn't say when, accepts nothing, and denies what its rules deny or pass on. A field of its spec that is unknown here
may be rules: it denies everything. Without a spec it is unusable, and a problem. Left alone, without a word: kinds of
this name in other API groups. Called through `manifest.READERS`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from ovsnet.policymodel import (
    Action,
    Block,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    PolicyPeer,
    PolicyPort,
    Selector,
    Subject,
    Tier,
)
from ovsnet.servicemodel import Protocol
from ovsnet.store import selectors
from ovsnet.store.policyfields import Unreadable, network, only, port_number, selector
from ovsnet.store.reading import PORT_NAME, PROTOCOLS, SUBDOMAIN, Reader, shown

GROUP = "policy.networking.k8s.io"
EVERYBODY = tuple(PolicyPeer(block=Block(cidr=ipaddress.ip_network(each))) for each in ("0.0.0.0/0", "::/0"))
"""Whom a rule that can't be read denies."""

_DENY_ALL = ClusterRule(action=Action.DENY, peers=EVERYBODY)
_SPEC = frozenset({"tier", "priority", "subject", "ingress", "egress"})
_FAR_ENDS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_PEERS = {
    Direction.INGRESS: frozenset({"namespaces", "pods"}),
    Direction.EGRESS: frozenset({"namespaces", "pods", "nodes", "networks"}),
}
"""Not domainNames: nothing here knows which addresses a name has for a pod."""
_SUBJECT = frozenset({"namespaces", "pods"})
_PODS = frozenset({"namespaceSelector", "podSelector"})
_NAMED = "destinationNamedPort"
_PROTOCOLS: dict[str, Protocol] = {str(word).lower(): each for word, each in PROTOCOLS.items()}
_TIERS: dict[object, Tier] = {each.value: each for each in Tier}
_ACTIONS: dict[object, Action] = {each.value: each for each in Action}
_LAST_PRIORITY = 1000
_MANY = 5
"""Remarks on one policy; more are counted."""


class ClusterPolicyReader(Reader[ClusterNetworkPolicy]):
    kind = "ClusterNetworkPolicy"
    fields = "kind, metadata and spec"

    def _object(self, value: dict[str, object]) -> ClusterNetworkPolicy | None:
        version = value.get("apiVersion")
        if isinstance(version, str) and version.partition("/")[0] != GROUP:
            return None
        metadata = self._get(value, "metadata", dict, {})
        name = self._own_name(
            metadata,
            SUBDOMAIN,
            "name of a ClusterNetworkPolicy: lower case letters, digits, '-' and '.' (RFC 1123)",
        )
        spec = value.get("spec")
        if not isinstance(spec, dict):
            self._complain("spec", f"must be a mapping, is {shown(spec)}")
            return None
        tier, priority, subject = self._head(spec)
        is_doubtful = bool(self.remarks)
        rest = (_DENY_ALL,) if not spec.keys() <= _SPEC else ()
        ingress, egress = (
            (*(map(_in_doubt, found) if is_doubtful else found), *rest)
            for found in (self._rules(spec, Direction.INGRESS), self._rules(spec, Direction.EGRESS))
        )
        if (more := len(self.remarks) - _MANY) > 0:
            del self.remarks[_MANY:]
            self._remark("spec", f"and {more} more that can't be read; they accept nothing")
        return ClusterNetworkPolicy(
            name=name,
            tier=tier,
            priority=priority,
            subject=subject,
            ingress=ingress,
            egress=egress,
            source=self._source,
        )

    # --- whom it is about, and when it is asked ---

    def _head(self, spec: dict[str, object]) -> tuple[Tier, int, Subject]:
        """All but the rules; with a remark if it can't be read in full."""
        for path, text in selectors.unknown_fields(spec, _SPEC, "spec"):
            self._remark(path, f"{text}; the policy denies everything, both ways")
        tier = _TIERS.get(spec["tier"]) if isinstance(spec.get("tier"), str) else None
        if tier is None:
            self._doubt("spec.tier", f"must be {' or '.join(map(str, _TIERS))}, is {shown(spec.get('tier'))}")
        priority = spec.get("priority")
        if isinstance(priority, bool) or not isinstance(priority, int):
            self._doubt(
                "spec.priority", f"must be a whole number from 0 to {_LAST_PRIORITY}, is {shown(priority)}"
            )
            priority = None
        elif not 0 <= priority <= _LAST_PRIORITY:
            number = priority if priority.bit_length() <= 64 else "the number"
            self._doubt("spec.priority", f"{number} is out of range: 0 to {_LAST_PRIORITY}")
            priority = None
        subject = self._subject(spec.get("subject"), "spec.subject")
        return tier or Tier.ADMIN, priority or 0, subject

    def _subject(self, value: object, path: str) -> Subject:
        """Everybody that what can be read of it means."""
        if not isinstance(value, dict):
            self._doubt(path, f"must be a mapping, is {shown(value)}")
            return Subject()
        for fault in selectors.unknown_fields(value, _SUBJECT, path):
            self._doubt(fault.path, fault.text)
        namespaces, pods = value.get("namespaces"), value.get("pods")
        if (namespaces is None) is (pods is None):
            self._doubt(path, "must have either namespaces or pods")
            return Subject()
        if namespaces is not None:
            return Subject(namespaces=self._readable(namespaces, f"{path}.namespaces"))
        if not isinstance(pods, dict):
            self._doubt(f"{path}.pods", f"must be a mapping, is {shown(pods)}")
            return Subject()
        for fault in selectors.unknown_fields(pods, _PODS, f"{path}.pods"):
            self._doubt(fault.path, fault.text)
        return Subject(
            namespaces=self._readable(_or_all(pods), f"{path}.pods.namespaceSelector"),
            pods=self._readable(pods.get("podSelector"), f"{path}.pods.podSelector"),
        )

    def _readable(self, value: object, path: str) -> Selector:
        found, faults = selectors.read(value, path)
        for fault in faults:
            self._doubt(fault.path, fault.text)
        return found

    def _doubt(self, path: str, text: str) -> None:
        self._remark(path, f"{text}; the policy accepts nothing, and denies what its rules deny or pass on")

    # --- rules ---

    def _rules(self, spec: dict[str, object], direction: Direction) -> tuple[ClusterRule, ...]:
        path = f"spec.{direction.value.lower()}"
        value = spec.get(direction.value.lower())
        if value is None:
            return ()
        if not isinstance(value, list):
            return (self._in_place_of(path, f"must be a list, is {shown(value)}", Action.DENY),)
        return tuple(self._rule(entry, f"{path}[{index}]", direction) for index, entry in enumerate(value))

    def _rule(self, entry: object, path: str, direction: Direction) -> ClusterRule:
        if not isinstance(entry, dict):
            return self._in_place_of(path, f"must be a mapping, is {shown(entry)}", Action.DENY)
        word = entry.get("action")
        action = _ACTIONS.get(word) if isinstance(word, str) else None
        if action is None:
            text = f"must be one of {', '.join(map(str, _ACTIONS))}, is {shown(word)}"
            return self._in_place_of(f"{path}.action", text, Action.DENY)
        try:
            return _rule(entry, path, direction, action)
        except Unreadable as reason:
            return self._in_place_of(reason.path, str(reason), action)

    def _in_place_of(self, path: str, text: str, action: Action) -> ClusterRule:
        """What counts of a rule that can't be read."""
        if action is Action.ACCEPT:
            self._remark(path, f"{text}; the rule accepts nothing")
            return ClusterRule(action=action, peers=())
        self._remark(path, f"{text}; the rule denies everything")
        return _DENY_ALL


def _in_doubt(rule: ClusterRule) -> ClusterRule:
    """Of a policy that may mean others, or later."""
    if rule.action is Action.ACCEPT:
        return msgspec.structs.replace(rule, peers=())
    return msgspec.structs.replace(rule, action=Action.DENY)


def _rule(entry: dict[str, object], path: str, direction: Direction, action: Action) -> ClusterRule:
    """Raises Unreadable."""
    far = _FAR_ENDS[direction]
    only(entry, frozenset({"name", "action", far, "protocols"}), path)
    name = entry.get("name")
    if not isinstance(name, str | None):
        raise Unreadable(f"{path}.name", f"must be text, is {shown(name)}")
    peers = tuple(
        peer
        for at, each in _entries(entry.get(far), f"{path}.{far}")
        for peer in _peers(each, at, _PEERS[direction])
    )
    ports = None
    if entry.get("protocols") is not None:
        ports = tuple(
            port
            for at, each in _entries(entry["protocols"], f"{path}.protocols")
            for port in _ports(each, at)
        )
    if any(port.name for port in ports or ()) and any(peer.block or peer.nodes for peer in peers):
        raise Unreadable(f"{path}.protocols", f"{_NAMED} means nothing where a peer is by nodes or networks")
    return ClusterRule(
        action=action,
        name=name or "",
        peers=tuple(dict.fromkeys(peers)),
        ports=None if ports is None else tuple(dict.fromkeys(ports)),
    )


def _peers(entry: dict[str, object], path: str, known: frozenset[str]) -> Iterator[PolicyPeer]:
    """Raises Unreadable."""
    field = _one_of(entry, known, path)
    at, value = f"{path}.{field}", entry[field]
    if field == "networks":
        if not isinstance(value, list) or not value:
            raise Unreadable(at, f"must be a list of networks, is {shown(value) if value else 'empty'}")
        for index, text in enumerate(value):
            yield PolicyPeer(block=Block(cidr=network(text, f"{at}[{index}]")))
    elif field == "nodes":
        yield PolicyPeer(nodes=selector(value, at))
    elif field == "namespaces":
        yield PolicyPeer(namespaces=selector(value, at))
    else:
        if not isinstance(value, dict):
            raise Unreadable(at, f"must be a mapping, is {shown(value)}")
        only(value, _PODS, at)
        yield PolicyPeer(
            namespaces=selector(_or_all(value), f"{at}.namespaceSelector"),
            pods=selector(value.get("podSelector"), f"{at}.podSelector"),
        )


def _or_all(pods: dict[str, object]) -> object:
    """namespaceSelector, which may be left out for all namespaces."""
    found = pods.get("namespaceSelector")
    return {} if found is None else found


def _ports(entry: dict[str, object], path: str) -> Iterator[PolicyPort]:
    """Raises Unreadable."""
    field = _one_of(entry, frozenset({*_PROTOCOLS, _NAMED}), path)
    at, value = f"{path}.{field}", entry[field]
    if field == _NAMED:
        if not isinstance(value, str) or not PORT_NAME.match(value):
            raise Unreadable(at, f"{shown(value)} is not the name of a port")
        # It says no protocol: that of the port of that name counts.
        yield from (PolicyPort(protocol=each, name=value) for each in Protocol)
        return
    if not isinstance(value, dict):
        raise Unreadable(at, f"must be a mapping, is {shown(value)}")
    _one_of(value, frozenset({"destinationPort"}), at)
    port, at = value["destinationPort"], f"{at}.destinationPort"
    if not isinstance(port, dict):
        raise Unreadable(at, f"must be a mapping, is {shown(port)}")
    if _one_of(port, frozenset({"number", "range"}), at) == "number":
        first = last = port_number(port["number"], f"{at}.number")
    else:
        first, last = _range(port["range"], f"{at}.range")
    yield PolicyPort(protocol=_PROTOCOLS[field], first=first, last=last)


def _range(value: object, path: str) -> tuple[int, int]:
    if not isinstance(value, dict):
        raise Unreadable(path, f"must be a mapping, is {shown(value)}")
    only(value, frozenset({"start", "end"}), path)
    first, last = (port_number(value.get(each), f"{path}.{each}") for each in ("start", "end"))
    if first >= last:
        raise Unreadable(path, f"start, {first}, must be less than end, {last}")
    return first, last


def _entries(value: object, path: str) -> Iterator[tuple[str, dict[str, object]]]:
    """(path, mapping) of each entry of a list, which must have some."""
    if not isinstance(value, list) or not value:
        raise Unreadable(path, f"must be a list with entries, is {'empty' if value == [] else shown(value)}")
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise Unreadable(f"{path}[{index}]", f"must be a mapping, is {shown(entry)}")
        yield f"{path}[{index}]", entry


def _one_of(entry: dict[str, object], known: frozenset[str], path: str) -> str:
    """The one field that it has. Raises Unreadable where there is none or more, or one that is unknown here."""
    only(entry, known, path)
    found = [field for field, value in entry.items() if value is not None]
    if len(found) != 1:
        words = " and ".join(sorted(found)) or "nothing"
        raise Unreadable(path, f"must have one of {', '.join(sorted(known))}, has {words}")
    return found[0]
