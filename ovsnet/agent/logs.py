"""The agent's log on standard error: a line of text for people, or of JSON for collectors.

Called once, by `app`. Every record has a time, a level, the part that speaks and one sentence.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from ovsnet.config import Log, LogFormat

FIELDS = "ovsnet_fields"
"""In `extra` of a message: its parts as plain data, which collectors get beside the sentence."""


class _Text(logging.Formatter):
    """2026-01-31T12:00:00.123Z info pods: default/a1 ..."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = (
            f"{clock}.{record.msecs:03.0f}Z {record.levelname.lower()} {_part(record)}: {record.getMessage()}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": record.created,
            "level": record.levelname.lower(),
            "part": _part(record),
            "message": record.getMessage(),
        }
        entry |= getattr(record, FIELDS, {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _part(record: logging.LogRecord) -> str:
    return record.name.removeprefix("ovsnet.")


def set_up(log: Log) -> None:
    """Sends everything of ovsnet's to standard error; libraries only warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log.format is LogFormat.JSON else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("ovsnet").setLevel(log.level.value.upper())
