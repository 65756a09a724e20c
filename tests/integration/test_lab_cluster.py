"""The lab with ovsnet in it: every kind of tunnel and family talks; what breaks is repaired; the command line."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovsnet.lab import report
from ovsnet.lab.check import Report
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, CONFIG
from ovsnet.lab.spec import Families, LabSpec
from ovsnet.model import Encap, Tunnels

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"}


def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def assert_green(outcome: Report) -> None:
    assert outcome.ok, "\n".join(map(str, outcome.failures))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(new_name(), LabSpec(nodes=2, pods=2))
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


# Every value of each option, and every pair of encapsulation with tunnels, families and underlay at least once.
KINDS: list[tuple[Encap, Tunnels, Families, Families]] = [
    (Encap.VXLAN, Tunnels.PORTS, "dual", "4"),
    (Encap.VXLAN, Tunnels.FLOW, "6", "6"),
    (Encap.VXLAN, Tunnels.PORTS, "4", "dual"),
    (Encap.GENEVE, Tunnels.FLOW, "dual", "4"),
    (Encap.GENEVE, Tunnels.PORTS, "4", "6"),
    (Encap.GENEVE, Tunnels.FLOW, "6", "dual"),
    (Encap.GRE, Tunnels.PORTS, "dual", "6"),
    (Encap.GRE, Tunnels.FLOW, "4", "4"),
    (Encap.GRE, Tunnels.FLOW, "6", "dual"),
]


@pytest.mark.parametrize(("encap", "tunnels", "families", "underlay"), KINDS)
def test_every_kind_is_green(encap: Encap, tunnels: Tunnels, families: Families, underlay: Families) -> None:
    spec = LabSpec(nodes=2, pods=1, encap=encap, tunnels=tunnels, families=families, underlay=underlay)
    lab = Lab(new_name(), spec)
    try:
        lab.up()
        assert_green(lab.check())
    finally:
        lab.down()


def test_pods_get_addresses_in_the_order_of_their_names(lab: Lab) -> None:
    octets = {pod.name: str(pod.address(4)) for pod in lab.pods}
    assert octets == {"a1": "10.244.1.2", "a2": "10.244.1.3", "b1": "10.244.2.2", "b2": "10.244.2.3"}


def test_up_again_changes_nothing(lab: Lab) -> None:
    before = [(node.daemon(AGENT), [pod.result() for pod in lab.pods]) for node in lab.nodes]
    assert lab.up() == []
    assert [(node.daemon(AGENT), [pod.result() for pod in lab.pods]) for node in lab.nodes] == before


def test_an_edited_configuration_is_kept_until_it_is_removed(lab: Lab) -> None:
    config = lab.node("node-b").private(CONFIG)
    written = config.read_text()
    said: list[str] = []
    config.write_text(f"{written}# mine\n")
    try:
        assert Lab(lab.name, say=said.append).up() == []
        assert config.read_text() == f"{written}# mine\n"
        assert [line for line in said if "edited" in line] == [
            f"node-b: {config} was edited and is kept; removed, it is written anew by the next up"
        ]
    finally:
        config.unlink()
    said.clear()
    assert Lab(lab.name, say=said.append).up() == []
    assert config.read_text() == written
    assert not any("edited" in line for line in said)
    # As an earlier version would have written it.
    other = "nodeName: node-b\n"
    config.write_text(other)
    lab.node("node-b").wrote.write_text(hashlib.sha256(other.encode()).hexdigest())
    lab.up()
    assert config.read_text() == written
    # Nobody is led to another than the one that counts.
    assert not (lab.node("node-b").path / config.name).exists()
    assert f"vi {lab.node('node-a').private(CONFIG)}" in report.next_commands(lab)


def test_a_dead_agent_is_started_again(lab: Lab) -> None:
    lab.node("node-a").kill(AGENT, signal.SIGKILL)
    assert lab.up() == [f"node-a: {AGENT}"]
    assert_green(lab.check())


def test_a_dead_node_comes_back_with_its_pods(lab: Lab) -> None:
    lab.node("node-b").destroy()
    status = report.survey(lab)
    assert not status.whole
    assert any("node-b is not running" in str(failure) for failure in lab.check(seconds=1).failures)
    changes = lab.up()
    assert {"node-b: namespaces", "node-b: agent", "pod b1", "pod b2"} <= set(changes)
    assert not [change for change in changes if "node-a" in change or "pod a" in change]
    assert_green(lab.check())


def test_a_vswitchd_that_was_killed_is_repaired(lab: Lab) -> None:
    lab.node("node-a").kill("ovs-vswitchd", signal.SIGKILL)
    assert lab.up()[0] == "node-a: ovs-vswitchd"
    assert_green(lab.check())


def test_nodes_and_pods_come_and_go(lab: Lab) -> None:
    lab.add_node()
    pod = lab.add_pod("node-c")
    assert pod.name == "c1"
    assert_green(lab.check())
    survey = report.survey(lab)
    assert [node.tunnels for node in survey.nodes if node.name == "node-c"] == [["node-a", "node-b"]]
    lab.remove_pod("c1")
    lab.remove_node("node-c")
    assert_green(lab.check())
    assert lab.up() == []


def test_a_pod_asks_for_its_address(lab: Lab) -> None:
    pod = lab.add_pod(
        "node-a", "fixed", ips=["10.244.1.77/24", "fd00:10:244:1::77/64"], mac="0a:58:00:00:00:77"
    )
    try:
        assert [str(address) for address in pod.addresses] == ["10.244.1.77", "fd00:10:244:1::77"]
        link = json.loads(lab.exec("fixed", ["ip", "-j", "link", "show", "eth0"]).stdout)[0]
        assert link["address"] == "0a:58:00:00:00:77"
    finally:
        lab.remove_pod("fixed")


def test_a_lab_that_is_removed_during_its_check() -> None:
    name = new_name()
    command = [sys.executable, "-m", "ovsnet", "lab", "--name", name, "up", "--nodes", "2", "--pods", "1"]
    try:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as up:
            assert up.stderr is not None
            assert any("checking every path" in line for line in up.stderr)
            assert Lab(name).down()
            out, err = up.communicate(timeout=120)
        assert (up.returncode, out) == (1, "")
        assert err.startswith("error: the lab was removed meanwhile\n")
    finally:
        Lab(name).down()


def test_a_session_on_the_command_line() -> None:
    name = new_name()

    def ovsnet(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ovsnet", "lab", "--name", name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)

    try:
        done = ovsnet("up", "--nodes", "2", "--pods", "1", "--encap", "geneve")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "probes over IPv4 and IPv6 passed" in done.stdout
        assert f"ovsnet lab --name {name} exec a1 -- ping -c1 b1" in done.stdout
        assert ovsnet("exec", "a1", "--", "ping", "-c1", "b1").returncode == 0
        assert "br-int" in ovsnet("ovs", "node-a", "--", "ovs-vsctl", "show").stdout
        assert ovsnet("exec", "a1", "--", "sh", "-c", "exit 5").returncode == 5
        assert "nothing was missing" in ovsnet("up").stdout
        refused = ovsnet("up", "--encap", "gre")
        assert refused.returncode == 1
        assert "--encap gre (not geneve)" in refused.stderr
        assert ovsnet("add-node").stdout == "node-c is up\n"
        assert "c1 is up on node-c: 10.244.3.2" in ovsnet("add-pod", "node-c", "c1").stdout
        labelled = (
            "add-pod",
            "node-c",
            "c2",
            "--namespace",
            "shop",
            "--label",
            "app=web",
            "--port",
            "http=80",
        )
        assert ovsnet(*labelled).returncode == 0
        assert Lab(name).pod("c2").pod.labels == {"app": "web"}
        assert "KEY=VALUE" in ovsnet("label-pod", "c2", "app").stderr
        assert "1 to 65535" in ovsnet("add-pod", "node-c", "c3", "--port", "http=no").stderr
        assert ovsnet("label-pod", "c2", "app=db").stdout == "c2 has app=db\n"
        (manifest,) = (Lab(name).folder.path / "cluster").glob("pod.c2.yaml")
        for words in ("app: db", "namespace: shop", "containerPort: 80", "ip: 10.244.3.3"):
            assert words in manifest.read_text()
        assert ovsnet("status").returncode == 0
        assert "node-a" in ovsnet("logs", "node-a").stdout
        assert ovsnet("remove-pod", "c1").returncode == 0
        assert ovsnet("remove-node", "node-c").returncode == 0
        assert not manifest.exists()
        assert ovsnet("check").returncode == 0
        Lab(name).node("node-b").kill(AGENT, signal.SIGKILL)
        assert ovsnet("status").returncode == 1
        assert "node-b: agent" in ovsnet("up").stdout
    finally:
        assert ovsnet("down").returncode == 0
    assert "nothing to do" in ovsnet("down").stdout
