"""Policies in words, for people and as plain data: what isolates a pod, what a rule allows and whom that is today.

Pure. Called by `ovsnet policy` and `ovsnet trace`; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ovsnet.model import IPAddress, IPNetwork
from ovsnet.policies import Granted, Policies
from ovsnet.policygroups import Group
from ovsnet.policyjudge import Side, Why
from ovsnet.policylists import Allowance
from ovsnet.policymodel import Action, Direction, LabelledPod, NetworkPolicy, PolicyPort, Tier
from ovsnet.policynodes import NodeAddresses
from ovsnet.policyobjects import ClusterRule, PolicedPod

DENIED = {50: Direction.EGRESS, 40: Direction.INGRESS}
"""Which direction a pod's flows of table `verdict` deny, by priority."""
DENIED_BY_RULE = {55: Direction.EGRESS, 45: Direction.INGRESS}
"""The same of flows of rules of ClusterNetworkPolicies."""
VERDICT = "verdict"
TABLES = ("known", "police", "connection", "mirror", "egress", "ingress", VERDICT)
"""Where policies have a say."""
LOOKS = ("egress", "ingress")
"""Tables whose "drop" ends a look at policies, and not the packet."""


def rule_title(granted: Granted, direction: Direction) -> str:
    """default/web ingress[2], counted from 0 as in the manifest."""
    return f"{granted.policy.key} {direction.value.lower()}[{granted.rule}]"


def isolation(pod: str, direction: Direction, policies: Iterable[NetworkPolicy]) -> str:
    """Why a connection is denied."""
    named = ", ".join(each.key for each in policies)
    by = f" by NetworkPolicy {named}" if named else ""
    return f"{direction.value.lower()} of pod {pod} is isolated{by}, and no rule allows this"


def unread(pod: str, direction: Direction) -> str:
    """The same where not all policies could be read."""
    return f"{direction.value.lower()} of pod {pod} stays isolated until all is read that may have policies"


def denial(obj: object, priority: int, policies: Policies) -> str | None:
    """What a flow of table `verdict` says of a packet that it drops; None: it is no policy's."""
    if isinstance(obj, ClusterRule):
        return refusal(obj.title, obj.tier)
    direction = DENIED.get(priority)
    if not isinstance(obj, PolicedPod) or direction is None:
        return None
    if policies.stays_closed(obj.key, direction):
        return f"denied: {unread(obj.key, direction)}"
    return f"denied: {isolation(obj.key, direction, policies.isolating(obj.key, direction))}"


def refusal(title: str, tier: Tier) -> str:
    """Why a rule of a ClusterNetworkPolicy denies a connection."""
    return f"denied: {title} denies it, in the {tier.value} tier"


def side(found: Side) -> str:
    """One side of a connection, judged."""
    which = f"{found.direction.value.lower()} of {found.end.title}"
    if found.decided is not None:
        if not found.allowed:
            return refusal(found.decided.title, found.decided.tier)
        word = "left" if found.decided.action is Action.PASS else "accepted"
        return f"{which}: {word} by {found.decided.title}, in the {found.decided.tier.value} tier"
    if found.why is Why.RULE and found.rule is not None:
        return f"{which}: allowed by {rule_title(found.rule, found.direction)}"
    if found.why is Why.ISOLATED:
        return f"denied: {isolation(found.end.pod, found.direction, found.isolating)}"
    if found.why is Why.UNREAD:
        return f"denied: {unread(found.end.pod, found.direction)}"
    return f"{which}: {found.why.value}"


def reason(found: Side) -> str:
    """Why one side allows or denies, without whose side it is."""
    passed = f", and {found.passed.title} passes it on" if found.passed is not None else ""
    return f"{_decided(found)}{passed}"


def _decided(found: Side) -> str:
    if found.decided is not None:
        words = {Action.ACCEPT: "accepted", Action.DENY: "denied", Action.PASS: "passed on"}
        return (
            f"{words[found.decided.action]} by {found.decided.title}, in the {found.decided.tier.value} tier"
        )
    if found.why is Why.RULE and found.rule is not None:
        return f"allowed by {rule_title(found.rule, found.direction)}"
    if found.why is Why.ISOLATED:
        return f"isolated by NetworkPolicy {', '.join(each.key for each in found.isolating)}, and no rule allows this"
    return str(found.why.value)


class Names:
    """Whose an address is."""

    def __init__(
        self,
        pods: Mapping[str, LabelledPod],
        local: Mapping[str, tuple[IPAddress, ...]],
        nodes: Mapping[str, NodeAddresses],
    ) -> None:
        self._names: dict[IPAddress, str] = {}
        for name, node in nodes.items():
            self._names.update(dict.fromkeys((*node.addresses, *node.gateways), f"node {name}"))
        for key, pod in pods.items():
            if not pod.host_network:
                self._names.update(dict.fromkeys(pod.ips, key))
        for key, ips in local.items():
            self._names.update(dict.fromkeys(ips, key))

    def of(self, network: IPNetwork) -> str:
        """ "" if that is not known, or if it is more than one address."""
        whole = network.prefixlen == network.max_prefixlen
        return self._names.get(network.network_address, "") if whole else ""


def shown(pod: str, policies: Policies, names: Names) -> dict[str, Any]:
    """All that policies say of one of this node's pods, as plain data."""
    return {
        "policies": [each.key for each in policies.policies(pod)],
        "directions": {each.value.lower(): _direction(pod, each, policies, names) for each in Direction},
    }


