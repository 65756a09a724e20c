"""The ways between two pods that the kernel's benchmarks compare: ovsnet's, and those of others.

References stand in a lab of their own, without ovsnet: each Open vSwitch bridge has a datapath to itself, and no
rule or flow of ours is on their way. Measures nothing. Called by `bench_kernel` and `kernel_services`.
"""

from __future__ import annotations

from bench_traffic import Path, bare_bridge, bare_tunnel, host, pods

from ovsnet.lab.lab import Lab
from ovsnet.lab.namespaces import Place
from ovsnet.lab.node import Node

OVSNET = "ovsnet"
SAME, CROSS = "same node", "cross node"
BARE, BARE_TUNNEL = "bare Open vSwitch, two flows", "bare Open vSwitch, VXLAN"
BRIDGE, ROUTES = "Linux bridge", "host routes, no tunnel"
FLANNEL = "flannel's way, VXLAN"
BARE_MASQUERADING = "bare Open vSwitch, masquerading"
FLANNEL_MASQUERADING = "flannel's way, masquerading"
"""On nodes that masquerade what leaves the cluster, as ovsnet's do: their kernel follows connections."""
Ways = dict[str, dict[str, Path]]
"""By place, then by who."""
FLANNEL_NET, _FLANNEL_PORT, _FLANNEL_VNI = 42, 8472, 1
"""The second number of its addresses; port and VNI as flannel has them on Linux, not Open vSwitch's."""


def ways(ours: Lab, others: Lab) -> Ways:
    """Interfaces of others' pods have the MTU that ovsnet's have."""
    mtu = pods_mtu(ours)
    for place in (*ours.nodes, ours.underlay, *others.nodes, others.underlay):
        filter_bridges(place, on=False)
    a, b, c, d = others.nodes
    for node in (c, d):
        masquerade(node)
    return {
        SAME: {OVSNET: pods(ours, "a1", "a2"), BRIDGE: bridge(a, mtu), BARE: bare_bridge(a, mtu)},
        CROSS: {
            OVSNET: pods(ours, "a1", "b1"),
            BARE_TUNNEL: bare_tunnel(a, b, mtu),
            BARE_MASQUERADING: bare_tunnel(c, d, mtu),
            FLANNEL: flannel(a, b, mtu),
            FLANNEL_MASQUERADING: flannel(c, d, mtu),
            ROUTES: routes(a, b, mtu),
        },
    }


def pods_mtu(lab: Lab) -> int:
    pod = lab.pod("a1")
    return int(pod.node.run(["cat", "/sys/class/net/eth0/mtu"], netns=pod.netns, check=True).stdout)


def filter_bridges(place: Place, *, on: bool) -> None:
    """Whether what passes a Linux bridge of the place meets its rules (br_netfilter): where the kernel has that it does
    at first. Raises RuntimeError if it is to and can't."""
    for key in ("iptables", "ip6tables", "arptables"):
        setting = f"net.bridge.bridge-nf-call-{key}={int(on)}"
        if place.call_on_network(["sysctl", "-qw", setting]).returncode and on:
            raise RuntimeError(f"{place.name} can't have {setting}: modprobe br_netfilter")


def bridge(node: Node, mtu: int) -> Path:
    node.ip(["link add lb0 type bridge", f"link set lb0 mtu {mtu} up"])
    for number in (1, 2):
        host(node, f"lb{number}", f"198.18.3.{number}/24", mtu)
        node.ip([f"link set lb{number} master lb0"])
    return Path(node, "/run/netns/lb1", node, "/run/netns/lb2", "198.18.3.2")


def flannel(a: Node, b: Node, mtu: int) -> Path:
    """As flannel's backend "vxlan" sets nodes up: nothing is left to be learned of the other one."""
    for node, peer in ((a, b), (b, a)):
        routed(node, "cni0", "fl", FLANNEL_NET, mtu)
        device = f"type vxlan id {_FLANNEL_VNI} dstport {_FLANNEL_PORT} nolearning"
        far, mac = f"10.{FLANNEL_NET}.{peer.node.index}.0", vtep_mac(peer)
        node.ip(
            [
                f"link add flannel.1 address {vtep_mac(node)} mtu {mtu} {device} "
                f"local {node.node.address(4)} dev {node.uplink}",
                f"address add 10.{FLANNEL_NET}.{node.node.index}.0/32 dev flannel.1",
                "link set flannel.1 up",
                f"neighbour replace {far} lladdr {mac} dev flannel.1 nud permanent",
                f"route add {far}/24 via {far} dev flannel.1 onlink",
            ]
        )
        fdb = ["bridge", "fdb", "append", mac, "dev", "flannel.1", "dst", str(peer.node.address(4))]
        node.call_on_network(fdb, check=True)
    return between(a, b, "fl", FLANNEL_NET)


def vtep_mac(node: Node) -> str:
    return f"0a:58:0a:2a:00:{node.node.index:02x}"


def masquerade(node: Node) -> None:
    """The rules that flannel makes for packets out of the cluster (its option --ip-masq)."""
    own, cluster = f"10.{FLANNEL_NET}.{node.node.index}.0/24", f"10.{FLANNEL_NET}.0.0/16"
    text = (
        "table ip flannel {\n"
        "  chain forward {\n    type filter hook forward priority filter;\n"
        f"    ip saddr {cluster} accept\n    ip daddr {cluster} accept\n  }}\n"
        "  chain postrouting {\n    type nat hook postrouting priority srcnat;\n"
        f"    ip saddr {own} ip daddr {cluster} return\n    ip saddr {cluster} ip daddr {own} return\n"
        f"    ip saddr {cluster} ip daddr != 224.0.0.0/4 masquerade fully-random\n"
        f"    ip saddr != {cluster} ip daddr {cluster} masquerade fully-random\n  }}\n}}\n"
    )
    node.call_on_network(["nft", "-f", "-"], text, check=True)


def routes(a: Node, b: Node, mtu: int) -> Path:
    """flannel's backend "host-gw"."""
    for node, peer in ((a, b), (b, a)):
        routed(node, "cni1", "gw", 43, mtu)
        node.ip([f"route add 10.43.{peer.node.index}.0/24 via {peer.node.address(4)} dev {node.uplink}"])
    return between(a, b, "gw", 43)


def routed(node: Node, name: str, pod: str, second: int, mtu: int) -> None:
    """A Linux bridge that is the gateway of one pod."""
    prefix = f"10.{second}.{node.node.index}"
    node.ip(
        [
            f"link add {name} type bridge",
            f"link set {name} mtu {mtu} up",
            f"address add {prefix}.1/24 dev {name}",
        ]
    )
    node.call_on_network(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    bridged(node, name, pod, f"{prefix}.2", mtu)


def bridged(node: Node, name: str, pod: str, address: str, mtu: int) -> None:
    """A pod on a bridge that has the first address of its range."""
    host(node, pod, f"{address}/24", mtu)
    node.ip([f"link set {pod} master {name}"])
    gateway = f"{address.rpartition('.')[0]}.1"
    node.run(["ip", "-n", pod, "route", "add", "default", "via", gateway], check=True)


def between(a: Node, b: Node, pod: str, second: int) -> Path:
    netns = f"/run/netns/{pod}"
    return Path(a, netns, b, netns, f"10.{second}.{b.node.index}.2")
