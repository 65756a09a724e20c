"""What there is to program: the objects that templates see and that plans compare.

Pure data. `Node` is what a store supplies (and what is in `cluster`); `LocalNode`, `Peer` and `Pod` are what `state`
derives from nodes, configuration and OVSDB rows, and what a template's macro of that name is called with.
Addresses are `ipaddress` objects throughout.
"""

from __future__ import annotations

import enum
import ipaddress
import typing

import msgspec

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Encap(str, enum.Enum):
    """Encapsulations between nodes; the value is the OVSDB Interface type."""

    VXLAN = "vxlan"
    GENEVE = "geneve"
    GRE = "gre"


class Tunnels(str, enum.Enum):
    """How tunnels appear on the bridge: a port per peer, or one port with remote_ip=flow."""

    PORTS = "ports"
    FLOW = "flow"


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Frozen(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base: immutable, compared by value, hashable where its fields are. It is in no cycle, as its fields are there
    before it is, and the collector of cycles passes it over."""


class Namespaced(Frozen):
    """Base of what has a namespace and a name, as most kinds of Kubernetes have."""

    namespace: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        """What people call it."""
        return self.key


class AddressRange(Frozen):
    """Addresses from `first` to `last`, both included and of one family."""

    first: IPAddress
    last: IPAddress

    def __contains__(self, address: IPAddress) -> bool:
        return self.first.version == address.version and int(self.first) <= int(address) <= int(self.last)


class Published(Frozen):
    """What a node's agent says of itself in annotations of its Node, as of when it last wrote. Nobody goes by it: the
    Node object and the configuration decide. Peers compare it with what they do, and tell."""

    encap: Encap | None = None
    """What it uses between itself and a node, where neither Node asks for any."""
    address: IPAddress | None = None
    """Where its tunnels end; of nodes with both families the preferred one."""
    mtu: int | None = None
    """Of its pods, in bytes."""


class Node(Frozen):
    """A Kubernetes Node, as far as it concerns the network. `source` names it in messages."""

    name: str
    pod_cidrs: tuple[IPNetwork, ...] = ()
    addresses: tuple[IPAddress, ...] = ()
    """InternalIPs, in the order of the object."""
    encap: Encap | None = None
    """Annotation ovsnet.io/encapsulation: how this node wants to be reached."""
    zone: str = ""
    """Label topology.kubernetes.io/zone."""
    labels: typing.Mapping[str, str] = {}
    """All of them: policies select by them."""
    others: tuple[IPAddress, ...] = ()
    """Addresses of other types, such as ExternalIP, which only policies mind."""
    published: Published = Published()
    leaving: bool = False
    """It is being deleted, or is about to be: load balancers should send it nothing new."""
    created: str = ""
    """creationTimestamp (RFC 3339, in UTC), "" if unknown: of two that claim one range or address the elder has it."""
    source: str = ""


class Pod(Frozen):
    """A pod's attachment to this node's switch. One pod may have several, by container and ifname."""

    namespace: str
    name: str
    container: str
    ifname: str
    netns: str
    network: str
    port: str
    """Host interface, which is also the name of the OVS port."""
    ofport: int
    mac: str
    ips: tuple[IPAddress, ...]

    @property
    def key(self) -> str:
        """Unique and stable: an attachment is its container and interface, never its address."""
        return f"{self.namespace}/{self.name}/{self.container}/{self.ifname}"

    @property
    def pod_key(self) -> str:
        """The pod's, which all of its attachments have in common."""
        return f"{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        """What people call it."""
        return self.pod_key if self.namespace else self.name


class OwnPod(Frozen):
    """A Kubernetes Pod that the API server says is this node's, as far as its interface here goes."""

    namespace: str
    name: str
    ips: tuple[IPAddress, ...] = ()
    """status.podIPs that it has to have here: none as long as kubelet has told of none, none on the node's own network,
    and none when it ends or has ended."""
    source: str = ""

    @property
    def key(self) -> str:
        """As `Pod.pod_key`."""
        return f"{self.namespace}/{self.name}"


class Peer(Frozen):
    """Another node, with the tunnel that leads to it."""

    name: str
    remote: IPAddress
    """The tunnel's far end."""
    encap: Encap
    cidrs: tuple[IPNetwork, ...]
    addresses: tuple[IPAddress, ...]
    port: str
    ofport: int
    by_flow: bool
    """The port is shared (remote_ip=flow): flows set and match the tunnel's addresses."""

    @property
    def key(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        return self.name


class LocalNode(Frozen):
    """This node: its gateway port, ranges and addresses."""

    name: str
    addresses: tuple[IPAddress, ...]
    cidrs: tuple[IPNetwork, ...]
    gateways: tuple[IPAddress, ...]
    """The first address of each range, on the gateway port."""
    mac: str
    """Of the gateway port."""
    ofport: int

    @property
    def key(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        return self.name


Attached = LocalNode | Pod | Peer
"""What has a port of the bridge."""
