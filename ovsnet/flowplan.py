"""Rendered lines against those that are installed: the bundle that leads from one to the other.

Pure. A line is a flow, or a group or meter that flows send packets to or through; all carry the cookie of the object
that they serve in front, though the switch keeps none for groups and meters. Called by the agent's installer and by
`switch.openflow`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ovsnet.render import Rendered

OWN = "0xfffffffffffffffe"
"""The mask of cookies in deletions. For one with a whole cookie Open vSwitch 3.1 goes through all flows that have that
cookie: it stood still for a second when 10,000 flows of one object went. With a bit less it looks the flow up."""
_GROUP = re.compile(r"(?:cookie=0x[0-9a-f]+,)?group_id=(\d+)")
_METER = re.compile(r"(?:cookie=0x[0-9a-f]+,)?meter=(\d+)")


def group_of(line: str) -> int | None:
    """The number of the group that the line is; None for anything else."""
    found = _GROUP.match(line)
    return int(found[1]) if found else None


def meter_of(line: str) -> int | None:
    """The same of a meter."""
    found = _METER.match(line)
    return int(found[1]) if found else None


def without_cookie(line: str) -> str:
    """A group or meter as the switch takes and prints it."""
    return line.partition(",")[2] if line.startswith("cookie=") else line


def meters(lines: Iterable[str]) -> dict[int, str]:
    """The meters among the lines, by number."""
    return {number: line for line in lines if (number := meter_of(line)) is not None}


def split(lines: Iterable[str]) -> tuple[list[str], dict[int, str]]:
    """Flows, and groups by number; no meters."""
    flows: list[str] = []
    groups: dict[int, str] = {}
    for line in lines:
        number = group_of(line)
        if number is None:
            if meter_of(line) is None:
                flows.append(line)
        else:
            groups[number] = line
    return flows, groups


def bundle(installed: Rendered, desired: Rendered) -> list[str]:
    """What leads from one rendered state to the other, for `ovs-ofctl bundle`.

    Groups are there before flows send packets to them, and go when none does any more: with a group go all its flows.
    So it is with meters, which no bundle takes: `switch.openflow` changes them before and after it.
    Deletions of flows come before additions and only match flows with their own cookie, so a flow that moves from one
    object to another survives whichever of the two is looked at first. Groups have no cookie: which of them come and go
    is a matter of all objects that change.
    """
    groups_before: dict[int, str] = {}
    groups_after: dict[int, str] = {}
    meters_before: dict[int, str] = {}
    meters_after: dict[int, str] = {}
    deletions: list[str] = []
    additions: list[str] = []
    for cookie in installed.keys() | desired.keys():
        if installed.get(cookie, ()) == desired.get(cookie, ()):
            continue
        meters_before |= meters(installed.get(cookie, ()))
        meters_after |= meters(desired.get(cookie, ()))
        before, groups = split(installed.get(cookie, ()))
        groups_before |= groups
        after, groups = split(desired.get(cookie, ()))
        groups_after |= groups
        matches = {match_of(line) for line in after}
        known = set(before)
        deletions += [_deletion(line) for line in before if match_of(line) not in matches]
        additions += [f"flow add {line}" for line in after if line not in known]
    return [
        *meter_changes(meters_before, meters_after),
        *group_changes(groups_before, groups_after),
        *deletions,
        *additions,
        *group_deletions(groups_before, groups_after),
        *meter_deletions(meters_before, meters_after),
    ]


def meter_changes(before: Mapping[int, str], after: Mapping[int, str]) -> list[str]:
    """Meters to be made, or to be made otherwise."""
    return [
        f"meter set {without_cookie(line)}"
        for number, line in after.items()
        if number not in before or without_cookie(before[number]) != without_cookie(line)
    ]


def meter_deletions(before: Mapping[int, str], after: Mapping[int, str]) -> list[str]:
    """Meters that nobody wants any more."""
    return [f"meter delete meter={number}" for number in before if number not in after]


def group_changes(before: Mapping[int, str], after: Mapping[int, str]) -> list[str]:
    """Groups to be added, or to be written anew as a whole."""
    return [
        f"group {'modify' if number in before else 'add'} {without_cookie(line)}"
        for number, line in after.items()
        if number not in before or without_cookie(before[number]) != without_cookie(line)
    ]


def group_deletions(before: Mapping[int, str], after: Mapping[int, str]) -> list[str]:
    """Groups that nobody wants any more."""
    return [f"group delete group_id={number}" for number in before if number not in after]


def group_differences(installed: Mapping[int, str], wanted: Mapping[int, str]) -> list[str]:
    """Like `ovs-ofctl diff-flows`, of groups or meters, which it does not know: - has, + lacks, the latter with the
    object's cookie."""
    found: list[str] = []
    for number in installed.keys() | wanted.keys():
        has, wants = installed.get(number), wanted.get(number)
        if has is None or wants is None or without_cookie(has) != without_cookie(wants):
            found += [f"-{has}"] if has is not None else []
            found += [f"+{wants}"] if wants is not None else []
    return found


def match_of(line: str) -> str:
    """A flow without its actions: what makes it the flow that it is."""
    return line.partition(" actions=")[0]


def _deletion(line: str) -> str:
    cookie, _, rest = match_of(line).partition(",")
    return f"flow delete_strict {cookie}/{OWN},{rest}"
