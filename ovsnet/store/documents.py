"""Text of a manifest file to plain values: YAML with any number of documents, or JSON.

Pure. Reads what Kubernetes' own tools write, quickly and safely: values come from the stream of the parser's events, so
nesting can't exhaust the stack, aliases can't multiply, tags can't make objects, and fields of other kinds
cost next to nothing. Called by `manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import yaml

from ovsnet.model import Frozen

_Loader: type[yaml.BaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

MAX_DEPTH = 100
_NOT_TEXT = re.compile(
    r"(?P<null>~|null|Null|NULL|)|(?P<bool>true|True|TRUE|false|False|FALSE)"
    r"|(?P<whole>[-+]?[0-9]{1,18})"
    r"|(?P<number>[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN))"
)
"""YAML 1.2's core schema: plain words that are not text. That of YAML 1.1 would take addresses for numbers."""


class Mistake(Exception):
    """The text can't be read; the message says where and why."""


class Document(Frozen):
    """One document. number: counted from 1. line: where it begins. faults: readable but ambiguous."""

    value: object
    number: int
    line: int
    faults: tuple[str, ...] = ()


def read(text: str) -> list[Document]:
    """All documents that are not empty. Raises Mistake."""
    if text.startswith("{"):
        try:
            return [Document(value=msgspec.json.decode(text), number=1, line=1)]
        except (msgspec.DecodeError, RecursionError):
            # YAML's braces look like JSON; the other parser also says the line of what is wrong.
            pass
    try:
        return [document for document in _yaml(text) if document.value is not None or document.faults]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(filter(None, (error.context, error.problem)))
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Mistake(f"{where}not YAML: {what}") from error
    except yaml.YAMLError as error:
        raise Mistake(f"not YAML: {' '.join(str(error).split())}") from error


def _yaml(text: str) -> Iterator[Document]:
    number = 0
    builder = _Builder()
    for event in _events(text):
        if isinstance(event, yaml.ScalarEvent):
            builder.put(_scalar(event), event)
        elif isinstance(event, yaml.MappingStartEvent):
            builder.open({}, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            builder.open([], event)
        elif isinstance(event, yaml.CollectionEndEvent):
            builder.close()
        elif isinstance(event, yaml.AliasEvent):
            builder.fault(event, "an alias (*) is not supported: write the value out")
            builder.put(None, event)
        elif isinstance(event, yaml.DocumentStartEvent):
            number += 1
            builder = _Builder()
        elif isinstance(event, yaml.DocumentEndEvent):
            yield Document(
                value=builder.value, number=number, line=builder.line, faults=tuple(builder.faults)
            )


def _events(text: str) -> Iterator[yaml.Event]:
    """As yaml.parse, without asking twice for every event."""
    loader = _Loader(text)
    try:
        yield from iter(loader.get_event, None)
    finally:
        loader.dispose()


def _scalar(event: yaml.ScalarEvent) -> object:
    """What a word means: text, a whole number as people write it, or a stand-in for a number of another form."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    found = _NOT_TEXT.fullmatch(text)
    if found is None:
        return text
    if found["null"] is not None:
        return None
    if found["whole"]:
        return int(text)
    return text in ("true", "True", "TRUE") if found["bool"] else 0.0


class _Builder:
    """Puts the values of one document together."""

    def __init__(self) -> None:
        self.value: object = None
        self.line = 0
        self.faults: list[str] = []
        self._open: list[dict[str, object] | list[object]] = []
        self._keys: list[str | None] = []
        """Of each open mapping: the key that waits for its value."""

    def open(self, container: dict[str, object] | list[object], event: yaml.Event) -> None:
        if len(self._open) == MAX_DEPTH:
            # The parser takes longer for every level: reading on to the end could take minutes.
            raise Mistake(f"line {_line(event)}: nested more than {MAX_DEPTH} deep; no manifest is")
        self.put(container, event)
        self._open.append(container)
        self._keys.append(None)

    def close(self) -> None:
        self._open.pop()
        self._keys.pop()

    def put(self, value: object, event: yaml.Event) -> None:
        if not self._open:
            self.value = value
            self.line = _line(event)
            return
        container = self._open[-1]
        if isinstance(container, list):
            container.append(value)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = self._key(event)
            return
        if key in container:
            self.fault(event, f"the key {key} stands twice; keep one")
        container[key] = value
        self._keys[-1] = None

    def fault(self, event: yaml.Event, text: str) -> None:
        self.faults.append(f"line {_line(event)}: {text}")

    def _key(self, event: yaml.Event) -> str:
        if isinstance(event, yaml.ScalarEvent):
            return str(event.value)
        self.fault(event, "a key must be a word")
        return ""


def _line(event: yaml.Event) -> int:
    """Counted from 1; 0 for an event without a place, which no parser makes."""
    return event.start_mark.line + 1 if event.start_mark else 0
