"""A node of the lab: its namespaces, private folders, Open vSwitch, uplink and agent.

`Node.up` makes what is missing of a node and leaves the rest alone, so a start and a repair are the same.
What is in the agent's files comes from `files`. Called by `lab` and, through it, by tests that break nodes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ovsnet.lab import files
from ovsnet.lab.cni_runner import CniError, Runner
from ovsnet.lab.namespaces import Place
from ovsnet.lab.spec import IPAddress, LabError, LabSpec, NodeSpec, outside_interface
from ovsnet.lab.state import Folder, call, wait_for, write_atomically
from ovsnet.lab.underlay import SERVER, UPLINK, Underlay, nodad, port_of, server_command

PHYSICAL_BRIDGE = "br-phy"
OVSDB, VSWITCHD, AGENT = "ovsdb-server", "ovs-vswitchd", "agent"
DATABASE_SOCKET = "run/openvswitch/db.sock"
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
DISTRIBUTION_PLUGINS = Path("/usr/lib/cni")
PRIVATE = (
    "/etc/cni/net.d",
    "/etc/openvswitch",
    "/etc/ovsnet",
    "/opt/cni/bin",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/openvswitch",
    "/var/log",
)
"""Folders that a node has for itself, empty at first; they outlive the node's processes, as a disk does."""
CONFIG = "/etc/ovsnet/agent.yaml"
RUN_FOLDERS = ("lock", "netns", "openvswitch", "ovsnet")
START_SECONDS = 90.0


