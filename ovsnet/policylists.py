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
from ovsnet.policyobjects import Clause, PolicyObject, PortRange, Rule, RuleAddress, RulePorts


class Allowance(Frozen):
    """What a rule allows a pod. None: everybody; all ports and protocols."""

    direction: Direction
    peers: tuple[Group, ...] | None = None
    ports: tuple[PortRange, ...] | None = None

    @property
    def text(self) -> str:
        peers = "everybody" if self.peers is None else " and ".join(each.text for each in self.peers)
        ports = "on all ports" if self.ports is None else "on " + ", ".join(each.text for each in self.ports)
        towards = "ingress from" if self.direction is Direction.INGRESS else "egress to"
        return f"{towards} {peers} {ports}"

    @property
    def is_everything(self) -> bool:
        return self.peers is None and self.ports is None


class _Used:
    """An allowance that pods of this node have."""

    def __init__(self, groups: tuple[int, ...]) -> None:
        self.groups = groups
        self.pods: set[str] = set()


class Lists:
    """The lists, by object."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._numbers = Numbers()
        self._used: dict[Allowance, _Used] = {}
        self._titles: dict[str, Allowance] = {}
        self._of_group: dict[int, set[Allowance]] = {}
        self._of_ports: dict[tuple[Direction, PortRange], set[Allowance]] = {}
        self._touched_ports: set[tuple[Direction, PortRange]] = set()
        self._touched_networks: set[IPNetwork] = set()
        self._touched_rules: dict[str, Allowance] = {}
        self._objects: dict[tuple[type, str], PolicyObject] = {}

    @property
    def objects(self) -> Collection[PolicyObject]:
        return self._objects.values()

    def has(self, pod: str, before: Iterable[Allowance], now: Iterable[Allowance]) -> None:
        """The pod has these allowances now, and had others before."""
        before, now = set(before), set(now)
        for each in now - before:
            if each not in self._used:
                self._take(each)
            self._used[each].pods.add(pod)
        for each in before - now:
            self._used[each].pods.discard(pod)
            self._touched_rules[each.text] = each

    def settle(self) -> tuple[dict[tuple[type, str], PolicyObject | None], set[str]]:
        """Objects that are others than before, None for those gone; and pods whose rules have other numbers."""
        for text, each in self._touched_rules.items():
            if each in self._used and not self._used[each].pods:
                self._drop(each)
            elif each in self._used:
                self._numbers.number(text, "")
        renumbered: set[str] = set()
        for text in self._numbers.moved():
            each = self._titles[text]
            renumbered |= self._used[each].pods
            self._touch(each)
        touched, self._touched_rules = self._touched_rules, {}
        news: dict[tuple[type, str], PolicyObject | None] = {}
        for text, each in touched.items():
            number = self._numbers.number(text, "") if each in self._used else 0
            rule = Rule(number=number, direction=each.direction, text=text) if number else None
            self._show(Rule, text, rule, news)
        self._show_lists(news)
        return news, renumbered

    def clauses(self, allowances: Iterable[Allowance]) -> tuple[Clause, ...]:
        """That a pod has them."""
        return self._clauses(allowances, 0)

    # --- rules ---

    def _take(self, allowance: Allowance) -> None:
        used = self._used[allowance] = _Used(tuple(map(self._groups.add, allowance.peers or ())))
        self._titles[allowance.text] = allowance
        for number in used.groups:
            self._of_group.setdefault(number, set()).add(allowance)
        for ports in allowance.ports or ():
            self._of_ports.setdefault((allowance.direction, ports), set()).add(allowance)
        self._touch(allowance)

    def _drop(self, allowance: Allowance) -> None:
        self._touch(allowance)
        used = self._used.pop(allowance)
        del self._titles[allowance.text]
        self._numbers.keep(allowance.text, ())
        for ports in allowance.ports or ():
            self._of_ports[allowance.direction, ports].discard(allowance)
        for number in used.groups:
            self._of_group[number].discard(allowance)
            if not self._of_group[number]:
                del self._of_group[number]
                self._groups.remove(number)

    def _touch(self, allowance: Allowance) -> None:
        """Whatever tells of it is to be shown anew."""
        self._touched_rules[allowance.text] = allowance
        self._touched_ports.update((allowance.direction, ports) for ports in allowance.ports or ())
        for number in self._used[allowance].groups:
            self._touched_networks.update(self._groups.networks(number))

    # --- lists ---

    def _show_lists(self, news: dict[tuple[type, str], PolicyObject | None]) -> None:
        ports, self._touched_ports = self._touched_ports, set()
        for direction, each in ports:
            holders = self._of_ports.get((direction, each), set())
            if not holders:
                self._of_ports.pop((direction, each), None)
            listed = RulePorts(direction=direction, ports=each, clauses=self._clauses(holders, 2))
            self._show(RulePorts, listed.key, listed if listed.clauses else None, news)
        networks, self._touched_networks = self._touched_networks | self._groups.touched(), set()
        for network in networks:
            found: dict[Direction, set[Allowance]] = {each: set() for each in Direction}
            for number in self._groups.at(network):
                for allowance in self._of_group.get(number, ()):
                    found[allowance.direction].add(allowance)
            for direction, allowances in found.items():
                address = RuleAddress(
                    direction=direction, network=network, clauses=self._clauses(allowances, 1)
                )
                self._show(RuleAddress, address.key, address if address.clauses else None, news)

    def _clauses(self, allowances: Iterable[Allowance], which: int) -> tuple[Clause, ...]:
        """which: 0 for the list of pods, 1 of addresses, 2 of ports."""
        found = []
        for each in allowances:
            lists = [True, each.peers is not None, each.ports is not None]
            number = self._numbers.number(each.text, "")
            found.append(Clause(rule=number, place=sum(lists[: which + 1]), lists=sum(lists)))
        return tuple(sorted(found, key=lambda each: each.rule))

    def _show(
        self,
        kind: type,
        key: str,
        item: PolicyObject | None,
        news: dict[tuple[type, str], PolicyObject | None],
    ) -> None:
        if item == self._objects.get((kind, key)):
            return
        news[kind, key] = item
        if item is None:
            del self._objects[kind, key]
        else:
            self._objects[kind, key] = item
