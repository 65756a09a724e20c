"""What NetworkPolicies allow, in the plainest Python that says it: tests compare ovsnet's answers with these.

Owns the semantics of networking.k8s.io/v1 NetworkPolicy, on manifests as yaml.safe_load gives them. Imports nothing of
ovsnet, so that a mistake there is not repeated here, and keeps nothing: every question is answered from the manifests
alone, however long that takes. Takes manifests that the API server accepts; what it would refuse is not judged.

Where the API leaves a choice, this is ovsnet's:
- a pod always reaches itself, and a pod and the node that it runs on always reach each other;
- pods on their node's network are that node: no selector finds them, neither a policy's nor a peer's;
- an ipBlock is about addresses, whoever has them, pods too. A node that uses the address which it has as the gateway of
  its own pods is in a block that has this address or one of its others of the same family, if no except has it;
- a port's name means nothing where an egress rule is about an ipBlock or the destination is no pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tiers_oracle
from policy_matching import block_matches, labels, named_port, namespace_labels, selects
from policy_world import (
    Cluster,
    Connection,
    End,
    Node,
    Object,
    finished,
    key,
    on_host_network,
    parsed,
    pod_addresses,
    same_address,
)
from tiers_oracle import Decision

Direction = Literal["ingress", "egress"]


@dataclass(frozen=True)
class Side:
    """One direction, at the pod that it is about. Rules are written as NAMESPACE/NAME ingress[0]."""

    isolated_by: tuple[str, ...] = ()
    allowed_by: tuple[str, ...] = ()
    decision: Decision | None = None
    """Of a ClusterNetworkPolicy."""

    @property
    def allows(self) -> bool:
        if self.decision is not None:
            return self.decision.action != "Deny"
        return bool(self.allowed_by) or not self.isolated_by

    def __str__(self) -> str:
        if self.decision is not None:
            return f"{self.decision.action} by {self.decision.rule}"
        if not self.isolated_by:
            return "not isolated"
        return (
            f"isolated by {', '.join(self.isolated_by)}; allowed by {', '.join(self.allowed_by) or 'no rule'}"
        )


@dataclass(frozen=True)
class Verdict:
    """always: why policies are not asked at all, or empty."""

    egress: Side = Side()
    ingress: Side = Side()
    always: str = ""

    @property
    def allowed(self) -> bool:
        return not self.denied_by

    @property
    def denied_by(self) -> tuple[Direction, ...]:
        sides: tuple[tuple[Direction, Side], ...] = (("egress", self.egress), ("ingress", self.ingress))
        return tuple(name for name, side in sides if not side.allows)

    def __str__(self) -> str:
        if self.always:
            return f"allowed: {self.always}"
        word = f"denied by {' and '.join(self.denied_by)}" if self.denied_by else "allowed"
        return f"{word} (egress: {self.egress}. ingress: {self.ingress})"


def verdict(cluster: Cluster, connection: Connection) -> Verdict:
    """May it be opened? Answers are not asked about: they belong to what was allowed.

    Raises ValueError where an end does not have its address, or the two are of different families.
    """
    source = _resolved(cluster, connection.source)
    destination = _resolved(cluster, connection.destination)
    if parsed(source.address).version != parsed(destination.address).version:
        raise ValueError(
            f"{connection}: the addresses are of different families; ask about one family at a time"
        )
    asked = Connection(source, destination, connection.protocol, connection.port)
    if always := _always(source.who, destination.who):
        return Verdict(always=always)
    return Verdict(egress=_side(cluster, "egress", asked), ingress=_side(cluster, "ingress", asked))


def _resolved(cluster: Cluster, end: End) -> End:
    """The same with who counts: a pod on the host's network as its node, one that has finished as nobody."""
    who = end.who
    if isinstance(who, dict) and finished(who):
        return End(None, end.address)
    if isinstance(who, dict) and on_host_network(who):
        name = who["spec"]["nodeName"]
        found = next((node for node in cluster.nodes if node.name == name), None)
        if found is None:
            raise ValueError(f"{end}: runs on node {name!r}, which the cluster doesn't have; add the node")
        who = found
    known: tuple[str, ...] = ()
    if isinstance(who, Node):
        known = (*who.addresses, *who.gateways)
    elif who is not None:
        known = pod_addresses(who)
    if who is not None and not same_address(end.address, known):
        raise ValueError(f"{end}: has no such address; give one of {', '.join(known) or 'none at all'}")
    return End(who, end.address)


