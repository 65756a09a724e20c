"""All files' objects of one kind to one of each key, again and again as files change.

Pure. While no two files have one object, a change costs what the files have that changed, never what all have. Where
some do, `cluster` says which counts. Called by `file`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from ovsnet.mappings import different
from ovsnet.store.reading import Readable

_Object = TypeVar("_Object", bound=Readable)
Files = Mapping[str, Mapping[str, _Object]]
"""Objects by key, by file. What did not change is the same instance."""


class Merged(Generic[_Object]):
    """settle: one object of each key, and what is wrong by file, of all files' objects and of those that counted
    before; asked where several files have one."""

    def __init__(
        self,
        settle: Callable[
            [Mapping[str, Iterable[_Object]], Mapping[str, _Object]],
            tuple[Mapping[str, _Object], Mapping[str, list[str]]],
        ],
    ) -> None:
        self._settle = settle
        self._files: Files[_Object] = {}
        self.objects: Mapping[str, _Object] = {}
        """By key; the same instance until something in it changes."""
        self.problems: Mapping[str, list[str]] = {}
        """Lines by file: there are some if and only if several files have one object."""

    def update(self, files: Files[_Object]) -> None:
        """Takes in what all files have now."""
        before, self._files = self._files, files
        changed = [path for path in {**before, **files} if before.get(path) is not files.get(path)]
        if not changed:
            return
        if not self.problems and (now := self._patched(before, changed)) is not None:
            self.objects = now
            return
        found, self.problems = self._settle(
            {path: each.values() for path, each in files.items()}, self.objects
        )
        if different(self.objects, found):
            self.objects = found

    def _patched(self, before: Files[_Object], changed: Iterable[str]) -> Mapping[str, _Object] | None:
        """What there is with the changes in it; None if several files have one object."""
        old: dict[str, _Object] = {}
        new: dict[str, _Object] = {}
        count = 0
        for path in changed:
            old.update(before.get(path, {}))
            new.update(files := self._files.get(path, {}))
            count += len(files)
        if count != len(new) or any(key in self.objects for key in new.keys() - old.keys()):
            return None
        gone = old.keys() - new.keys()
        news = {key: each for key, each in new.items() if self.objects.get(key) is not each}
        if not gone and not news:
            return self.objects
        now = {**self.objects, **news}
        for key in gone:
            del now[key]
        return now
