"""What a check says. Pure; used by everything else here."""

from __future__ import annotations

import enum

from ovsnet.model import Frozen


class Level(str, enum.Enum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Finding(Frozen):
    """One line of the doctor's answer."""

    level: Level
    title: str
    """What was looked at."""
    seen: str
    todo: str = ""
    """What to do; "" if all is well."""


def ok(title: str, seen: str) -> Finding:
    return Finding(level=Level.OK, title=title, seen=seen)


def warning(title: str, seen: str, todo: str) -> Finding:
    return Finding(level=Level.WARNING, title=title, seen=seen, todo=todo)


def fault(title: str, seen: str, todo: str) -> Finding:
    return Finding(level=Level.FAULT, title=title, seen=seen, todo=todo)
