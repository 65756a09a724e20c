"""A node whose surroundings are at fault: what is taken or missing, what is configured wrongly, whose bridge it is."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from cni_world import Cni, cni, lab, launch_agent, path
from lab_world import (
    SLOWER,
    agent_log,
    assert_green,
    eventually,
    fetch,
    manifest,
    reconfigure,
    tunnels,
)

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT, DATABASE_SOCKET, VSWITCHD
from ovsnet.lab.spec import LabError
from ovsnet.lab.state import wait_for, write_atomically

__all__ = ["cni", "lab"]


# --- taken and missing ---------------------------------------------------------------------------

BIND = """
import socket, sys, time
taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
taken.bind(("::", int(sys.argv[1])))
print("bound", flush=True)
time.sleep(600)
"""


@pytest.mark.kernel
def test_the_tunnels_port_is_taken_by_another(lab: Lab, cni: Cni) -> None:
    """The kernel's datapath binds the port: OVS's error is shown. The one in user space does without it."""
    command = [*cni.becoming, sys.executable, "-ISc", BIND, "4789"]
    tunnel = next(name for name, row in cni.rows().items() if row.role == "tunnel")
    cni.node.kill(AGENT)  # so that the port is free for a moment
    cni.tool("ovs-vsctl", "del-port", "br-int", tunnel)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "bound\n"
            launch_agent(cni.node)
            eventually(lambda: "node-b" in tunnels(cni.node))
            if lab.state.datapath == "system":
                eventually(lambda: cni.rows()[tunnel].error)
                shown = cni.node.run(["/run/ovsnet/bin/ovsnet", "show"])
                assert shown.returncode == 1
                assert tunnel in shown.stdout
        finally:
            process.kill()
            process.wait()
            if lab.state.datapath == "system":
                cni.tool("ovs-vsctl", "del-port", "br-int", tunnel)
    eventually(lambda: fetch(lab, "a1", lab.pod("b1").address(4), wait=1.0), 20)


HOLD = """
import fcntl, struct, sys, time
tap = open("/dev/net/tun", "r+b", buffering=0)
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", sys.argv[1].encode(), IFF_TAP | IFF_NO_PI))
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tap", ["ovs-netdev", "br-int", "ovsnet0"])
def test_an_interface_of_the_switch_is_held_by_another_while_it_starts(lab: Lab, cni: Cni, tap: str) -> None:
    """As by an ovs-vswitchd that has not quite ended. The next one fails to make the bridge or the port, and would not
    try again until something in its configuration changes."""
    cni.node.kill(VSWITCHD, signal.SIGKILL)
    command = [*cni.becoming, sys.executable, "-ISc", HOLD, tap]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            mark = len(cni.node.log(VSWITCHD).read_text())
            cni.node.launch(VSWITCHD, ["ovs-vswitchd", f"unix:/{DATABASE_SOCKET}", "--pidfile"])
            busy = f"{tap}.*Device or resource busy"
            assert wait_for(
                lambda: re.search(busy, cni.node.log(VSWITCHD).read_text()[mark:]) is not None, 20
            )
        finally:
            process.kill()
            process.wait()
    assert wait_for(lambda: cni.call("STATUS").status == 0, 60 * SLOWER), cni.call("STATUS").words
    cni.node.make_uplink()
    eventually(lambda: fetch(lab, "a1", lab.pod("b1").address(4), wait=1.0), 20)
    assert_green(lab)


@pytest.mark.slow
def test_another_udp_port(lab: Lab) -> None:
    try:
        for node in lab.nodes:
            reconfigure(node, udpPort=8472)
        eventually(lambda: tunnels(lab.node("node-a"))["node-b"].get("dst_port") == "8472")
        assert_green(lab)
    finally:
        for node in lab.nodes:
            reconfigure(node, udpPort=4789)
    assert_green(lab)


def run_agent(cni: Cni, config: str, seconds: float = 8.0 * SLOWER) -> tuple[int | None, str]:
    """An agent with this configuration until it ends by itself: exit code and words; None: it went on."""
    cni.tool("sh", "-c", "cat > /etc/ovsnet/other.yaml", input=config)
    command = [
        "timeout",
        "-s",
        "TERM",
        str(seconds),
        "/run/ovsnet/bin/ovsnet",
        "agent",
        "--config",
        "/etc/ovsnet/other.yaml",
    ]
    done = subprocess.run([*cni.inside, *command], capture_output=True, text=True)
    return (None if done.returncode == 124 else done.returncode), done.stdout + done.stderr


def test_a_kernel_without_openvswitch(lab: Lab, cni: Cni) -> None:
    if lab.state.datapath == "system":
        pytest.skip("this kernel has openvswitch")
    before = describe_bridge(cni)
    cni.node.kill(AGENT)  # one agent a bridge
    try:
        _, words = run_agent(cni, "nodeName: node-a\ndatapath: system\ncniSocket: /run/ovsnet/other.sock\n")
        assert describe_bridge(cni) == before
    finally:
        launch_agent(cni.node)
        eventually(lambda: cni.call("STATUS").status == 0)
    assert "openvswitch" in words
    assert "netdev" in words
    assert "Traceback" not in words


def test_a_second_agent_is_refused(cni: Cni) -> None:
    code, words = run_agent(cni, f"nodeName: node-a\ndatapath: {cni.node.datapath}\n")
    assert code == 1
    assert re.search(r"another agent, process \d+, serves bridge br-int already", words)
    assert "Traceback" not in words
    assert cni.call("STATUS").status == 0


