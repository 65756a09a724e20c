"""Which of today's connections a change of policies or labels would newly allow or deny, for all ports and addresses.

Pure. Compares what `policyjudge` says before and after for one of each class of ends (`policyends`) and one of each
range of ports that no rule tells apart: so the answer is complete, and costs classes instead of pods. Only ends that
the change touches are compared, with all others. Knows no rule of policies itself. Called by `ovsnet policy diff`;
`policydiffwords` puts it into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ovsnet.policyends import EndClass, Ends, Face, Stance
from ovsnet.policyjudge import Connection, Side, World
from ovsnet.policymodel import Direction
from ovsnet.policywords import reason
from ovsnet.servicemodel import Protocol

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
KINDS: tuple[Protocol | None, ...] = (None, *Protocol)
"""What a connection may be; None: a ping, and all else that has no ports."""
LAST = 65535

Ports = tuple[tuple[int, int], ...]
"""Ranges of ports, both ends included, in order; of what has no ports: (0, 0)."""


class Because(NamedTuple):
    """What one side says that makes the difference."""

    direction: Direction
    words: str


class Verdict(NamedTuple):
    """Connections that would newly be allowed, or denied, all for the same reasons."""

    allowed: bool
    because: tuple[Because, ...]
    ports: tuple[tuple[Protocol | None, Ports], ...]

    @property
    def subject(self) -> Direction:
        """The side that makes the difference."""
        return EGRESS if all(each.direction is EGRESS for each in self.because) else INGRESS


class Row(NamedTuple):
    """Everybody of `sources` to everybody of `targets`. family: 4 or 6 if it is so in one of several only, or 0."""

    sources: tuple[EndClass, ...]
    targets: tuple[EndClass, ...]
    family: int
    verdicts: tuple[Verdict, ...]
    pairs: int


class Diff(NamedTuple):
    """pairs: of all rows, each once. A network outside counts as one end. pods: all that were compared, in order."""

    rows: tuple[Row, ...]
    pairs: int
    pods: tuple[str, ...]


class _Outcome(NamedTuple):
    allowed: bool
    words: str


_Said = Mapping[Protocol | None, tuple[tuple[int, _Outcome], ...]]
"""What one side says, by kind: the first port of each range, in order."""
_Answer = tuple[Verdict, ...]
_Sides = tuple[_Said, _Said, _Said, _Said]
"""Egress and ingress before, egress and ingress after."""


def compare(before: World, after: World) -> Diff:
    """after: with the same pods at the same addresses."""
    ends = Ends(before, after)
    found: dict[tuple[_Answer, int], dict[int, tuple[EndClass, dict[int, EndClass]]]] = {}
    pairs = 0
    comparing = _Comparing(ends)
    for source, target in _candidates(ends):
        answers = comparing.pair(source, target)
        if answers:
            pairs += count(source, target)
        for family, answer in answers:
            subject, peer = (source, target) if answer[0].subject is EGRESS else (target, source)
            _, peers = found.setdefault((answer, family), {}).setdefault(id(subject), (subject, {}))
            peers[id(peer)] = peer
    rows = [
        _row(answer, family, subjects, peers)
        for (answer, family), of in found.items()
        for subjects, peers in _alike(of)
    ]
    return Diff(tuple(sorted(rows, key=_order)), pairs, tuple(ends.pods))


def count(source: EndClass, target: EndClass) -> int:
    """Pairs of two ends: without a pod and itself, and without a pod and its node, which always reach each other."""
    number = len(source.members) * len(target.members)
    if source is target:
        return number - len(source.members)
    for pods, nodes in ((source, target), (target, source)):
        if pods.kind == "pod" and nodes.kind == "node":
            names = {each.node for each in nodes.members}
            return number - sum(each.node in names for each in pods.members)
    return number


def _candidates(ends: Ends) -> Iterator[tuple[EndClass, EndClass]]:
    """Pairs of classes, of which one is touched: only what is said of these can be other than before."""
    touched = [each for each in ends.classes if each.is_touched]
    known = {id(each) for each in touched}
    for one in touched:
        for other in ends.classes:
            if one.kind == other.kind == "node":
                continue
            if count(one, other):
                yield one, other
                if id(other) not in known:
                    yield other, one
        if one.stances:
            for outside in ends.outside(one, EGRESS):
                yield one, outside
            for outside in ends.outside(one, INGRESS):
                yield outside, one


class _Comparing:
    """Judges, and keeps what was said: most pairs are like one before."""

    def __init__(self, ends: Ends) -> None:
        self._judges = ends.judges
        self._said: dict[tuple[int, frozenset[int]], _Said] = {}
        self._equal: dict[object, _Said] = {}
        self._answers: dict[tuple[int, ...], _Answer] = {}

    def pair(self, source: EndClass, target: EndClass) -> list[tuple[int, _Answer]]:
        """What changes, by family; with 0 for it if it is the same in all that both have."""
        if not (
            source.restanced(EGRESS) or target.restanced(INGRESS) or source.regrouped or target.regrouped
        ):
            return []
        found: dict[tuple[int, _Answer], None] = {}
        for one in source.sends:
            for other in target.reached:
                if one.address.version == other.address.version:
                    found[one.address.version, self._answer(source, one, target, other)] = None
        answers = {answer for _, answer in found}
        if len(answers) == 1:
            return [(0, answer) for answer in answers if answer]
        return [(family, answer) for family, answer in found if answer]

    def _answer(self, source: EndClass, sends: Face, target: EndClass, reached: Face) -> _Answer:
        sides = (
            self._side(EGRESS, 0, source, sends, target, reached),
            self._side(INGRESS, 0, target, reached, source, sends),
            self._side(EGRESS, 1, source, sends, target, reached),
            self._side(INGRESS, 1, target, reached, source, sends),
        )
        if sides[0] is sides[2] and sides[1] is sides[3]:
            return ()
        asked = tuple(map(id, sides))
        if asked not in self._answers:
            self._answers[asked] = tuple(_verdicts(sides))
        return self._answers[asked]

    def _side(
        self, direction: Direction, when: int, subject: EndClass, own: Face, peer: EndClass, its: Face
    ) -> _Said:
        """What the subject's policies say of connections with the peer. when: 0 before, 1 after."""
        if direction not in subject.stances:
            return _ANYTHING
        stance = subject.stances[direction][when]
        asked = stance.number, its.groups[when] & stance.groups
        if asked not in self._said:
            said = self._judged(direction, when, stance, subject, own, peer, its)
            # What is equal is the same, so that nobody needs to look into it.
            self._said[asked] = self._equal.setdefault(tuple(said.values()), said)
        return self._said[asked]

    def _judged(
        self,
        direction: Direction,
        when: int,
        stance: Stance,
        subject: EndClass,
        own: Face,
        peer: EndClass,
        its: Face,
    ) -> _Said:
        one, other = subject.ends[0], peer.ends[-1 if peer is subject else 0]
        ends, addresses = (one, other), (own.address, its.address)
        if direction is INGRESS:
            ends, addresses = (other, one), (its.address, own.address)

        def judged(kind: Protocol | None, port: int) -> _Outcome:
            asked = Connection(source=addresses[0], target=addresses[1], protocol=kind, port=port)
            sides = self._judges[when].sides(*ends, asked)
            return _outcome(sides[0 if direction is EGRESS else 1])

        return {
            kind: _merged((first, judged(kind, first)) for first in sorted(_firsts(kind, stance)))
            for kind in KINDS
        }


