"""All objects of one kind, as the API server has them: listed once, then followed.

Owns what it knows of its kind: nothing is withdrawn before a list is complete, and an object that can't be read keeps
what was good. Resumes where it was after every interruption, so that the server's work and ours follow what changes;
lists again when the server says that this is too long ago (410), or when its resourceVersion is lower than ours, or
than that of another kind: then it was restored from a backup. Never publishes: `store` does, which calls it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping

import msgspec

from ovsnet.errors import StoreError
from ovsnet.model import Frozen
from ovsnet.store.kubernetes.answers import Event, Identified, Identity, Page, Status
from ovsnet.store.kubernetes.backoff import Backoff
from ovsnet.store.kubernetes.client import Client, Gone, Malformed, Params, Refused, Unreachable
from ovsnet.store.kubernetes.turn import Turn
from ovsnet.store.reading import Readable, Reader

_LENGTH = (300, 600)
"""Seconds of a watch, as client-go: the server ends it, somewhere in between, so that not all nodes come at once."""
SILENCE = 150.0
"""Seconds without a byte after which a watch is opened anew: the server sends a bookmark a minute."""
_BROKEN_TRIES = 3
"""Watches that broke off at one version before everything is listed again: it may be an event that can't be read."""
_AWAY = 300.0
"""Seconds without contact after which everything is listed again. The server forgets as fast; and one that was restored
from a backup meanwhile may have come past our version again, which no number tells."""
_SHORT = 1.0
_SHORT_TRIES = 3
"""Watches of less than that many seconds, without an event, after which something is wrong."""
_ABSENT = (20.0, 40.0)
"""Seconds after which a resource that the server does not have is asked for again, somewhere in between."""
_ABSENT_AT_FIRST = (0.75, 1.25)
"""The same before anything is known of it: an agent's start waits for that."""
_MISSES = 2
"""Answers that there is no such resource until its objects are taken for gone, or for none at first: a server that
starts may err, and an earlier agent's flows may be of objects that it has."""
Changes = Mapping[str, Readable | None]


class Resource(Frozen):
    """What to list. plural: as it stands in the path and in messages. page: objects of one answer; 0: all
    in one."""

    plural: str
    path: str
    reader: type[Reader[Readable]]
    selector: str = ""
    """Of labels."""
    fields: str = ""
    """The same of fields."""
    page: int = 500
    optional: bool = False
    """The server may not have it: an API that people install, or not."""


class _Found:
    """Objects and problems by key."""

    def __init__(self) -> None:
        self.objects: dict[str, Readable] = {}
        self.problems: dict[str, str] = {}


