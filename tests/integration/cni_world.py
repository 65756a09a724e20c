"""What the tests of a node under faults share: the installed CNI executable, pods' namespaces, and what leaked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import yaml
from lab_world import SLOWER, assert_green, running

from ovsnet import names, state
from ovsnet.lab import files
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, Node
from ovsnet.lab.state import call, wait_for, write_atomically
from ovsnet.rows import PortRow
from ovsnet.store import nodes as manifests

EXECUTABLE = "/opt/cni/bin/ovsnet"
_INTERFACE = re.compile(r"^\d+: ([^:@]+)[:@]", re.MULTILINE)
_COOKIE = re.compile(r"cookie=(0x[0-9a-f]+)")


class Answer(NamedTuple):
    """Exit code and standard output of the executable, None where it printed nothing."""

    status: int
    document: Any

    @property
    def code(self) -> int:
        """The CNI error code, 0 for success."""
        return int(self.document["code"]) if self.status else 0

    @property
    def words(self) -> str:
        return f"{self.document['msg']} {self.document.get('details', '')}" if self.status else ""

    @property
    def addresses(self) -> list[str]:
        return [entry["address"].partition("/")[0] for entry in self.document["ips"]]


class Cni:
    """The executable of one node, called as a runtime calls it, but with any variables."""

    def __init__(self, node: Node) -> None:
        self.node = node
        # Without the lab's helper, whose start would add to every delay that a test chooses.
        self.inside = ["nsenter", "-t", str(node.held().pid), "-m", "-u", "-i", "-n", "-p", "--"]
        # For the PID namespace nsenter forks; without, what a test kills is the process that it means.
        self.becoming = [each for each in self.inside if each != "-p"]

    def tool(self, *argv: str, input: str = "", check: bool = True) -> str:
        """The output of a tool on the node."""
        done = call([*self.inside, *argv], input)
        assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout

    def process(self, command: str, container: str, **options: Any) -> subprocess.Popen[str]:
        """The executable, started, with the configuration in its standard input. See `call`."""
        variables, config = request(command, container, **options)
        process = subprocess.Popen(
            [*self.becoming, EXECUTABLE],
            env={"PATH": os.environ["PATH"], **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        # Without a command the executable ends before it has read anything, as a runtime has to expect.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(config)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
        return process

    def call(self, command: str, container: str = "", **options: Any) -> Answer:
        """Do one call. Options: netns, ifname, config (keys), version, stdin, variables; see `request`."""
        return finish(self.process(command, container, **options))

    def add(self, container: str, netns: str | None = None, **options: Any) -> Answer:
        """ADD that must succeed; the namespace is that of the container's name."""
        answer = self.call("ADD", container, netns=netns or path(container), **options)
        assert answer.status == 0, answer
        return answer

    def delete(self, container: str, **options: Any) -> None:
        """DEL that must succeed."""
        answer = self.call("DEL", container, **{"netns": path(container), **options})
        assert answer == Answer(0, None)

    def check(self, container: str, result: Any, **options: Any) -> Answer:
        config = {"prevResult": result, **options.pop("config", {})}
        return self.call("CHECK", container, **{"netns": path(container), **options}, config=config)

    def make_namespace(self, name: str) -> None:
        self.tool("ip", "netns", "add", name)

    def remove_namespace(self, name: str) -> None:
        self.tool("ip", "netns", "delete", name, check=False)

    @contextlib.contextmanager
    def namespaces(self, *containers: str) -> Iterator[None]:
        """A namespace for each container; in the end all are detached and gone."""
        for each in containers:
            self.make_namespace(each)
        try:
            yield
        finally:
            for each in containers:
                for _, ifname in [pod for pod in self.attached() if pod[0] == each] or [("", "eth0")]:
                    self.call("DEL", each, ifname=ifname)
                self.remove_namespace(each)

    @contextlib.contextmanager
    def pod(self, container: str = "", **options: Any) -> Iterator[tuple[str, Answer]]:
        """An attached container and the answer to its ADD."""
        container = container or new_container()
        with self.namespaces(container):
            yield container, self.add(container, **options)

    # what is there

    def rows(self) -> dict[str, PortRow]:
        """Ports of br-int by name, as the agent sees them."""
        listed = self.tool("ovs-vsctl", "--format=json", "--columns=name,external_ids", "list", "Port")
        ids = {name: dict(found[1]) for name, found in json.loads(listed)["data"]}
        columns = "--columns=name,ofport,type,error"
        rows = {}
        for name, ofport, kind, error in json.loads(
            self.tool("ovs-vsctl", "--format=json", columns, "list", "Interface")
        )["data"]:
            rows[name] = PortRow(
                name=name,
                type=kind,
                ofport=ofport if isinstance(ofport, int) else None,
                error=error if isinstance(error, str) else "",
                external_ids=ids.get(name, {}),
            )
        return rows

    def attached(self) -> set[tuple[str, str]]:
        """Containers and interfaces that have a row."""
        return {(pod.container, pod.ifname) for pod in state.pods(self.rows())}

    def links(self) -> set[str]:
        return set(_INTERFACE.findall(self.tool("ip", "-o", "link")))

    def cookies(self) -> set[int]:
        dump = self.tool("ovs-ofctl", "--no-names", "dump-flows", "br-int")
        return {int(cookie, 16) for cookie in _COOKIE.findall(dump)}

    def port_uuids(self) -> dict[str, str]:
        """What tells a port that stayed from one that was made again."""
        listed = self.tool("ovs-vsctl", "--format=json", "--columns=name,_uuid", "list", "Port")
        return {name: uuid[1] for name, uuid in json.loads(listed)["data"]}

    def leaks(self) -> list[str]:
        """Everything of ours that belongs to nobody."""
        rows, links = self.rows(), self.links()
        pods = {pod.port: pod for pod in state.pods(rows)}
        ours = {name for name, row in rows.items() if row.role == names.ROLE_POD}
        found = [f"link {name} without a row" for name in links - ours if name.startswith("pod-")]
        found += [f"row {name} without a link" for name in ours - links]
        found += [f"row {name} without an identity" for name in ours - pods.keys()]
        known = {names.cookie("pod", pod.key) for pod in pods.values()}
        installed = {cookie for cookie in self.cookies() if names.kind_of(cookie) in ("pod", None)}
        found += [f"flows of nobody: {cookie:#x}" for cookie in installed - known]
        found += [
            f"no flows: {pod.title}" for pod in pods.values() if names.cookie("pod", pod.key) not in installed
        ]
        return found

    def assert_nothing_leaked(self, seconds: float = 5.0) -> None:
        if not wait_for(lambda: not self.leaks(), seconds * SLOWER, 0.05):
            raise AssertionError("\n".join(self.leaks()))


