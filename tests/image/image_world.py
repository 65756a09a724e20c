"""The image, and its containers on a node of the lab as the manifests' DaemonSets would have them there.

A kubelet is not here; `Machine` does its part with containerd's own `ctr`: command, environment, mounts, capabilities,
read-only root and seccomp's default profile come from what `ovsnet manifest` prints. Called by tests/image.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from lab_world import eventually

from ovsnet.cli.manifest import rendered
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD, Node

TREE = Path(__file__).parents[2]
NAME = "localhost/ovsnet:test"
MOST = 150e6
"""Bytes of the archive, in which layers are compressed."""
SOCKET = "/run/containerd/containerd.sock"
_DEFAULT_CAPABILITIES = (
    *(
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
    ),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
"""What a container has of itself (containerd, oci/spec.go), and `drop: [ALL]` takes away."""


def made(folder: Path) -> Path:
    """The archive that `tox -e image` has made, or one of now."""
    if given := os.environ.get("OVSNET_IMAGE"):
        return Path(given)
    path = folder / "ovsnet.tar"
    subprocess.run([sys.executable, "-m", "image", str(path), "--name", NAME], cwd=TREE, check=True)
    return path


def files(archive: Path) -> dict[str, tarfile.TarInfo]:
    """What is in the layers of an archive as `docker save` makes them, by path."""
    found: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(archive) as tar:
        for name in json.load(tar.extractfile("manifest.json"))[0]["Layers"]:  # type: ignore[arg-type]
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                found |= {entry.name: entry for entry in layer}
    return found


def bytecode(module: str) -> str:
    """Where a module's bytecode is."""
    folder, _, name = module.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"


