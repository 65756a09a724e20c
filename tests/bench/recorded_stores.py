"""Where an agent of the benchmarks learns of the recorded cluster: a folder of manifests, or a real API server.

Called by `bench_services`; what is measured with either is the same, see `services_many`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import recorded
from at_size import spent
from kube_requests import Requests
from recorded import Size

from ovsnet.lab.kubernetes import plan
from ovsnet.lab.kubernetes.control import ControlPlane
from ovsnet.lab.state import write_atomically

_FILE = 2_000
"""Objects in each file: below the store's limit for one."""
Object = dict[str, Any]


class Store(Protocol):
    since: str
    """In a figure's words, from when on a change counts."""

    def record(self, size: Size) -> None:
        """A cluster of that size, instead of the smaller one that was recorded before."""

    def put(self, name: str, objects: Sequence[Object]) -> float:
        """Objects by a name of their own, changed or new. When it counts from, by time.perf_counter."""

    def remove(self, name: str) -> None:
        """What was put by that name."""

    def spent(self) -> float:
        """Seconds of processor time that its own programs have taken so far."""


class Folder:
    since = "written"

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, size: Size) -> None:
        for old in self._path.glob("recorded-*.json"):
            old.unlink()
        for kind, items in enumerate(recorded.objects(size)):
            for start in range(0, len(items), _FILE):
                self._write(f"recorded-{kind}-{start:05}", items[start : start + _FILE])

    def put(self, name: str, objects: Sequence[Object]) -> float:
        begun = time.perf_counter()
        self._write(name, objects)
        return begun

    def remove(self, name: str) -> None:
        (self._path / f"{name}.json").unlink()

    def spent(self) -> float:
        return 0.0

    def _write(self, name: str, items: Sequence[Object]) -> None:
        write_atomically(self._path / f"{name}.json", json.dumps({"kind": "List", "items": items}))


class Api:
    """A control plane's API server."""

    since = "accepted by the API server"

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._requests = Requests(control)
        self._put: dict[str, list[Object]] = {}
        self._recorded: set[tuple[str, str]] = set()
        """Kinds and names."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": recorded.NAMESPACE}}
        self._requests.create([namespace])

    def record(self, size: Size) -> None:
        """Makes what is missing: the smaller cluster is a part of the larger."""
        for items in recorded.objects(size):
            named = {(each["kind"], each["metadata"]["name"]): each for each in items}
            self._requests.create([each for name, each in named.items() if name not in self._recorded])
            self._recorded |= named.keys()

    def put(self, name: str, objects: Sequence[Object]) -> float:
        for each in objects:
            self._requests.put(each)
        accepted = time.perf_counter()
        self._put[name] = [*objects]
        return accepted

    def remove(self, name: str) -> None:
        for each in reversed(self._put.pop(name)):
            self._requests.delete(each)

    def spent(self) -> float:
        programs = (self._control.daemon(name) for name in (plan.ETCD, plan.APISERVER))
        return spent(program.pid for program in programs if program)
