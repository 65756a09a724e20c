"""Policies and labels that change many times a second under many new connections: none fails that is allowed all the
time, and none passes that is denied all the time.

OVSNET_FLIP_SECONDS says how long; unless it is set 20.
OVSNET_FLIP_CONNECTIONS how many connections a second there are at most, of those allowed; unless it is set 400.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from policies_world import API, DB, GUEST, WEB, Pair, Policed, app, policed_cluster, port
from services_world import FAMILIES, PORT

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("OVSNET_FLIP_SECONDS", "20"))
PER_SECOND = 20
CONNECTIONS = float(os.environ.get("OVSNET_FLIP_CONNECTIONS", "400"))
TO_PORT = [port(PORT)]
FROM_API = {"from": [{"podSelector": app("api")}]}
KEPT: tuple[dict[str, Any], ...] = (
    {"ingress": [], "egress": []},
    {"podSelector": app("web"), "ingress": [{**FROM_API, "ports": TO_PORT}]},
    {"podSelector": app("api"), "egress": [{"to": [{"podSelector": app("web")}], "ports": TO_PORT}]},
    {"podSelector": app("db"), "egress": [{"to": [{"podSelector": app("web")}], "ports": TO_PORT}]},
)
"""What stays: api may come to web, and nobody else; db only where web lets it in, which it does now and then."""
ALLOWED: tuple[Pair, ...] = tuple((api, web) for api in API for web in WEB)
DENIED: tuple[Pair, ...] = (
    ("a-guest", "a-web"),
    ("b-guest", "a-web"),
    ("a-free", "b-web"),
    ("a-api", "b-db"),
)

GAP = len(ALLOWED) * len(FAMILIES) / CONNECTIONS
"""Seconds between two connections of a pair in a family."""


def everybody(*apps: str) -> list[dict[str, Any]]:
    return [{"from": [{"podSelector": app(each)} for each in apps]}]


def flips(cluster: Policed) -> Iterator[Callable[[], None]]:
    """One change after the other; none of them concerns what is allowed or denied throughout."""
    db = cluster.lab.pod("a-db").pod
    address = cluster.address("b-db", 4)
    return itertools.cycle(
        [
            # Rules come and go, at pods that others isolate too.
            lambda: cluster.allow("flip", podSelector=app("web"), ingress=everybody("db")),
            lambda: cluster.allow("flip", podSelector=app("web"), ingress=everybody("api", "db")),
            lambda: cluster.allow(
                "flip", podSelector=app("web"), ingress=[{"ports": [port(PORT + 1)]}], egress=[]
            ),
            lambda: cluster.disallow("flip"),
            # Labels: of a client that rules mean, and of pods that are allowed all the time.
            lambda: cluster.relabel(db, {"app": "api"} if next(TURNS) % 2 else {"app": "db"}),
            lambda: cluster.relabel(cluster.lab.pod("b-api").pod, {"app": "api", "turn": str(next(TURNS))}),
            lambda: cluster.relabel(cluster.lab.pod("a-web").pod, {"app": "web", "turn": str(next(TURNS))}),
            lambda: cluster.label_namespace("free", turn=str(next(TURNS))),
            # The policy that allows says the same in other words.
            lambda: cluster.allow("p1", **{**KEPT[1], "ingress": everybody("api")}),
            lambda: cluster.allow(
                "p1",
                podSelector=app("web"),
                ingress=[
                    {
                        "from": [{"podSelector": app("api")}],
                        "ports": [port(PORT, endPort=PORT + next(TURNS) % 5)],
                    }
                ],
            ),
            lambda: cluster.allow("p1", **KEPT[1]),
            # Blocks, with and without a hole.
            lambda: cluster.allow(
                "block", egress=[{"to": [{"ipBlock": {"cidr": f"{address}/32"}}], "ports": [port(1)]}]
            ),
            lambda: cluster.allow(
                "block",
                ingress=[{"from": [{"ipBlock": {"cidr": "10.96.0.0/12", "except": ["10.100.0.0/16"]}}]}],
            ),
            lambda: cluster.disallow("block"),
        ]
    )


TURNS = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Policed]:
    with policed_cluster() as cluster:
        yield cluster


def test_flips_break_nothing_and_open_nothing(cluster: Policed) -> None:
    with cluster.policies(*KEPT):
        for web in WEB:
            cluster.expect(web, (*API, *DB, *GUEST), API, protocols=["tcp"])
        with (
            cluster.watching(ALLOWED, DENIED, gap=GAP, seconds=10.0) as figures,
            cluster.flooding(("a-guest", "b-free"), "a-web"),
            cluster.going("knock", "b-db", cluster.address("a-web", 4), PORT, seconds=1.0) as flipped,
        ):
            made = flip(cluster, SECONDS)
            now_and_then = flipped.stop()
        # What must have been under way for this to mean anything.
        per_second = figures["good"] / SECONDS
        assert made > 0.8 * PER_SECOND * SECONDS, made
        assert per_second > 30, figures
        # So that it is known that the changes came to the switch.
        assert 20 < len(now_and_then["accepted"]) < now_and_then["count"] - 20, now_and_then
        print(json.dumps({"changes": made, "seconds": SECONDS, **figures}))


def flip(cluster: Policed, seconds: float) -> int:
    """How many changes were made."""
    begun = time.monotonic()
    for number, change in enumerate(flips(cluster)):
        due = begun + number / PER_SECOND
        if due > begun + seconds:
            return number
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() > begun + seconds:
            return number
        change()
    raise AssertionError("flips never end")
