"""The image: its size, its programs, and a whole node of the lab that runs on nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_world import MOST, Machine, Pod, bytecode, files, made, pods
from lab_world import assert_green, eventually, running

import ovsnet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def machine(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The first of two nodes."""
    assert os.geteuid() == 0, "needs root"
    assert shutil.which("ctr"), "containerd is not installed"
    with running(nodes=2, pods=1) as lab:
        machine = Machine(lab, "node-a", archive, tmp_path_factory.mktemp("machine"))
        with machine.containerd():
            yield machine


@pytest.fixture(scope="module")
def node(machine: Machine) -> tuple[Pod, Pod]:
    """Open vSwitch and agent of the node, from the image."""
    switch, agent = pods(machine)
    switch.start("ovsdb-server")
    switch.start("ovs-vswitchd")
    machine.node.make_uplink()
    machine.node.private("/opt/cni/bin/ovsnet").unlink()
    machine.node.private("/etc/cni/net.d/10-ovsnet.conflist").unlink()
    installed = agent.run("install-cni")
    assert installed.returncode == 0, installed.stderr
    agent.start("agent")
    eventually(lambda: not agent.probe("agent", "readinessProbe").returncode)
    return switch, agent


def test_it_is_small(archive: Path) -> None:
    assert archive.stat().st_size < MOST


def test_it_is_what_it_says(archive: Path) -> None:
    """An OCI layout in which everything has its digest, and what `docker load` looks for."""
    with tarfile.open(archive) as tar:
        digests = {
            entry.name: hashlib.sha256(content.read()).hexdigest()
            for entry in tar
            if (content := tar.extractfile(entry)) is not None
        }
        blobs = {name: digest for name, digest in digests.items() if name.startswith("blobs/")}
        assert blobs
        assert all(name == f"blobs/sha256/{digest}" for name, digest in blobs.items())
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        saved = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    (manifest,) = index["manifests"]
    assert f"blobs/sha256/{manifest['digest'].removeprefix('sha256:')}" in blobs
    assert {saved[0]["Config"], *saved[0]["Layers"]} < blobs.keys()


def test_nothing_in_it_is_somebodys_or_gives_rights(archive: Path) -> None:
    for entry in files(archive).values():
        assert (entry.uid, entry.gid, entry.mtime) == (0, 0, 0), entry.name
        assert not entry.mode & 0o6000, entry.name


def test_its_modules_are_compiled(archive: Path) -> None:
    """Wherever whoever made it keeps bytecode: nothing can be written in a container."""
    names = set(files(archive))
    modules = [name for name in names if re.search(r"/(ovsnet|click|asyncio|encodings)/.*\.py$", name)]
    assert len(modules) > 300
    missing = [name for name in modules if bytecode(name) not in names]
    assert not missing


def test_nothing_in_it_tells_where_it_was_made(archive: Path) -> None:
    """That folder has another name each time, and the same input makes the same bytes."""
    with tarfile.open(archive) as tar:
        _, *ours = json.load(tar.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
        for name in ours:
            assert b"/ovsnet-image-" not in gzip.decompress(tar.extractfile(name).read())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ovsnet --version", f"ovsnet {ovsnet.__version__}"),
        ("ovs-vswitchd --version", "(Open vSwitch)"),
        ("ovsdb-server --version", "(Open vSwitch)"),
        ("ovs-ofctl --version", "(Open vSwitch)"),
        ("nft --version", "nftables v"),
        ("ip -V", "iproute2"),
        ("ping -V", "iputils"),
        ("unshare --version", "util-linux"),
        ("python3 -c import(ssl);print(len(ssl.create_default_context().get_ca_certs())>100)", "True"),
    ],
)
def test_its_programs_run(machine: Machine, command: str, words: str) -> None:
    done = machine.once(*(word.replace("import(ssl)", "import ssl") for word in command.split()))
    assert done.returncode == 0, done.stderr
    assert words in done.stdout + done.stderr


