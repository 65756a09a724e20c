"""The tiers of ClusterNetworkPolicies: which of their rules are about a pod, in which order.

Pure. The Admin tier is asked first, then NetworkPolicies, then, where none of these isolates the pod, the Baseline
tier. Of a tier the rule counts that comes first, by the policies' priority, their names, and the rules' places. A
rule's place among all is an OpenFlow priority, which follows from the policies alone. What rules mean is in `policies`,
which calls this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ovsnet.mappings import different
from ovsnet.model import Frozen
from ovsnet.policymodel import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    Direction,
    LabelledPod,
    Labels,
    Namespace,
    Selector,
    Tier,
)

FIRST: Mapping[Tier, int] = {Tier.ADMIN: 60000, Tier.BASELINE: 30000}
"""OpenFlow priority of the first place of a tier. NetworkPolicies have 100 and 50, a pod's own node more than all."""
PLACES = 27000
"""Of a tier and direction. Those beyond share the last."""
_APART = 25
"""Places that a priority has for itself: as many as a policy may have rules of one direction. 1,001 priorities fit."""
NAME_LABEL = "kubernetes.io/metadata.name"


class Standing(Frozen):
    """A rule among all. rule: its place in the policy, from 0; name: what the policy calls it. priority: OpenFlow's.
    doubtful: a Pass, as a Deny for pods of which nobody knows whether it is about them."""

    policy: str
    direction: Direction
    rule: int
    name: str
    tier: Tier
    action: Action
    priority: int
    doubtful: bool = False

    @property
    def key(self) -> str:
        """lockdown ingress[0], as it stands in the manifest."""
        doubt = " for pods that nobody knows" if self.doubtful else ""
        return f"{self.policy} {self.direction.value.lower()}[{self.rule}]{doubt}"

    @property
    def title(self) -> str:
        return rule_title(self.key, self.name)

    @property
    def text(self) -> str:
        return f"{self.tier.value} {self.priority} {self.action.value} {self.title}"


def rule_title(key: str, name: str) -> str:
    return f"ClusterNetworkPolicy {key}" + (f" ({name})" if name else "")


class Ranked(Frozen):
    """A rule that is about a pod. rule: what it says."""

    standing: Standing
    rule: ClusterRule


class Tiers:
    """All policies, in order."""

    def __init__(self) -> None:
        self._policies: Mapping[str, ClusterNetworkPolicy] = {}
        self._ordered: tuple[ClusterNetworkPolicy, ...] = ()
        self._places: dict[tuple[str, Direction], tuple[int, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._policies)

    def update(self, policies: Mapping[str, ClusterNetworkPolicy]) -> list[ClusterNetworkPolicy]:
        """Those that are new, gone or others than before, as they were and as they are, and those whose rules have
        moved."""
        changed = set(different(self._policies, policies))
        if not changed:
            self._policies = policies
            return []
        before, self._policies, places_before = self._policies, policies, self._places
        self._ordered = tuple(sorted(policies.values(), key=lambda each: (each.priority, each.name)))
        self._places = places(self._ordered)
        changed |= {key[0] for key, found in self._places.items() if places_before.get(key) != found}
        return [each for key in changed for each in (before.get(key), policies.get(key)) if each is not None]

    def ranked(
        self,
        key: str,
        pod: LabelledPod | None,
        namespaces: Mapping[str, Namespace],
        direction: Direction,
        tier: Tier,
    ) -> Iterator[Ranked]:
        """The tier's rules that are about the pod of that key, in order. pod: None if nobody knows its labels.

        Whoever may not be meant is accepted nothing, and a Pass is a Deny: what would come after it is not known.
        """
        for policy in self._ordered:
            if policy.tier is not tier or not policy.rules(direction):
                continue
            meant = means(policy, key, namespaces, pod)
            if meant is None:
                continue
            found = self._places[policy.name, direction]
            for index, rule in enumerate(policy.rules(direction)):
                known = meant and not (pod is None and direction is Direction.INGRESS and rule.has_names)
                if not known and rule.action is Action.ACCEPT:
                    continue
                yield Ranked(
                    standing=Standing(
                        policy=policy.name,
                        direction=direction,
                        rule=index,
                        name=rule.name,
                        tier=tier,
                        action=rule.action if known else Action.DENY,
                        priority=found[index],
                        doubtful=not known and rule.action is Action.PASS,
                    ),
                    rule=rule,
                )

    def selecting_by_labels(self, namespace: str, namespaces: Mapping[str, Namespace]) -> str | None:
        """A policy about pods of the namespace that asks for their labels, or for names of their ports; None: there is
        none."""
        for policy in self._ordered:
            asks = policy.subject.pods.requirements or any(each.has_names for each in policy.ingress)
            if asks and means(policy, f"{namespace}/", namespaces, None) is not None:
                return policy.name
        return None


def means(
    policy: ClusterNetworkPolicy, key: str, namespaces: Mapping[str, Namespace], pod: LabelledPod | None
) -> bool | None:
    """Whether it is about the pod of that key; False: it may be, and nobody knows the labels that would say; None: it
    is not.

    pod: None if nobody knows its labels; its namespace may not be known either.
    """
    namespace = key.partition("/")[0]
    known = namespaces.get(namespace)
    labels = {NAME_LABEL: namespace} if known is None else known.labels
    certain = {NAME_LABEL} if known is None else None
    answers = (
        _matches(policy.subject.namespaces, labels, certain),
        _matches(policy.subject.pods, {} if pod is None else pod.labels, () if pod is None else None),
    )
    if None in answers or (pod is not None and pod.host_network):
        return None
    return all(answers)


def _matches(selector: Selector, labels: Labels, certain: Collection[str] | None) -> bool | None:
    """As `means`. certain: keys of which it is known what they are, None for all."""
    decided = [each for each in selector.requirements if certain is None or each.key in certain]
    if not all(each.matches(labels) for each in decided):
        return None
    return len(decided) == len(selector.requirements)


def places(ordered: Collection[ClusterNetworkPolicy]) -> dict[tuple[str, Direction], tuple[int, ...]]:
    """OpenFlow priorities of all rules, by policy and direction. ordered: by priority and name.

    Where a priority is one policy's alone, as it should be, its rules always have the same places, whatever others
    there are. Where several share one, the later by name move to the places behind, and push on who is in their way.
    """
    found: dict[tuple[str, Direction], tuple[int, ...]] = {}
    for tier, first in FIRST.items():
        for direction in Direction:
            rules = [
                (policy, index)
                for policy in ordered
                if policy.tier is tier
                for index in range(len(policy.rules(direction)))
            ]
            at = -1
            for place, (policy, index) in enumerate(rules):
                wanted = max(policy.priority * _APART + index, at + 1)
                # So many must fit behind it.
                at = min(max(min(wanted, PLACES - (len(rules) - place)), at + 1), PLACES - 1)
                found[policy.name, direction] = (*found.get((policy.name, direction), ()), first - at)
    return found
