"""Who is answered by whom, over all ways of a case at once; asked again until it is as wanted, or it is too late.

Owns the probers: one process stays in each place, so that a question costs the start of no program. `world` knows the
addresses. Called by test_cluster_policies and `kube_policies`, which ends the prober of a pod that goes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import policy_prober
from kube_world import started
from lab_world import SLOWER, eventually
from policy_matrix import HOSTS, NODES, Table, Way

from ovsnet.lab.kubernetes.cluster import Cluster

SECONDS = 6.0
"""Within which a change is in force on all nodes."""
AUDITED = 30.0
"""Within which three audits, of which each is the start of a program in a container, have found nothing to say."""
LONGEST = 1.5
"""Seconds that one round of probes waits for those who should be answered."""
OVSNET = "/run/ovsnet/bin/ovsnet"


class Probes:
    """address: what is dialled for a way, host and port."""

    def __init__(
        self, cluster: Cluster, stack: contextlib.ExitStack, address: Callable[[Way], tuple[str, int]]
    ) -> None:
        self.cluster = cluster
        self.stack = stack
        self.address = address
        self.allowed: dict[Way, bool] = {}
        """What was true at last."""
        self.probers: dict[str, subprocess.Popen[str]] = {}

    def prober(self, place: str) -> subprocess.Popen[str]:
        if place not in self.probers:
            command = [sys.executable, "-I", "-S", policy_prober.__file__]
            self.probers[place] = self.stack.enter_context(
                started(self.cluster.command(place, command), stdin=subprocess.PIPE)
            )
        return self.probers[place]

    def end(self, place: str) -> None:
        if place in self.probers:
            self.probers.pop(place).kill()

    def ask(self, wanted: Mapping[Way, bool]) -> dict[Way, str]:
        """What each way was answered, all at once. wanted: and whether an answer is expected."""
        by_source: dict[str, list[Way]] = {}
        for way in wanted:
            by_source.setdefault(way.source, []).append(way)
        for source, ways in by_source.items():
            asked = [[*self.address(way), way.protocol, wanted[way]] for way in ways]
            stdin = self.prober(source).stdin
            assert stdin is not None
            stdin.write(json.dumps({"ways": asked, "seconds": LONGEST * SLOWER}) + "\n")
            stdin.flush()
        found: dict[Way, str] = {}
        for source, ways in by_source.items():
            stdout = self.prober(source).stdout
            assert stdout is not None
            found.update(zip(ways, json.loads(stdout.readline()), strict=True))
        return found

    def wrong(self, wanted: Mapping[Way, bool]) -> dict[Way, str]:
        """Those that were answered otherwise, and how."""
        said = self.ask(wanted)
        return {way: word for way, word in said.items() if word != ("answered" if wanted[way] else "")}

    def becomes(self, table: Table, ways: Iterable[Way]) -> None:
        """Soon the table is true of all the ways, and then of each that is denied at the first try."""
        wanted = {way: allowed for way, allowed in table.of(ways).items() if way.protocol != "SCTP"}
        wrong = self.retried(self.changed(wanted), SECONDS) or self.wrong(wanted)
        if wrong:
            left = self.retried({way: wanted[way] for way in wrong}, SECONDS)
            assert not left, told(left, wanted)
            wrong = self.wrong({way: False for way, allowed in wanted.items() if not allowed})
            assert not wrong, told(wrong, wanted)
        self.allowed = wanted

    def denied(self) -> set[Way]:
        """At last."""
        return {way for way, allowed in self.allowed.items() if not allowed}

    def retried(self, wanted: Mapping[Way, bool], seconds: float) -> dict[Way, str]:
        """What is still wrong then."""
        left, until = dict(wanted), time.monotonic() + seconds * SLOWER
        while left:
            wrong = self.wrong(left)
            if time.monotonic() > until:
                return wrong
            left = {way: wanted[way] for way in wrong}
            time.sleep(0.05 if left else 0)
        return {}

    def changed(self, wanted: Mapping[Way, bool]) -> dict[Way, bool]:
        """A few of the ways on which something else is wanted now: from each such source, to each such target."""
        few: dict[Way, bool] = {}
        sources, targets = set(), set()
        for way, allowed in wanted.items():
            if self.allowed.get(way, True) != allowed and not (
                way.source in sources and way.target in targets
            ):
                few[way] = allowed
                sources.add(way.source)
                targets.add(way.target)
        if not few:
            self.await_audits()
        return few

    def await_audits(self) -> None:
        """Where nothing changes that can be seen: until the flows on all nodes are what the objects ask for."""

        def clean() -> bool:
            with ThreadPoolExecutor() as pool:
                return not any(pool.map(self._audit, NODES))

        eventually(clean, AUDITED)

    def _audit(self, node: str) -> int:
        return self.cluster.node(node).run([OVSNET, "audit"]).returncode

    # what ovsnet says itself

    def checked(self, table: Table, ways: Iterable[Way]) -> None:
        """Where no packet can be sent: what `ovsnet policy check` says on both ends' nodes, proven by their flows."""
        wanted = {way: allowed for way, allowed in table.of(ways).items() if way.protocol == "SCTP"}
        asked = {
            (node, way.source, way.target, way.port)
            for way in wanted
            for node in {HOSTS[way.source], HOSTS[way.target]}
        }
        with ThreadPoolExecutor() as pool:
            answers = dict(
                zip(sorted(asked), pool.map(lambda each: self.check(*each), sorted(asked)), strict=True)
            )
        wrong = [
            f"{way} on {node}: {answers[node, way.source, way.target, way.port]}"
            for way, allowed in wanted.items()
            for node in {HOSTS[way.source], HOSTS[way.target]}
            if answers[node, way.source, way.target, way.port].get(way.family) is not allowed
        ]
        assert not wrong, "\n".join(wrong)

    def check(self, node: str, source: str, target: str, port: int) -> dict[int, bool]:
        """By family."""
        command = [OVSNET, "policy", "check", source, target, "--sctp", str(port), "-o", "json"]
        done = self.cluster.node(node).run(command)
        assert done.returncode in (0, 1), done.stderr
        found = json.loads(done.stdout)["connections"]
        return {6 if ":" in each["target"] else 4: each["allowed"] for each in found}


def told(wrong: Mapping[Way, str], wanted: Mapping[Way, bool]) -> str:
    """For people who look for the reason; the first of many."""
    lines = [
        f"{way} is to be {'allowed' if wanted[way] else 'denied'}, and is {word or 'not answered'}"
        for way, word in sorted(wrong.items())
    ]
    more = [f"... and {len(lines) - 25} more"] if len(lines) > 25 else []
    return "\n".join([f"{len(lines)} of {len(wanted)} ways:", *lines[:25], *more])
