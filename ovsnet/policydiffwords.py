"""What a change of policies would allow and deny, for people and as plain data.

Pure. Owns how many pods become few words; decides nothing. Called by `ovsnet policy diff`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ovsnet.policydiff import LAST, Diff, Ports, Row, Verdict
from ovsnet.policyends import EndClass
from ovsnet.policynets import WHOLE, Region
from ovsnet.servicemodel import Protocol

MOST = 40
"""Rows that are told, unless all are asked for."""
_NAMES = 6
"""Names in a row, likewise."""
_RANGES = 12
"""Ranges of ports, likewise."""


def shown(diff: Diff, everything: bool) -> dict[str, Any]:
    """As plain data. everything: however much it is."""
    rows = diff.rows if everything else diff.rows[:MOST]
    titles = _Titles(diff.pods, None if everything else _NAMES)
    return {
        "pairs": diff.pairs,
        "changes": [_row(each, titles) for each in rows],
        "leftOut": {
            "changes": len(diff.rows) - len(rows),
            "pairs": sum(each.pairs for each in diff.rows[len(rows) :]),
        },
    }


def lines(found: Mapping[str, Any], everything: bool) -> Iterator[str]:
    """`shown` for people."""
    for row in found["changes"]:
        yield _head(row, everything)
        for verdict in row["verdicts"]:
            yield f"  {_connections(verdict['connections'], everything)}: {_verdict(verdict)}"
    if found["leftOut"]["changes"]:
        left = found["leftOut"]
        yield f"... and {left['changes']} more changes, of {left['pairs']} pairs: --all tells them"
    yield f"{_counted(found['pairs'], 'pair')} would change" if found["pairs"] else "nothing would change"


def _head(row: Mapping[str, Any], everything: bool) -> str:
    most = None if everything else _NAMES
    source, target = (_listed(row[end]["titles"], most) for end in ("from", "to"))
    family = f", IPv{row['family']} only" if row["family"] else ""
    pairs = f"({_counted(row['pairs'], 'pair')}{family})"
    if row["verdicts"][0]["subject"] == "ingress":
        return f"{target}  <-  {source}  {pairs}"
    return f"{source}  ->  {target}  {pairs}"


def _verdict(verdict: Mapping[str, Any]) -> str:
    because = "; ".join(f"{each['direction']}: {each['why']}" for each in verdict["because"])
    return f"{'denied -> ALLOWED' if verdict['allowed'] else 'allowed -> DENIED'}, {because}"


def _listed(names: Sequence[str], most: int | None) -> str:
    # One name takes no more room than to say that there is one more.
    if most is None or len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


# --- connections ---


def _connections(found: Sequence[Mapping[str, Any]], everything: bool) -> str:
    """Ports of each protocol, as short as it can be said."""
    if all(each["ports"] in (None, [[1, LAST]]) for each in found) and len(found) == len(Protocol) + 1:
        return "everything"
    return "; ".join(_ports(each["protocol"], each["ports"], everything) for each in found)


def _ports(protocol: str | None, ranges: Sequence[Sequence[int]] | None, everything: bool) -> str:
    if protocol is None or ranges is None:
        return "pings"
    others = list(_others(ranges))
    if not others:
        return f"{protocol} all"
    most = None if everything else _RANGES
    if len(others) < len(ranges):
        return f"{protocol} all but {_listed([_range(*each) for each in others], most)}"
    return f"{protocol} {_listed([_range(*each) for each in ranges], most)}"


def _others(ranges: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """The ports that are not in the ranges."""
    at = 1
    for first, last in ranges:
        if first > at:
            yield at, first - 1
        at = last + 1
    if at <= LAST:
        yield at, LAST


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


# --- as plain data ---


def _row(row: Row, titles: _Titles) -> dict[str, Any]:
    return {
        "from": _end(row.sources, row.targets, titles),
        "to": _end(row.targets, row.sources, titles),
        "family": row.family or None,
        "pairs": row.pairs,
        "verdicts": [_said(each) for each in row.verdicts],
    }


def _said(verdict: Verdict) -> dict[str, Any]:
    return {
        "allowed": verdict.allowed,
        "subject": verdict.subject.value.lower(),
        "because": [
            {"direction": each.direction.value.lower(), "why": each.words} for each in verdict.because
        ],
        "connections": [
            {"protocol": None if kind is None else kind.value, "ports": _plain(kind, ports)}
            for kind, ports in verdict.ports
        ],
    }


def _plain(kind: Protocol | None, ports: Ports) -> list[list[int]] | None:
    return None if kind is None else [list(each) for each in ports]


def _end(classes: Sequence[EndClass], others: Sequence[EndClass], titles: _Titles) -> dict[str, Any]:
    regions = [each.region for each in classes if each.region is not None]
    return {
        "titles": list(titles.of(classes, others)),
        "pods": sorted(_keys(classes, "pod")),
        "nodes": sorted(_keys(classes, "node")),
        "networks": [
            {"network": str(each.network), "without": list(map(str, each.without))} for each in regions
        ],
    }


def _keys(classes: Iterable[EndClass], kind: str) -> set[str]:
    return {member.key for each in classes if each.kind == kind for member in each.members}


class _Titles:
    """Names for many pods. pods: all that there are, in order. most: names in one; None: however many."""

    def __init__(self, pods: Sequence[str], most: int | None) -> None:
        self._pods, self._most = pods, most
        self._in: dict[str, list[str]] = {}
        for key in pods:
            namespace, _, name = key.partition("/")
            self._in.setdefault(namespace, []).append(name)

    def of(self, classes: Sequence[EndClass], others: Sequence[EndClass]) -> Iterator[str]:
        """others: who is at the other end, of which a single one is not among these."""
        pods = _keys(classes, "pod")
        missing = len(self._pods) - len(pods)
        if pods and len(pods) > 1 and not missing:
            yield f"all {len(pods):,} pods"
        elif 1 < len(pods) > missing and set(self._pods) - pods == _keys(others, "pod"):
            yield f"all {len(pods):,} other pods"
        else:
            yield from self._by_namespace(classes)
        yield from (f"node {name}" for name in sorted(_keys(classes, "node")))
        yield from _regions([each.region for each in classes if each.region is not None], self._most)

    def _by_namespace(self, classes: Sequence[EndClass]) -> Iterator[str]:
        found: dict[str, list[list[str]]] = {}
        for each in classes:
            if each.kind == "pod":
                names = sorted(member.key.partition("/")[2] for member in each.members)
                found.setdefault(each.members[0].key.partition("/")[0], []).append(names)
        for namespace, those in sorted(found.items()):
            number = sum(map(len, those))
            if number > 1 and number == len(self._in[namespace]):
                yield f"{namespace}/* ({number:,} pods)"
            else:
                for names in those:
                    yield from self._some(namespace, names)

    def _some(self, namespace: str, names: Sequence[str]) -> Iterator[str]:
        """As a beginning that they have and nobody else, or each by its name."""
        # In order: what the first and the last have in common, all have.
        begins = "".join(
            a for a, _ in takewhile(lambda two: two[0] == two[1], zip(names[0], names[-1], strict=False))
        )
        begins = begins[: begins.rfind("-") + 1]
        alike = self._beginning(namespace, begins) if begins and len(names) > 1 else 0
        if alike == len(names):
            yield f"{namespace}/{begins}* ({len(names):,} pods)"
        else:
            yield from (f"{namespace}/{name}" for name in names)

    def _beginning(self, namespace: str, text: str) -> int:
        """How many pods of the namespace have a name that begins so."""
        names = self._in[namespace]
        return bisect_left(names, text + "\x7f") - bisect_left(names, text)


def _regions(regions: Sequence[Region], most: int | None) -> Iterator[str]:
    """Addresses outside of the cluster. most: networks that one is said to be without."""
    whole = [each for each in regions if each.network in WHOLE]
    if len(whole) == len(WHOLE) and not any(each.without for each in whole):
        yield "all others outside"
    else:
        for each in whole:
            yield f"all IPv{each.network.version} addresses outside{_without(each, most)}"
    for each in regions:
        if each.network not in WHOLE:
            yield f"{each.network}{_without(each, most)}"


def _without(region: Region, most: int | None) -> str:
    return f" (but {_listed(list(map(str, region.without)), most)})" if region.without else ""
