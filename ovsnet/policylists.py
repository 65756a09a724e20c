"""What pods of this node are allowed, as the lists that packets are looked up on: of rules, their addresses and ports.

Pure. An allowance that several pods have, by whatever policies, is one rule; an address or port on the lists of several
rules is one object. Numbers follow from what is allowed alone, so that they are the same after every start. Called by
`policies`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ovsnet.model import Frozen, IPNetwork
from ovsnet.numbers import Numbers
from ovsnet.policygroups import Group, Groups
from ovsnet.policymodel import Direction
from ovsnet.policyobjects import (
    NETWORK_POLICY,
    Clause,
    ClusterRule,
    PolicyObject,
    PortBlock,
    PortRange,
    Rule,
    RuleAddress,
    RulePorts,
)
from ovsnet.policytiers import Standing
from ovsnet.servicemodel import Protocol

News = dict[tuple[type, str], PolicyObject | None]
"""Objects by type and key; None for one that is gone."""
Way = tuple[Direction, int]
"""A direction and an OpenFlow priority: rules that have both in common share addresses and ports."""


class Allowance(Frozen):
    """What a rule allows a pod, or whatever else the rule's action is. None: everybody; all ports and protocols.

    standing: of a rule of a ClusterNetworkPolicy. None: a NetworkPolicy's.
    """

    direction: Direction
    peers: tuple[Group, ...] | None = None
    ports: tuple[PortRange, ...] | None = None
    standing: Standing | None = None

    @property
    def text(self) -> str:
        """All of it: what has the same text is the same."""
        return self.words if self.standing is None else f"{self.standing.text}: {self.words}"

    @property
    def words(self) -> str:
        """Whom it means, and on which ports."""
        peers = "everybody" if self.peers is None else " and ".join(each.text for each in self.peers)
        ports = "on all ports" if self.ports is None else "on " + ", ".join(each.text for each in self.ports)
        towards = "ingress from" if self.direction is Direction.INGRESS else "egress to"
        return f"{towards} {peers} {ports}"

    @property
    def is_everything(self) -> bool:
        return self.peers is None and self.ports is None


class _Used:
    """An allowance that pods of this node have: what follows from it, and is asked for often."""

    def __init__(self, allowance: Allowance, groups: tuple[int, ...]) -> None:
        self.allowance = allowance
        self.direction = allowance.direction
        self.standing = allowance.standing
        self.way = self.direction, NETWORK_POLICY if self.standing is None else self.standing.priority
        self.text = allowance.text
        self.groups = groups
        self.blocks = {block for ports in allowance.ports or () for block in ports.blocks}
        self.lists = (True, allowance.peers is not None, allowance.ports is not None)
        """Of pods, addresses, ports: whether there are any."""
        self.pods: set[str] = set()


class Lists:
    """The lists, by object."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._numbers = Numbers()
        self._used: dict[Allowance, _Used] = {}
        self._titles: dict[str, _Used] = {}
        self._of_group: dict[int, set[_Used]] = {}
        self._of_ports: dict[tuple[Way, PortBlock], set[_Used]] = {}
        self._touched_ports: set[tuple[Way, PortBlock]] = set()
        self._ways: dict[IPNetwork, set[Way]] = {}
        """Of what is shown of networks."""
        self._of_rule: dict[str, set[_Used]] = {}
        """By rule of a ClusterNetworkPolicy."""
        self._touched_networks: set[IPNetwork] = set()
        self._touched_rules: dict[str, _Used] = {}
        self._objects: dict[tuple[type, str], PolicyObject] = {}

    @property
    def objects(self) -> Collection[PolicyObject]:
        return self._objects.values()

    def has(self, pod: str, before: Collection[Allowance], now: Collection[Allowance]) -> None:
        """The pod has these allowances now, and had others before."""
        for each in set(now) - set(before):
            if each not in self._used:
                self._take(each)
            self._used[each].pods.add(pod)
        for each in set(before) - set(now):
            used = self._used[each]
            used.pods.discard(pod)
            self._touched_rules[used.text] = used

    def settle(self) -> tuple[News, set[str]]:
        """Objects that are others than before, None for those gone; and pods whose rules have other numbers."""
        for used in list(self._touched_rules.values()):
            if not used.pods:
                self._drop(used)
            else:
                self._numbers.number(used.text, "")
        renumbered: set[str] = set()
        for text in self._numbers.moved():
            renumbered |= self._titles[text].pods
            self._touch(self._titles[text])
        touched, self._touched_rules = self._touched_rules, {}
        news: News = {}
        for text, used in touched.items():
            if used.standing is not None:
                continue
            rule = None
            if used.pods:
                rule = Rule(number=self._numbers.number(text, ""), direction=used.direction, text=text)
            self._show(Rule, text, rule, news)
        for key in {used.standing.key for used in touched.values() if used.standing is not None}:
            self._show(ClusterRule, key, self._cluster_rule(key), news)
        self._show_lists(news)
        return news, renumbered

    def clauses(self, allowances: Iterable[Allowance]) -> tuple[Clause, ...]:
        """That a pod has them."""
        return self._clauses((self._used[each] for each in allowances), 0)

    def mean(
        self, allowances: Iterable[Allowance], meant: frozenset[int], protocol: Protocol | None, port: int
    ) -> bool:
        """Whether any of them is about a connection. meant: the groups that its other end is in."""
        return any(
            (each.peers is None or not meant.isdisjoint(self._used[each].groups))
            and (
                each.ports is None
                or any(one.protocol is protocol and one.first <= port <= one.last for one in each.ports)
            )
            for each in allowances
        )

    # --- rules ---

    def _cluster_rule(self, key: str) -> ClusterRule | None:
        """None: it concerns no pod any more."""
        those = self._of_rule.get(key)
        if not those:
            self._of_rule.pop(key, None)
            return None
        standing = next(each.standing for each in those if each.standing is not None)
        return ClusterRule(
            key=key,
            title=standing.title,
            direction=standing.direction,
            tier=standing.tier,
            action=standing.action,
            priority=standing.priority,
            numbers=tuple(sorted(self._numbers.number(each.text, "") for each in those)),
        )

    def _take(self, allowance: Allowance) -> None:
        used = self._used[allowance] = _Used(allowance, tuple(map(self._groups.add, allowance.peers or ())))
        self._titles[used.text] = used
        for number in used.groups:
            self._of_group.setdefault(number, set()).add(used)
        for block in used.blocks:
            self._of_ports.setdefault((used.way, block), set()).add(used)
        if used.standing is not None:
            self._of_rule.setdefault(used.standing.key, set()).add(used)
        self._touch(used)

    def _drop(self, used: _Used) -> None:
        self._touch(used)
        del self._used[used.allowance], self._titles[used.text]
        self._numbers.keep(used.text, ())
        for block in used.blocks:
            self._of_ports[used.way, block].discard(used)
        if used.standing is not None:
            self._of_rule[used.standing.key].discard(used)
        for number in used.groups:
            self._of_group[number].discard(used)
            if not self._of_group[number]:
                del self._of_group[number]
                self._groups.remove(number)

    def _touch(self, used: _Used) -> None:
        """Whatever tells of it is to be shown anew."""
        self._touched_rules[used.text] = used
        self._touched_ports.update((used.way, block) for block in used.blocks)
        for number in used.groups:
            self._touched_networks.update(self._groups.networks(number))

    # --- lists ---

    def _show_lists(self, news: News) -> None:
        ports, self._touched_ports = self._touched_ports, set()
        for way, each in ports:
            holders = self._of_ports.get((way, each), set())
            if not holders:
                self._of_ports.pop((way, each), None)
            listed = RulePorts(
                direction=way[0], ports=each, clauses=self._clauses(holders, 2), priority=way[1]
            )
            self._show(RulePorts, listed.key, listed if listed.clauses else None, news)
        networks, self._touched_networks = self._touched_networks | self._groups.touched(), set()
        for network in networks:
            found: dict[Way, set[_Used]] = {each: set() for each in self._ways.pop(network, ())}
            for number in self._groups.at(network):
                for used in self._of_group.get(number, ()):
                    found.setdefault(used.way, set()).add(used)
            for way, those in found.items():
                address = RuleAddress(
                    direction=way[0], network=network, clauses=self._clauses(those, 1), priority=way[1]
                )
                self._show(RuleAddress, address.key, address if address.clauses else None, news)
            if ways := {way for way, those in found.items() if those}:
                self._ways[network] = ways

    def _clauses(self, those: Iterable[_Used], which: int) -> tuple[Clause, ...]:
        """which: 0 for the list of pods, 1 of addresses, 2 of ports."""
        found = [
            Clause(
                rule=self._numbers.number(used.text, ""),
                place=sum(used.lists[: which + 1]),
                lists=sum(used.lists),
            )
            for used in those
        ]
        return tuple(sorted(found, key=lambda each: each.rule))

    def _show(
        self,
        kind: type,
        key: str,
        item: PolicyObject | None,
        news: News,
    ) -> None:
        if item == self._objects.get((kind, key)):
            return
        news[kind, key] = item
        if item is None:
            del self._objects[kind, key]
        else:
            self._objects[kind, key] = item