def _always(source: Object | Node | None, destination: Object | Node | None) -> str:
    if isinstance(source, dict) and isinstance(destination, dict):
        return "a pod reaches itself" if key(source) == key(destination) else ""
    for one, other in ((source, destination), (destination, source)):
        if isinstance(one, dict) and isinstance(other, Node) and one["spec"].get("nodeName") == other.name:
            return "a pod and its own node"
    return ""


def _side(cluster: Cluster, direction: Direction, connection: Connection) -> Side:
    """Additive: what one policy allows no other takes away; the order of policies and rules means nothing."""
    pod = connection.source.who if direction == "egress" else connection.destination.who
    if not isinstance(pod, dict):
        return Side()  # policies are about pods
    admin = tiers_oracle.decision(cluster, "Admin", direction, connection)
    if admin is not None and admin.action == "Pass":
        admin = None
    applying = [each for each in cluster.policies if applies(each, direction, pod)]
    return Side(
        isolated_by=tuple(key(policy) for policy in applying),
        allowed_by=tuple(
            f"{key(policy)} {direction}[{number}]"
            for policy in applying
            for number, rule in enumerate(policy["spec"].get(direction) or ())
            if _rule_allows(cluster, policy, direction, rule, connection)
        ),
        decision=admin
        or (None if applying else tiers_oracle.decision(cluster, "Baseline", direction, connection)),
    )


def applies(policy: Object, direction: Direction, pod: Object) -> bool:
    """Does it isolate the pod in this direction?"""
    return (
        not finished(pod)
        and not on_host_network(pod)
        and policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and selects(policy["spec"].get("podSelector") or {}, labels(pod))
        and direction.title() in policy_types(policy)
    )


def policy_types(policy: Object) -> Sequence[str]:
    """Ingress unless it says otherwise, and Egress if there are rules for it: an empty list is none."""
    spec = policy["spec"]
    given: Sequence[str] = spec.get("policyTypes") or ()
    return given or (("Ingress", "Egress") if spec.get("egress") else ("Ingress",))


def _rule_allows(
    cluster: Cluster, policy: Object, direction: Direction, rule: Object, connection: Connection
) -> bool:
    """Peer and port must both be in the rule. No peers or ports, or empty lists of them: all."""
    peers = rule.get("from" if direction == "ingress" else "to") or (None,)
    ports = rule.get("ports") or (None,)
    other = connection.source if direction == "ingress" else connection.destination
    return any(
        _peer_matches(cluster, policy, peer, other) and _port_matches(direction, peer, port, connection)
        for peer in peers
        for port in ports
    )


def _peer_matches(cluster: Cluster, policy: Object, peer: Object | None, other: End) -> bool:
    if peer is None:
        return True
    if peer.get("ipBlock") is not None:
        return block_matches(peer["ipBlock"], other)
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    if pods is None and namespaces is None:
        raise ValueError(
            f"{key(policy)}: a peer without podSelector, namespaceSelector and ipBlock; give it one"
        )
    if not isinstance(other.who, dict):
        return False  # selectors find pods
    namespace = other.who["metadata"]["namespace"]
    if namespaces is None:
        there = namespace == policy["metadata"]["namespace"]
    else:
        there = selects(namespaces, namespace_labels(cluster, namespace))
    return there and (pods is None or selects(pods, labels(other.who)))


def _port_matches(
    direction: Direction, peer: Object | None, port: Object | None, connection: Connection
) -> bool:
    if port is None:
        return True
    if connection.protocol is None or connection.protocol != (port.get("protocol") or "TCP"):
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        by_address = direction == "egress" and peer is not None and peer.get("ipBlock") is not None
        target = connection.destination.who
        if by_address or not isinstance(target, dict):
            return False
        return connection.port == named_port(target, wanted, connection.protocol)
    last = port.get("endPort")
    return bool(wanted <= connection.port <= (wanted if last is None else last))