MISTAKES = """
nodeNam: node-a
tunels: ports
encapsulation: vxlam
vni: 99999999
podCIDRs: [10.244.1.5/24, banana]
egress: {masquerad: true}
store: relative/path
mtu: 12
"""


@pytest.mark.parametrize("check", [[], ["--check-config"]], ids=["agent", "check"])
def test_every_mistake_in_the_configuration_is_told(cni: Cni, check: list[str]) -> None:
    cni.tool("sh", "-c", "cat > /etc/ovsnet/other.yaml", input=MISTAKES)
    command = ["/run/ovsnet/bin/ovsnet", "agent", *check, "--config", "/etc/ovsnet/other.yaml"]
    done = cni.node.run(command)
    assert done.returncode == 1
    for words in (
        "nodeName",
        "tunnels",
        "vxlan",
        "vni",
        "podCIDRs[0]",
        "banana",
        "masquerade",
        "store",
        "mtu",
    ):
        assert words in done.stderr, words
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "\0", "a: 1\na: 2\n", "&a [*a]", "nodeName: [\n"])
def test_a_configuration_that_is_none(cni: Cni, text: str) -> None:
    cni.tool("sh", "-c", "cat > /etc/ovsnet/other.yaml", input=text)
    done = cni.node.run(
        ["/run/ovsnet/bin/ovsnet", "agent", "--check-config", "--config", "/etc/ovsnet/other.yaml"]
    )
    assert done.returncode == 1
    assert "other.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_configuration(cni: Cni) -> None:
    done = cni.node.run(["/run/ovsnet/bin/ovsnet", "agent", "--config", "/etc/ovsnet/nowhere.yaml"])
    assert done.returncode == 1
    assert "/etc/ovsnet/nowhere.yaml" in done.stderr
    assert "--config" in done.stderr


def test_a_sound_configuration(cni: Cni) -> None:
    done = cni.node.run(["/run/ovsnet/bin/ovsnet", "agent", "--check-config"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "no mistake" in done.stdout


# --- manifests (those of peers that change are in test_peers) ------------------------------------


def test_a_peer_of_another_family_is_named_and_the_others_work(lab: Lab, cni: Cni) -> None:
    """Its ranges can't be reached from here as they are; everything else goes on."""
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-w"},
        "spec": {"podCIDRs": ["10.244.30.0/24", "10.244.31.0/24", "not-a-range"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.99"}]},
    }
    mark = len(agent_log(cni.node))
    write_atomically(manifest(lab, "node-w"), yaml.safe_dump(document))
    try:
        eventually(lambda: "node-w.yaml" in agent_log(cni.node)[mark:])
        assert "not-a-range" in agent_log(cni.node)[mark:]
        assert "node-w" not in tunnels(cni.node)
        assert fetch(lab, "a1", lab.pod("b1").address(4))["name"] == "b1"
    finally:
        manifest(lab, "node-w").unlink()


def test_a_node_without_an_address_that_fits(lab: Lab, cni: Cni) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-w"},
        "spec": {"podCIDRs": ["10.244.30.0/24"]},
        "status": {"addresses": [{"type": "Hostname", "address": "node-w"}]},
    }
    mark = len(agent_log(cni.node))
    write_atomically(manifest(lab, "node-w"), yaml.safe_dump(document))
    try:
        eventually(lambda: "node-w" in agent_log(cni.node)[mark:])
        assert "node-w" not in tunnels(cni.node)
        assert fetch(lab, "a1", lab.pod("b1").address(6))["name"] == "b1"
    finally:
        manifest(lab, "node-w").unlink()


# --- a bridge of somebody else -------------------------------------------------------------------


def describe_bridge(cni: Cni) -> str:
    return cni.tool("ovs-vsctl", "list", "Bridge", "br-int") + cni.tool("ovs-vsctl", "list-ports", "br-int")


@pytest.mark.slow
def test_a_bridge_of_somebody_else_is_never_taken(lab: Lab, cni: Cni) -> None:
    """A clear error for as long as it is there, nothing on it changed; then ovsnet makes its own."""
    cni.node.kill(AGENT)
    cni.tool(
        "ovs-vsctl", "del-br", "br-int",
        "--", "add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev",
        "--", "add-port", "br-int", "theirs", "--", "set", "Interface", "theirs", "type=internal",
    )  # fmt: skip
    cni.tool("ovs-ofctl", "add-flow", "br-int", "cookie=0x99,priority=7,actions=NORMAL")
    before, flows = describe_bridge(cni), cni.tool("ovs-ofctl", "--no-stats", "dump-flows", "br-int")
    mark = len(agent_log(cni.node))
    launch_agent(cni.node)
    try:
        eventually(
            lambda: "br-int" in cni.call("STATUS").words and "not ovsnet's" in cni.call("STATUS").words
        )
        assert cni.call("STATUS").code in (50, 51)
        with cni.namespaces("c1"):
            assert cni.call("ADD", "c1", netns=path("c1")).code == 11
        time.sleep(1.5)
        assert describe_bridge(cni) == before
        assert cni.tool("ovs-ofctl", "--no-stats", "dump-flows", "br-int") == flows
        words = agent_log(cni.node)[mark:].splitlines()
        # It is told again after ten seconds.
        assert 1 <= sum("warning agent:" in line and "not ovsnet's" in line for line in words) <= 2
    finally:
        cni.tool("ovs-vsctl", "del-br", "br-int")
    assert wait_for(lambda: cni.call("STATUS").status == 0, 40)
    try:
        lab.up()
    except LabError as error:
        raise AssertionError(str(error)) from error
    cni.assert_nothing_leaked()
    assert_green(lab)