class Machine:
    """A node of a lab, with containerd and the image. folder: an empty one that the node sees, as it sees not /run."""

    def __init__(self, lab: Lab, name: str, archive: Path, folder: Path) -> None:
        self.lab = lab
        self.node: Node = lab.node(name)
        self.archive = archive
        self.folder = folder
        self.image = ""

    @contextlib.contextmanager
    def containerd(self) -> Iterator[None]:
        """While it runs."""
        path = self.folder / "containerd.log"
        with path.open("wb") as log:
            command = self.lab.command(self.node.name, ["containerd", "--address", SOCKET])
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            socket = self.node.root / SOCKET.lstrip("/")
            eventually(lambda: socket.exists() or daemon.poll() is not None)
            assert daemon.poll() is None, path.read_text()
            self.run(["ctr", "image", "import", str(self.archive)])
            (self.image,) = self.run(["ctr", "image", "ls", "-q"]).split()
            yield
        finally:
            daemon.terminate()
            daemon.wait()

    def run(self, command: Sequence[str]) -> str:
        """On the node; what it printed."""
        return str(self.node.run(command, check=True, timeout=120).stdout)

    def once(self, *command: str) -> subprocess.CompletedProcess[str]:
        """In a container of the image with nothing but the image."""
        name = f"c-{uuid.uuid4().hex[:8]}"
        given = ["ctr", "run", "--rm", "--cgroup", "", "--read-only", self.image, name, *command]
        return self.call(given)

    def call(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.lab.command(self.node.name, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


class Pod:
    """One DaemonSet's pod on the machine. config: what agents share; cluster: the lab's manifests are its store."""

    def __init__(self, machine: Machine, document: dict[str, Any], config: str) -> None:
        self.machine = machine
        self.name = str(document["metadata"]["name"])
        self.spec: dict[str, Any] = document["spec"]["template"]["spec"]
        self.folder: Path = machine.folder / self.name
        self.folder.mkdir(exist_ok=True)
        (self.folder / "configMap").mkdir(exist_ok=True)
        (self.folder / "configMap/agent.yaml").write_text(config)

    def container(self, name: str) -> dict[str, Any]:
        every = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        found: dict[str, Any]
        (found,) = (each for each in every if each["name"] == name)
        return found

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """A container that ends."""
        return self.machine.call(self.command(name, f"{name}-{uuid.uuid4().hex[:6]}"))

    def start(self, name: str) -> None:
        """A container that stays; what it says is in its log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            command = self.machine.lab.command(self.machine.node.name, self.command(name, name))
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def command(self, name: str, title: str) -> list[str]:
        """What the kubelet would ask for, as a command line of ctr."""
        container = self.container(name)
        context = container["securityContext"]
        granted = context["capabilities"].get("add", [])
        assert context["capabilities"]["drop"] == ["ALL"]
        assert self.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        command = ["ctr", "run", "--rm", "--cgroup", "", "--net-host", "--seccomp"]
        command += ["--read-only"] if context["readOnlyRootFilesystem"] else []
        for capability in {*_DEFAULT_CAPABILITIES} - {*granted}:
            command += ["--cap-drop", f"CAP_{capability}"]
        for capability in granted:
            command += ["--cap-add", f"CAP_{capability}"]
        environment = {each["name"]: self._value(each) for each in container.get("env", [])}
        for key, value in environment.items():
            command += ["--env", f"{key}={value}"]
        for mount in container["volumeMounts"]:
            command += ["--mount", self._mount(mount)]
        if name == "agent":
            # In place of the Kubernetes API: the lab has none.
            command += ["--mount", "type=bind,src=/etc/ovsnet/cluster,dst=/cluster,options=rbind:ro"]
        words = [*container["command"], *container.get("args", [])]
        for key, value in environment.items():
            words = [word.replace(f"$({key})", value) for word in words]
        return [*command, self.machine.image, title, *words]

    def _value(self, entry: dict[str, Any]) -> str:
        if "value" in entry:
            return str(entry["value"])
        assert entry["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
        return self.machine.node.name

    def _mount(self, mount: dict[str, Any]) -> str:
        (volume,) = (each for each in self.spec["volumes"] if each["name"] == mount["name"])
        if "hostPath" in volume:
            source = volume["hostPath"]["path"]
            if volume["hostPath"]["type"] == "DirectoryOrCreate":
                self.machine.run(["mkdir", "-p", source])
        else:
            folder = self.folder / ("configMap" if "configMap" in volume else mount["name"])
            folder.mkdir(exist_ok=True)
            source = str(folder)
        options = ["rbind", "ro" if mount.get("readOnly") else "rw"]
        options += ["rslave"] if mount.get("mountPropagation") == "HostToContainer" else ["rprivate"]
        return f"type=bind,src={source},dst={mount['mountPath']},options={':'.join(options)}"

    def probe(self, name: str, kind: str) -> subprocess.CompletedProcess[str]:
        return self.exec(name, *self.container(name)[kind]["exec"]["command"])

    def exec(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """In a container that runs, as `kubectl exec` does."""
        identity = f"x-{uuid.uuid4().hex[:8]}"
        return self.machine.call(["ctr", "task", "exec", "--exec-id", identity, name, *words])

    def stop(self, name: str, signal: str = "TERM") -> None:
        """And wait until it is gone."""
        self.machine.run(["ctr", "task", "kill", "-s", signal, name])
        eventually(lambda: name not in self.machine.run(["ctr", "container", "ls", "-q"]).split(), 20)


def pods(machine: Machine) -> tuple[Pod, Pod]:
    """Open vSwitch and the agent, of a manifest for nodes such as the lab's, in place of the lab's own daemons."""
    settings: dict[str, Any] = yaml.safe_load(machine.node.private("/etc/ovsnet/agent.yaml").read_text())
    shared = {
        key: settings[key]
        for key in settings.keys() - {"nodeName", "nodeAddress", "store", "cniSocket", "ovsdb"}
    }
    path = machine.folder / "shared.yaml"
    path.write_text(yaml.safe_dump(shared))
    # The database goes on where it was: the lab's uplink is in it.
    documents = yaml.safe_load_all(rendered(("stateDir=/etc/openvswitch",), path))
    found = {each["metadata"]["name"]: each for each in documents if each["kind"] == "DaemonSet"}
    config = yaml.safe_dump({**shared, "store": {"file": "/cluster"}})
    for daemon in (AGENT, VSWITCHD, OVSDB):
        machine.node.kill(daemon)
    return Pod(machine, found["openvswitch"], config), Pod(machine, found["ovsnet-agent"], config)