class Reflector:
    """One kind. `changed` is told of objects that are new or different, or gone (None), and of problems too; `restored`
    of a server that knows less than we do: all kinds are to be listed `anew`, also one whose version it has passed."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        changed: Callable[[Reflector, Changes], None],
        trouble: Callable[[Reflector, StoreError | None], None],
        restored: Callable[[Reflector], None],
        silence: float = SILENCE,
    ) -> None:
        self.resource = resource
        self.complete = False
        """There has been a whole list, or word that there can't be one."""
        self._client = client
        self._changed = changed
        self._trouble = trouble
        self._restored = restored
        self._silence = silence
        self._decoder = msgspec.json.Decoder(resource.reader.shape)
        self._known = _Found()
        self._version = ""
        self._fresh = False
        """The version is that of a list, a moment ago."""
        self._contact = 0.0
        """When the server last was there, by the clock of `time.monotonic`."""
        self._breaks = 0
        self._shorts = 0
        self._misses = 0
        self.heard = 0.0
        """When the server last said something of the kind, if only that there is nothing new, by the same clock."""
        self._backoff = Backoff()
        self._unreachable = False
        """The last attempt found no server."""
        self._retry = asyncio.Event()
        self._watching: asyncio.Timeout | None = None

    @property
    def objects(self) -> Mapping[str, Readable]:
        return self._known.objects

    @property
    def problems(self) -> Mapping[str, str]:
        """By key: also of objects of which nothing good is known."""
        return self._known.problems

    def retry(self) -> None:
        """The server is there for others: don't wait until the pause is over."""
        self._retry.set()

    def anew(self) -> None:
        """What is known may be of a past that was undone: list it again, whatever its version."""
        self._version = ""
        watching = self._watching
        if watching is not None and watching.when() is None and not watching.expired():
            watching.reschedule(0)

    async def run(self) -> None:
        """Follows the kind until cancelled."""
        while True:
            try:
                if not self._version:
                    await self.list()
                if self._version:
                    await self._watch_until_anew()
                else:
                    pause = _ABSENT if self.complete else _ABSENT_AT_FIRST
                    await asyncio.sleep(random.uniform(*pause))  # noqa: S311 - no secret
            except StoreError as error:
                found, self._unreachable = self._unreachable, isinstance(error, Unreachable)
                if found and isinstance(error, Refused):
                    # It is there again, and has forgotten, or refuses while it starts: how long it was away says
                    # nothing of that.
                    self._backoff.reset()
                if isinstance(error, Gone) or self._is_absent(error):
                    self._version = ""
                    await asyncio.sleep(self._backoff.next())
                    continue
                self._trouble(self, error)
                if isinstance(error, Refused):
                    await asyncio.sleep(self._backoff.next(error.retry_after))
                else:
                    await self._pause()

    async def _pause(self) -> None:
        self._retry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.next()):
                await self._retry.wait()

    async def list(self) -> None:
        """Replaces all that is known by a complete list. Raises StoreError, and nothing has changed then."""
        try:
            found, version = await self._whole()
        except Refused as error:
            if not self._is_absent(error):
                raise
            self._miss()
            return
        self._misses = 0
        before, self._known = self._known, found
        changes: dict[str, Readable | None] = dict.fromkeys(before.objects.keys() - found.objects.keys())
        changes |= {key: each for key, each in found.objects.items() if before.objects.get(key) is not each}
        first = not self.complete
        self._contact = self.heard = time.monotonic()
        self._version, self._fresh, self.complete, self._breaks = version, True, True, 0
        self._trouble(self, None)
        if changes or first or before.problems != found.problems:
            self._changed(self, changes)

    def _is_absent(self, error: StoreError) -> bool:
        return self.resource.optional and isinstance(error, Refused) and error.status == 404

    def _miss(self) -> None:
        """The server does not have the resource: there are none if it says so again, which is no trouble."""
        self._misses += 1
        self._contact = time.monotonic()
        self._trouble(self, None)
        if self._misses < _MISSES and (self._known.objects or not self.complete):
            return
        gone, first = dict.fromkeys(self._known.objects), not self.complete
        self._known, self.complete = _Found(), True
        if gone or first:
            self._changed(self, gone)

    async def _whole(self) -> tuple[_Found, str]:
        try:
            return await self._pages(self.resource.page)
        except Gone:
            # Between two pages the server has forgotten the first one's moment.
            try:
                return await self._pages(self.resource.page)
            except Gone:
                return await self._pages(0)

    async def _pages(self, limit: int) -> tuple[_Found, str]:
        """All objects, and the version that they are of."""
        found = _Found()
        turn = Turn()
        token = ""
        while True:
            params: Params = {**self._selected(), **({"limit": limit} if limit else {})}
            page = await self._page({**params, "continue": token} if token else params)
            for raw in page.items or ():
                self._read(raw, self._identity(raw), found)
                await turn.over()
            token = page.metadata.continue_
            if not token:
                return found, page.metadata.resource_version

    async def _page(self, params: Params) -> Page:
        body = await self._client.get(self.resource.path, params)
        try:
            page = msgspec.json.decode(body, type=Page)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed(f"not a list: {error}") from error
        if not page.metadata.resource_version:
            raise self._malformed("a list without resourceVersion")
        return page

    async def _watch_until_anew(self) -> None:
        """As `_watch`."""
        limit = asyncio.timeout(None)
        try:
            with contextlib.suppress(TimeoutError):
                async with limit as self._watching:
                    await self._watch()
        finally:
            self._watching = None
            if limit.when() is not None:
                # An event may have come in between.
                self._version = ""

    async def _watch(self) -> None:
        """Follows changes until the server ends the stream. Raises Gone when they are lost."""
        if time.monotonic() - self._contact > _AWAY:
            raise Gone(f"{self._client.title}: {self.resource.plural}: no contact for {_AWAY:.0f} s", 410)
        if not self._fresh:
            await self._check_version()
        self._fresh = False
        params: Params = self._selected() | {
            "watch": 1,
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": random.randint(*_LENGTH),  # noqa: S311 - no secret
        }
        opened = time.monotonic()
        seen, reached, interrupted = False, False, ""
        try:
            async with self._client.watch(self.resource.path, params, self._silence) as lines:
                opened, reached = time.monotonic(), True
                self._trouble(self, None)
                turn = Turn()
                async for line in lines:
                    self._event(line)
                    seen, self._breaks, self.heard = True, 0, time.monotonic()
                    self._backoff.reset()
                    await turn.over()
        except Malformed:
            self._breaks += 1
            if self._breaks >= _BROKEN_TRIES:
                self._version = ""
            raise
        except Unreachable as error:
            if not reached:
                raise
            # If the server is away, the next attempt tells.
            interrupted = str(error)
        self._contact = time.monotonic()
        if seen or time.monotonic() - opened >= _SHORT:
            self._shorts = 0
            self._backoff.reset()
        else:
            await self._ended_at_once(interrupted or "the server ends it")

    async def _ended_at_once(self, why: str) -> None:
        """Once is an accident, more often is trouble. Raises Unreachable then."""
        self._shorts += 1
        if self._shorts >= _SHORT_TRIES:
            raise Unreachable(f"{self._client.title}: no watch of {self.resource.plural} lasts: {why}", "")
        await asyncio.sleep(self._backoff.next())

    async def _check_version(self) -> None:
        """Raises Gone when the server knows less than we do: what we know is of a future that was undone."""
        # One of all: the server may have to look through very many for one that is selected.
        page = await self._page({"limit": 1})
        now, known = page.metadata.resource_version, self._version
        if now.isdigit() and known.isdigit() and int(now) < int(known):
            self._restored(self)
            raise Gone(
                f"{self._client.title}: {self.resource.plural} are of version {now}, ours {known}", 410
            )

    def _event(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=Event)
            if event.type == "ERROR":
                raise self._refused(msgspec.json.decode(event.object, type=Status))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed(f"not an event: {error}") from error
        identity = self._identity(event.object)
        if not identity.resource_version:
            raise self._malformed("an event without resourceVersion")
        if event.type in ("ADDED", "MODIFIED"):
            self._apply(event.object, identity)
        elif event.type == "DELETED":
            self._remove(_key(identity))
        elif event.type != "BOOKMARK":
            raise self._malformed(f"an event of type {event.type[:40]!r}")
        self._version = identity.resource_version

    def _refused(self, status: Status) -> Refused:
        kind = Gone if status.code == 410 or status.reason in ("Expired", "Gone") else Refused
        return kind(f"{self._client.title}: watch {self.resource.plural}: {status.message}", status.code)

    def _apply(self, raw: msgspec.Raw, identity: Identity) -> None:
        known = self._known
        one = _Found()
        key = self._read(raw, identity, one)
        before, now = known.objects.get(key), one.objects.get(key)
        problem = one.problems.get(key)
        if now is before and problem == known.problems.get(key):
            return
        _put(known.objects, key, now)
        _put(known.problems, key, problem)
        self._changed(self, {} if now is before else {key: now})

    def _remove(self, key: str) -> None:
        gone = self._known.objects.pop(key, None)
        problem = self._known.problems.pop(key, None)
        if gone is not None or problem is not None:
            self._changed(self, {key: None} if gone is not None else {})

    def _identity(self, raw: msgspec.Raw) -> Identity:
        try:
            return msgspec.json.decode(raw, type=Identified).metadata
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed(f"not an object: {error}") from error

    def _read(self, raw: msgspec.Raw, identity: Identity, into: _Found) -> str:
        """One object, as it is now or as it was when it was last in order; its key."""
        if not identity.name:
            raise self._malformed("an object without a name")
        value = self._decoded(raw)
        key = _key(identity)
        source = f"{self.resource.reader.kind} {key}"
        reader = self.resource.reader(value, "", source)
        item = reader.read()
        before = self._known.objects.get(key)
        if reader.problems or item == before:
            # Who kept an object that is the same still has the same one.
            item = before
        if item is not None:
            into.objects[key] = item
        if lines := [line.removeprefix(f"{source}: ") for line in (*reader.problems, *reader.remarks)]:
            into.problems[key] = "; ".join(lines)
        return key

    def _decoded(self, raw: msgspec.Raw) -> object:
        try:
            try:
                return self._decoder.decode(raw)
            except msgspec.ValidationError:
                # It is not what the reader expects, which has the words for that.
                return msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise self._malformed(f"not an object: {error}") from error

    def _selected(self) -> dict[str, str | int]:
        given = {"labelSelector": self.resource.selector, "fieldSelector": self.resource.fields}
        return {key: value for key, value in given.items() if value}

    def _malformed(self, what: str) -> Malformed:
        return Malformed(f"{self._client.title}: {self.resource.path}: {what}", "who answers there?")


def _key(identity: Identity) -> str:
    return f"{identity.namespace}/{identity.name}" if identity.namespace else identity.name


def _put(mapping: dict[str, Readable] | dict[str, str], key: str, value: Readable | str | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value  # type: ignore[assignment]
