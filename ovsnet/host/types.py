"""What `host` is asked for and what it answers with, as plain data.

Pure. Interfaces' addresses are `ipaddress` interfaces: an address and its prefix length in one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from ovsnet.model import Frozen, IPAddress, IPNetwork
from ovsnet.nodeports import NodePortAddresses

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

MAIN_TABLE = 254
"""RT_TABLE_MAIN."""
STEERED_TABLE = 7077
"""Routes for packets with STEERED_MARK alone. No program known to us has the number. Its last byte is less than main's:
the kernel lists tables in that order, and of two equal routes Open vSwitch 3.1 keeps the one that it reads last."""
STEERED_MARK = 0x1000
"""The one bit of packets' marks that is ours: kube-proxy has 0x4000 and 0x8000, the portmap plugin 0x2000, Calico and
Tailscale what is above 0xffff."""
STEERED_PRIORITY = 777
"""Of the rule that leads there: behind the kernel's for local addresses (0), before those of VPNs and main (32766)."""


class RouteSpec(Frozen):
    """A route over an interface that the context names."""

    cidr: IPNetwork
    next_hop: IPAddress | None = None
    """None: the destinations are on the link itself."""
    source: IPAddress | None = None
    """The address that the node's own packets carry when nothing else is bound (prefsrc)."""
    metric: int = 0
    """0: the kernel's own choice for the family."""
    table: int = MAIN_TABLE


class RuleSpec(Frozen):
    """A rule of policy routing: packets whose mark, under the mask, is just this look into that table (ip-rule(8))."""

    version: int
    mark: int = STEERED_MARK
    mask: int = STEERED_MARK
    table: int = STEERED_TABLE
    priority: int = STEERED_PRIORITY
    odd: bool = False
    """It asks for something else as well; never wanted."""


class AttachSpec(Frozen):
    """A pod's interface as it shall be in its namespace."""

    token: str
    """Of the pair that becomes this attachment: it names the host's end."""
    netns: int
    """Open file descriptor of the pod's network namespace."""
    ifname: str
    mac: str
    mtu: int
    addresses: tuple[IPInterface, ...]
    gateways: tuple[IPAddress, ...] = ()
    """One per family at most: where that family's default route leads. A namespace that has one keeps it."""
    routes: tuple[RouteSpec, ...] = ()
    """Routes besides the default one."""


class PodInterface(Frozen):
    """An interface as it is in a pod's namespace."""

    mac: str
    mtu: int
    up: bool
    addresses: tuple[IPInterface, ...]
    """Without the link-local ones that the kernel makes."""
    routes: tuple[RouteSpec, ...]
    """Of the main table, without those that the kernel makes; `source` is None where none is set."""
    peer: int
    """Interface index of the other end in the other end's namespace; 0 if it is no veth."""

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """Next hops of the default routes."""
        return tuple(r.next_hop for r in self.routes if r.next_hop is not None and r.cidr.prefixlen == 0)


class UplinkChoice(Frozen):
    """How to find the node's own address; at most one field is set. None set: follow the default route."""

    address: IPAddress | None = None
    interface: str | None = None
    route_to: IPAddress | None = None


class Uplink(Frozen):
    """The interface that carries the tunnels."""

    interface: str
    addresses: tuple[IPAddress, ...]
    """The node's address, at most one of each family; the chosen one first."""
    mtu: int


class NeighbourSpec(Frozen):
    """A permanent neighbour entry."""

    address: IPAddress
    mac: str


class GatewaySpec(Frozen):
    """The node's own port in the pod network, as it shall be."""

    interface: str
    addresses: tuple[IPInterface, ...]
    routes: tuple[RouteSpec, ...] = ()
    neighbours: tuple[NeighbourSpec, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    uses: Mapping[IPNetwork, str] = {}
    """What routes are for, in words, by their destination."""
    mac: str | None = None
    """None: whatever it is."""
    mtu: int | None = None
    """None: whatever it is."""


class GatewayState(Frozen):
    """The port as it is, without what the kernel made by itself."""

    index: int
    up: bool
    mac: str
    mtu: int
    addresses: frozenset[IPInterface]
    unconnected: frozenset[IPInterface]
    """Addresses, link-local ones too, whose own network the kernel had a route to and has none any more."""
    routes: frozenset[RouteSpec]
    neighbours: frozenset[NeighbourSpec]
    rules: frozenset[RuleSpec]
    """Of the whole namespace, as far as they lead to our table."""


class EgressSpec(Frozen):
    """How pods' packets leave the cluster."""

    gateway: str
    """Interface behind which the pods are."""
    pod_cidrs: tuple[IPNetwork, ...]
    """This node's ranges."""
    peers: tuple[IPAddress, ...] = ()
    """Addresses of other nodes, which pods answer through tunnels."""
    tunnel_ports: tuple[int, ...] = ()
    """UDP ports of the tunnels between nodes."""
    gre: bool = False
    """Whether there are GRE tunnels between nodes."""
    no_masquerade: tuple[IPNetwork, ...] = ()
    """Destinations that see the pod's own address."""
    masquerade: bool = True
    random_fully: bool = True
    """Draw source ports at random, which avoids collisions between connections that start together."""
    node_ports: tuple[tuple[int, str, int], ...] = ()
    """(IP version, protocol as nft writes it, port): what comes to them on the node's addresses goes to the bridge."""
    local_node_ports: tuple[tuple[int, str, int], ...] = ()
    """Those of them that another address stands for if the client is outside of the node."""
    node_port_addresses: NodePortAddresses = NodePortAddresses()
    """Of the node's addresses those on which any of them answer."""
    external: tuple[tuple[IPAddress, str, int], ...] = ()
    """(address, protocol as nft writes it, port) that go to the bridge, of addresses that may be anyone's otherwise."""
