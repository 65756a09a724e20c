"""YAML text to plain values, with every mistake and the line of every key.

Pure. Stricter than PyYAML: a key that stands twice is a mistake, and anchors, aliases and tags are refused,
so that what a file says is what is read in it. Called by `config`.
"""

from __future__ import annotations

import yaml

from ovsnet.model import Frozen

_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_DEPTH = 32
"""Deeper nesting is refused before anything recurses into it."""
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


class Problem(Frozen):
    """One mistake: where (path in the document, line counted from 1 or 0 for unknown) and what."""

    path: str
    text: str
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}: {self.text}" if self.path else f"{where}{self.text}"


class Document:
    """A text that was read: its value, the line of each path, and what was wrong with it as YAML."""

    def __init__(self) -> None:
        self.value: object = None
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []

    def located(self, path: str, text: str) -> Problem:
        return Problem(path=path, text=text, line=self.lines.get(path, 0))

    def report(self, path: str, text: str, at: yaml.Event | yaml.Node) -> None:
        self.problems.append(
            Problem(path=path, text=text, line=at.start_mark.line + 1 if at.start_mark else 0)
        )


def child(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def read(text: str) -> Document:
    """Reads one YAML document; never raises for what is in it."""
    document = Document()
    try:
        _refuse(text, document)
        if not document.problems:
            node = yaml.compose(text, _Loader)
            if node is not None:
                document.value = _value(node, "", document)
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error))
    return document


def _refuse(text: str, document: Document) -> None:
    """Reports what would make reading ambiguous or unbounded; nothing is built yet."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            document.report("", "anchors and aliases (& and *) are not supported: write the value out", event)
        elif tag := getattr(event, "tag", None):
            document.report("", f"the tag {tag} is not supported: leave it out", event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                document.report("", _TOO_DEEP, event)
                return
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _value(node: yaml.Node, path: str, document: Document) -> object:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{path}[{index}]", document) for index, item in enumerate(node.value)]
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError):
        # Only looks like a date or number, as 2024-13-01 does: then it is the text it says.
        return node.value


def _mapping(node: yaml.MappingNode, path: str, document: Document) -> dict[str, object]:
    values: dict[str, object] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            document.report(path, "a key must be a word", key_node)
            continue
        key = key_node.value
        here = child(path, key)
        if key in values:
            first = document.lines[here]
            document.report(here, f"stands twice, first in line {first}; keep one", key_node)
            continue
        document.lines[here] = key_node.start_mark.line + 1
        values[key] = _value(value_node, here, document)
    return values


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        what = ", ".join(filter(None, (error.context, error.problem)))
        if "nesting depth" in what:
            # Some versions of the library's scanner give up on a depth of their own, far ahead of the events.
            return Problem(path="", text=_TOO_DEEP, line=mark.line + 1 if mark is not None else 0)
        if mark is not None:
            return Problem(path="", text=f"not YAML at column {mark.column + 1}: {what}", line=mark.line + 1)
        return Problem(path="", text=f"not YAML: {what}")
    return Problem(path="", text=f"not YAML: {' '.join(str(error).split())}")
