"""From NetworkPolicies, ClusterNetworkPolicies, pods and namespaces to what this node programs for them.

Pure. Only policies that select pods of this node cost anything. What one rule comes to is in `policyrules`, whom rules
mean in `policygroups`, what packets are looked up on in `policylists`. Called by the agent and by the inspection
commands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from ovsnet.mappings import different
from ovsnet.model import Frozen, IPAddress, IPNetwork, Node, Pod
from ovsnet.policygroups import Group, Groups
from ovsnet.policylists import Allowance, Lists, News
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
from ovsnet.policyobjects import Isolation, PolicedPod, PolicyObject, TierRules
from ovsnet.policyrules import Rules
from ovsnet.policytiers import Ranked, Standing, Tiers, means
from ovsnet.servicemodel import Protocol


class Granted(Frozen):
    """What one rule of a policy comes to for a pod. rule: its place in the policy, from 0. allowances: none, if it
    allows this pod nothing."""

    policy: NetworkPolicy
    rule: int
    allowances: tuple[Allowance, ...]


class Stance(Frozen):
    """What policies say of a pod in one direction. allowed: None if none isolates it, or all is allowed. tiers: what
    rules of ClusterNetworkPolicies come to for it."""

    allowed: frozenset[Allowance] | None
    tiers: frozenset[Allowance]

    @property
    def all(self) -> frozenset[Allowance]:
        return self.tiers | (self.allowed or frozenset())

    def in_order(self) -> list[tuple[Standing, Allowance]]:
        """Of tiers, in the order in which they are asked."""
        found = [(each.standing, each) for each in self.tiers if each.standing is not None]
        return sorted(found, key=lambda each: -each[0].priority)


class Decided(Frozen):
    """What one rule of a ClusterNetworkPolicy comes to for a pod."""

    ranked: Ranked
    allowances: tuple[Allowance, ...]


class Floor(Frozen):
    """How far a pod is closed at least, since not all policies could be read that may be about it.

    isolated: directions in which a NetworkPolicy isolates it, if none that is known does. closed: those in which all is
    denied: a rule of a ClusterNetworkPolicy may come before whatever is known.
    """

    isolated: frozenset[Direction] = frozenset()
    closed: frozenset[Direction] = frozenset()


_NO_FLOOR = Floor()


class Policies:
    """What has been derived, by object."""

    def __init__(self) -> None:
        self._groups = Groups()
        self._lists = Lists(self._groups)
        self._rules = Rules(self._groups)
        self._policies: Mapping[str, NetworkPolicy] = {}
        self._pods: Mapping[str, LabelledPod] = {}
        self._local: Mapping[str, tuple[IPAddress, ...]] = {}
        self._floor: Mapping[str, Floor] = {}
        self._of: dict[str, dict[str, NetworkPolicy]] = {}
        """By namespace."""
        self._tiers = Tiers()
        self._common: dict[Standing, tuple[Allowance, ...]] = {}
        """What rules come to that mean the same for all pods."""
        self._stances: dict[str, dict[Direction, Stance]] = {}
        """Of this node's pods that policies concern."""
        self._shown: dict[str, PolicedPod] = {}
        self._news: News = {}

    @property
    def objects(self) -> list[PolicyObject]:
        """What is rendered, in order of kinds and keys."""
        found = [*self._shown.values(), *self._lists.objects]
        return sorted(found, key=lambda each: (type(each).__name__, each.key))

    @property
    def isolated(self) -> Collection[PolicedPod]:
        """This node's pods that are, or that ClusterNetworkPolicies may deny something."""
        return self._shown.values()

    def policies(self, key: str) -> list[NetworkPolicy]:
        """Those that select the pod, of whatever node."""
        return sorted(self._selecting(key), key=lambda each: each.name)

    def isolating(self, key: str, direction: Direction) -> list[NetworkPolicy]:
        """Those of them that isolate it in that direction."""
        return [each for each in self.policies(key) if each.rules(direction) is not None]

    def granted(self, key: str, direction: Direction) -> list[Granted]:
        """What each rule of these allows the pod, in order of policies and rules."""
        found = self._granted(key, direction)
        return sorted(found, key=lambda each: (each.policy.name, each.rule))

    def decided(self, key: str, direction: Direction, tier: Tier) -> list[Decided]:
        """What each rule of the tier that is about the pod comes to, in the order in which they are asked."""
        return list(self._decided(key, direction, tier))

    def asks_for_labels(self, namespace: str) -> str | None:
        """A ClusterNetworkPolicy that selects pods of the namespace by their labels; None: there is none."""
        return self._tiers.selecting_by_labels(namespace, self._groups.namespaces)

    def floor(self, key: str) -> Floor:
        """How far a pod of this node is closed at least."""
        return self._floor.get(key, _NO_FLOOR)

    def stays_closed(self, key: str, direction: Direction) -> bool:
        """Whether it is that which decides what no rule of the Admin tier does."""
        floor = self.floor(key)
        isolated = direction in floor.isolated and not self.isolating(key, direction)
        return direction in floor.closed or isolated

    def denies(
        self, key: str, direction: Direction, other: IPAddress, protocol: Protocol | None, port: int
    ) -> bool:
        """Whether policies deny a pod of this node a connection: with whom, to which port of the end that is connected
        to. protocol None: a ping."""
        stance = self._stances.get(key, {}).get(direction)
        if stance is None:
            return False
        meant = self._groups.around(other)
        passed: Tier | None = None
        # Where NetworkPolicies isolate it there are none of the Baseline tier, so they are asked after all of these.
        for standing, allowance in stance.in_order():
            if standing.tier is passed or not self._lists.mean((allowance,), meant, protocol, port):
                continue
            if standing.action is not Action.PASS:
                return standing.action is Action.DENY
            passed = standing.tier
        return stance.allowed is not None and not self._lists.mean(stance.allowed, meant, protocol, port)

    def networks(self, group: Group) -> list[IPNetwork]:
        """Who is meant now, as addresses and networks."""
        return sorted(self._groups.look(group), key=lambda each: (each.version, each))

    def means(self, group: Group, address: IPAddress) -> bool:
        """Whether the address is among these."""
        return self._groups.means(group, address)

    def spans(self, group: Group, namespace: str) -> bool:
        """Whether the group can mean pods of the namespace; false for blocks and nodes, which mean addresses."""
        return group.is_of_pods and self._groups.spans(group, namespace)

    def news(self) -> News:
        """Objects that are new or others than when this was called last, by type and key; None for one that is gone."""
        news, self._news = self._news, {}
        return news

    def update(
        self,
        policies: Mapping[str, NetworkPolicy],
        namespaces: Mapping[str, Namespace],
        pods: Mapping[str, LabelledPod],
        local: Mapping[str, tuple[IPAddress, ...]],
        nodes: Mapping[str, NodeAddresses],
        cluster: Mapping[str, ClusterNetworkPolicy] | None = None,
        node: str = "",
        floor: Mapping[str, Floor] | None = None,
    ) -> None:
        """Derives anew what changed. local: addresses of this node's pods, by the Pod's key. node: this one's name.
        floor: of this node's pods, by key."""
        changed = set(different(self._policies, policies))
        for key in changed:
            self._index(self._policies.get(key), policies.get(key))
        relabelled = set(different(self._pods, pods))
        concerned = {key.partition("/")[0] for key in changed}
        moved = different(self._groups.namespaces, namespaces)
        touched = self._tiers.update(cluster or {})
        self._groups.update(namespaces, pods, at_home(local, pods, node), nodes)
        if self._tiers:
            concerned |= set(moved)
        if touched:
            self._common = {}
        floor = floor or {}
        lowered = different(self._floor, floor)
        dirty = set(different(self._local, local)) | ({*relabelled, *lowered} & local.keys())
        dirty |= self._rules.renumbered()
        dirty |= {
            key
            for key in local
            if key.partition("/")[0] in concerned
            or any(means(each, key, namespaces, pods.get(key)) is not None for each in touched)
        }
        self._policies, self._pods, self._local, self._floor = policies, pods, local, floor
        for key in dirty:
            self._judge(key)
        news, renumbered = self._lists.settle()
        self._news.update(news)
        for key in dirty | renumbered:
            self._show(key)

    def _index(self, before: NetworkPolicy | None, after: NetworkPolicy | None) -> None:
        if before is not None:
            del self._of[before.namespace][before.key]
            if not self._of[before.namespace]:
                del self._of[before.namespace]
        if after is not None:
            self._of.setdefault(after.namespace, {})[after.key] = after

    def _show(self, key: str) -> None:
        stances, before = self._stances.get(key), self._shown.get(key)
        if stances is None:
            if before is not None:
                del self._shown[key]
                self._news[PolicedPod, key] = None
            return
        namespace, _, name = key.partition("/")
        ways = {
            direction: Isolation(clauses=self._lists.clauses(stance.allowed))
            for direction, stance in stances.items()
            if stance.allowed is not None
        }
        shown = PolicedPod(
            namespace=namespace,
            name=name,
            ips=self._local[key],
            ingress=ways.get(Direction.INGRESS),
            egress=ways.get(Direction.EGRESS),
            tiers=tuple(self._tier_rules(stances.values())),
        )
        if shown != before:
            self._shown[key] = self._news[PolicedPod, key] = shown

    def _tier_rules(self, stances: Iterable[Stance]) -> Iterator[TierRules]:
        found: dict[Standing, set[Allowance]] = {}
        for stance in stances:
            for each in stance.tiers:
                if each.standing is not None:
                    found.setdefault(each.standing, set()).add(each)
        for standing in sorted(found, key=lambda each: (each.direction.value, -each.priority)):
            yield TierRules(
                direction=standing.direction,
                tier=standing.tier,
                priority=standing.priority,
                clauses=self._lists.clauses(found[standing]),
            )

    # --- what policies say ---

    def _judge(self, key: str) -> None:
        """Finds what the pod's policies allow it."""
        before = self._stances.pop(key, {})
        now = {}
        with self._rules.judging(key):
            for direction in Direction if key in self._local else ():
                stance = self._stance(key, direction)
                if stance.allowed is not None or stance.tiers:
                    now[direction] = stance
        if now:
            self._stances[key] = now
        self._lists.has(
            key,
            frozenset().union(*(each.all for each in before.values())),
            frozenset().union(*(each.all for each in now.values())),
        )

    def _stance(self, key: str, direction: Direction) -> Stance:
        """Where nothing can be denied, tiers have nothing to say."""
        floor = self.floor(key)
        if direction in floor.closed:
            return Stance(allowed=frozenset(), tiers=frozenset())
        allowed = self._allowed(key, direction)
        tiers = [each for each in self._decided(key, direction, Tier.ADMIN) if each.allowances]
        if all(policy.rules(direction) is None for policy in self._selecting(key)):
            if direction in floor.isolated:
                allowed = frozenset()
            else:
                tiers += [each for each in self._decided(key, direction, Tier.BASELINE) if each.allowances]
        if allowed is None and all(each.ranked.standing.action is not Action.DENY for each in tiers):
            tiers = []
        return Stance(allowed=allowed, tiers=frozenset(found for each in tiers for found in each.allowances))

    def _decided(self, key: str, direction: Direction, tier: Tier) -> Iterator[Decided]:
        if not self._tiers:
            return
        pod = self._pods.get(key)
        for ranked in self._tiers.ranked(key, pod, self._groups.namespaces, direction, tier):
            known = self._common.get(ranked.standing)
            if known is None:
                rule = ranked.rule
                if pod is None and direction is Direction.INGRESS and rule.has_names:
                    # Of which numbers nobody knows: it may be any.
                    rule = msgspec.structs.replace(rule, ports=None)
                strictly = ranked.standing.action is Action.ACCEPT
                found = self._rules.allowances("", direction, rule, pod, strictly=strictly)
                known = tuple(msgspec.structs.replace(each, standing=ranked.standing) for each in found)
                if not ranked.rule.has_names:
                    self._common[ranked.standing] = known
            yield Decided(ranked=ranked, allowances=known)

    def _selecting(self, key: str) -> Iterator[NetworkPolicy]:
        """Of a pod that nobody knows the labels of: all of its namespace."""
        pod = self._pods.get(key)
        for policy in self._of.get(key.partition("/")[0], {}).values():
            if pod is None or policy.pods.matches(pod.labels):
                yield policy

    def _allowed(self, key: str, direction: Direction) -> frozenset[Allowance] | None:
        """None: all."""
        if all(policy.rules(direction) is None for policy in self._selecting(key)):
            return None
        found = frozenset(
            allowance for each in self._granted(key, direction) for allowance in each.allowances
        )
        return None if any(each.is_everything for each in found) else found

    def _granted(self, key: str, direction: Direction) -> Iterator[Granted]:
        pod = self._pods.get(key)
        for policy in self._selecting(key):
            # Whoever may not be meant is allowed nothing by it.
            meant = pod is not None or not policy.pods.requirements
            for index, rule in enumerate(policy.rules(direction) or ()):
                found = self._rules.allowances(policy.namespace, direction, rule, pod) if meant else ()
                yield Granted(policy=policy, rule=index, allowances=tuple(found))


