"""Who is at the ends of today's connections, in classes that policies can't tell apart, before and after a change.

Owns what makes two pods the same to policies: which of them isolate them, what these allow, what ClusterNetworkPolicies
decide, which rules mean them as peers, and which of the networks in rules they are in. Pure; judges nothing:
`policydiff` does, and calls this. What there is to know of rules comes from `Policies.isolating`, `granted` and
`decided` alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ovsnet import policies as deriving
from ovsnet.model import IPAddress, IPNetwork
from ovsnet.policies import Decided, Granted, Policies
from ovsnet.policygroups import Group
from ovsnet.policyjudge import End, Judge, World
from ovsnet.policymodel import Direction, LabelledPod, NetworkPolicy, Requirement, Tier
from ovsnet.policynets import Networks, Region, regions
from ovsnet.policyobjects import PortRange


class Stance(NamedTuple):
    """What policies say of a pod in one direction. Equal ones have the same number."""

    number: int
    groups: frozenset[int]
    """Whom its rules mean."""
    ports: frozenset[PortRange]


class Face(NamedTuple):
    """An address of an end, and the groups that it is in before and after."""

    address: IPAddress
    groups: tuple[frozenset[int], frozenset[int]]


class Member(NamedTuple):
    """One of a class. key: of the pod, name of the node, or the network."""

    key: str
    node: str = ""


class EndClass(NamedTuple):
    """Ends that no policy tells apart. kind: "pod", "node" or "network". sends, reached: of the first member, as who
    sends and as who is reached; all others' are in the same groups."""

    kind: str
    members: tuple[Member, ...]
    ends: tuple[End, ...]
    """The first members, as the judge knows them; two of pods, if there are two, since a pod always reaches itself."""
    sends: tuple[Face, ...]
    reached: tuple[Face, ...]
    stances: Mapping[Direction, tuple[Stance, Stance]]
    """Before and after; none of what is no pod."""
    region: Region | None = None

    @property
    def regrouped(self) -> bool:
        return any(each.groups[0] != each.groups[1] for each in self.sends)

    def restanced(self, direction: Direction) -> bool:
        found = self.stances.get(direction)
        return found is not None and found[0].number != found[1].number

    @property
    def is_touched(self) -> bool:
        """Whether anything in it is other than before; what two ends say of one another changes if one of them is."""
        return self.regrouped or any(map(self.restanced, self.stances))


class Asked(Policies):
    """What policies say, kept: the same questions come by the thousand."""

    def __init__(self, world: World) -> None:
        super().__init__()
        pods = {
            key: msgspec.structs.replace(pod, ips=world.local[key]) if key in world.local else pod
            for key, pod in world.pods.items()
        }
        nodes = deriving.node_addresses(world.nodes)
        self.update(world.policies, world.namespaces, pods, {}, nodes, world.cluster_policies)
        self._asked_isolating: dict[tuple[str, Direction], list[NetworkPolicy]] = {}
        self._asked_granted: dict[tuple[str, Direction], list[Granted]] = {}
        self._asked_decided: dict[tuple[str, Direction, Tier], list[Decided]] = {}

    def isolating(self, key: str, direction: Direction) -> list[NetworkPolicy]:
        asked = key, direction
        if asked not in self._asked_isolating:
            self._asked_isolating[asked] = super().isolating(key, direction)
        return self._asked_isolating[asked]

    def granted(self, key: str, direction: Direction) -> list[Granted]:
        asked = key, direction
        if asked not in self._asked_granted:
            self._asked_granted[asked] = super().granted(key, direction)
        return self._asked_granted[asked]

    def decided(self, key: str, direction: Direction, tier: Tier) -> list[Decided]:
        asked = key, direction, tier
        if asked not in self._asked_decided:
            self._asked_decided[asked] = super().decided(key, direction, tier)
        return self._asked_decided[asked]


class _Traits(NamedTuple):
    """What pods of one namespace with the same labels and ports have in common."""

    stances: Mapping[Direction, tuple[Stance, Stance]]
    groups: tuple[frozenset[int], frozenset[int]]


_Likeness = tuple[object, ...]
"""What decides about a pod, but for its addresses: equal for pods that policies treat alike."""


