"""A lab whose nodes are examined by `ovsnet doctor`, and what it answered."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from cni_world import lab
from lab_world import SLOWER, eventually

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.state import Completed

__all__ = ["lab"]

OVSNET = "/run/ovsnet/bin/ovsnet"
LIMIT = 10.0
"""Seconds that the doctor may take, whatever is broken."""


class Answer(NamedTuple):
    code: int
    findings: list[dict[str, str]]
    seconds: float

    def of(self, level: str) -> dict[str, str]:
        """Titles with what was seen and what to do; what is told twice under one title is joined."""
        found: dict[str, str] = {}
        for each in self.findings:
            if each["level"] == level:
                words = f"{each['seen']} -> {each['todo']}"
                found[each["title"]] = f"{found[each['title']]}\n{words}" if each["title"] in found else words
        return found

    @property
    def faults(self) -> dict[str, str]:
        return self.of("fault")

    @property
    def warnings(self) -> dict[str, str]:
        return self.of("warning")


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("node-a")


def ask(node: Node, *arguments: str) -> Completed:
    done = node.run([OVSNET, *arguments])
    assert "Traceback" not in done.stderr, done.stderr
    return done


def examined(node: Node, *arguments: str) -> Answer:
    start = time.monotonic()
    done = ask(node, "doctor", "-o", "json", *arguments)
    seconds = time.monotonic() - start
    assert seconds < LIMIT * SLOWER, f"{seconds:.1f} s: {done.stdout}"
    said: dict[str, Any] = json.loads(done.stdout)
    answer = Answer(done.returncode, said["findings"], seconds)
    assert said["faults"] == sum(each["level"] == "fault" for each in answer.findings)
    assert (done.returncode == 1) == bool(said["faults"])
    assert not [each for each in answer.findings if each["seen"].startswith("not checked")], done.stdout
    return answer


@contextlib.contextmanager
def killed(node: Node, daemon: str) -> Iterator[None]:
    node.kill(daemon)
    try:
        yield
    finally:
        node.start(daemon)
        node.await_agent(30)
        eventually(lambda: not examined(node).faults, 20)
