"""What one rule of a policy comes to for a pod: whom it means as groups, and its ports as numbers.

Pure. Owns what a port by name means: of an ingress rule the pod's own ports, of an egress rule those of the pods at the
other end, some of which may have other numbers than others; and that a name of several numbers in one pod means none of
them to what allows, and all of them to what denies. Knows neither tiers nor isolation. Called by `policies`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from ovsnet.policygroups import Asked, Group, Groups
from ovsnet.policylists import Allowance
from ovsnet.policymodel import Direction, LabelledPod, PolicyPeer, PolicyPort, PolicyRule, Selector
from ovsnet.policyobjects import PortRange

_EVERY_POD = Group(namespaces=Selector())


class Rules:
    """Asks the groups, and keeps which of this node's pods have rules that ask for ports by name."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._asking: dict[Asked, set[str]] = {}
        """Pods by what rules of their egress ask for."""
        self._asked: dict[str, set[Asked]] = {}
        """The other way round."""
        self._noted: set[Asked] | None = None
        """What rules ask for meanwhile, of the pod that is judged."""

    def renumbered(self) -> set[str]:
        """Pods whose rules ask for ports by name that have other numbers than when this was called last."""
        return {key for asked in self._groups.renumbered() for key in self._asking.get(asked, ())}

    @contextlib.contextmanager
    def judging(self, key: str) -> Iterator[None]:
        """What `allowances` asks for meanwhile is kept up until the pod is judged anew and does not ask for it."""
        before, self._noted = self._asked.pop(key, set()), set()
        try:
            yield
        finally:
            now, self._noted = self._noted, None
            if now:
                self._asked[key] = now
            for each in now - before:
                self._asking.setdefault(each, set()).add(key)
            for each in before - now:
                self._asking[each].discard(key)
                if not self._asking[each]:
                    del self._asking[each]
                    self._groups.forget(each)

    def allowances(
        self,
        namespace: str,
        direction: Direction,
        rule: PolicyRule,
        pod: LabelledPod | None,
        *,
        strictly: bool = True,
    ) -> Iterator[Allowance]:
        """What a rule comes to for this pod. strictly: without ports by a name that stands for several numbers."""
        peers = None if rule.peers is None else tuple(_group(namespace, each) for each in rule.peers)
        ranges = {
            PortRange(protocol=each.protocol, first=each.first, last=each.last)
            for each in rule.ports or ()
            if not each.name
        }
        named = [each for each in rule.ports or () if each.name]
        if direction is Direction.INGRESS:
            # The pod's own ports: other ones with other pods.
            ranges |= {
                PortRange(protocol=port.protocol, first=port.port, last=port.port)
                for each in named
                for port in (pod.ports if pod else ())
                if (port.name, port.protocol) == (each.name, each.protocol)
                and not (strictly and port.several)
            }
        if peers != () and (rule.ports is None or ranges):
            yield _allowance(direction, peers, None if rule.ports is None else ranges)
        if direction is Direction.EGRESS:
            for each in named:
                for group in (_EVERY_POD,) if peers is None else peers:
                    yield from self._named(group, each, strictly)

    def _named(self, group: Group, port: PolicyPort, strictly: bool) -> Iterator[Allowance]:
        """To a port by name: of pods that have one number for it, that number; else, if not strictly, each."""
        if not group.is_of_pods:
            return
        asked = group, port.name, port.protocol
        if self._noted is not None:
            self._noted.add(asked)
            self._groups.ask(asked)
        for having in self._groups.numbers(asked):
            if strictly and having.several:
                continue
            only = Group(
                namespace=group.namespace,
                namespaces=group.namespaces,
                pods=group.pods,
                port=having,
            )
            ports = PortRange(protocol=port.protocol, first=having.port, last=having.port)
            yield _allowance(Direction.EGRESS, (only,), {ports})


def _allowance(
    direction: Direction, peers: Iterable[Group] | None, ports: Iterable[PortRange] | None
) -> Allowance:
    """One of all that say the same."""
    return Allowance(
        direction=direction,
        peers=None if peers is None else tuple(sorted(set(peers), key=lambda each: each.text)),
        ports=None if ports is None else tuple(sorted(set(ports), key=lambda each: each.text)),
    )


def _group(namespace: str, peer: PolicyPeer) -> Group:
    if peer.block is not None or peer.nodes is not None:
        return Group(block=peer.block, nodes=peer.nodes)
    return Group(
        namespace=namespace if peer.namespaces is None else "",
        namespaces=peer.namespaces,
        pods=peer.pods or Selector(),
    )
