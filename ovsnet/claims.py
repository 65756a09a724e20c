"""Things that several name and one has: of all who name a thing, the one that sorts first.

Pure. Two EndpointSlices often name one endpoint, as those of two Services that select the same pods do; a flow has one
object. Which one follows from who names it and not from who came first: other programs derive the same, and so does
the next start. Called by `services`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Thing = TypeVar("Thing", bound=Hashable)


class Claims(Generic[Thing]):
    """Who names what."""

    def __init__(self) -> None:
        self._claimants: dict[Thing, tuple[str, ...]] = {}
        """Sorted. Nearly always one, and one tuple for all that it names: there are things by the hundred thousand."""
        self._named: dict[str, tuple[Thing, ...]] = {}

    def name(self, who: str, things: Iterable[Thing]) -> set[str]:
        """`who` names these and nothing else from now on. All who have others than before, `who` among them."""
        wanted = tuple(dict.fromkeys(things))
        before = self._named.pop(who, ())
        touched, alone = {who}, (who,)
        for thing in set(before) - set(wanted):
            others = tuple(each for each in self._claimants.pop(thing) if each != who)
            if others:
                self._claimants[thing] = others
                touched.add(others[0])
        for thing in set(wanted) - set(before):
            others = self._claimants.get(thing, ())
            self._claimants[thing] = tuple(sorted((*others, who))) if others else alone
            touched.update(others[:1])
        if wanted:
            self._named[who] = wanted
        return touched

    def named(self, who: str) -> tuple[Thing, ...]:
        """What `who` names, whether it has it or not."""
        return self._named.get(who, ())

    def held(self, who: str) -> tuple[Thing, ...]:
        """What `who` has, in the order in which it was named."""
        named = self.named(who)
        held = tuple(thing for thing in named if self._claimants[thing][0] == who)
        return named if len(held) == len(named) else held
