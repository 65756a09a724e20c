"""What the oracle (tests/policy) says of a step of a case: two independent opinions of who may talk to whom.

Owns how packets get to where policies judge them: which address they have there, and behind which Service. Pure, and
imports nothing of ovsnet. Called by tests of the files, and by those on a cluster with the addresses that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from oracle import Verdict, verdict
from policy_cases import (
    HOST_PODS,
    POD_LABELS,
    Book,
    Case,
    Object,
    Situation,
    Step,
    filled,
    namespace,
    pod,
    policy,
)
from policy_matrix import HOSTS, NODES, OUTSIDE, PODS, Way
from policy_world import Cluster, Connection, End, Node

NODE_PORT = 30010
"""Stands for any number of a node port: none of the cases' rules is about one."""
MODEL: Book = {
    **{pod: {4: f"10.244.{n}.{8 + i}", 6: f"fd00:10:244:{n}::{8 + i}"}
       for i, pod in enumerate(PODS) for n in (1 + NODES.index(HOSTS[pod]),)},
    **{node: {4: f"192.0.2.{10 + n}", 6: f"2001:db8:0:1::{10 + n}"} for n, node in enumerate(NODES, 1)},
    **{f"gateway of {node}": {4: f"10.244.{n}.1", 6: f"fd00:10:244:{n}::1"} for n, node in enumerate(NODES, 1)},
    **{f"pods of {node}": {4: f"10.244.{n}.0/24", 6: f"fd00:10:244:{n}::/64"} for n, node in enumerate(NODES, 1)},
    OUTSIDE: {4: "192.0.2.1", 6: "2001:db8:0:1::1"},
}  # fmt: skip
"""Addresses as they may be."""


class Oracle:
    """Judges one situation."""

    def __init__(self, step: Step, now: Situation, book: Book) -> None:
        self.book = book
        specs = {name: step.judged.get(name, spec) for name, spec in now.policies.items()}
        self.pods = {name: self._pod(name, labels) for name, labels in now.pods.items()}
        self.nodes = {
            name: Node(name, (*book[name].values(),), (*book[f"gateway of {name}"].values(),))
            for name in NODES
        }
        self.cluster = Cluster(
            namespaces=tuple(namespace(name, labels) for name, labels in now.namespaces.items()),
            pods=(*self.pods.values(), *(self._pod(name, POD_LABELS["a"]) for name in HOST_PODS)),
            policies=tuple(policy(name, filled(spec, book)) for name, spec in specs.items()),
            nodes=tuple(self.nodes.values()),
        )

    def _pod(self, name: str, labels: dict[str, str]) -> Object:
        addresses = self.book[HOST_PODS.get(name, name)].values()
        made = pod(name, labels)
        return {**made, "status": {"phase": "Running", "podIPs": [{"ip": each} for each in addresses]}}

    def verdicts(self, way: Way) -> tuple[Verdict, ...]:
        """Of all that policies are asked on the way."""
        return tuple(verdict(self.cluster, each) for each in self.connections(way))

    def allows(self, way: Way) -> bool:
        return all(each.allowed for each in self.verdicts(way))

    def connections(self, way: Way) -> Iterator[Connection]:
        """A connection through another node's port goes to that node first, and then on from it."""
        protocol = None if way.protocol == "PING" else way.protocol
        target = self.end(way.end, way.family)
        source = self.end(way.source, way.family, sending=True)
        if way.entry and way.entry not in (way.source, HOSTS.get(way.source)):
            if way.source in PODS:
                yield Connection(source, self.end(way.entry, way.family), protocol, NODE_PORT)
            if way.kind == "port" or way.source != OUTSIDE:
                source = self.forwarded(way.entry, way.family)
            else:
                source = self.end(way.source, way.family)
        yield Connection(source, target, protocol, way.port)

    def forwarded(self, node: str, family: int) -> End:
        """What a node sends on for others has its address; but it is not what is always allowed to its own pods."""
        of = self.nodes[node]
        return End(replace(of, name=f"through {node}"), self.book[f"gateway of {node}"][family])

    def end(self, place: str, family: int, sending: bool = False) -> End:
        """To pods nodes send from the address that is their own pods' gateway."""
        if place in self.pods:
            return End(self.pods[place], self.book[place][family])
        name = f"gateway of {place}" if sending and place in NODES else place
        return End(self.nodes.get(place), self.book[name][family])


def disagreements(case: Case, book: Book = MODEL) -> list[str]:
    """Where the case's own table and the oracle differ."""
    found = []
    for number, (step, now) in enumerate(case.situations()):
        oracle = Oracle(step, now, book)
        for way, expected in step.table.of(step.ways).items():
            if oracle.allows(way) != expected:
                said = " and ".join(map(str, oracle.verdicts(way)))
                word = "allowed" if expected else "denied"
                found.append(f"{case} step {number}: {way} is to be {word}; the oracle: {said}")
    return found