def _outcome(side: Side) -> _Outcome:
    return _Outcome(side.allowed, reason(side))


def _firsts(kind: Protocol | None, stance: Stance) -> set[int]:
    """Where ranges of ports begin that rules may tell apart."""
    if kind is None:
        return {0}
    edges = {edge for each in stance.ports if each.protocol is kind for edge in (each.first, each.last + 1)}
    return {1} | {each for each in edges if 1 < each <= LAST}


def _merged(outcomes: Iterator[tuple[int, _Outcome]]) -> tuple[tuple[int, _Outcome], ...]:
    found: list[tuple[int, _Outcome]] = []
    for first, outcome in outcomes:
        if not found or found[-1][1] != outcome:
            found.append((first, outcome))
    return tuple(found)


_ANYTHING: _Said = {kind: ((0 if kind is None else 1, _Outcome(True, "")),) for kind in KINDS}
"""What is said of who is no pod."""


def _verdicts(sides: _Sides) -> Iterator[Verdict]:
    """What both sides together say otherwise than before."""
    found: dict[tuple[bool, tuple[Because, ...]], dict[Protocol | None, list[tuple[int, int]]]] = {}
    for kind in KINDS:
        for first, last, outcomes in _ranges([each[kind] for each in sides]):
            before, after = outcomes[:2], outcomes[2:]
            allowed = all(each.allowed for each in after)
            if allowed is all(each.allowed for each in before):
                continue
            # Who denies it then, or who denied it and does no more.
            because = tuple(
                Because(direction, now.words)
                for direction, was, now in zip((EGRESS, INGRESS), before, after, strict=True)
                if not (was if allowed else now).allowed
            )
            ranges = found.setdefault((allowed, because), {}).setdefault(kind, [])
            if ranges and ranges[-1][1] + 1 == first:
                first = ranges.pop()[0]
            ranges.append((first, last))
    for (allowed, because), by_kind in found.items():
        ports = tuple((kind, tuple(ranges)) for kind, ranges in by_kind.items())
        yield Verdict(allowed, because, ports)


