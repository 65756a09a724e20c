"""What policies of this node's pods say that means nothing there, or comes to more than somebody thought; by policy.

Pure. About what policies mean today: what can't be read in them is told of by who reads them. Only policies that
select pods of this node are looked at. Called by `agent.policing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ovsnet.policies import Granted, Policies
from ovsnet.policygroups import Group
from ovsnet.policymodel import Block, Direction, LabelledPod, NetworkPolicy, PolicyPort, PolicyRule
from ovsnet.servicemodel import Protocol

_MANY = 1000
"""Ranges of addresses that a block comes to; each is a flow."""
_PER_POLICY = 5
"""Remarks on one policy; more are counted."""
_FAR = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


_WORST = 128
"""Ranges that an exception can cost: a bit of an address each."""


def remarks(
    policies: Policies,
    every: Mapping[str, NetworkPolicy],
    pods: Iterable[str],
    known: Mapping[str, LabelledPod],
) -> dict[str, tuple[str, ...]]:
    """By the policy's key; each names a field. every: all policies. pods: this node's, by key. known: all nodes'."""
    odd = {key: policy for key, policy in every.items() if _is_odd(policy)}
    if not odd:
        return {}
    chosen: dict[str, str] = {}
    """A pod of this node for each of them: what they mean for one they mean for all, but for its own ports."""
    for pod in pods:
        if pod in known:
            chosen.update((each.key, pod) for each in policies.policies(pod) if each.key in odd)
    found: dict[str, tuple[str, ...]] = {}
    for key, pod in chosen.items():
        policy = odd[key]
        names = _Names(
            each for each in known.values() if each.namespace == policy.namespace and _selects(policy, each)
        )
        lines: list[str] = []
        for direction in Direction:
            for granted in policies.granted(pod, direction):
                if granted.policy is policy:
                    lines += _of_rule(policies, granted, direction, names)
        if lines:
            found[key] = _few(lines)
    return found


class _Names:
    """Which ports the pods have that a policy selects, by names that stand for one number."""

    def __init__(self, pods: Iterable[LabelledPod]) -> None:
        self._pods = pods
        self._found: set[tuple[str, Protocol]] | None = None

    def __contains__(self, asked: object) -> bool:
        if self._found is None:
            self._found = {
                (port.name, port.protocol) for pod in self._pods for port in pod.ports if not port.several
            }
        return asked in self._found


def _selects(policy: NetworkPolicy, pod: LabelledPod) -> bool:
    return not pod.host_network and policy.pods.matches(pod.labels)


def _is_odd(policy: NetworkPolicy) -> bool:
    """Whether there can be anything to remark."""
    return any(map(_is_odd_rule, (*(policy.ingress or ()), *(policy.egress or ()))))


def _is_odd_rule(rule: PolicyRule) -> bool:
    return any(port.name for port in rule.ports or ()) or any(map(_may_be_many, _blocks_of(rule)))


def _blocks_of(rule: PolicyRule) -> Iterator[Block]:
    for peer in rule.peers or ():
        if peer.block is not None:
            yield peer.block


def _may_be_many(block: Block) -> bool:
    return len(block.excepts) > _MANY // _WORST


def _few(lines: Iterable[str]) -> tuple[str, ...]:
    every = sorted(lines)
    if len(every) <= _PER_POLICY:
        return tuple(every)
    return (*every[:_PER_POLICY], f"spec: and {len(every) - _PER_POLICY} more of this kind")


def _of_rule(policies: Policies, granted: Granted, direction: Direction, names: _Names) -> Iterator[str]:
    rule = (granted.policy.rules(direction) or ())[granted.rule]
    field = f"spec.{direction.value.lower()}[{granted.rule}]"
    for port in rule.ports or ():
        if port.name:
            why = _ingress(port, names) if direction is Direction.INGRESS else _egress(port, granted)
            if why:
                yield f"{field}.ports: {why}"
    for block in filter(_may_be_many, _blocks_of(rule)):
        count = len(policies.networks(Group(block=block)))
        if count > _MANY:
            yield (
                f"{field}.{_FAR[direction]}: the ipBlock {block.cidr} with {len(block.excepts)} exceptions comes to "
                f"{count} ranges, and as many flows"
            )


def _ingress(port: PolicyPort, names: _Names) -> str:
    if (port.name, port.protocol) in names:
        return ""
    return (
        f"of the pods that the policy selects none has a port called {port.name} over {port.protocol.value}, "
        "or it stands for several; it allows nothing"
    )


def _egress(port: PolicyPort, granted: Granted) -> str:
    """Allowances to named ports have the number in their peers."""
    asked = port.name, port.protocol
    for allowance in granted.allowances:
        for group in allowance.peers or ():
            if group.port is not None and (group.port.name, group.port.protocol) == asked:
                return ""
    return (
        f"no pod that the rule means has a port called {port.name} over {port.protocol.value}, or it stands for "
        "several; it allows nothing"
    )