def request(
    command: str,
    container: str = "",
    *,
    netns: str = "",
    ifname: str = "eth0",
    version: str = "1.1.0",
    config: Mapping[str, Any] | None = None,
    stdin: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], str]:
    """The variables and the standard input of a sound call, but for what is given; empty ones are left out."""
    sound = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname if command in ("ADD", "DEL", "CHECK") else "",
        "CNI_PATH": "/opt/cni/bin",
        **(variables or {}),
    }
    document = {"cniVersion": version, "name": "ovsnet", "type": "ovsnet", **(config or {})}
    return {name: value for name, value in sound.items() if value}, json.dumps(
        document
    ) if stdin is None else stdin


def finish(process: subprocess.Popen[str], seconds: float = 60.0) -> Answer:
    stdout, stderr = process.communicate(timeout=seconds)
    assert "Traceback" not in stderr, stderr
    return Answer(process.returncode, json.loads(stdout) if stdout else None)


def launch_agent(node: Node) -> None:
    """Start the agent without waiting until it is ready."""
    command = [sys.executable, "-P", "-m", "ovsnet", "agent", "--config", "/etc/ovsnet/agent.yaml"]
    node.launch(AGENT, command, env=files.python_environment())


def wake_agents(node: Node) -> None:
    """Have everything compared, as it is every 30 s anyway, by a change of the node's object that changes nothing."""
    manifest = node.lab.path / "cluster" / f"{node.name}.yaml"
    document = yaml.safe_load(manifest.read_text())
    annotations = document["metadata"].setdefault("annotations", {})
    if annotations.pop(manifests.ENCAPSULATION, None) is None:
        annotations[manifests.ENCAPSULATION] = node.spec.encap.value
    write_atomically(manifest, yaml.safe_dump(document))


def path(container: str) -> str:
    return f"/run/netns/{container}"


def new_container() -> str:
    return f"c{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes with a pod each, which all talk."""
    with running(nodes=2, pods=1) as lab:
        assert_green(lab)
        yield lab


@pytest.fixture
def cni(lab: Lab) -> Cni:
    return Cni(lab.node("node-a"))