class Node(Place):
    """One node. datapath: netdev or system."""

    folders: tuple[str, ...] = PRIVATE

    def __init__(self, folder: Folder, spec: LabSpec, node: NodeSpec, datapath: str) -> None:
        super().__init__(folder, node.name)
        self.spec = spec
        self.node = node
        self.datapath = datapath

    @property
    def uplink(self) -> str:
        """The interface that has the node's address."""
        return PHYSICAL_BRIDGE if self.datapath == "netdev" else UPLINK

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return tuple(self.node.address(version) for version in self.spec.underlay_families)

    @property
    def runner(self) -> Runner:
        """Runs the node's CNI plugins in its namespaces, as its container runtime would."""
        return Runner(self.root, self.call)

    def up(self, underlay: Underlay, changed: Callable[[str], None]) -> None:
        """Start or repair everything on the node but its pods; tell what was missing."""
        self.up_switch(underlay, changed)
        if not self.daemon(SERVER):
            self.launch(SERVER, server_command(self.name))
        if self.spec.plugin == "ovsnet" and not self.daemon(AGENT):
            changed(f"{self.name}: agent")
            self.start(AGENT)
        elif self.spec.plugin == "ovsnet":
            # A switch that was just restarted has its flows again when the agent says so.
            self.await_agent(START_SECONDS)

    def up_switch(self, underlay: Underlay, changed: Callable[[str], None]) -> None:
        """The part that every node has: files, namespaces, Open vSwitch and the uplink."""
        self.write_files()
        if not self.init:
            changed(f"{self.name}: namespaces")
            self.make_namespaces()
        running = self.daemon(VSWITCHD)
        plugged = underlay.plug(self, port_of(self.node), self.node.mac)
        if plugged:
            changed(f"{self.name}: uplink")
        for daemon in (OVSDB, VSWITCHD):
            if not self.daemon(daemon):
                changed(f"{self.name}: {daemon}")
                self.start(daemon)
        if running and plugged and self.datapath == "netdev":
            # vswitchd holds on to the interface that is gone; a new port takes the new one.
            self.run(["ovs-vsctl", "--if-exists", "del-port", PHYSICAL_BRIDGE, UPLINK], check=True)
        if (running and plugged) or not self.addressed(self.uplink, self.addresses):
            self.make_uplink()

    # what the node is made of

    @property
    def daemons(self) -> list[str]:
        """Those that are to run on it."""
        return [OVSDB, VSWITCHD, *([AGENT] if self.spec.plugin == "ovsnet" else [])]

    def private(self, folder: str) -> Path:
        """Where one of the node's own folders really is."""
        return self.path / "root" / folder.lstrip("/")

    def write_files(self) -> None:
        for folder in self.folders:
            self.private(folder).mkdir(parents=True, exist_ok=True)
        self.private("/etc/ovsnet/cluster").mkdir(exist_ok=True)
        self.private("/var/log/openvswitch").mkdir(exist_ok=True)
        binaries = self.lab.place(self.name) / "bin"
        binaries.mkdir(exist_ok=True)
        write_atomically(binaries / "ovsnet", files.command_wrapper(), 0o755)
        self.link_reference_plugins()
        if self.spec.plugin == "ovsnet":
            self.write_agent_files()

    def write_agent_files(self) -> None:
        self.write_config()
        write_atomically(self.private("/opt/cni/bin/ovsnet"), files.cni_executable(), 0o755)
        self.write_conflist()

    @property
    def kept(self) -> str:
        """That agent.yaml is not as the lab wrote it, and is kept; "": it is."""
        path = self.private(CONFIG)
        if not path.exists():
            return ""
        found = path.read_bytes()
        if found == self.agent_config().encode():
            return ""
        if self.wrote.exists() and self.wrote.read_text() == hashlib.sha256(found).hexdigest():
            return ""
        return f"{self.name}: {path} was edited and is kept; removed, it is written anew by the next up"

    def write_config(self) -> None:
        """agent.yaml, unless somebody edited it."""
        if not self.kept:
            config = self.agent_config()
            write_atomically(self.private(CONFIG), config)
            write_atomically(self.wrote, hashlib.sha256(config.encode()).hexdigest())

    @property
    def wrote(self) -> Path:
        """The digest of the agent.yaml that was written last: tells an edited one from one that was written for other
        options or by another version. No copy, which somebody might edit instead."""
        return self.path / "agent.yaml.sha256"

    def agent_config(self) -> str:
        return files.agent_config(self.spec, self.node, self.datapath)

    def write_conflist(self) -> None:
        write_atomically(self.private("/etc/cni/net.d/10-ovsnet.conflist"), files.conflist())

    def link_reference_plugins(self) -> None:
        """Into /opt/cni/bin, the only folder that containerd looks in."""
        for plugin in DISTRIBUTION_PLUGINS.glob("*"):
            link = self.private("/opt/cni/bin") / plugin.name
            if not link.is_symlink():
                link.symlink_to(plugin)

    def make_namespaces(self) -> None:
        self.hold(binds=self.binds(), run=RUN_FOLDERS)

    def binds(self) -> list[tuple[str, str]]:
        """What is mounted where on the node."""
        return [
            *((str(self.private(folder)), folder) for folder in self.folders),
            (str(self.lab.path / "cluster"), "/etc/ovsnet/cluster"),
            (str(self.path / "bin"), files.BINARIES),
            *shared_files(self.lab),
        ]

    # daemons

    def start(self, name: str) -> None:
        """Start one of the node's daemons and wait until it serves."""
        starters = self.starters()
        if name not in starters:
            raise LabError(f"a node has no daemon {name}", ", ".join(starters))
        if not self.daemon(name):
            starters[name]()

    def starters(self) -> dict[str, Callable[[], None]]:
        """By name of the daemon."""
        return {OVSDB: self.start_ovsdb, VSWITCHD: self.start_vswitchd, AGENT: self.start_agent}

    def kill(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a daemon a signal; with one that ends processes wait for its end."""
        deadly = number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGABRT, signal.SIGSEGV)
        self.stop(name, number, 10.0 if deadly else 0.0)

    def start_ovsdb(self) -> None:
        database = self.private("/etc/openvswitch/conf.db")
        if not database.exists():
            if not SCHEMA.exists():
                raise LabError(
                    f"Open vSwitch is not installed: {SCHEMA} is missing",
                    "apt-get install openvswitch-switch",
                )
            command = ["ovsdb-tool", "create", str(database), str(SCHEMA)]
            if (done := call(command)).returncode:
                raise LabError(f"the database of {self.name} can't be made: {done.stderr.strip()}")
        socket = self.root / DATABASE_SOCKET
        socket.unlink(missing_ok=True)
        self.launch(
            OVSDB,
            ["ovsdb-server", "/etc/openvswitch/conf.db", f"--remote=punix:/{DATABASE_SOCKET}", "--pidfile"],
        )
        self.await_daemon(OVSDB, socket, START_SECONDS)

    def start_vswitchd(self) -> None:
        self.launch(VSWITCHD, ["ovs-vswitchd", f"unix:/{DATABASE_SOCKET}", "--pidfile"])
        self.make_uplink()

    def uplink_rows(self) -> list[str]:
        """Arguments for ovs-vsctl: identity, and br-phy where tunnels look routes up on an OVS bridge."""
        rows = f"-- set Open_vSwitch . external-ids:system-id={self.name} external-ids:hostname={self.name}"
        if self.datapath == "netdev":
            mac = (self.root / f"sys/class/net/{UPLINK}/address").read_text().strip()
            rows += (
                f" -- --may-exist add-br {PHYSICAL_BRIDGE}"
                f" -- set Bridge {PHYSICAL_BRIDGE} datapath_type=netdev other-config:hwaddr={mac}"
                f" -- set Interface {PHYSICAL_BRIDGE} mtu_request={self.spec.mtu}"
                f" -- --may-exist add-port {PHYSICAL_BRIDGE} {UPLINK}"
            )
        return rows.split()

    def make_uplink(self) -> None:
        """What vswitchd is to make, and the node's addresses on it; the first time and after a crash."""
        vsctl = ["ovs-vsctl", f"--timeout={START_SECONDS:.0f}", "--retry", "init"]
        self.run([*vsctl, *self.uplink_rows()], check=True)
        # ovs-vsctl waits for vswitchd only if it has changed a row.
        if not wait_for(lambda: self.uplink in self.interfaces(), START_SECONDS):
            raise LabError(
                f"{VSWITCHD} of {self.name} does not make {self.uplink}", f"its log: {self.log(VSWITCHD)}"
            )
        lines = [f"link set {UPLINK} up", f"link set {self.uplink} up"]
        if self.datapath == "netdev":
            self.call_on_network(["nft", "-f", "-"], files.uplink_filter(UPLINK), check=True)
            # br-phy has the same MAC and would lose its link-local address to eth0 as a duplicate.
            lines.insert(0, f"link set {UPLINK} addrgenmode none")
        # The addresses are last: they tell that all the rest was done.
        self.ip(lines + self.address_lines())

    def address_lines(self) -> list[str]:
        families = self.spec.underlay_families
        addresses = [
            f"address replace {self.node.interface(version)} dev {self.uplink} {nodad(version)}"
            for version in families
        ]
        routes = [
            f"route replace default via {outside_interface(version).ip} dev {self.uplink}"
            for version in families
        ]
        return addresses + routes

    def start_agent(self) -> None:
        """Start the agent and wait until it would serve an ADD."""
        self.launch_agent()
        self.await_agent(START_SECONDS)

    def launch_agent(self) -> None:
        command = [sys.executable, "-P", "-m", "ovsnet", "agent", "--config", CONFIG]
        self.launch(AGENT, command, env=files.python_environment())

    def await_agent(self, seconds: float) -> None:
        """Wait until STATUS is good. Raises LabError with the agent's last words or STATUS's answer."""
        last: list[LabError] = []

        def ready() -> bool:
            if not (self.root / files.CNI_SOCKET.lstrip("/")).exists():
                return not self.daemon(AGENT)
            try:
                self.agent_status()
            except CniError as error:
                last[:] = [error]
                return not self.daemon(AGENT)
            last.clear()
            return True

        if not wait_for(ready, seconds, 0.03) or not self.daemon(AGENT):
            why = str(last[0]) if last and self.daemon(AGENT) else self.last_words(AGENT)
            raise LabError(
                f"the agent of {self.name} does not get ready: {why}", f"its log: {self.log(AGENT)}"
            )

    def agent_status(self) -> None:
        """CNI STATUS of the agent alone: the conflist's version and other plugins may be too old for it."""
        config = {"cniVersion": "1.1.0", "name": "ovsnet", "type": "ovsnet", "agentSocket": files.CNI_SOCKET}
        self.runner.execute("STATUS", config, {})

    def remove(self, underlay: Underlay) -> None:
        """End the node and forget all of it."""
        self.destroy()
        if underlay.init:
            underlay.unplug(port_of(self.node))
        self.lab.forget(self.name)


def shared_files(folder: Folder) -> list[tuple[str, str]]:
    """The lab's hosts file, and a resolv.conf that makes a look-up of any other name fail at once."""
    pairs = [(str(folder.path / "hosts"), "/etc/hosts")]
    if os.path.exists("/etc/resolv.conf"):
        pairs.append((str(folder.path / "resolv.conf"), os.path.realpath("/etc/resolv.conf")))
    return pairs