class Ends:
    """All ends there are before a change, judged by both worlds. The second has the same pods, with their addresses."""

    def __init__(self, before: World, after: World) -> None:
        self._worlds = before, after
        self._asked = Asked(before), Asked(after)
        self.judges = tuple(Judge(asked, before.nodes) for asked in self._asked)
        self._stances: dict[object, Stance] = {}
        self._groups: dict[Group, int] = {}
        self._pods = dict(_pods(before))
        self._asked_labels = sorted(set(_label_keys((_rules(before), _rules(after)))))
        self._likeness = {key: self._alike(key) for key in self._pods}
        first = {like: key for key, like in reversed(self._likeness.items())}
        stances = {like: self._stances_of(key) for like, key in first.items()}
        self._places = {group: number for group, number in self._groups.items() if not group.is_of_pods}
        """Blocks and nodes: groups that mean addresses, whoever has them."""
        self._networks = Networks(_named(self._places))
        self._in_places: dict[object, tuple[frozenset[int], frozenset[int]]] = {}
        self._spanned: dict[str, list[list[tuple[Group, int]]]] = {}
        self._traits = {like: _Traits(stances[like], self._meant(key)) for like, key in first.items()}
        self._nodes = deriving.node_addresses(before.nodes)
        self._taken = {
            *(ip for each in self._pods.values() for ip in each.ips),
            *(ip for each in self._nodes.values() for ip in (*each.addresses, *each.gateways)),
        }
        self._further = {ip for each in self._nodes.values() for ip in each.others} - self._taken
        """Addresses outside, as far as blocks are asked; who means the node means them."""
        self._outside: dict[frozenset[int], list[EndClass]] = {}
        self.classes = [*self._pod_classes(), *self._node_classes()]

    @property
    def pods(self) -> Iterable[str]:
        """All that can be an end, in order."""
        return self._pods

    def outside(self, subject: EndClass, direction: Direction) -> Sequence[EndClass]:
        """Everybody else, as far as the subject's rules can tell."""
        groups = frozenset().union(*(stance.groups for stance in subject.stances[direction]))
        asked = groups & frozenset(self._places.values())
        if asked not in self._outside:
            self._outside[asked] = list(self._regions(asked))
        return self._outside[asked]

    # --- pods ---

    def _alike(self, key: str) -> _Likeness:
        return (key.partition("/")[0], *(self._said(world.pods.get(key)) for world in self._worlds))

    def _said(self, pod: LabelledPod | None) -> object:
        """What rules can ask about it: no labels that none of them has, as those that tell pods of a set apart."""
        if pod is None:
            return None
        return tuple(map(pod.labels.get, self._asked_labels)), pod.ports

    def _stances_of(self, key: str) -> dict[Direction, tuple[Stance, Stance]]:
        return {
            direction: (
                self._stance(self._asked[0], key, direction),
                self._stance(self._asked[1], key, direction),
            )
            for direction in Direction
        }

    def _stance(self, asked: Asked, key: str, direction: Direction) -> Stance:
        isolating, granted = asked.isolating(key, direction), asked.granted(key, direction)
        # Of who is isolated nobody asks the Baseline tier.
        tiers = (Tier.ADMIN,) if isolating else tuple(Tier)
        decided = [each for tier in tiers for each in asked.decided(key, direction, tier)]
        said = (
            direction,
            tuple(each.key for each in isolating),
            tuple((each.policy.key, each.rule, each.allowances) for each in granted),
            tuple(map(_decision, decided)),
        )
        if said not in self._stances:
            allowances = [
                *(allowance for each in granted for allowance in each.allowances),
                *(allowance for each in decided for allowance in each.allowances),
            ]
            groups = {group for each in allowances for group in each.peers or ()}
            self._stances[said] = Stance(
                number=len(self._stances),
                groups=frozenset(self._groups.setdefault(each, len(self._groups)) for each in groups),
                ports=frozenset(ports for each in allowances for ports in each.ports or ()),
            )
        return self._stances[said]

    def _meant(self, key: str) -> tuple[frozenset[int], frozenset[int]]:
        """Groups of pods that mean it, before and after."""
        namespace, address = key.partition("/")[0], self._pods[key].ips[0]
        if namespace not in self._spanned:
            self._spanned[namespace] = [
                [each for each in self._groups.items() if asked.spans(each[0], namespace)]
                for asked in self._asked
            ]
        before, after = (
            frozenset(number for group, number in spanned if asked.means(group, address))
            for asked, spanned in zip(self._asked, self._spanned[namespace], strict=True)
        )
        return before, after

    def _pod_classes(self) -> Iterator[EndClass]:
        found: dict[object, list[str]] = {}
        for key, end in self._pods.items():
            traits = self._traits[self._likeness[key]]
            placed = tuple(sorted(map(self._place, end.ips)))
            numbers = tuple(each.number for pair in traits.stances.values() for each in pair)
            alike = key.partition("/")[0], numbers, traits.groups, placed
            found.setdefault(alike, []).append(key)
        for keys in found.values():
            traits = self._traits[self._likeness[keys[0]]]
            faces = tuple(self._face(ip, traits.groups) for ip in self._pods[keys[0]].ips)
            yield EndClass(
                kind="pod",
                members=tuple(Member(key, self._pods[key].node) for key in keys),
                # Without their nodes, which always reach them: who counts pairs leaves those out.
                ends=tuple(msgspec.structs.replace(self._pods[key], node="") for key in keys[:2]),
                sends=faces,
                reached=faces,
                stances=traits.stances,
            )

    def _face(self, ip: IPAddress, groups: tuple[frozenset[int], frozenset[int]]) -> Face:
        places = self._in(ip, self._place(ip))
        return Face(ip, (groups[0] | places[0], groups[1] | places[1]))

    def _place(self, ip: IPAddress) -> tuple[int, str]:
        """The same for addresses of pods that all blocks treat alike."""
        return ip.version, str(self._networks.narrowest(ip))

    def _in(self, ip: IPAddress, alike: object) -> tuple[frozenset[int], frozenset[int]]:
        """Blocks and nodes that mean the address. alike: the same for addresses that all of these treat alike."""
        if alike not in self._in_places:
            before, after = (
                frozenset(number for group, number in self._places.items() if asked.means(group, ip))
                for asked in self._asked
            )
            self._in_places[alike] = before, after
        return self._in_places[alike]

    # --- nodes, and those outside ---

    def _node_classes(self) -> Iterator[EndClass]:
        """A pod sees a node's gateway address, and reaches it at its own, as `policyjudge` has it."""
        found: dict[object, list[tuple[str, tuple[Face, ...], tuple[Face, ...]]]] = {}
        for name, node in self._nodes.items():
            sends = self._node_faces((*node.gateways, *node.addresses))
            reached = self._node_faces((*node.addresses, *node.gateways))
            alike = tuple(
                tuple((each.address.version, each.groups) for each in one) for one in (sends, reached)
            )
            found.setdefault(alike, []).append((name, sends, reached))
        for nodes in found.values():
            yield EndClass(
                kind="node",
                members=tuple(Member(name, name) for name, *_ in nodes),
                ends=tuple(
                    End(title=f"node {name}", ips=tuple(each.address for each in sends), node=name)
                    for name, sends, _ in nodes[:1]
                ),
                sends=nodes[0][1],
                reached=nodes[0][2],
                stances={},
            )

    def _node_faces(self, ips: Sequence[IPAddress]) -> tuple[Face, ...]:
        """One of each family."""
        first: dict[int, IPAddress] = {}
        for ip in ips:
            first.setdefault(ip.version, ip)
        return tuple(Face(ip, self._in(ip, ip)) for _, ip in sorted(first.items()))

    def _regions(self, asked: frozenset[int]) -> Iterator[EndClass]:
        places = [group for group, number in self._places.items() if number in asked]
        inside = [cidr for node in self._worlds[0].nodes.values() for cidr in node.pod_cidrs]
        further = self._further if any(each.nodes is not None for each in places) else ()
        for region in regions((*_named(places), *map(ipaddress.ip_network, further)), inside, self._taken):
            before, after = (
                frozenset(self._places[group] for group in places if each.means(group, region.address))
                for each in self._asked
            )
            faces = (Face(region.address, (before, after)),)
            yield EndClass(
                kind="network",
                members=(Member(str(region.network)),),
                ends=(End(title=str(region.address), ips=(region.address,)),),
                sends=faces,
                reached=faces,
                stances={},
                region=region,
            )


