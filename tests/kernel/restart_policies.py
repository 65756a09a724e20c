"""Policies in force while daemons die: they allow the probe of `restart_world`, and deny others who try all the time.

A rule at the begin of a pod's stack counts what comes through of those; it does while the policies are not there yet,
which shows that they try. Called by `test_restarts`.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import probe
from lab_world import eventually
from restart_world import PYTHON, TARGETS

from ovsnet.lab.lab import Lab
from ovsnet.lab.state import write_atomically

CLIENT = "a1"
"""Where the probe runs. It lets nobody come, and may go to TARGETS alone."""
DENIED = (("b2", "a2"), ("b2", "b1"), ("a2", "a1"), ("a1", "b2"), ("b1", "a1"))
"""On one node and between two, by the receiver's policies or by the sender's."""
ROLES = {CLIENT: "client", **dict.fromkeys(TARGETS, "target")}
_TO_PORT = [{"protocol": each, "port": probe.PORT} for each in ("TCP", "UDP")]


def _role(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"role": name}}}


SPECS = (
    {**_role("client"), "ingress": [], "egress": [{"to": [_role("target")], "ports": _TO_PORT}]},
    {**_role("target"), "ingress": [{"from": [_role("client")], "ports": _TO_PORT}]},
)


class Denied:
    """What came through of those that are denied."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        for target in self.sources:
            self._count(target)

    @property
    def sources(self) -> dict[str, list[str]]:
        return {target: [a for a, b in DENIED if b == target] for _, target in DENIED}

    def _count(self, target: str) -> None:
        """Datagrams and connections to the server's port; the table is made anew."""
        addresses = [each for source in self.sources[target] for each in self._lab.pod(source).addresses]
        lines = [
            f"{'ip' if each.version == 4 else 'ip6'} saddr {each} {protocol} dport {probe.PORT} counter"
            for each in addresses
            for protocol in ("udp", "tcp")
        ]
        text = "\n".join(
            [
                "table inet denied",
                "delete table inet denied",
                "table inet denied {",
                "chain in {",
                "type filter hook prerouting priority -300;",
                *lines,
                "}",
                "}",
            ]
        )
        place, netns = self._lab.place(target)
        place.run(["nft", "-f", "-"], netns=netns, input=f"{text}\n", check=True)

    def came(self) -> dict[str, list[int]]:
        """How many packets so far, by target: of each source and family over UDP and TCP."""
        found = {}
        for target in self.sources:
            place, netns = self._lab.place(target)
            text = place.run(["nft", "list", "table", "inet", "denied"], netns=netns, check=True).stdout
            found[target] = list(map(int, re.findall(r"packets (\d+)", text)))
        return found

    def again(self) -> None:
        """Count from nothing."""
        for target in self.sources:
            self._count(target)


@contextlib.contextmanager
def policed(lab: Lab) -> Iterator[Denied]:
    """The policies are in force; nothing of what is counted comes through any more. In the end they are gone."""
    for name, role in ROLES.items():
        lab.label_pod(name, {"role": role})
    denied = Denied(lab)
    files = [lab.folder.path / "cluster" / f"policy.{number}.json" for number in range(len(SPECS))]
    with contextlib.ExitStack() as stack:
        for source in {source for source, _ in DENIED}:
            stack.enter_context(knocking(lab, source))
        eventually(lambda: all(all(each) for each in denied.came().values()))
        for file, spec in zip(files, SPECS, strict=True):
            stack.callback(file.unlink)
            write_atomically(file, json.dumps(policy(file.stem, spec)))
        eventually(lambda: quiet(denied))
        yield denied


def quiet(denied: Denied) -> bool:
    """Whether as much as nothing comes for many knocks."""
    denied.again()
    before = denied.came()
    for _ in range(3):
        now = denied.came()
    return now == before and not any(map(any, now.values()))


def policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    types = [each.capitalize() for each in ("ingress", "egress") if each in spec]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**spec, "policyTypes": types},
    }


@contextlib.contextmanager
def knocking(lab: Lab, source: str) -> Iterator[None]:
    """At all those to whom the source must not come."""
    hosts = [str(each) for a, target in DENIED if a == source for each in lab.pod(target).addresses]
    argv = lab.command(source, [*PYTHON, "knock", *hosts])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
