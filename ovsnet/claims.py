"""Things that several name and one has: the first that named them.

Pure. Two EndpointSlices often name one endpoint, as those of two Services that select the same pods do; a flow has one
object. Called by `services`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Thing = TypeVar("Thing", bound=Hashable)


class Claims(Generic[Thing]):
    """Who names what, in the order in which they came."""

    def __init__(self) -> None:
        self._claimants: dict[Thing, tuple[str, ...]] = {}
        self._named: dict[str, tuple[Thing, ...]] = {}

    def name(self, who: str, things: Iterable[Thing]) -> set[str]:
        """`who` names these and nothing else from now on. All who have others than before, `who` among them."""
        wanted = tuple(dict.fromkeys(things))
        before = self._named.pop(who, ())
        touched = {who}
        for thing in set(before) - set(wanted):
            first, left = self._claimants[thing][0], tuple(c for c in self._claimants[thing] if c != who)
            if not left:
                del self._claimants[thing]
                continue
            self._claimants[thing] = left
            if first == who:
                touched.add(left[0])
        for thing in set(wanted) - set(before):
            self._claimants[thing] = (*self._claimants.get(thing, ()), who)
        if wanted:
            self._named[who] = wanted
        return touched

    def held(self, who: str) -> tuple[Thing, ...]:
        """What `who` has, in the order in which it was named."""
        return tuple(thing for thing in self._named.get(who, ()) if self._claimants[thing][0] == who)
