"""What policies say of a new connection between two ends, side by side, and which rule or policies say it.

Pure. Judges from what the store says alone, for pods of any node, and never looks at flows: the command proves its
answer by those. An end is a pod, a node or an address. Called by `ovsnet policy check`.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from ovsnet import policies as deriving
from ovsnet.errors import OvsnetError
from ovsnet.model import Frozen, IPAddress, Node
from ovsnet.policies import Granted, Policies
from ovsnet.policylists import Allowance
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    Direction,
    LabelledPod,
    Namespace,
    NetworkPolicy,
    Tier,
)
from ovsnet.policynodes import NodeAddresses
from ovsnet.policytiers import Standing
from ovsnet.servicemodel import Protocol

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


_LIKE = 5
"""Names of pods that are offered instead of one that there is not."""


class World(Frozen):
    """What there is, as a store says it. local: this node's pods with their addresses, by the Pod's key."""

    policies: Mapping[str, NetworkPolicy]
    namespaces: Mapping[str, Namespace]
    pods: Mapping[str, LabelledPod]
    nodes: Mapping[str, Node]
    node: str
    """This one's name."""
    local: Mapping[str, tuple[IPAddress, ...]]
    cluster_policies: Mapping[str, ClusterNetworkPolicy] = {}


class End(Frozen):
    """One end of a connection. pod: the Pod's key, "" if it is none that policies can select. node: where the pod
    runs, or the node that it is; "" for an address outside."""

    title: str
    ips: tuple[IPAddress, ...]
    pod: str = ""
    node: str = ""
    reached: tuple[IPAddress, ...] = ()
    """Where others reach it, if not at `ips`, which it sends from."""


class Why(enum.Enum):
    """What an answer about one side rests on."""

    NO_POD = "no policy can select it"
    OPEN = "no policy isolates it"
    OWN_NODE = "a pod and its node always reach each other"
    ITSELF = "a pod always reaches itself"
    RULE = "a rule allows it"
    ISOLATED = "it is isolated, and no rule allows this"
    TIER = "a rule of a ClusterNetworkPolicy allows it"
    DENIED = "a rule of a ClusterNetworkPolicy denies it"
    UNREAD = "it was isolated, and stays so until all is read that may have policies"


class Side(Frozen):
    """What one end's policies say. rule: the first that allows it. isolating: the policies that isolate the pod.

    decided: the rule of a ClusterNetworkPolicy that decides. passed: that which leaves it to NetworkPolicies.
    """

    direction: Direction
    end: End
    why: Why
    rule: Granted | None = None
    isolating: tuple[NetworkPolicy, ...] = ()
    decided: Standing | None = None
    passed: Standing | None = None

    @property
    def allowed(self) -> bool:
        return self.why not in (Why.ISOLATED, Why.DENIED, Why.UNREAD)


class Connection(Frozen):
    """protocol None: a ping, which has no ports."""

    source: IPAddress
    target: IPAddress
    protocol: Protocol | None = None
    port: int = 0


def end(name: str, world: World) -> End:
    """The pod, node or address of that name. Raises OvsnetError."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return _of_address(address, world)
    if name in world.nodes:
        return _node(name, world)
    keys = {*world.local, *world.pods}
    found = [key for key in keys if name in (key, key.partition("/")[2])]
    if len(found) > 1:
        raise OvsnetError(f"{name} may be {' or '.join(sorted(found))}", "give NAMESPACE/NAME")
    if not found:
        raise OvsnetError(f"{name} is no pod, node or address of the cluster", _meant(name, keys))
    return _pod(found[0], world)


def _meant(name: str, keys: Iterable[str]) -> str:
    """What to give instead: people know the names of Deployments, and type of others what they remember."""
    word = name.rpartition("/")[2]
    like = sorted(key for key in keys if word in key.partition("/")[2])
    if word and like:
        more = f" and {len(like) - _LIKE} more" if len(like) > _LIKE else ""
        return f"do you mean {', '.join(like[:_LIKE])}{more}?"
    return "pods are NAME or NAMESPACE/NAME; of a Service, give one of its endpoints"


def _pod(key: str, world: World) -> End:
    pod = world.pods.get(key)
    ips = world.local.get(key) or (pod.ips if pod else ())
    if pod is not None and pod.host_network:
        if pod.node in world.nodes:
            return _node(pod.node, world, f"pod {key}, which is in the network of node {pod.node}")
        return End(title=f"pod {key}", ips=ips, node=pod.node)
    if not ips:
        raise OvsnetError(f"pod {key} has no address yet", "kubelet tells it once the pod has been attached")
    node = world.node if key in world.local else pod.node if pod else ""
    return End(title=f"pod {key}", ips=ips, pod=key, node=node)


def _node(name: str, world: World, title: str = "") -> End:
    """Pods see its packets come from its gateway's address, and reach it at its InternalIP."""
    known = deriving.node_addresses({name: world.nodes[name]})[name]
    return End(
        title=title or f"node {name}",
        ips=(*known.gateways, *known.addresses),
        node=name,
        reached=(*known.addresses, *known.gateways),
    )


