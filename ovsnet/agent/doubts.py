"""What of the store nobody has read since the agent's start, and what that closes.

A file or object that was wrong at the start may have policies that an earlier agent knew, or labels that these select
by: pods that were isolated then stay so (`marks`), and none is added, until it was in order once. What is wrong later
keeps what was good of it, in the store. Where there were no policies nothing is in doubt. Called by `policing`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from ovsnet.agent.marks import Marks
from ovsnet.model import Pod
from ovsnet.policies import Floor
from ovsnet.store import Snapshot

_NAMED = 10
"""Pods or files that a line names."""
_NAMESPACED = ("NetworkPolicy", "Pod")
"""Kinds of objects of the Kubernetes API that isolate pods of their namespace alone."""


class Doubts:
    """For as long as an agent runs. pods: this node's."""

    def __init__(self, marks: Marks, pods: Callable[[], Iterable[Pod]]) -> None:
        self._marks = marks
        self._pods = pods
        self.unread: frozenset[str] = frozenset()
        """Files or objects."""
        self.floor: Mapping[str, Floor] = {}
        """How far pods are closed meanwhile."""
        self._unread_last: frozenset[str] = frozenset()

    def follow(self, snapshot: Snapshot, *, first: bool) -> None:
        """first: of this agent."""
        unread = snapshot.unread_policies
        if not first:
            # One that comes as another goes may be the same under a new name.
            renamed = unread - self._unread_last if self.unread - unread else frozenset()
            self.unread = self.unread & unread | renamed
        elif snapshot.has_policies or self._marks.may_have_policies:
            self.unread = unread
            self.floor = self._marks.floor(self._pods()) if self.unread else {}
        self._unread_last = unread
        self.floor = {key: each for key, each in self.floor.items() if self.about(key)}

    def about(self, key: str) -> str:
        """What is unread and may concern the pod of that key, in words; not all of it, if it is much."""
        namespace = key.partition("/")[0]
        return _named(each for each in self.unread if _namespace(each) in ("", namespace))

    def lines(self, local: Container[str]) -> list[str]:
        """What is closed, and why. local: keys of this node's pods."""
        if not self.unread:
            return []
        pods = sorted(key for key in self.floor if key in local)
        closed = (
            f", and those that policies isolated stay isolated: {', '.join(pods[:_NAMED])}" if pods else ""
        )
        return [
            f"{_named(self.unread)}: could not be read since the agent started, and may have policies; until it is in "
            f"order no pod that it may concern is added{closed}"
        ]


def _named(sources: Iterable[str]) -> str:
    return ", ".join(sorted(sources)[:_NAMED])


def _namespace(source: str) -> str:
    """Of which alone it is; "" for a file, of which nobody knows that."""
    kind, _, key = source.partition(" ")
    return key.partition("/")[0] if kind in _NAMESPACED else ""
