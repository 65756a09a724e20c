"""Where desired state comes from. `file`: a folder of Kubernetes manifests, watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ovsnet.model import Frozen, Node


class Snapshot(Frozen):
    """All that a store knows at one moment. An object that did not change is the same instance."""

    nodes: Mapping[str, Node]
    problems: Mapping[str, str]
    """What is wrong, by the source that it stands in. It withdraws nothing that was good before."""


class Store(Protocol):
    """A source of Node objects."""

    async def run(self) -> None:
        """Follows the source until cancelled."""

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Has `callback` called whenever the snapshot has changed."""

    def snapshot(self) -> Snapshot | None:
        """What is known; None until the first complete list."""
