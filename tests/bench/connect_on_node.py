"""Opens TCP connections and takes their time: a program that runs in a pod, on a node or outside.

On the standard library only. Reads jobs, writes answers, a line each:

    {"host", "port", "count"}
        so many one after another, each from another port and reset at once: {"ms": of each until it was accepted or
        refused, "refused": how many were}

Started by `Connecting`, which is what `services_many` and `services_cases` call.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ovsnet.lab.lab import Lab

PATIENCE = 10.0
Job = dict[str, Any]


class Connecting:
    """The program, as a running process in that place of the lab. A context manager that ends it."""

    def __init__(self, lab: Lab, place: str) -> None:
        command = lab.command(place, [sys.executable, "-I", "-S", __file__])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._place = place

    def ms(self, host: object, port: int, count: int = 1, refused: bool = False) -> list[float]:
        """Raises RuntimeError if they do not all end in that way."""
        assert self._process.stdin
        assert self._process.stdout
        job = {"host": str(host), "port": port, "count": count}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"refused": -1}')
        if answer["refused"] != (count if refused else 0):
            raise RuntimeError(f"{self._place} to {host} port {port}: {answer}")
        found: list[float] = answer["ms"]
        return found

    def __enter__(self) -> Connecting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            assert process.stdin
            process.stdin.close()


def connect(job: Job) -> Job:
    taken, refused = [], 0
    family = socket.AF_INET6 if ":" in job["host"] else socket.AF_INET
    for _ in range(job["count"]):
        with socket.socket(family) as made:
            made.settimeout(PATIENCE)
            # Ends with a reset and leaves nothing behind that the next one would have to look through.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            begun = time.perf_counter()
            try:
                made.connect((job["host"], job["port"]))
            except ConnectionRefusedError:
                refused += 1
            taken.append(1000 * (time.perf_counter() - begun))
    return {"ms": taken, "refused": refused}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(connect(json.loads(line))), flush=True)
