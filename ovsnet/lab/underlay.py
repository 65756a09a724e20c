"""The segment that joins the nodes, and the outside host on it.

A Linux bridge in a network namespace without addresses, a veth pair to each node, and `outside`, which is the
nodes' default gateway and forwards nothing: no packet ever leaves the lab. Called by `lab`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ovsnet.lab import server
from ovsnet.lab.namespaces import Place
from ovsnet.lab.spec import OUTSIDE, OUTSIDE_HOST, UNDERLAY, LabSpec, NodeSpec, in_range
from ovsnet.lab.state import Folder

BRIDGE = "segment"
UPLINK = "eth0"
SERVER = "server"


class Underlay(Place):
    """The bridge's namespace."""

    def __init__(self, folder: Folder, spec: LabSpec) -> None:
        super().__init__(folder, UNDERLAY)
        self.spec = spec

    def up(self) -> bool:
        """Make the segment unless it is there; whether it was made."""
        if self.init and BRIDGE in self.interfaces():
            return False
        if not self.init:
            self.hold()
        self.ip(
            [
                f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {BRIDGE} mtu {self.spec.mtu} addrgenmode none up",
            ]
        )
        return True

    def plug(self, place: Place, port: str, mac: str = "") -> bool:
        """Give the place an eth0 on the segment unless it has one; whether it was given. mac: any, unless given."""
        plugged = (self.root / f"sys/class/net/{BRIDGE}/brif/{port}").exists()
        if plugged and UPLINK in place.interfaces():
            return False
        self.unplug(port)
        address = f"address {mac}" if mac else ""
        peer = f"name {UPLINK} {address} mtu {self.spec.mtu} netns {place.held().pid}"
        self.ip([f"link add {port} mtu {self.spec.mtu} type veth peer {peer}"])
        # Packets reach OVS through packet sockets: a checksum left to the hardware would never be filled in.
        place.call_on_network(["ethtool", "-K", UPLINK, "tx", "off"], check=True)
        # Last: being in the bridge tells that all of it was done.
        self.ip([f"link set {port} addrgenmode none up", f"link set {port} master {BRIDGE}"])
        return True

    def unplug(self, port: str) -> None:
        """Remove a port; the kernel may be doing so already, for the namespace at its other end has ended."""
        self.call_on_network(["ip", "link", "delete", port])


class Outside(Place):
    """A host that is no part of the cluster: default gateway, web and echo server."""

    def __init__(self, folder: Folder, spec: LabSpec) -> None:
        super().__init__(folder, OUTSIDE)
        self.spec = spec

    def up(self, underlay: Underlay, binds: list[tuple[str, str]]) -> bool:
        """Start or repair it; whether anything was missing."""
        changed = False
        if not self.init:
            self.hold(binds=binds, run=["netns"])
            changed = True
        addresses = [in_range(version, OUTSIDE_HOST) for version in self.spec.underlay_families]
        if underlay.plug(self, OUTSIDE) or not self.addressed(UPLINK, [each.ip for each in addresses]):
            self.ip(
                [f"address replace {address} dev {UPLINK} {nodad(address.version)}" for address in addresses]
                + [f"link set {UPLINK} up"]
            )
            changed = True
        if not self.daemon(SERVER):
            self.launch(SERVER, server_command(OUTSIDE))
            changed = True
        return changed


def port_of(node: NodeSpec) -> str:
    """The node's port on the segment's bridge."""
    return f"node{node.index}"


def nodad(version: int) -> str:
    """Nobody else has these addresses: skip the second that duplicate detection takes."""
    return "nodad" if version == 6 else ""


def server_command(name: str) -> list[str]:
    return [sys.executable, "-I", "-S", server.__file__, name]


def hosts_file(entries: Iterable[tuple[str, str]]) -> str:
    """The text of /etc/hosts: localhost, then (address, name) each."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    return "\n".join(lines + [f"{address} {name}" for address, name in entries]) + "\n"


def write_in_place(path: Path, text: str) -> None:
    """Rewrite a file that is bind-mounted: a new file of this name would not be seen inside."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