def _direction(pod: str, direction: Direction, policies: Policies, names: Names) -> dict[str, Any]:
    isolating = policies.isolating(pod, direction)
    granted = policies.granted(pod, direction)
    everything = any(each.is_everything for one in granted for each in one.allowances)
    admin = _tier(pod, direction, Tier.ADMIN, policies, names)
    baseline = [] if isolating else _tier(pod, direction, Tier.BASELINE, policies, names)
    closed = policies.stays_closed(pod, direction)
    denies = closed or any(each["action"] == Action.DENY.value for each in (*admin, *baseline))
    return {
        "isolated": bool(isolating),
        "unread": closed,
        "admin": admin,
        "baseline": baseline,
        "by": [each.key for each in isolating],
        "allowsEverything": (not isolating or everything) and not denies,
        "rules": [_rule(each, direction, policies, names) for each in granted],
    }


def _tier(
    pod: str, direction: Direction, tier: Tier, policies: Policies, names: Names
) -> list[dict[str, Any]]:
    """The tier's rules that are about the pod, in the order in which they are asked."""
    return [
        {
            "rule": each.ranked.standing.key,
            "name": each.ranked.standing.name,
            "action": each.ranked.standing.action.value,
            "ports": None
            if each.ranked.rule.ports is None
            else list(dict.fromkeys(map(_any_port, each.ranked.rule.ports))),
            "allows": [_allowance(found, policies, names) for found in each.allowances],
        }
        for each in policies.decided(pod, direction, tier)
    ]


def _any_port(port: PolicyPort) -> str:
    """As a ClusterNetworkPolicy says it: a port by name is of any protocol."""
    return f"port {port.name}" if port.name else _port(port)


def _rule(granted: Granted, direction: Direction, policies: Policies, names: Names) -> dict[str, Any]:
    rule = (granted.policy.rules(direction) or ())[granted.rule]
    return {
        "rule": rule_title(granted, direction),
        "ports": None if rule.ports is None else [_port(each) for each in rule.ports],
        "allows": [_allowance(each, policies, names) for each in granted.allowances],
    }


def _port(port: PolicyPort) -> str:
    """As the policy says it."""
    if port.name:
        return f"{port.protocol.value} {port.name}"
    if (port.first, port.last) == (0, 65535):
        return f"{port.protocol.value} all"
    return f"{port.protocol.value} " + (
        str(port.first) if port.first == port.last else f"{port.first}-{port.last}"
    )


def _allowance(allowance: Allowance, policies: Policies, names: Names) -> dict[str, Any]:
    """What it comes to for this pod: ports by name have numbers here."""
    return {
        "peers": None
        if allowance.peers is None
        else [_peer(each, policies, names) for each in allowance.peers],
        "ports": None if allowance.ports is None else [each.text for each in allowance.ports],
    }


def _peer(group: Group, policies: Policies, names: Names) -> dict[str, Any]:
    return {
        "who": group.text,
        "addresses": [
            {"address": _address(each), "name": names.of(each)} for each in policies.networks(group)
        ],
    }


def _address(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """`shown` for people."""
    for name, direction in found["directions"].items():
        yield from _tier_lines(name, Tier.ADMIN, direction["admin"])
        if direction["unread"]:
            yield f"{name}: stays isolated until all is read that may have policies; no NetworkPolicy allows anything"
            continue
        if not direction["isolated"]:
            yield from _tier_lines(name, Tier.BASELINE, direction["baseline"])
            rest = "everything else" if direction["admin"] or direction["baseline"] else "everything"
            yield f"{name}: not isolated, {rest} is allowed"
            continue
        everything = "; a rule allows everything" if direction["allowsEverything"] else ""
        rules = "" if direction["rules"] else "; no rule allows anything"
        yield f"{name}: isolated by NetworkPolicy {', '.join(direction['by'])}{everything}{rules}"
        for rule in direction["rules"]:
            yield from _rule_lines(name, rule)


def _tier_lines(direction: str, tier: Tier, rules: list[dict[str, Any]]) -> Iterator[str]:
    if rules:
        yield f"{direction}: {tier.value} tier of ClusterNetworkPolicies, the first that matches decides"
    for rule in rules:
        name = f" ({rule['name']})" if rule["name"] else ""
        yield from _rule_lines(direction, {**rule, "rule": f"{rule['action']} by {rule['rule']}{name}"})


def _rule_lines(direction: str, rule: dict[str, Any]) -> Iterator[str]:
    said = "all ports and protocols" if rule["ports"] is None else ", ".join(rule["ports"]) or "no port"
    yield f"  {rule['rule']}: {said}"
    if not rule["allows"]:
        yield "    matches nothing of this pod" if "action" in rule else "    allows this pod nothing"
    towards = "from" if direction == "ingress" else "to"
    for each in rule["allows"]:
        on = "" if each["ports"] is None else f", on {', '.join(each['ports'])}"
        if each["peers"] is None:
            yield f"    {towards} everybody{on}"
            continue
        for peer in each["peers"]:
            none = "" if peer["addresses"] else ": nobody today"
            yield f"    {towards} {peer['who']}{on}{none}"
            for at in peer["addresses"]:
                yield f"      {at['address']:<24} {at['name']}".rstrip()
