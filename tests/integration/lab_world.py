"""What the tests of a whole cluster share: labs that are always taken down, and ways to look into them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from ovsnet import names
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.spec import LabError, LabSpec
from ovsnet.lab.state import wait_for

T = TypeVar("T")
SOON = 10.0
"""Seconds within which an agent has followed a change, on a busy machine too."""
SLOWER = float(os.environ.get("OVSNET_TEST_SLOWER", "1"))
"""How many times longer everything may take: the guest of the kernel tier is no fast machine."""
OVSNET = [sys.executable, "-P", "-m", "ovsnet"]


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Lab]:
    """A lab with a name of its own, up; gone afterwards, however far it got."""
    lab = Lab(f"t-{uuid.uuid4().hex[:8]}", msgspec.convert(options, LabSpec))
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def assert_green(lab: Lab, seconds: float = 6.0) -> None:
    """Everything reaches everything with packets of full size, seen as itself."""
    report = lab.check(seconds * SLOWER)
    assert report.ok, "\n".join(map(str, report.failures))


def begins_green(lab: Lab) -> None:
    """The same before the first test; not in a guest, where it takes ten seconds: tests show their own part of it."""
    if SLOWER == 1:
        assert_green(lab)


def eventually(condition: Callable[[], object], seconds: float = SOON) -> None:
    """Fails with what the condition says last, if that does not become true in time, or at a last look after it: one
    that takes long began long before.

    A tool that can't ask yet, because the daemon it asks is not there, says no; so does a look that finds less than it
    takes for granted.
    """
    last: list[object] = []

    def met() -> bool:
        try:
            last[:] = [condition()]
        except (LabError, AssertionError, KeyError) as error:
            last[:] = [error]
            return False
        return bool(last[0])

    assert wait_for(met, seconds * SLOWER, 0.05) or met(), f"not within {seconds * SLOWER:g} s: {last[0]!r}"


def left_over(different: Callable[[], Collection[T]], seconds: float = SOON) -> Collection[T]:
    """What is different still at a last look after the time is up: nothing, as soon as a look finds nothing.

    Raises what a look raises; of a tool that can't ask yet, what it says in the end.
    """
    last: list[Collection[T] | LabError] = []

    def met() -> bool:
        try:
            last[:] = [different()]
        except LabError as error:
            last[:] = [error]
            return False
        return not last[0]

    if not wait_for(met, seconds * SLOWER, 0.05):
        met()
    if isinstance(last[0], LabError):
        raise last[0]
    return last[0]


def ovsnet_json(node: Node, *arguments: str) -> Any:
    """The answer of one of ovsnet's own inspection commands, run on the node."""
    command = ["ovsnet", *arguments, "-o", "json"]
    done = node.run(["/run/ovsnet/bin/ovsnet", *command[1:]], check=True)
    return json.loads(done.stdout)


def reconfigure(node: Node, **settings: object) -> None:
    """Give the node's agent other settings and start it again."""
    path = node.private("/etc/ovsnet/agent.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **settings}))
    node.kill(AGENT)
    node.start(AGENT)


def tunnels(node: Node) -> dict[str, dict[str, str]]:
    """Tunnel ports as OVSDB has them: by peer (by port name where it is shared), type and options."""
    command = ["ovs-vsctl", "--format=json", "--columns=name,type,options", "list", "Interface"]
    command += ["--", "--columns=name,external_ids", "list", "Port"]  # both as they are at one moment
    interfaces, ports = (
        json.loads(line)["data"] for line in node.run(command, check=True).stdout.splitlines()
    )
    ids = {name: dict(found[1]) for name, found in ports}
    return {
        ids.get(name, {}).get(names.KEY_PEER, name): {"type": kind, **fields}
        for name, kind, options in interfaces
        if "remote_ip" in (fields := dict(options[1]))
    }


def dump(node: Node) -> list[str]:
    """The flows of br-int without counters, sorted."""
    done = node.run(["ovs-ofctl", "--no-stats", "dump-flows", "br-int"], check=True)
    return sorted(line.strip() for line in done.stdout.splitlines() if "actions=" in line)


def agent_log(node: Node) -> str:
    return node.log(AGENT).read_text()


def manifest(lab: Lab, node: str) -> Path:
    """The Node manifest that all agents of the lab watch."""
    return lab.folder.path / "cluster" / f"{node}.yaml"


FETCH = """
import json, sys, http.client
host, source, seconds = sys.argv[1:]
connection = http.client.HTTPConnection(host, timeout=float(seconds), source_address=(source, 0) if source else None)
connection.request("GET", "/")
print(connection.getresponse().read().decode())
"""


def fetch(
    lab: Lab, source: str, target: object, *, port: int = 80, bind: object = "", wait: float = 3.0
) -> Any:
    """What the target's web server says: its name and the client that it saw; None if it does not answer."""
    host = f"[{target}]:{port}" if ":" in str(target) else f"{target}:{port}"
    for _ in range(2):  # the first packet through a userspace tunnel may wait for a neighbour
        done = lab.exec(
            source, [sys.executable, "-I", "-S", "-c", FETCH, host, str(bind), str(wait * SLOWER)]
        )
        if done.returncode == 0:
            return json.loads(done.stdout)
    return None


def reaches(lab: Lab, source: str, targets: Iterable[object]) -> bool:
    """Whether the web servers of all of them answer."""
    return all(fetch(lab, source, target, wait=1.0) for target in targets)


def seen(lab: Lab, source: str, target: object, **options: Any) -> str:
    """The address that the target's web server saw the source come from; "" if it does not answer."""
    answer = fetch(lab, source, target, **options)
    return str(answer["client"]) if answer else ""
