"""Nodes without an agent: their namespaces, daemons and underlay, running commands in them, repair and removal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, OVSDB, VSWITCHD
from ovsnet.lab.spec import LabError, LabSpec
from ovsnet.lab.state import ROOT, wait_for

BARE = LabSpec(nodes=2, pods=0, plugin="none")
PROJECT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT)}


def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(new_name(), BARE)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


@pytest.fixture
def doomed() -> Iterator[Lab]:
    """A lab that the test makes and breaks itself."""
    lab = Lab(new_name(), BARE)
    yield lab
    lab.down()


def cli(lab: Lab, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ovsnet", "lab", "--name", lab.name, *arguments]


def processes_naming(text: str) -> list[int]:
    """All processes on the machine whose command line has the text in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kill_up(lab: Lab, seconds: float) -> None:
    """Run `up` in a process of its own and kill that after so many seconds."""
    code = (
        "import sys; from ovsnet.lab.lab import Lab, LabSpec; "
        "Lab(sys.argv[1], LabSpec(nodes=2, pods=0, plugin='none')).up()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, lab.name], env=ENVIRONMENT)
    time.sleep(seconds)
    process.kill()
    process.wait()


def test_nodes_and_outside_reach_one_another_in_both_families(lab: Lab) -> None:
    report = lab.check()
    assert report.ok, "\n".join(map(str, report.failures))
    assert {result.version for result in report.results} == {4, 6}
    assert {result.target for result in report.results if result.source == "node-a"} == {"node-b", "outside"}


@pytest.mark.parametrize("version", ["-4", "-6"])
def test_the_kernel_does_not_answer_beside_ovs(lab: Lab, version: str) -> None:
    done = lab.run("node-a", ["ping", version, "-c2", "-i0.2", "-W2", "node-b"])
    assert done.returncode == 0, done.stdout
    assert "DUP" not in done.stdout


def test_a_node_has_its_own_places(lab: Lab) -> None:
    script = "hostname; ls /sys/class/net; ls /etc/ovsnet; echo kept > /etc/cni/net.d/probe; touch /run/probe"
    done = lab.run("node-a", ["sh", "-c", script])
    assert done.stderr == ""
    own = ["br-phy", "eth0", "lo", "ovs-netdev"] if lab.state.datapath == "netdev" else ["eth0", "lo"]
    assert done.stdout.split() == ["node-a", *own, "cluster"]
    other = lab.run("node-b", ["ls", "/etc/cni/net.d", "/run"])
    assert "probe" not in other.stdout
    assert not Path("/etc/cni/net.d/probe").exists()
    assert not Path("/run/probe").exists()


def test_ovs_tools_find_their_server(lab: Lab) -> None:
    done = lab.run("node-b", ["ovs-vsctl", "get", "Open_vSwitch", ".", "external-ids:system-id"])
    assert done.stdout.strip() == "node-b"
    assert lab.run("node-b", ["ovs-appctl", "version"]).returncode == 0


def test_the_manifest_of_every_node_is_seen_by_every_node(lab: Lab) -> None:
    done = lab.run("node-b", ["cat", "/etc/ovsnet/cluster/node-a.yaml"])
    assert "10.244.1.0/24" in done.stdout
    assert "192.0.2.11" in done.stdout


def test_input_output_and_exit_code_pass_through(lab: Lab) -> None:
    done = lab.run("outside", ["sh", "-c", "cat; echo error >&2; exit 7"], input="some text")
    assert (done.stdout, done.stderr, done.returncode) == ("some text", "error\n", 7)
    assert lab.run("node-a", ["no-such-command"]).returncode == 127


def test_a_command_stays_in_the_callers_folder(lab: Lab, tmp_path: Path) -> None:
    command = lab.command("node-a", ["pwd"])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path)


def test_signals_pass_through(lab: Lab) -> None:
    script = "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    command = cli(lab, "run", "node-a", "--", "sh", "-c", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "got it\n"
        assert process.wait(5) == 3


def test_a_command_ends_with_the_signal_that_ended_it_inside(lab: Lab) -> None:
    process = subprocess.Popen(lab.command("node-a", ["sleep", "60"]))
    time.sleep(0.3)
    process.terminate()
    assert process.wait(5) == -signal.SIGTERM


def test_a_command_does_not_outlive_its_caller(lab: Lab) -> None:
    marker = f"60.{uuid.uuid4().int % 10**9}"
    process = subprocess.Popen(lab.command("node-a", ["sleep", marker]))
    assert wait_for(lambda: len(processes_naming(marker)) == 2, 5)
    process.kill()
    process.wait()
    assert wait_for(lambda: not processes_naming(marker), 5)