def test_the_agent_checks_a_configuration(machine: Machine) -> None:
    script = "printf 'vni: 5\\n' >/dev/shm/a.yaml && ovsnet agent --check-config --config /dev/shm/a.yaml"
    done = machine.once("/bin/sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "/dev/shm/a.yaml: no mistake\n"), done.stderr


def test_a_node_runs_on_it(machine: Machine, node: tuple[Pod, Pod]) -> None:
    """Everything reaches everything; a pod comes and goes through the executable that was installed."""
    switch, agent = node
    try:
        assert_green(machine.lab)
        machine.lab.add_pod("node-a", "a9")
        assert_green(machine.lab)
        machine.lab.remove_pod("a9")
    except BaseException:
        print(agent.said("agent"), switch.said("ovs-vswitchd"), sep="\n")
        raise


@pytest.mark.parametrize(
    ("pod", "container", "capabilities"),
    [
        (0, "ovsdb-server", ()),
        (0, "ovs-vswitchd", ("NET_ADMIN", "NET_BROADCAST", "NET_RAW")),
        (1, "agent", ("NET_ADMIN", "SYS_ADMIN")),
    ],
)
def test_what_was_proven_was_proven_confined(
    node: tuple[Pod, Pod], pod: int, container: str, capabilities: tuple[str, ...]
) -> None:
    """The kernel's word for it (capabilities(7), proc(5))."""
    status = node[pod].exec(container, "cat", "/proc/1/status").stdout
    found = dict(line.split(":", 1) for line in status.splitlines())
    numbers = {"NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}
    assert int(found["CapEff"], 16) == sum(1 << numbers[name] for name in capabilities)
    assert int(found["CapBnd"], 16) == int(found["CapEff"], 16)
    assert (found["Seccomp"].strip(), found["NoNewPrivs"].strip()) == ("2", "1")
    assert node[pod].exec(container, "touch", "/x").returncode != 0
    assert node[pod].exec(container, "touch", "/proc/sys/net/ipv4/ip_forward").returncode != 0


def test_the_agent_sets_what_is_under_proc_sys(machine: Machine, node: tuple[Pod, Pod]) -> None:
    """Although its own /proc/sys can't be written."""
    settings = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    for setting in settings:
        machine.run(["sysctl", "-w", f"{setting}=0"])
    eventually(lambda: machine.run(["sysctl", "-n", *settings]) == "1\n1\n")
    assert "/host/proc/sys" not in "".join(
        line for line in node[1].said("agent").splitlines() if "cannot" in line
    )


def test_the_executable_on_the_node_is_the_images(machine: Machine, node: tuple[Pod, Pod]) -> None:
    installed = machine.node.private("/opt/cni/bin/ovsnet").read_bytes()
    assert installed.startswith(b"\x7fELF")
    assert (
        json.loads(machine.node.private("/etc/cni/net.d/10-ovsnet.conflist").read_text())["name"] == "ovsnet"
    )
    again = node[1].run("install-cni")
    assert again.stdout.count("is in place") == 3, again.stdout + again.stderr


@pytest.mark.parametrize(
    ("pod", "container", "kind"),
    [
        (0, "ovsdb-server", "livenessProbe"),
        (0, "ovs-vswitchd", "livenessProbe"),
        (1, "agent", "readinessProbe"),
        (1, "agent", "livenessProbe"),
    ],
)
def test_probes_find_all_well(node: tuple[Pod, Pod], pod: int, container: str, kind: str) -> None:
    done = node[pod].probe(container, kind)
    assert done.returncode == 0, done.stdout + done.stderr


def test_people_can_look_around_in_it(node: tuple[Pod, Pod]) -> None:
    for command in (["ovsnet", "show"], ["ovsnet", "audit"], ["ovsnet", "trace", "a1", "10.244.2.2"]):
        done = node[1].exec("agent", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    found = node[1].exec("agent", "ovsnet", "doctor").stdout
    assert not [line for line in found.splitlines() if line.startswith("fault")], found


def test_a_second_open_vswitch_is_refused_with_words(node: tuple[Pod, Pod]) -> None:
    done = node[0].run("ovsdb-server")
    assert done.returncode == 1
    assert "Open vSwitch runs on this node already" in done.stderr
    assert "ovsnet manifest --set openvswitch=node" in done.stderr


def test_the_agent_stops_in_order_and_comes_back(machine: Machine, node: tuple[Pod, Pod]) -> None:
    agent = node[1]
    agent.stop("agent")
    assert "stopped; pods keep their network" in agent.said("agent")
    assert_green(machine.lab)
    assert machine.run(["ovs-vsctl", "--if-exists", "get", "Open_vSwitch", ".", "other_config"]) == "{}\n"
    agent.start("agent")
    eventually(lambda: not agent.probe("agent", "readinessProbe").returncode)


def test_a_new_open_vswitch_keeps_the_nodes_database(machine: Machine, node: tuple[Pod, Pod]) -> None:
    """As an upgrade of it: its pod is deleted and comes back."""
    switch, _ = node
    before = machine.run(["ovs-vsctl", "get", "Bridge", "br-int", "_uuid"])
    for name in ("ovs-vswitchd", "ovsdb-server"):
        switch.stop(name)
    for name in ("ovsdb-server", "ovs-vswitchd"):
        switch.start(name)
    machine.node.make_uplink()
    assert machine.run(["ovs-vsctl", "get", "Bridge", "br-int", "_uuid"]) == before
    assert_green(machine.lab, 15)