def _pods(world: World) -> Iterator[tuple[str, End]]:
    """Those that policies can select and packets can reach, in order of their keys."""
    for key in sorted({*world.local, *world.pods}):
        pod = world.pods.get(key)
        ips = world.local.get(key) or (pod.ips if pod else ())
        if ips and not (pod and pod.host_network):
            node = world.node if key in world.local else pod.node if pod else ""
            yield key, End(title=f"pod {key}", ips=ips, pod=key, node=node)


def _decision(each: Decided) -> object:
    """What tells it from others: not at which place among all it stands, since others come and go."""
    standing, rule = each.ranked.standing, tuple((found.peers, found.ports) for found in each.allowances)
    return standing.title, standing.tier, standing.action, rule


def _rules(world: World) -> list[object]:
    """All that is in the world and has rules."""
    plain = ("namespaces", "pods", "nodes", "node", "local")
    return [getattr(world, field) for field in world.__struct_fields__ if field not in plain]


def _label_keys(value: object) -> Iterator[str]:
    """Of the labels that selectors in there ask for, however deep."""
    if isinstance(value, Requirement):
        yield value.key
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _label_keys(getattr(value, field))
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _label_keys(each)


def _named(groups: Mapping[Group, int] | Sequence[Group]) -> Iterator[IPNetwork]:
    """Networks of their blocks."""
    for group in groups:
        if group.block is not None:
            yield group.block.cidr
            yield from group.block.excepts
