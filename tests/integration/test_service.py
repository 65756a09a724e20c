"""The agent within what its systemd unit leaves it: capabilities, a file system that is read-only, readiness.

systemd does not run here. What its settings mean is made with the tools that there are (systemd.exec(5)).
"""

from __future__ import annotations

import configparser
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from lab_world import running

from ovsnet.cli.nodefiles import node_files
from ovsnet.lab import files
from ovsnet.lab.lab import Lab
from ovsnet.lab.node import AGENT

# ProtectSystem=strict: everything but /dev, /proc, /sys and the unit's own folder; new mounts still come in.
STRICT = """
mount --make-rslave /
mount --bind "$1" "$1"
cut -d' ' -f5 /proc/self/mountinfo | while read -r target; do
  case $target in
    "$1" | /dev | /dev/* | /proc | /proc/* | /sys | /sys/*) ;;
    *) mount -o remount,bind,ro "$target" 2>/dev/null || : hidden by another ;;
  esac
done
[ -w "$1" ] && [ ! -w /run ] && [ ! -w /etc/ovsnet ] && [ ! -w /var/log ] && [ ! -w /tmp ]
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unit as bootstrap.sh installs it for a node of the lab, but for where ovsnet is."""
    folder = tmp_path_factory.mktemp("unit")
    executable = folder / "bin/ovsnet"
    executable.parent.mkdir()
    executable.touch(0o755)
    config = folder / "agent.yaml"
    config.write_text(f"cniSocket: {files.CNI_SOCKET}\n")
    options = ["--config", str(config), "--prefix", str(folder), str(folder)]
    done = CliRunner().invoke(node_files, options)
    assert done.exit_code == 0, done.output
    return folder / "ovsnet.service"


@pytest.fixture
def unit(path: Path) -> configparser.SectionProxy:
    """Its [Service] section."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    return parser["Service"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running(nodes=1, pods=1) as lab:
        yield lab


def confined(unit: configparser.SectionProxy, argv: list[str]) -> list[str]:
    assert unit["ProtectSystem"] == "strict"
    assert unit["NoNewPrivileges"] == "yes"
    assert "ReadWritePaths" not in unit
    capabilities = unit["CapabilityBoundingSet"].lower().replace("cap_", "").split()
    bounds = ",".join(["-all", *(f"+{each}" for each in capabilities)])
    within = ["setpriv", f"--bounding-set={bounds}", "--no-new-privs", "--"]
    folder = f"/run/{unit['RuntimeDirectory']}"
    return ["unshare", "--mount", "sh", "-euc", STRICT, "sh", folder, *within, *argv]


def test_pods_come_and_go_with_what_the_unit_grants(lab: Lab, unit: configparser.SectionProxy) -> None:
    [node] = lab.nodes
    node.kill(AGENT)
    node.call_on_network(["nft", "flush", "table", "inet", "ovsnet"], check=True)
    node.call_on_network(["sysctl", "-qw", "net.ipv4.ip_forward=0"], check=True)
    settings = node.private("/etc/ovsnet/agent.yaml")
    settings.write_text(f"{settings.read_text()}mtu: 1301\n")
    assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(node.root / "run/notify"))
        command = [sys.executable, "-P", "-m", "ovsnet", "agent", "--config", "/etc/ovsnet/agent.yaml"]
        environment = {**files.python_environment(), "NOTIFY_SOCKET": "/run/notify"}
        node.launch(AGENT, confined(unit, command), env=environment)
        node.await_agent(30)
        assert systemd.recv(100) == b"READY=1"
    process = node.daemon(AGENT)
    assert process is not None
    for place in ("a1", node.name):
        interface = "eth0" if place == "a1" else "ovsnet0"
        assert lab.run(place, ["cat", f"/sys/class/net/{interface}/mtu"]).stdout == "1301\n"
    status = Path(f"/proc/{process.pid}/status").read_text()
    granted = 1 << 1 | 1 << 12 | 1 << 21  # DAC_OVERRIDE, NET_ADMIN, SYS_ADMIN (capability.h)
    assert f"CapEff:\t{granted:016x}\n" in status
    pod = lab.add_pod(node.name, "late")
    assert pod.attached()
    assert "masquerade" in node.call_on_network(["nft", "list", "table", "inet", "ovsnet"]).stdout
    assert node.call_on_network(["sysctl", "-n", "net.ipv4.ip_forward"]).stdout == "1\n"
    assert lab.exec("late", ["ping", "-c1", "-W2", str(lab.pods[0].address(4))]).returncode == 0
    lab.remove_pod("late")
    log = node.log(AGENT).read_text()
    assert "not permitted" not in log
    assert "Permission denied" not in log
    assert "Read-only" not in log


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("check", [["verify"], ["security", "--offline=yes", "--threshold=35"]], ids=" ".join)
def test_systemd_finds_nothing_wrong(path: Path, check: list[str]) -> None:
    command = ["systemd-analyze", *check, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(path) not in done.stderr
