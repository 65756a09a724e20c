"""What a lab is to be: options, and the names and addresses that follow from them.

Pure: no I/O. The addresses are out of ranges for documentation and tests, the same in every lab: labs do
not see one another. Called by every other module of the lab.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Literal

import msgspec

from ovsnet.errors import OvsnetError
from ovsnet.model import Encap, Tunnels

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

Families = Literal["4", "6", "dual"]
Datapath = Literal["auto", "netdev", "system"]
Plugin = Literal["ovsnet", "none"]

OUTSIDE = "outside"
UNDERLAY = "underlay"
CONTROL = "control"
DEFAULT = "default"
"""The namespace of pods for which none was named."""
UNDERLAY_RANGES: dict[int, IPNetwork] = {
    4: ipaddress.IPv4Network("192.0.2.0/24"),
    6: ipaddress.IPv6Network("2001:db8:0:1::/64"),
}
OUTSIDE_HOST = 1
CONTROL_HOST = 10
FIRST_NODE_HOST = 11
MAX_NODES = 200
NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


class LabError(OvsnetError):
    """The lab can't do what was asked for; the message says why, the hint what to do."""


class LabSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `ovsnet lab up`. `pods` is per node; `mtu` is the underlay's."""

    nodes: int = 3
    pods: int = 2
    encap: Encap = Encap.VXLAN
    tunnels: Tunnels = Tunnels.PORTS
    families: Families = "dual"
    underlay: Families = "dual"
    datapath: Datapath = "auto"
    mtu: int = 1500
    plugin: Plugin = "ovsnet"
    """none: neither agent nor CNI configuration; whoever made the lab provides them."""
    kubernetes: bool = False
    """Nodes of a Kubernetes cluster, with a control plane of their own; its pods are those that people make."""
    agent: dict[str, Any] = {}
    """Settings put over what the lab writes into every agent's configuration."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"{self.nodes} nodes are not possible", f"between 1 and {MAX_NODES}")
        if not 0 <= self.pods <= 200:
            raise LabError(f"{self.pods} pods per node are not possible", "between 0 and 200")
        if self.kubernetes and self.pods:
            raise LabError(
                "a Kubernetes lab starts without pods", "leave --pods out; `ovsnet lab kubectl` makes them"
            )
        if self.kubernetes and self.pod_families[0] not in self.underlay_families:
            raise LabError(
                f"Kubernetes nodes need the pods' first family on the underlay: IPv{self.pod_families[0]}",
                "choose another --families or --underlay",
            )

    @property
    def pod_families(self) -> tuple[int, ...]:
        return versions(self.families)

    @property
    def underlay_families(self) -> tuple[int, ...]:
        return versions(self.underlay)

    @property
    def tunnel_family(self) -> int:
        """The family of the addresses that tunnels run between: IPv4 where the underlay has it."""
        return self.underlay_families[0]

    def describe_difference(self, other: LabSpec) -> str:
        """The options in which the other one differs, as "--encap vxlan (not geneve)"."""
        mine, theirs = msgspec.to_builtins(self), msgspec.to_builtins(other)
        return ", ".join(
            f"--{key} {mine[key]} (not {theirs[key]})" for key in mine if mine[key] != theirs[key]
        )


def versions(families: Families) -> tuple[int, ...]:
    return (4, 6) if families == "dual" else (int(families),)


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One node: its name, and its number, from which its addresses follow (0 is node-a)."""

    name: str
    index: int

    def address(self, version: int) -> IPAddress:
        return host(version, FIRST_NODE_HOST + self.index)

    def interface(self, version: int) -> IPInterface:
        return in_range(version, FIRST_NODE_HOST + self.index)

    @property
    def mac(self) -> str:
        """Of its uplink; as with a real machine the same after it lost power, or others would keep a stale one."""
        return f"0e:00:00:00:00:{FIRST_NODE_HOST + self.index:02x}"

    def pod_range(self, version: int) -> IPNetwork:
        number = self.index + 1
        if version == 4:
            return ipaddress.IPv4Network(f"10.244.{number}.0/24")
        return ipaddress.IPv6Network(f"fd00:10:244:{number:x}::/64")

    def gateway(self, version: int) -> IPAddress:
        """The first address of the pod range: the node itself, as pods on any node see it."""
        return self.pod_range(version)[1]

    @property
    def letter(self) -> str:
        return letters(self.index)


class PodSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One pod: where it runs, the sandbox's identity and what the runtime is to ask for."""

    name: str
    node: str
    container: str
    runtime_config: dict[str, Any] = {}
    namespace: str = DEFAULT
    """Of its object in the store; its name is its own in the whole lab all the same."""
    labels: dict[str, str] = {}
    ports: dict[str, int] = {}
    """TCP ports that have a name, for policies."""


def host(version: int, number: int) -> IPAddress:
    """The underlay address number `number`; in IPv6 the last group reads like the decimal number."""
    return UNDERLAY_RANGES[version][number if version == 4 else int(str(number), 16)]


def in_range(version: int, number: int) -> IPInterface:
    return ipaddress.ip_interface(f"{host(version, number)}/{UNDERLAY_RANGES[version].prefixlen}")


def outside_interface(version: int) -> IPInterface:
    return in_range(version, OUTSIDE_HOST)


def letters(index: int) -> str:
    """a ... z, aa, ab ...: spreadsheet columns."""
    text = ""
    index += 1
    while index:
        index, remainder = divmod(index - 1, 26)
        text = chr(ord("a") + remainder) + text
    return text


def node_spec(index: int, name: str = "") -> NodeSpec:
    return NodeSpec(name=name or f"node-{letters(index)}", index=index)


def check_name(name: str, what: str, taken: set[str]) -> None:
    """Refuse a name that is no DNS label of at most 32 characters, or that something else has."""
    if not NODE_NAME.fullmatch(name):
        raise LabError(
            f"{what} name {name!r} is not usable", "lower-case letters, digits and -, at most 32 characters"
        )
    if name in taken | {OUTSIDE, UNDERLAY, CONTROL, "localhost"}:
        raise LabError(f"the name {name} is taken", "`ovsnet lab status` lists the names in use")
