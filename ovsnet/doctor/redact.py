"""What no archive may hold: secrets in configuration, manifests, OVSDB, logs. Pure. Called by `bundle`.

Whatever is called like a secret is hidden, whether it is one or not; what parses is hidden by its structure, which no
way of writing escapes, and what does not is hidden line by line, rather too much than too little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

HIDDEN = "(hidden)"
_WORDS = r"token|passw|passphrase|secret|psk|key|credential|authorization|cookie-secret|certificate-data"
_NAME = re.compile(_WORDS, re.IGNORECASE)
_CONTENTS = frozenset({"env", "data", "stringData", "binaryData"})
"""Keys of Kubernetes objects below which only names are kept: environment variables, contents of Secrets."""
_QUOTED = r""""(?:[^"\\]|\\.)*"|'[^']*'"""
# What stands before the word does not matter, and to look for it would make long lines slow.
_PLACE = rf"""(?P<name>(?:{_WORDS})[\w./-]{{0,60}}["']?)(?P<sign>\s*[=:]\s*)"""
_PAIR = re.compile(rf"{_PLACE}(?P<value>{_QUOTED}|[^\n]+)", re.IGNORECASE)
_SWITCH_PAIR = re.compile(rf"{_PLACE}(?P<value>{_QUOTED}|[^,;{{}}\]\s]+)", re.IGNORECASE)
"""Open vSwitch quotes what has anything but letters in it, and has much on a line."""
_FORMS = (
    re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
    ),
    re.compile(rf"(?<!\S)--?[\w-]{{0,60}}(?:{_WORDS})[\w-]{{0,60}} +[^\s=:]\S*", re.IGNORECASE),
    re.compile(r"(?<=bearer )\S+", re.IGNORECASE),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),
    re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),
)
"""Secrets by their own looks: PEM, an option and its value, bearer and JSON web tokens, a password in a URL."""
_TUNNEL_KEY = re.compile(r"\"?(\d{1,8}|flow)\"?\s*")
_OPENING = re.compile(
    rf"""^(?P<indent>\s*(?:-\s+)*)["']?[\w./:-]*(?:{_WORDS})[\w./-]*["']?\s*:(\s|$)""", re.IGNORECASE
)
_BLOCK = re.compile(rf"^(?P<indent>\s*(?:-\s+)*)[\"']?(?:{'|'.join(_CONTENTS)})[\"']?\s*:", re.IGNORECASE)


def is_secret(name: str) -> bool:
    return _NAME.search(name) is not None


def text(content: str, *, tunnels: bool = False) -> str:
    """Text without structure: logs, what tools print. tunnels: it has tunnels' keys, which are network numbers."""

    def hide(match: re.Match[str]) -> str:
        whole = not re.match(r"[\w./-]", match.string[match.start() - 1 : match.start()])
        if tunnels and whole and match["name"] == "key" and _TUNNEL_KEY.fullmatch(match["value"]):
            return match[0]
        return f"{match['name']}{match['sign']}{HIDDEN}"

    for form in _FORMS:
        content = form.sub(HIDDEN, content)
    return (_SWITCH_PAIR if tunnels else _PAIR).sub(hide, content)


def document(content: str) -> str:
    """A configuration or manifest, YAML or JSON. What does not parse keeps its form, for that is what is wrong."""
    try:
        documents = list(yaml.safe_load_all(content))
        return yaml.safe_dump_all([_plain(each) for each in documents], sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text(_lines(content))


def answer(content: str) -> str:
    """What a program prints as JSON."""
    try:
        return json.dumps(_plain(json.loads(content)), indent=2) + "\n"
    except (ValueError, RecursionError):
        return text(content)


def is_kubeconfig(content: str) -> bool:
    """kind: Config, the file with which a program logs in at a cluster: nothing of it is needed."""
    return re.search(r"kind[\"']?\s*:\s*[\"']?Config\b", content) is not None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: HIDDEN if _hidden(key, value) else _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        # An option and its value: ["--token", "..."]
        after = [
            False,
            *(isinstance(each, str) and each.startswith("-") and is_secret(each) for each in value),
        ]
        return [HIDDEN if hide else _plain(item) for item, hide in zip(value, after, strict=False)]
    return _string(value) if isinstance(value, str) else value


def _string(value: str) -> str:
    """A string may be a document itself, as in the annotation that `kubectl apply` leaves."""
    if value.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(_plain(json.loads(value)))
        except (ValueError, RecursionError):
            return text(value)
    return text(value)


def _hidden(key: object, within: Mapping[Any, Any]) -> bool:
    name = str(key)
    if name in _CONTENTS:
        return name == "env" or within.get("kind") in ("Secret", "ConfigMap")
    # Environment variables and the like: {name: DB_PASSWORD, value: ...}
    if name == "value" and is_secret(str(within.get("name", "")) + str(within.get("key", ""))):
        return True
    return is_secret(name)


def _lines(content: str) -> str:
    """Blocks below what is called like a secret are left out, by their indentation."""
    kept: list[str] = []
    depth: int | None = None
    for line in content.splitlines():
        indent = len(line) - len(line.lstrip())
        if depth is not None and (not line.strip() or indent > depth or _continues(line, indent, depth)):
            continue
        depth = None
        opening = _OPENING.match(line) or _BLOCK.match(line)
        if opening is not None:
            depth = len(opening["indent"])
            line = line[: line.index(":") + 1] + f" {HIDDEN}"
        kept.append(line)
    return "\n".join(kept) + "\n"


def _continues(line: str, indent: int, depth: int) -> bool:
    """A list may stand at the indentation of its key, and so do closing brackets."""
    return indent == depth and line.lstrip()[:1] in ("-", "}", "]")


def ovsdb(dump: str) -> str:
    """What `ovsdb-client --format=json dump` prints: a table on each line, as headings and rows."""
    if not dump.startswith("{"):
        return text(dump)
    return "".join(f"{_table(line)}\n" for line in dump.splitlines())


def _table(line: str) -> str:
    try:
        table = json.loads(line)
        headings = [str(heading) for heading in table["headings"]]
        rows = [
            [_cell(name, cell) for name, cell in zip(headings, row, strict=True)] for row in table["data"]
        ]
    except (ValueError, KeyError, TypeError):
        return HIDDEN  # cut off, most likely: nothing tells what is a key there
    return json.dumps({**table, "data": rows})


def _cell(column: str, cell: Any) -> Any:
    if is_secret(column):
        return HIDDEN if cell not in ("", ["set", []]) else cell
    if isinstance(cell, list) and len(cell) == 2 and cell[0] == "map":
        return ["map", [[key, _option(column, key, value)] for key, value in cell[1]]]
    return text(cell) if isinstance(cell, str) else cell


def _option(column: str, key: Any, value: Any) -> Any:
    name = str(key)
    if name == "key" and column == "options" and isinstance(value, str) and _TUNNEL_KEY.fullmatch(value):
        return value
    if is_secret(name):
        return HIDDEN
    return text(value) if isinstance(value, str) else value
