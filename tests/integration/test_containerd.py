"""A real container runtime on a node of the lab: containerd finds plugin and configuration where they always are.

No image and no registry: the container's root file system is made of this machine's own programs.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cni_world import Cni
from lab_world import eventually, ovsnet_json, running

from ovsnet import state
from ovsnet.cni import resultcache
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import Node

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ctr"), reason="containerd is not installed"),
]
SOCKET = "/run/containerd/containerd.sock"
PROGRAMS = ("sh", "ip", "ping", "sleep")


def copy_program(name: str, root: Path) -> None:
    """The program as /bin/NAME with the libraries that it needs."""
    path = shutil.which(name)
    assert path, f"{name} is not installed"
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy(Path(path).resolve(), root / "bin" / name)
    listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", listed):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rootfs")
    for folder in ("proc", "sys", "dev", "etc", "tmp"):
        (root / folder).mkdir()
    for program in PROGRAMS:
        copy_program(program, root)
    return root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes; containerd runs on the first."""
    with running(nodes=2, pods=1) as lab:
        node = lab.node("node-a")
        path = lab.folder.place("node-a") / "containerd.log"
        with path.open("wb") as log:
            command = lab.command("node-a", ["containerd", "--address", SOCKET])
            containerd = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            socket = node.root / SOCKET.lstrip("/")
            eventually(lambda: socket.exists() or containerd.poll() is not None)
            assert containerd.poll() is None, path.read_text()
            yield lab
        finally:
            containerd.terminate()
            containerd.wait()


def ctr_run(rootfs: Path, name: str, *command: str) -> list[str]:
    # Without a cgroup of its own: the node shares the machine's, which may not be touched.
    return ["ctr", "run", "--rm", "--cni", "--cgroup", "", "--rootfs", str(rootfs), name, *command]


def pods(node: Node) -> dict[str, list[str]]:
    """The pods that the agent knows: who to addresses."""
    ports: list[dict[str, Any]] = ovsnet_json(node, "show")["ports"]
    return {port["who"]: port["addresses"] for port in ports if port["role"] == "pod"}


def interfaces(node: Node) -> list[str]:
    """Host ends of pods."""
    links = json.loads(node.run(["ip", "-j", "link", "show"], check=True).stdout)
    return sorted(
        link["ifname"] for link in links if link["ifname"].startswith("pod-") and link["operstate"] == "UP"
    )


def test_a_container_has_an_address_and_reaches_a_pod_elsewhere(lab: Lab, rootfs: Path) -> None:
    node, far = lab.node("node-a"), lab.pod("b1")
    before = pods(node), interfaces(node)
    script = f"ip -o addr show eth0; ping -c3 -W2 {far.address(4)}; ping -c3 -W2 {far.address(6)}"
    done = lab.run("node-a", ctr_run(rootfs, "c1", "/bin/sh", "-c", script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"inet 10\.244\.1\.\d+/24", done.stdout)
    assert re.search(r"inet6 fd00:10:244:1::[0-9a-f]+/64", done.stdout)
    assert f"64 bytes from {far.address(4)}" in done.stdout
    assert f"64 bytes from {far.address(6)}" in done.stdout
    assert (pods(node), interfaces(node)) == before


def test_a_container_is_reached_until_it_ends(lab: Lab, rootfs: Path) -> None:
    node = lab.node("node-a")
    before, flows = (pods(node), interfaces(node)), len(ovsnet_json(node, "flows"))
    command = lab.command("node-a", ctr_run(rootfs, "c2", "/bin/sleep", "600"))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as container:
        try:
            eventually(lambda: len(pods(node)) == len(before[0]) + 1)
            (who,) = pods(node).keys() - before[0].keys()
            assert "c2" in who
            for address in pods(node)[who]:
                # The first packet through a userspace tunnel may be lost: it waits for a neighbour.
                done = lab.exec("b1", ["ping", "-c3", "-i0.2", "-W1", address])
                assert f"bytes from {address}" in done.stdout
            # What would give it its row back, as libcni itself writes it.
            found, refused = resultcache.pods([node.private("/var/lib/cni/results")])
            rows = {pod.port: state.identity(pod) for pod in state.pods(Cni(node).rows())}
            assert {pod.port: state.identity(pod) for pod in found} == rows
            assert not refused
        finally:
            lab.run("node-a", ["ctr", "task", "kill", "-s", "KILL", "c2"])
            container.wait(20)
    eventually(lambda: (pods(node), interfaces(node)) == before)
    assert len(ovsnet_json(node, "flows")) == flows