def test_a_command_does_not_outlive_a_caller_that_ends_while_it_is_started(lab: Lab) -> None:
    marker = f"60.{uuid.uuid4().int % 10**9}"
    given = json.dumps(lab.place("node-a")[0].entrance(["sleep", marker]))
    code = (
        "import json, sys, time; from ovsnet.lab import nsproc; prctl = nsproc.libc.prctl\n"
        "nsproc.libc.prctl = lambda *given: (time.sleep(1), prctl(*given))\n"
        "nsproc.enter(json.loads(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, given], env=ENVIRONMENT)
    assert wait_for(lambda: len(processes_naming(marker)) == 2, 5)
    process.kill()
    process.wait()
    assert wait_for(lambda: not processes_naming(marker), 5)


def test_a_terminal_passes_through(lab: Lab) -> None:
    inside = lab.command("node-a", ["sh", "-c", "test -t 0 && test -t 1 && echo terminal"])
    done = subprocess.run(
        [sys.executable, "-c", "import pty,sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)", *inside],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "terminal" in done.stdout


def test_unknown_names_are_told_with_the_known_ones(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"node-x.*node-a, node-b, outside"):
        lab.run("node-x", ["true"])


def test_up_again_changes_nothing(lab: Lab) -> None:
    before = [node.init for node in lab.nodes]
    assert lab.up() == []
    assert Lab(lab.name).up() == []
    assert [node.init for node in lab.nodes] == before


def test_other_options_are_refused(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"other options: --nodes 3 \(not 2\).*down"):
        Lab(lab.name, LabSpec(nodes=3, pods=0, plugin="none")).up()


@pytest.mark.parametrize("daemon", [OVSDB, VSWITCHD])
def test_a_dead_daemon_is_started_again(lab: Lab, daemon: str) -> None:
    node = lab.node("node-a")
    node.kill(daemon, signal.SIGKILL)
    assert node.daemon(daemon) is None
    assert lab.up() == [f"node-a: {daemon}"]
    assert lab.check().ok


def test_a_lost_uplink_is_plugged_in_again(lab: Lab) -> None:
    lab.run("node-a", ["ip", "link", "delete", "eth0"])
    assert lab.up() == ["node-a: uplink"]
    assert lab.check().ok
    assert "DUP" not in lab.run("node-a", ["ping", "-c2", "-i0.2", "node-b"]).stdout


def test_a_dead_node_is_started_again(lab: Lab) -> None:
    lab.node("node-a").destroy()
    changes = lab.up()
    assert changes[0] == "node-a: namespaces"
    assert not [change for change in changes if not change.startswith("node-a")]
    assert lab.check().ok


def test_an_unknown_daemon_is_refused(lab: Lab) -> None:
    with pytest.raises(LabError, match=AGENT):
        lab.node("node-a").start("agnet")


def test_a_node_comes_and_goes(lab: Lab) -> None:
    added = lab.add_node()
    assert added.name == "node-c"
    assert lab.run("node-a", ["ping", "-c1", "-W3", "node-c"]).returncode == 0
    lab.remove_node("node-c")
    assert "node-c" not in lab.state.nodes
    assert not (lab.folder.path / "cluster" / "node-c.yaml").exists()
    assert lab.run("node-a", ["ping", "-c1", "node-c"]).returncode != 0
    assert lab.up() == []


@pytest.mark.parametrize("underlay", ["4", "6"])
def test_an_underlay_of_one_family(doomed: Lab, underlay: Literal["4", "6"]) -> None:
    doomed.wanted = LabSpec(nodes=2, pods=0, plugin="none", families="dual", underlay=underlay)
    doomed.up()
    report = doomed.check()
    assert report.ok, "\n".join(map(str, report.failures))
    assert {result.version for result in report.results} == {int(underlay)}


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.5, 0.7, 0.9, 1.2])
def test_down_after_a_killed_up_leaves_nothing(doomed: Lab, seconds: float) -> None:
    kill_up(doomed, seconds)
    started = doomed.folder.processes()
    doomed.down()
    assert not doomed.folder.path.exists()
    assert not [each for each in started if each.alive]
    assert wait_for(lambda: not processes_naming(f"{ROOT}/{doomed.name}/"), 2)


@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6])
def test_up_goes_on_where_a_killed_one_stopped(doomed: Lab, seconds: float) -> None:
    kill_up(doomed, seconds)
    doomed.up()
    assert doomed.check().ok
    assert doomed.up() == []


def test_down_twice_is_fine(doomed: Lab) -> None:
    doomed.up()
    assert doomed.down()
    assert not doomed.down()


def test_two_commands_at_once_come_one_after_the_other(doomed: Lab) -> None:
    code = (
        "import json, sys; from ovsnet.lab.lab import Lab, LabSpec; "
        "print(json.dumps(Lab(sys.argv[1], LabSpec(nodes=2, pods=0, plugin='none')).up()))"
    )
    command = [sys.executable, "-c", code, doomed.name]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    changes = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert sorted(map(bool, changes)) == [False, True]
    assert doomed.check().ok


def test_nothing_leaves_the_lab(lab: Lab) -> None:
    done = lab.run("node-a", ["ping", "-c1", "-W1", "198.51.100.1"])
    assert done.returncode != 0
    routes = lab.run("outside", ["ip", "-j", "route", "show", "default"])
    assert json.loads(routes.stdout or "[]") == []


def test_ovs_takes_open_vswitch_tools_only(lab: Lab) -> None:
    done = subprocess.run(
        cli(lab, "ovs", "node-a", "--", "ls"), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 1
    assert "ovsnet lab run" in done.stderr
    done = subprocess.run(
        cli(lab, "ovs", "node-a", "--", "ovs-vsctl", "list-br"),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stdout == ("br-phy\n" if lab.state.datapath == "netdev" else "")
