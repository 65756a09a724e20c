"""Who policies' rules mean at the other end: selectors and blocks to addresses and ports, kept up as pods come and go.

Pure. Only groups that somebody asked for are kept up; a pod that changes costs a look at those that could mean it, and
none at other pods, and a node none at other nodes. Called by `policies`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from ovsnet.mappings import different
from ovsnet.model import Frozen, IPAddress, IPNetwork
from ovsnet.policymodel import Block, LabelledPod, NamedPort, Namespace, Operator, Selector
from ovsnet.policynets import of_length, parts
from ovsnet.policynodes import Change, NodeAddresses, Nodes, beside, selected
from ovsnet.policyports import Tally, of_name
from ovsnet.servicemodel import Protocol

_Key = TypeVar("_Key", bound=Hashable)


class Group(Frozen):
    """Pods, a block, or nodes.

    namespace: of the pods, "" if `namespaces` says it. port: only pods that have it.
    """

    namespace: str = ""
    namespaces: Selector | None = None
    pods: Selector = Selector()
    port: NamedPort | None = None
    block: Block | None = None
    nodes: Selector | None = None

    @property
    def is_of_pods(self) -> bool:
        return self.block is None and self.nodes is None

    @property
    def text(self) -> str:
        if self.block is not None:
            return self.block.text
        if self.nodes is not None:
            return f"nodes {self.nodes.text}"
        where = f"namespaces {self.namespaces.text}" if self.namespaces else f"namespace {self.namespace}"
        named = f" with {self.port.text}" if self.port else ""
        return f"pods {self.pods.text} of {where}{named}"


Asked = tuple[Group, str, Protocol]
"""Which numbers a port has by its name, in pods of the group."""


class _Placed:
    """Where a pod counts, and with what."""

    __slots__ = ("groups", "networks", "ports")

    def __init__(self) -> None:
        self.groups: frozenset[int] = frozenset()
        self.networks: tuple[IPNetwork, ...] = ()
        self.ports: tuple[NamedPort, ...] = ()


class Groups:
    """Addresses by group, and groups by address. A group is known by the number that `add` gives."""

    def __init__(self) -> None:
        self.namespaces: Mapping[str, Namespace] = {}
        self._pods: Mapping[str, LabelledPod] = {}
        self._local: Mapping[str, tuple[IPAddress, ...]] = {}
        self._nodes = Nodes()
        self._numbers: dict[Group, int] = {}
        self._groups: dict[int, Group] = {}
        self._podless: dict[int, Group] = {}
        """Those of them that are blocks or nodes."""
        self._last = 0
        self._meant: dict[str, set[int]] = {}
        """Groups that can mean pods of a namespace, of those that have pods."""
        self._in: dict[str, set[str]] = {}
        """Pods by namespace."""
        self._labelled: dict[tuple[str, str, str], set[str]] = {}
        """Pods by namespace, label and its value."""
        self._placed: dict[str, _Placed] = {}
        self._at: dict[IPNetwork, Counter[int]] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()
        """Of these: how many there are of each version and length."""
        self._networks: dict[int, Counter[IPNetwork]] = {}
        self._asked: dict[Asked, int] = {}
        self._tallies: dict[int, Tally] = {}
        """Of groups that are kept up for what is asked of their ports, and have no networks."""
        self._recounted: set[int] = set()
        """Of these: where a pod with such a port came, went or changed."""
        self._touched: set[IPNetwork] = set()
        self._having: dict[IPAddress, list[LabelledPod]] | None = None
        """Pods by address, once somebody asks by address; None: nobody has since they changed."""

    def touched(self) -> set[IPNetwork]:
        """Networks that are in other groups than when this was called last."""
        touched, self._touched = self._touched, set()
        return touched

    def at(self, network: IPNetwork) -> Iterable[int]:
        """The groups that it is in."""
        return self._at.get(network, ())

    def around(self, address: IPAddress) -> frozenset[int]:
        """The groups that mean the address, alone or with others."""
        found: set[int] = set()
        for version, length in self._lengths:
            if version == address.version:
                found.update(self.at(of_length(address, length)))
        return frozenset(found)

    def networks(self, number: int) -> Iterable[IPNetwork]:
        return self._networks[number]

    def look(self, group: Group) -> list[IPNetwork]:
        """What the group means, whether it is kept up or not."""
        if (number := self._numbers.get(group)) is not None:
            return list(self._networks[number])
        number = self.add(group)
        found = list(self._networks[number])
        self.remove(number)
        return found

    def means(self, group: Group, address: IPAddress) -> bool:
        """Whether `look` would have it, without looking at any other."""
        if group.block is not None:
            return address in group.block or self._nodes.is_gateway_of(group.block, address)
        if group.nodes is not None:
            return self._nodes.has(group.nodes, address)
        return any(_means(group, pod) and self.spans(group, pod.namespace) for pod in self._with(address))

    def spans(self, group: Group, namespace: str) -> bool:
        """Whether it can mean pods of the namespace."""
        if group.namespaces is None:
            return group.namespace == namespace
        known = self.namespaces.get(namespace)
        return known is not None and group.namespaces.matches(known.labels)

    def numbers(self, asked: Asked) -> Collection[NamedPort]:
        """The group's pods' ports of that name, whether they are kept up or not."""
        if (number := self._asked.get(asked)) is not None:
            return self._tallies[number].numbers
        found = set()
        for key in self._members(asked[0]):
            found.update(of_name(self._pods[key].ports, *asked[1:]))
        return found

    def ask(self, asked: Asked) -> None:
        """Keeps these up from now on."""
        if asked in self._asked:
            return
        number = self._asked[asked] = self._number(asked[0])
        self._tallies[number] = tally = Tally(*asked[1:])
        self._gather(number)
        # New is no other than before.
        self._recounted.discard(number)
        tally.is_other()

    def forget(self, asked: Asked) -> None:
        """Nobody asks that any more."""
        number = self._asked.pop(asked)
        del self._tallies[number]
        self._recounted.discard(number)
        self._leave(number)

    def renumbered(self) -> list[Asked]:
        """Of what is kept up: where there are other numbers than when this was called last."""
        recounted, self._recounted = self._recounted, set()
        tallies = ((number, self._tallies[number]) for number in recounted)
        return [
            (self._groups[number], each.name, each.protocol) for number, each in tallies if each.is_other()
        ]

    def update(
        self,
        namespaces: Mapping[str, Namespace],
        pods: Mapping[str, LabelledPod],
        local: Mapping[str, tuple[IPAddress, ...]],
        nodes: Mapping[str, NodeAddresses],
    ) -> None:
        """local: addresses of pods that are on this node, which count before anybody else knows them."""
        moved = set(different(self._local, local))
        changed = set(different(self._pods, pods))
        relabelled = list(different(self.namespaces, namespaces))
        for key in changed:
            self._index(key, self._pods.get(key), pods.get(key))
        self._pods, self._local, self.namespaces = pods, local, namespaces
        self._having = None
        for name in relabelled:
            if name in self._in and self._mean(name):
                for key in self._in[name]:
                    self._place(key)
        for key in changed | moved:
            self._place(key)
        self._follow(self._nodes.update(nodes))

    def add(self, group: Group) -> int:
        """Keeps it up from now on; its number."""
        number = self._numbers.get(group)
        if number is not None:
            return number
        number = self._numbers[group] = self._number(group)
        self._networks[number] = Counter()
        if group.is_of_pods:
            self._gather(number)
        else:
            self._spread(number, group)
        return number

    def remove(self, number: int) -> None:
        """Nobody asks for it any more."""
        del self._numbers[self._groups[number]]
        self._podless.pop(number, None)
        for network in self._networks.pop(number):
            self._touched.add(network)
            del self._at[network][number]
            if not self._at[network]:
                self._vacate(network)
        self._leave(number)

    def _number(self, group: Group) -> int:
        self._last += 1
        self._groups[self._last] = group
        return self._last

    # --- pods ---

    def _gather(self, number: int) -> None:
        """Has pods count in a new group."""
        group = self._groups[number]
        for namespace in self._matching(group):
            if namespace in self._meant:
                self._meant[namespace].add(number)
        for key in self._members(group):
            placed = self._placed[key]
            placed.groups |= {number}
            self._tell(number, placed, 1)

    def _leave(self, number: int) -> None:
        """They count there no more."""
        group = self._groups.pop(number)
        for meant in self._meant.values():
            meant.discard(number)
        if group.is_of_pods:
            for key in self._members(group):
                self._placed[key].groups -= {number}

    def _with(self, address: IPAddress) -> Iterable[LabelledPod]:
        if self._having is None:
            self._having = {}
            for key, pod in self._pods.items():
                for each in self._local.get(key) or pod.ips:
                    self._having.setdefault(each, []).append(pod)
        return self._having.get(address, ())

    def _matching(self, group: Group) -> Iterator[str]:
        """Namespaces whose pods it can mean."""
        if group.namespaces is None:
            yield group.namespace
            return
        for name, namespace in self.namespaces.items():
            if group.namespaces.matches(namespace.labels):
                yield name

    def _mean(self, name: str) -> bool:
        """Which groups can mean pods of the namespace now; whether these are others than before."""
        found = {
            number for number, group in self._groups.items() if group.is_of_pods and self.spans(group, name)
        }
        before = self._meant.get(name, set())
        self._meant[name] = found
        return found != before

    def _members(self, group: Group) -> Iterator[str]:
        """Pods that it means."""
        for namespace in self._matching(group):
            for key in self._candidates(namespace, group.pods):
                if _means(group, self._pods[key]):
                    yield key

    def _candidates(self, namespace: str, selector: Selector) -> Iterable[str]:
        """Pods among which all are that the selector means."""
        for each in selector.requirements:
            if each.operator is Operator.IN:
                return set().union(
                    *(self._labelled.get((namespace, each.key, value), ()) for value in each.values)
                )
        return self._in.get(namespace, ())

    def _index(self, key: str, before: LabelledPod | None, after: LabelledPod | None) -> None:
        if before is not None:
            self._in[before.namespace].discard(key)
            if not self._in[before.namespace]:
                del self._in[before.namespace]
                self._meant.pop(before.namespace, None)
            for label in before.labels.items():
                self._labelled[before.namespace, *label].discard(key)
                if not self._labelled[before.namespace, *label]:
                    del self._labelled[before.namespace, *label]
        if after is not None:
            self._in.setdefault(after.namespace, set()).add(key)
            for label in after.labels.items():
                self._labelled.setdefault((after.namespace, *label), set()).add(key)

    def _place(self, key: str) -> None:
        """Where the pod counts now."""
        pod, before, now = self._pods.get(key), self._placed.pop(key, _Placed()), _Placed()
        if pod is not None:
            self._placed[key] = now
            now.groups = frozenset(
                number for number in self._meant_in(pod.namespace) if _means(self._groups[number], pod)
            )
            now.networks = tuple(map(ipaddress.ip_network, self._local.get(key) or pod.ips))
            now.ports = pod.ports
        same = (now.networks, now.ports) == (before.networks, before.ports)
        for number in before.groups - now.groups if same else before.groups:
            self._tell(number, before, -1)
        for number in now.groups - before.groups if same else now.groups:
            self._tell(number, now, 1)

    def _tell(self, number: int, placed: _Placed, by: int) -> None:
        """That a pod counts in the group, or does no more."""
        tally = self._tallies.get(number)
        if tally is None:
            self._count(number, placed.networks, by)
        elif tally.count(placed.ports, by):
            self._recounted.add(number)

    def _meant_in(self, namespace: str) -> set[int]:
        if namespace not in self._meant:
            self._mean(namespace)
        return self._meant[namespace]

    # --- blocks and nodes ---

    def _spread(self, number: int, group: Group) -> None:
        """What a new group means. Several nodes may have an address, and the block itself: it counts for each."""
        self._podless[number] = group
        if group.block is not None:
            self._count(number, parts(group.block), 1)
        for node in self._nodes:
            self._count(number, _of_node(group, node), 1)

    def _follow(self, changes: Collection[Change]) -> None:
        moved = [each for each in changes if each.is_of_addresses]
        for number, group in self._podless.items():
            for each in changes if group.block is None else moved:
                before, after = _of_node(group, each.before), _of_node(group, each.after)
                self._count(number, before - after, -1)
                self._count(number, after - before, 1)

    def _count(self, number: int, networks: Iterable[IPNetwork], by: int) -> None:
        of_group = self._networks[number]
        for network in networks:
            at = self._at.get(network)
            if at is None:
                at = self._at[network] = Counter()
                _add(self._lengths, (network.version, network.prefixlen), 1)
            _add(at, number, by)
            _add(of_group, network, by)
            if not at:
                self._vacate(network)
            self._touched.add(network)

    def _vacate(self, network: IPNetwork) -> None:
        del self._at[network]
        _add(self._lengths, (network.version, network.prefixlen), -1)


def _add(counter: Counter[_Key], key: _Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]


def _of_node(group: Group, node: NodeAddresses | None) -> set[IPNetwork]:
    if group.block is not None:
        return beside(group.block, node)
    return set() if group.nodes is None else selected(group.nodes, node)


def _means(group: Group, pod: LabelledPod) -> bool:
    if pod.host_network or not group.pods.matches(pod.labels):
        return False
    return group.port is None or group.port in pod.ports