def _ranges(
    said: list[tuple[tuple[int, _Outcome], ...]],
) -> Iterator[tuple[int, int, tuple[_Outcome, ...]]]:
    """Ranges of ports in which all of them say one thing each: first, last, and what."""
    firsts = sorted({first for each in said for first, _ in each})
    at = [0] * len(said)
    for index, first in enumerate(firsts):
        for which, each in enumerate(said):
            if at[which] + 1 < len(each) and each[at[which] + 1][0] <= first:
                at[which] += 1
        last = firsts[index + 1] - 1 if index + 1 < len(firsts) else (LAST if first else 0)
        yield first, last, tuple(each[where][1] for each, where in zip(said, at, strict=True))


# --- rows ---


def _alike(
    found: Mapping[int, tuple[EndClass, Mapping[int, EndClass]]],
) -> Iterator[tuple[tuple[EndClass, ...], tuple[EndClass, ...]]]:
    """Subjects with the same peers, and these."""
    subjects: dict[frozenset[int], list[EndClass]] = {}
    peers: dict[frozenset[int], tuple[EndClass, ...]] = {}
    for subject, of in found.values():
        peers[frozenset(of)] = tuple(of.values())
        subjects.setdefault(frozenset(of), []).append(subject)
    for which, each in subjects.items():
        yield tuple(each), peers[which]


def _row(verdicts: _Answer, family: int, subjects: tuple[EndClass, ...], peers: tuple[EndClass, ...]) -> Row:
    sources, targets = (subjects, peers) if verdicts[0].subject is EGRESS else (peers, subjects)
    pairs = sum(count(source, target) for source in sources for target in targets)
    return Row(sources, targets, family, verdicts, pairs)


def _order(row: Row) -> tuple[object, ...]:
    """By whose policies say it; what is denied comes first."""
    subjects, peers = row.sources, row.targets
    if row.verdicts[0].subject is INGRESS:
        subjects, peers = peers, subjects
    names = tuple(min(member.key for each in which for member in each.members) for which in (subjects, peers))
    return (names[0], row.verdicts[0].allowed, names[1], row.family, str(row.verdicts))
