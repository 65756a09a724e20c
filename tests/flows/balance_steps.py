"""What may happen to a Service and its endpoints, step after step, and whom connections reach then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Said = Mapping[str, Any]

UNREADY: Said = {"ready": False, "serving": False}
ENDING: Said = {"ready": False, "serving": True, "terminating": True}
GONE: Said = {"ready": False, "serving": False, "terminating": True}


class Step(NamedTuple):
    """endpoints: with what their slices say of each; said: of the Service. pods, outside: whom these reach."""

    shows: str
    endpoints: Mapping[int, Said]
    pods: set[int]
    outside: set[int] | None = None
    """None: the same as pods."""
    said: Said = {}
    port: int = 8080
    one: bool = False
    """It is a change of one endpoint."""


def steps(count: int) -> list[Step]:
    """Of a Service with so many endpoints."""
    found, others = set(range(count)), set(range(6000, 6003))
    more, less = {*found, 6000}, {*found, 6000} - {0}

    def ready(endpoints: Iterable[int]) -> dict[int, Said]:
        return {each: {} for each in endpoints}

    def both(these: Said, those: Said) -> dict[int, Said]:
        return {**dict.fromkeys(found, these), **dict.fromkeys(others, those)}

    local = both({"node": "node-a"}, {"node": "node-b"})
    ending = both({"node": "node-a", **ENDING}, {"node": "node-b"})
    zones = both({"for_zones": ("east",)}, {"for_zones": ("west",)})
    nodes = both({"for_nodes": ("node-a",)}, {"for_nodes": ("node-b",)})
    stays = {"affinity": 60}
    return [
        Step("all are ready", ready(found), found),
        Step("one comes", ready(more), more, one=True),
        Step("one goes", ready(less), less, one=True),
        Step("others are not ready or terminate", both({}, UNREADY) | {6001: ENDING}, found),
        Step("none is ready, some terminate", both(ENDING, GONE), found),
        Step("another target port", ready(more), more, port=9090),
        Step("clients stay", ready(more), more, said=stays),
        Step("one goes while they stay", ready(less), less, said=stays, one=True),
        Step("pods to this node's", local, found, found | others, said={"internal_local": True}),
        Step("others to this node's", local, found | others, found, said={"external_local": True, **stays}),
        Step("these terminate", ending, others, found, said={"external_local": True}),
        Step("for this zone", zones, found),
        Step("for this node", nodes, found),
        Step("one is for nobody", nodes | {6000: {}}, found | others),
    ]
