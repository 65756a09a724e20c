"""Limits of the machine that a lab of many programs runs into; they are the only thing it changes there.

Raised when the first such lab comes and put back when the last one goes; who shares them stands in a file beside the
labs' folders. Called by `kubernetes.cluster` and, to put back, by `state`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SYSCTLS = {"fs/inotify/max_user_instances": 2048}
"""What a lab needs at least. Linux gives a user 128 inotify instances; a node's programs take about 20."""
_FILE = ".limits.json"
PROC = Path("/proc/sys")


def claim(root: Path, lab: str, proc: Path = PROC) -> None:
    """Raise the limits for this lab. root: the folder of all labs. Raises OSError."""
    with _record(root) as record:
        for name, wanted in SYSCTLS.items():
            now = int((proc / name).read_text())
            if now < wanted:
                record["before"].setdefault(name, now)
                (proc / name).write_text(str(wanted))
        record["labs"] = sorted({*record["labs"], lab})


def release(root: Path, lab: str, proc: Path = PROC) -> None:
    """Put them back unless another lab needs them; a lab that never claimed may be named too."""
    if not (root / _FILE).exists():
        return
    with _record(root) as record:
        record["labs"] = [each for each in record["labs"] if each != lab and (root / each).exists()]
        if record["labs"]:
            return
        for name, before in record["before"].items():
            # Whoever set another value meanwhile meant it.
            if int((proc / name).read_text()) == SYSCTLS.get(name):
                (proc / name).write_text(str(before))
        record.clear()


@contextlib.contextmanager
def _record(root: Path) -> Iterator[dict[str, Any]]:
    """The file's content, written back in the end; the file goes when that is empty. One at a time."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        path = root / _FILE
        record = json.loads(path.read_text()) if path.exists() else {"before": {}, "labs": []}
        try:
            yield record
        finally:
            if record:
                path.write_text(json.dumps(record))
            else:
                path.unlink(missing_ok=True)
    finally:
        os.close(folder)
