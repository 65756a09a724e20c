"""Running something in a place: by a thread of this process, and by a program, which comes to the same."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ovsnet.lab.inside import call_inside, call_on_network
from ovsnet.lab.lab import Lab
from ovsnet.lab.namespaces import Place, call_program
from ovsnet.lab.spec import LabSpec
from ovsnet.lab.state import Completed, wait_for

KINDS = ("net", "mnt", "pid_for_children", "uts", "ipc", "cgroup")
Caller = Callable[..., Completed]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"t-{uuid.uuid4().hex[:8]}", LabSpec(nodes=2, pods=0, plugin="none"))
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


@pytest.fixture
def node(lab: Lab) -> Place:
    return lab.place("node-a")[0]


@pytest.fixture(params=[call_inside, call_program], ids=["thread", "program"])
def call(request: pytest.FixtureRequest) -> Caller:
    found: Caller = request.param
    return found


def own() -> tuple[Any, ...]:
    """What a caller has before and must have after."""
    namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS]
    return namespaces, os.getcwd(), threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_input_output_and_exit_code_pass_through(node: Place, call: Caller) -> None:
    script = "cat; echo $A $0 >&2; exit 7"
    done = call(node.entrance(["sh", "-c", script, "b"], env={"A": "a"}), "some text")
    assert (done.stdout, done.stderr, done.returncode) == ("some text", "a b\n", 7)


def test_it_is_in_all_namespaces_and_the_callers_folder(
    node: Place, call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = own()
    script = 'hostname; pwd; cd /proc/self/ns; for kind in net mnt pid uts ipc; do readlink "$kind"; done'
    hostname, folder, *found = call(node.entrance(["sh", "-c", script])).stdout.split()
    assert (hostname, folder) == ("node-a", str(tmp_path))
    init = f"/proc/{node.held().pid}/ns"
    assert found == [os.readlink(f"{init}/{kind}") for kind in ("net", "mnt", "pid", "uts", "ipc")]
    assert own() == before


def test_a_pods_namespace_comes_with_its_own_sys(node: Place, call: Caller) -> None:
    name = f"pod-{uuid.uuid4().hex[:6]}"
    node.run(["ip", "netns", "add", name], check=True)
    done = call(node.entrance(["ls", "/sys/class/net"], f"/run/netns/{name}"))
    assert done.stdout.split() == ["lo"]
    cgroups = call(node.entrance(["ls", "/sys/fs/cgroup"], f"/run/netns/{name}")).stdout
    assert cgroups == node.run(["ls", "/sys/fs/cgroup"]).stdout != ""
    assert "eth0" in node.run(["ls", "/sys/class/net"]).stdout.split()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["no-such-command"], 127, "no-such-command: command not found\n"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied\n"),
        (["sh", "-c", "kill -9 $$"], -signal.SIGKILL, ""),
    ],
)
def test_an_end_that_is_none_of_the_commands(
    node: Place, call: Caller, argv: list[str], code: int, words: str
) -> None:
    done = call(node.entrance(argv))
    assert (done.returncode, done.stderr) == (code, words)


def test_a_place_that_has_gone(node: Place, call: Caller) -> None:
    before = own()
    given = node.entrance(["true"]) | {"start": "1"}
    done = call(given)
    assert (done.returncode, done.stderr) == (1, "node-a is not running\n")
    assert own() == before


def test_a_namespace_that_is_missing(node: Place, call: Caller) -> None:
    done = call(node.entrance(["true"], "/run/netns/none"))
    assert done.returncode == 125
    assert done.stderr == "can't enter node-a: [Errno 2] No such file or directory: '/run/netns/none'\n"


def test_what_takes_too_long_is_ended(node: Place, call: Caller) -> None:
    marker = f"60.{uuid.uuid4().int % 10**9}"
    with pytest.raises(subprocess.TimeoutExpired):
        call(node.entrance(["sleep", marker]), timeout=0.5)
    assert wait_for(lambda: marker not in node.run(["ps", "axo", "args"]).stdout, 5)


def test_who_is_interrupted_ends_what_he_waited_for(node: Place) -> None:
    before = own()
    marker = f"60.{uuid.uuid4().int % 10**9}"
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            call_inside(node.entrance(["sleep", marker]))
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert marker not in node.run(["ps", "axo", "args"]).stdout
    assert own() == before


def test_a_command_sees_the_end_of_its_parent_as_late_as_that_comes(node: Place, call: Caller) -> None:
    command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", "sleep 0.3; echo there"]
    assert call(node.entrance(command)).stdout == "there\n"


def test_many_at_once_in_several_places(lab: Lab) -> None:
    before = own()
    places = [lab.place(name)[0] for name in ("node-a", "node-b", "outside")] * 20
    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda place: call_inside(place.entrance(["hostname"])), places))
    assert [each.stdout.strip() for each in done] == [place.name for place in places]
    assert own() == before


def test_on_the_network_alone_files_and_processes_are_the_machines(node: Place) -> None:
    before = own()
    init = node.held().pid
    script = f"cat /proc/sys/kernel/hostname; kill -0 {os.getpid()}; cat; readlink /proc/self/ns/net"
    done = call_on_network(node.entrance(["sh", "-c", script]), "words\n")
    assert done.stdout.split() == [os.uname().nodename, "words", os.readlink(f"/proc/{init}/ns/net")]
    assert done.stderr == ""
    done = call_on_network(node.entrance(["true"]) | {"start": "1"})
    assert (done.returncode, done.stderr) == (1, "node-a is not running\n")
    assert own() == before
