"""What the benchmarks share: a lab that is always taken down, plugins to call on it, its agent's health.

Called by the parts of the benchmark. Measures nothing itself; the clock is in `on_node`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import on_node

from ovsnet.cni import framing
from ovsnet.lab import files
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node
from ovsnet.lab.spec import LabSpec

Made = TypeVar("Made", bound=Lab)
REFERENCE_NETNS = "/run/netns/reference"
_INTERPRETER = "/usr/bin/python3"


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Lab]:
    """A lab with IPv4 and a name of its own; gone afterwards, however far it got."""
    with running_kind(Lab, **options) as lab:
        yield lab


@contextlib.contextmanager
def running_kind(kind: type[Made], **options: Any) -> Iterator[Made]:
    """The same of another kind of lab."""
    spec = msgspec.convert({"families": "4", "underlay": "4", **options}, LabSpec)
    lab = kind(f"bench-{uuid.uuid4().hex[:6]}", spec)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


class Helper:
    """`on_node` as a running process on a node."""

    def __init__(self, node: Node, netns: str = "") -> None:
        command = node.command([_INTERPRETER, "-I", "-S", "-c", Path(on_node.__file__).read_text()], netns)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, job: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the helper on the node ended with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


class Plugin:
    """A CNI plugin that is executed for `count` sandboxes with everything prepared."""

    def __init__(self, name: str, path: str, config: dict[str, Any], helper: Helper) -> None:
        self.name = name
        self._path = path
        self._config = config
        self._helper = helper
        self._attached: dict[str, tuple[str, Any]] = {}
        self._numbers = itertools.count()

    def instead(self, name: str, path: str) -> Plugin:
        """Another executable with the same configuration, on the same node."""
        return Plugin(name, path, self._config, self._helper)

    def version(self) -> float:
        """VERSION, which ovsnet's executable answers by itself; milliseconds."""
        (answer,) = self._run([self._call("VERSION", "none", "none", self._config)])
        return float(answer["ms"])

    def add(self, sandboxes: Sequence[str]) -> list[float]:
        """ADD for all at once; milliseconds of each. Raises RuntimeError with a plugin's words."""
        containers = [f"{self.name}-{next(self._numbers)}" for _ in sandboxes]
        calls = [self._call("ADD", *pair, self._config) for pair in zip(sandboxes, containers, strict=True)]
        answers = self._run(calls)
        for sandbox, container, answer in zip(sandboxes, containers, answers, strict=True):
            self._attached[sandbox] = container, json.loads(answer["out"])
        return [answer["ms"] for answer in answers]

    def delete(self, sandboxes: Sequence[str]) -> list[float]:
        """DEL for all at once, with the results of ADD as a runtime hands them over."""
        calls = []
        for sandbox in sandboxes:
            container, result = self._attached.pop(sandbox)
            calls.append(self._call("DEL", sandbox, container, {**self._config, "prevResult": result}))
        return [answer["ms"] for answer in self._run(calls)]

    def _run(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self._helper.do({"do": "calls", "calls": calls})
        for answer in answers:
            if answer["code"]:
                raise RuntimeError(f"{self.name}: {answer['out']}")
        return answers

    def _call(self, command: str, sandbox: str, container: str, config: dict[str, Any]) -> dict[str, Any]:
        names = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"
        env = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{sandbox}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": names,
            "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
        }
        return {"path": self._path, "env": env, "stdin": json.dumps(config)}


OVSNET = {"cniVersion": "1.0.0", "name": "ovsnet", "type": "ovsnet", "agentSocket": files.CNI_SOCKET}
REFERENCE = {
    "cniVersion": "1.0.0",
    "name": "reference",
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}


@contextlib.contextmanager
def plugins(node: Node, count: int) -> Iterator[tuple[Plugin, Plugin]]:
    """ovsnet and the reference, ready to be called for `sandboxes(plugin, count)`.

    The reference has a network namespace to itself, with its bridge in it.
    """
    names = ["reference"]
    names += [f"{plugin}-{i}" for plugin in ("ovsnet", "bridge") for i in range(count)]
    lines = [f"netns add {name}" for name in names]
    node.run(["ip", "-batch", "-"], input="\n".join(lines), check=True)
    ours, theirs = Helper(node), Helper(node, REFERENCE_NETNS)
    try:
        yield (
            Plugin("ovsnet", "/opt/cni/bin/ovsnet", OVSNET, ours),
            Plugin("bridge", "/usr/lib/cni/bridge", REFERENCE, theirs),
        )
    finally:
        ours.close()
        theirs.close()


def sandboxes(plugin: Plugin, count: int, first: int = 0) -> list[str]:
    """Names of sandboxes made by `plugins`."""
    return [f"{plugin.name}-{i}" for i in range(first, first + count)]


def health(node: Node) -> dict[str, Any]:
    """What the agent says of itself."""
    answer = on_node.ask(f"{node.root}{files.CNI_SOCKET}", framing.frame({"OVSNET_COMMAND": "health"}))
    report: dict[str, Any] = json.loads(framing.unframe_reply(answer)[1])
    return report