def _of_address(address: IPAddress, world: World) -> End:
    for key, ips in world.local.items():
        if address in ips:
            return End(title=f"pod {key}", ips=(address,), pod=key, node=world.node)
    for name, known in deriving.node_addresses(world.nodes).items():
        if address in (*known.addresses, *known.gateways):
            return End(title=f"node {name}", ips=(address,), node=name)
    for key, pod in world.pods.items():
        if address in pod.ips and not pod.host_network:
            return End(title=f"pod {key}", ips=(address,), pod=key, node=pod.node)
    return End(title=str(address), ips=(address,))


def pairs(source: End, target: End) -> list[tuple[IPAddress, IPAddress]]:
    """One pair of addresses for each family that both ends have. Raises OvsnetError if there is none."""
    found: dict[int, tuple[IPAddress, IPAddress]] = {}
    for a in source.ips:
        for b in target.reached or target.ips:
            if a.version == b.version:
                found.setdefault(a.version, (a, b))
    if not found:
        raise OvsnetError(
            f"{source.title} and {target.title} have no address family in common", "give addresses"
        )
    return [found[version] for version in sorted(found)]


class Judge:
    """Judges connections between two ends, whichever nodes they are on: policies say of any pod what they allow it."""

    def __init__(self, policies: Policies, nodes: Mapping[str, Node]) -> None:
        self._policies = policies
        self._nodes = deriving.node_addresses(nodes)

    def sides(self, source: End, target: End, connection: Connection) -> tuple[Side, Side]:
        """Egress of the source, ingress of the target."""
        if source.pod and source.pod == target.pod:
            return (
                Side(direction=EGRESS, end=source, why=Why.ITSELF),
                Side(direction=INGRESS, end=target, why=Why.ITSELF),
            )
        return (
            self._side(EGRESS, source, connection.target, connection),
            self._side(INGRESS, target, connection.source, connection),
        )

    def _side(self, direction: Direction, subject: End, address: IPAddress, connection: Connection) -> Side:
        """address: of the other end."""
        if not subject.pod:
            return Side(direction=direction, end=subject, why=Why.NO_POD)
        isolating = tuple(self._policies.isolating(subject.pod, direction))
        floor = self._policies.floor(subject.pod)
        concerned = any(self._policies.decided(subject.pod, direction, tier) for tier in Tier)
        if not isolating and not concerned and direction not in floor.isolated:
            return Side(direction=direction, end=subject, why=Why.OPEN)
        if address in _ips(self._nodes.get(subject.node)):
            return Side(direction=direction, end=subject, why=Why.OWN_NODE, isolating=isolating)
        if direction in floor.closed:
            return Side(direction=direction, end=subject, why=Why.UNREAD, isolating=isolating)
        passed = self._first(subject.pod, direction, Tier.ADMIN, address, connection)
        if passed is not None and passed.action is not Action.PASS:
            why = Why.DENIED if passed.action is Action.DENY else Why.TIER
            return Side(direction=direction, end=subject, why=why, isolating=isolating, decided=passed)
        if not isolating and direction in floor.isolated:
            return Side(direction=direction, end=subject, why=Why.UNREAD, passed=passed)
        if not isolating:
            return self._baseline(direction, subject, address, connection, passed)
        for granted in self._policies.granted(subject.pod, direction):
            if any(self._matches(each, address, connection) for each in granted.allowances):
                return Side(
                    direction=direction,
                    end=subject,
                    why=Why.RULE,
                    rule=granted,
                    isolating=isolating,
                    passed=passed,
                )
        return Side(direction=direction, end=subject, why=Why.ISOLATED, isolating=isolating, passed=passed)

    def _baseline(
        self,
        direction: Direction,
        subject: End,
        address: IPAddress,
        connection: Connection,
        passed: Standing | None,
    ) -> Side:
        """Of a pod that no NetworkPolicy isolates."""
        found = self._first(subject.pod, direction, Tier.BASELINE, address, connection)
        why = Why.OPEN if found is None else Why.DENIED if found.action is Action.DENY else Why.TIER
        return Side(direction=direction, end=subject, why=why, decided=found, passed=passed)

    def _first(
        self, pod: str, direction: Direction, tier: Tier, address: IPAddress, connection: Connection
    ) -> Standing | None:
        """The rule of the tier that decides."""
        for each in self._policies.decided(pod, direction, tier):
            if any(self._matches(found, address, connection) for found in each.allowances):
                return each.ranked.standing
        return None

    def _matches(self, allowance: Allowance, address: IPAddress, connection: Connection) -> bool:
        if allowance.ports is not None and not any(
            each.protocol is connection.protocol and each.first <= connection.port <= each.last
            for each in allowance.ports
        ):
            return False
        return allowance.peers is None or any(
            self._policies.means(group, address) for group in allowance.peers
        )


def _ips(node: NodeAddresses | None) -> tuple[IPAddress, ...]:
    return () if node is None else (*node.gateways, *node.addresses)


def here(sides: tuple[Side, ...], node: str) -> Iterator[Side]:
    """Those whose pod is on the node, whose flows judge them."""
    for side in sides:
        if side.end.pod and side.end.node == node:
            yield side
