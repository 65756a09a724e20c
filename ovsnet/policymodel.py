"""Policies and what they select by, as a store supplies them: Kubernetes' objects, as far as policy needs them.

Pure data. Fields mean what the API reference of networking.k8s.io/v1 NetworkPolicy, policy.networking.k8s.io/v1alpha2
ClusterNetworkPolicy, core/v1 Pod and Namespace says. A store makes them, strictly: what can't be read allows nothing.
`policies` derives from them what this node programs.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from ovsnet.model import Frozen, IPAddress, IPNetwork, Namespaced
from ovsnet.servicemodel import Protocol

Labels = Mapping[str, str]


class Direction(str, enum.Enum):
    """Of connections, as a policy's pods see them; the value is the API's policyType."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class Operator(str, enum.Enum):
    """Of matchExpressions; the value is the API's."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Frozen):
    """One of matchExpressions. An entry of matchLabels is one as well, IN with one value."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        """What has no such label is NOT_IN whatever values."""
        if self.operator is Operator.IN:
            return labels.get(self.key) in self.values
        if self.operator is Operator.NOT_IN:
            return labels.get(self.key) not in self.values
        return (self.key in labels) is (self.operator is Operator.EXISTS)

    @property
    def text(self) -> str:
        """As kubectl writes it."""
        if self.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
            return self.key if self.operator is Operator.EXISTS else f"!{self.key}"
        word = "in" if self.operator is Operator.IN else "notin"
        return f"{self.key} {word} ({','.join(sorted(self.values))})"


class Selector(Frozen):
    """A LabelSelector: all requirements together; none of them: everything. They are sorted and each is there once."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        return all(each.matches(labels) for each in self.requirements)

    @property
    def text(self) -> str:
        return ",".join(each.text for each in self.requirements) or "*"


class Block(Frozen):
    """ipBlock: a network without some parts of it."""

    cidr: IPNetwork
    excepts: tuple[IPNetwork, ...] = ()

    @property
    def text(self) -> str:
        return str(self.cidr) + "".join(f" but {each}" for each in self.excepts)

    def __contains__(self, address: IPAddress) -> bool:
        return address in self.cidr and not any(address in each for each in self.excepts)


class PolicyPeer(Frozen):
    """Who is at the other end: pods or a block.

    pods alone: those of the policy's namespace; namespaces: those of all that it selects.
    """

    pods: Selector | None = None
    namespaces: Selector | None = None
    block: Block | None = None
    nodes: Selector | None = None
    """Nodes by their labels, of a ClusterNetworkPolicy only."""


class PolicyPort(Frozen):
    """Ports of the end that is connected to. first and last: 0 to 65535 if it is all of them."""

    protocol: Protocol = Protocol.TCP
    first: int = 0
    last: int = 65535
    name: str = ""
    """A container's port by its name, whose number may differ from pod to pod; first and last mean nothing then."""


class PolicyRule(Frozen):
    """What is allowed. None: everybody, or every port and protocol; an empty tuple: nobody, or no port."""

    peers: tuple[PolicyPeer, ...] | None = None
    ports: tuple[PolicyPort, ...] | None = None


class NetworkPolicy(Namespaced):
    """Isolates the pods that it selects in a direction, but for what its rules allow there."""

    pods: Selector
    ingress: tuple[PolicyRule, ...] | None = None
    """None: it says nothing of that direction."""
    egress: tuple[PolicyRule, ...] | None = None
    source: str = ""
    """Where it stands, for messages."""

    def rules(self, direction: Direction) -> tuple[PolicyRule, ...] | None:
        return self.ingress if direction is Direction.INGRESS else self.egress


class Tier(str, enum.Enum):
    """Where a ClusterNetworkPolicy has its say: before NetworkPolicies, or where none of them isolates the pod."""

    ADMIN = "Admin"
    BASELINE = "Baseline"


class Action(str, enum.Enum):
    """What becomes of a connection that a rule matches. PASS: the next tier decides."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105 - no password


class ClusterRule(PolicyRule, kw_only=True):
    """Of a ClusterNetworkPolicy. peers: never None; an empty tuple: it matches nothing, since it can't be read."""

    action: Action
    name: str = ""

    @property
    def has_names(self) -> bool:
        """Whether it asks for ports by name."""
        return any(port.name for port in self.ports or ())


class Subject(Frozen):
    """The pods that a ClusterNetworkPolicy is about."""

    namespaces: Selector = Selector()
    pods: Selector = Selector()


class ClusterNetworkPolicy(Frozen):
    """Rules of which the first that matches decides: of its tier's policies the one with the lowest priority first."""

    name: str
    tier: Tier
    priority: int
    subject: Subject
    ingress: tuple[ClusterRule, ...] = ()
    egress: tuple[ClusterRule, ...] = ()
    source: str = ""

    @property
    def key(self) -> str:
        return self.name

    def rules(self, direction: Direction) -> tuple[ClusterRule, ...]:
        return self.ingress if direction is Direction.INGRESS else self.egress


class Namespace(Frozen):
    """labels: with kubernetes.io/metadata.name, which every namespace has."""

    name: str
    labels: Labels = {}
    source: str = ""

    @property
    def key(self) -> str:
        return self.name


class NamedPort(Frozen):
    """A container's port that has a name. several: the name stands for other numbers of the protocol as well: what
    denies or passes on means all of them, what allows none."""

    name: str
    port: int
    protocol: Protocol = Protocol.TCP
    several: bool = False

    @property
    def text(self) -> str:
        """TCP http=8080"""
        return f"{self.protocol.value} {self.name}={self.port}" + (" among others" if self.several else "")


class LabelledPod(Namespaced):
    """A Kubernetes Pod of any node, as far as policies mind. Those that have come to their end are none."""

    uid: str = ""
    labels: Labels = {}
    node: str = ""
    ips: tuple[IPAddress, ...] = ()
    """status.podIPs: empty until it has been attached and kubelet has told."""
    host_network: bool = False
    """Its addresses are the node's: no policy selects it, and no selector of a peer does."""
    ports: tuple[NamedPort, ...] = ()
    """Of all its containers, sidecars among them, in order of names, protocols and numbers."""
    source: str = ""