def addresses(pods: Iterable[Pod]) -> dict[str, tuple[IPAddress, ...]]:
    """Of this node's pods, by the Pod's key."""
    found: dict[str, tuple[IPAddress, ...]] = {}
    for pod in pods:
        # One of several interfaces, or of a pod that is replaced by another of its name.
        found[pod.pod_key] = (*found.get(pod.pod_key, ()), *pod.ips)
    return found


def at_home(
    local: Mapping[str, tuple[IPAddress, ...]], pods: Mapping[str, LabelledPod], node: str
) -> Mapping[str, tuple[IPAddress, ...]]:
    """Without what lingers on this node of pods that the store knows on another: as peers, they are there. node: this
    one's name, "" if nobody knows it."""
    away = {key for key in local if (pod := pods.get(key)) and node and pod.node not in ("", node)}
    return {key: ips for key, ips in local.items() if key not in away} if away else local


def node_addresses(nodes: Mapping[str, Node]) -> dict[str, NodeAddresses]:
    """Both sorts of addresses of the cluster's nodes, by name."""
    return {
        node.name: NodeAddresses(
            addresses=node.addresses,
            gateways=tuple(cidr.network_address + 1 for cidr in node.pod_cidrs),
            others=node.others,
            labels=node.labels,
        )
        for node in nodes.values()
    }
