"""What others changed under the agent's hands: whether it was others, what it was, and how long to fight over it.

Pure but for a clock that it is given. `Echo` tells vswitchd's news of our own changes from news of others';
`describe` names the objects behind a difference; `Patience` gives up politely where somebody keeps changing
the same thing. Called by the agent's loop and its installer, and by `ovsnet audit`.
"""

from __future__ import annotations

import collections
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping

from ovsnet import flowplan, names
from ovsnet.model import Frozen
from ovsnet.objects import Object
from ovsnet.render import kind_of
from ovsnet.rows import AddPort, Change, DeletePort, SetIdentity, SetPort
from ovsnet.switch.monitor import FlowChange, GroupChange, MeterChange

Numbered = GroupChange | MeterChange

_COOKIE = re.compile(r"cookie=(0x[0-9a-f]+)")
_TABLE = re.compile(r"^.table=(\d+)[ ,]")
_ECHO = 1.0
"""Seconds after the last of our own changes within which vswitchd has told of it. It does so with its answer, but says
nothing while it answers dumps of many flows; what is taken for others' then leads to more of these."""
_ECHO_OF_ALL = 0.25
"""The same after everything was written, when nothing is known of any single change."""


class Echo:
    """News of our own changes comes back to us as of anybody's: one piece for every flow or group that we changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: collections.Counter[int | Numbered] = collections.Counter()
        self._until = 0.0
        self._everything = 0.0

    def sent(self, lines: Iterable[str]) -> None:
        """These changes are about to be asked for."""
        if self._clock() > self._until:
            self._expected.clear()
        self._expected.update(map(_news_of, lines))
        self._until = math.inf

    def replacing(self) -> None:
        """Everything is about to be written: any number of changes of any flow."""
        self._everything = math.inf

    def answered(self) -> None:
        """vswitchd has answered, or it won't."""
        self._until = min(self._until, self._clock() + _ECHO)
        self._everything = min(self._everything, self._clock() + _ECHO_OF_ALL)

    def is_ours(self, news: int | Numbered) -> bool:
        """Whether a change, just heard of, can be one of ours: of that group or meter, or of a flow of that cookie."""
        expected = self._is_expected(news)
        if expected:
            self._expected[news] -= 1
        return expected or self._clock() <= self._everything

    def is_of_all(self, news: int | Numbered) -> bool:
        """Whether it can be one of everything that is being written, and of nothing else that we ask for."""
        return self._clock() <= self._everything and not self._is_expected(news)

    def _is_expected(self, news: int | Numbered) -> bool:
        return self._clock() <= self._until and self._expected[news] > 0


def is_passing(change: FlowChange | Numbered) -> bool:
    """Whether it is about a flow that is there for a time only: the switch itself writes or removes it."""
    return isinstance(change, FlowChange) and names.kind_of(change.cookie) in names.UNRENDERED


def group_in(change: str) -> int | None:
    """The number of the group that a line of a bundle is about; None: a flow."""
    subject, _, rest = change.partition(" ")
    return flowplan.group_of(rest.partition(" ")[2]) if subject == "group" else None


def _news_of(change: str) -> int | Numbered:
    """What is told of a line of a bundle."""
    if change.startswith("meter "):
        return MeterChange(flowplan.meter_of(change.split(" ", 2)[2]) or 0)
    group = group_in(change)
    return cookie_in(change) if group is None else GroupChange(group)


class Drift(Frozen):
    """One thing that is not as the agent left it. lines: of the comparison, - has, + lacks."""

    subject: str
    """"flow of pod default/a1 in table route": names the object."""
    what: str
    """deleted, altered or added."""
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.subject} {self.what}"


def cookie_in(line: str) -> int:
    """The cookie of a flow in any of ovs-ofctl's forms; 0 if it has none."""
    found = _COOKIE.search(line)
    return int(found[1], 16) if found else 0


def describe(
    differences: Iterable[str], objects: Mapping[int, Object], tables: Mapping[int, str]
) -> list[Drift]:
    """Lines as of `ovs-ofctl diff-flows`, groups and meters among them, as drifts; a flow with other actions is one.

    objects: by cookie. tables: names by number. Flows that nobody renders are none.
    """
    by_flow: dict[str, dict[str, str]] = {}
    for line in differences:
        if names.kind_of(cookie_in(line)) in names.UNRENDERED:
            continue
        by_flow.setdefault(_place(line[1:]), {})[line[:1]] = line
    return [_drift(found, objects, tables) for found in by_flow.values()]


def is_supplied(difference: str) -> bool:
    """Whether a line as of `ovs-ofctl diff-flows` is about Services, as every group is, or policies."""
    is_group = flowplan.group_of(difference[1:]) is not None
    return is_group or names.kind_of(cookie_in(difference)) in names.SUPPLIED


def of_own_meter(drifts: Iterable[Drift], *, lost: bool = False) -> set[str]:
    """Subjects of these that are the agent's meter, or flows that went with it. lost: it was away, and is there again.

    They are worth any fight: flows of policies that send packets through it are refused without.
    """
    wanted = {each.subject: [line[1:] for line in each.lines if line.startswith("+")] for each in drifts}
    meters = {subject for subject, lines in wanted.items() if flowplan.meters(lines)}
    flows = {
        subject
        for subject, lines in wanted.items()
        for line in lines
        if line.partition(" actions=")[2].startswith("meter:")
    }
    return meters | flows if meters or lost else set()


def _place(line: str) -> str:
    """What a line is about, whatever it says of it."""
    return _numbered(line) or " ".join(_COOKIE.sub("", flowplan.match_of(line)).split())


def _numbered(line: str) -> str:
    """Which group or meter the line is; "" for a flow."""
    if (group := flowplan.group_of(line)) is not None:
        return f"group {group}"
    return "" if (meter := flowplan.meter_of(line)) is None else f"meter {meter}"


def _drift(found: Mapping[str, str], objects: Mapping[int, Object], tables: Mapping[int, str]) -> Drift:
    # What it should be names the object; only what nobody wants is named by what it is.
    line = found.get("+") or found["-"]
    cookie = cookie_in(line)
    obj = objects.get(cookie)
    if obj is not None:
        who = f"{kind_of(obj)} {obj.title}"
    else:
        who = f"an unknown {names.kind_of(cookie) or 'owner'} (cookie {cookie:#x})"
    what = "altered" if len(found) > 1 else "deleted" if "+" in found else "added"
    numbered = _numbered(line[1:])
    if numbered:
        return Drift(subject=f"{numbered} of {who}", what=what, lines=tuple(found.values()))
    table = _TABLE.match(line)
    number = int(table[1]) if table else 0
    where = f"table {tables.get(number, str(number))}"
    return Drift(subject=f"flow of {who} in {where}", what=what, lines=tuple(found.values()))


def ports(changes: Iterable[Change], *, done: bool = True) -> list[str]:
    """Changes of the gateway's and tunnels' rows, although nothing else was wanted, as what others had done.

    done: they have been carried out.
    """
    restored, removed = ("; restored", "; removed") if done else ("", "")
    words = []
    for change in changes:
        if isinstance(change, AddPort | SetPort):
            who = _owner(change.spec.external_ids)
            what = "deleted" if isinstance(change, AddPort) else "altered"
            words.append(f"port {change.spec.name} of {who} {what} by someone else{restored}")
        elif isinstance(change, SetIdentity):
            who = _owner(change.external_ids)
            words.append(f"port {change.name} of {who} altered by someone else{restored}")
        elif isinstance(change, DeletePort):
            words.append(f"port {change.name} of nobody added by someone else{removed}")
    return words


def _owner(ids: Mapping[str, str]) -> str:
    if ids.get(names.OWNER) == names.ROLE_GATEWAY:
        return "the node itself"
    peer = ids.get(names.KEY_PEER)
    return f"peer {peer}" if peer else "all peers"


def remedy(drifts: Iterable[Drift]) -> list[str]:
    """The bundle that undoes them, for `ovs-ofctl bundle`."""
    groups, deletions, additions, gone = [], [], [], []
    meters, idle = [], []
    for drift in drifts:
        has, lacks = ([line[1:] for line in drift.lines if line.startswith(sign)] for sign in "-+")
        if flowplan.meter_of(drift.lines[0][1:]) is not None:
            meters += flowplan.meter_changes(flowplan.meters(has), flowplan.meters(lacks))
            idle += flowplan.meter_deletions(flowplan.meters(has), flowplan.meters(lacks))
            continue
        if flowplan.group_of(drift.lines[0][1:]) is not None:
            groups += flowplan.group_changes(flowplan.split(has)[1], flowplan.split(lacks)[1])
            gone += flowplan.group_deletions(flowplan.split(has)[1], flowplan.split(lacks)[1])
            continue
        additions += [f"flow add {line}" for line in lacks]
        if not lacks:
            match = flowplan.match_of(has[0])
            cookie = f"cookie={cookie_in(match):#x}/{flowplan.OWN}"
            deletions.append(
                f"flow delete_strict {_COOKIE.sub(cookie, match) if _COOKIE.search(match) else match}"
            )
    return meters + groups + deletions + additions + gone + idle


class Patience:
    """How often the same thing is put right before it is left alone for a while."""

    FREELY, WINDOW = 5, 60.0
    """Repairs of one thing within so many seconds before anybody speaks of a fight."""
    FIRST, LONGEST = 30.0, 600.0
    """Seconds until the next repair then; doubles while the fight goes on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._repairs: dict[str, collections.deque[float]] = {}
        self._resting: dict[str, tuple[float, float]] = {}
        """By subject: until when it is left alone, and for how long."""
        self._looked = clock()
        """When it last looked for subjects that are over."""

    def allows(self, subject: str) -> bool:
        """Whether it may be put right now."""
        until, _ = self._resting.get(subject, (0.0, 0.0))
        return self._clock() >= until

    def repaired(self, subject: str) -> float:
        """Takes note of a repair. Seconds for which the subject is left alone from now on; 0: none."""
        now = self._clock()
        if now - self._looked > self.WINDOW:
            self._looked = now
            self._forget(now)
        if self._is_over(subject, now):
            self._resting.pop(subject, None)
        _, pause = self._resting.get(subject, (0.0, 0.0))
        recent = self._repairs.setdefault(subject, collections.deque(maxlen=self.FREELY))
        recent.append(now)
        if not pause and (len(recent) < self.FREELY or now - recent[0] > self.WINDOW):
            return 0.0
        pause = min(2 * pause, self.LONGEST) if pause else self.FIRST
        self._resting[subject] = now + pause, pause
        return pause

    def _is_over(self, subject: str, now: float) -> bool:
        """Whether there is no fight that would go on with a repair now."""
        until, pause = self._resting.get(subject, (0.0, 0.0))
        return not pause or now - until > 2 * pause

    def _forget(self, now: float) -> None:
        """Subjects that are as if nobody had ever heard of them: they are of any name, and there is no end to these."""
        old = [subject for subject, recent in self._repairs.items() if now - recent[-1] > self.WINDOW]
        for subject in old:
            if self._is_over(subject, now):
                del self._repairs[subject]
                self._resting.pop(subject, None)

    def wait(self) -> float | None:
        """Seconds until something that is left alone may be put right; None: nothing is."""
        now = self._clock()
        waits = [until - now for until, _ in self._resting.values() if until > now]
        return min(waits, default=None)
