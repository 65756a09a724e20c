"""The state that the tests of the pipeline render, and a switch that has it installed.

node-a has two pods. Its peers show every way to be one: a tunnel port each over IPv4 (node-b) and IPv6
(node-c), and the shared port over IPv4 (node-d) and IPv6 (node-e).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

import service_world
from ovs_sandbox import Sandbox

from ovsnet import encap, flowdump, flowplan, names, resources
from ovsnet.endpoints import Here
from ovsnet.model import Encap, Frozen, LocalNode, Peer, Pod
from ovsnet.objects import Object
from ovsnet.render import Renderer
from ovsnet.services import Services

RENDERER = Renderer(resources.flows_dir())
TABLES = {table.number: table.name for table in RENDERER.tables}

NODE = LocalNode(
    name="node-a",
    addresses=(ipaddress.ip_address("192.0.2.11"), ipaddress.ip_address("2001:db8::11")),
    cidrs=(ipaddress.ip_network("10.244.1.0/24"), ipaddress.ip_network("fd00:1::/64")),
    gateways=(ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("fd00:1::1")),
    mac="0a:58:0a:f4:01:01",
    ofport=1,
)


def pod(name: str, number: int, ofport: int) -> Pod:
    """A pod with the addresses that end in `number`."""
    ips = (ipaddress.ip_address(f"10.244.1.{number}"), ipaddress.ip_address(f"fd00:1::{number:x}"))
    return Pod(
        namespace="default",
        name=name,
        container=f"c-{name}",
        ifname="eth0",
        netns=f"/run/netns/{name}",
        network="ovsnet",
        port=names.host_interface(f"{ofport:08x}"),
        ofport=ofport,
        mac=names.mac_of(ips[0]),
        ips=ips,
    )


def _peer(letter: str, number: int, remote: str, kind: Encap, ofport: int) -> Peer:
    by_flow = kind is Encap.GENEVE
    return Peer(
        name=f"node-{letter}",
        remote=ipaddress.ip_address(remote),
        encap=kind,
        cidrs=(ipaddress.ip_network(f"10.244.{number}.0/24"), ipaddress.ip_network(f"fd00:{number}::/64")),
        addresses=(ipaddress.ip_address(f"192.0.2.1{number}"), ipaddress.ip_address(f"2001:db8::1{number}")),
        port="geneve-flow" if by_flow else f"vxl-{letter}",
        ofport=ofport,
        by_flow=by_flow,
    )


A1, A2 = pod("a1", 2, 16), pod("a2", 3, 17)
SPARE = 18
B = _peer("b", 2, "192.0.2.12", Encap.VXLAN, 20000)
C = _peer("c", 3, "2001:db8::13", Encap.VXLAN, 20001)
D = _peer("d", 4, "192.0.2.14", Encap.GENEVE, 20002)
E = _peer("e", 5, "2001:db8::15", Encap.GENEVE, 20002)
PEERS = (B, C, D, E)
HERE = Here(node="node-a", addresses=NODE.addresses)
SERVICES = Services()
SERVICES.update(service_world.SERVICES, service_world.SLICES, HERE)
STATE: tuple[Object, ...] = (NODE, A1, A2, *PEERS)
WITH_SERVICES: tuple[Object, ...] = (*STATE, *SERVICES.objects)
NEXT_HOP = "aa:bb:cc:00:00:01"


def lines_of(objects: Iterable[Object]) -> list[str]:
    """Everything that is installed for the objects."""
    return [line for obj in objects for line in RENDERER.object(obj)]


class Answer(Frozen):
    """What `ofproto/trace` said of a packet."""

    flow: flowdump.Trace
    final: dict[str, str]
    """The packet's fields at the end, protocols among them with an empty value."""
    megaflow: dict[str, str]
    """Of the first pass."""
    megaflows: list[dict[str, str]]
    text: str


class Bridge:
    """A bridge of a sandbox with a state's ports and flows."""

    def __init__(self, ovs: Sandbox, name: str) -> None:
        self.ovs = ovs
        self.name = name

    def install(self, objects: Sequence[Object]) -> None:
        self.ovs.ofctl("del-groups", self.ovs.mgmt(self.name))
        bundle = flowplan.bundle({}, RENDERER.state(objects))
        self.ovs.ofctl(
            "bundle", self.ovs.mgmt(self.name), "-", stdin="\n".join(["flow delete", *bundle]) + "\n"
        )

    def dump(self) -> list[flowdump.Flow]:
        text = self.ovs.ofctl("--no-names", "dump-flows", self.ovs.mgmt(self.name))
        return [flow for line in text.splitlines() if (flow := flowdump.flow(line)) is not None]

    def trace(self, packet: str, *states: str) -> Answer:
        """states: what conntrack says of the packet, at each time that it is asked."""
        found = [option for state in states for option in ("--ct-next", state)]
        text = self.ovs.appctl("ofproto/trace", self.name, packet, *found)
        before, final = (_fields(text, word)[-1] for word in ("Flow", "Final flow"))
        if "unchanged" in final:
            final = before
        megaflows = _fields(text, "Megaflow")
        return Answer(
            flow=flowdump.trace(text), final=final, megaflow=megaflows[0], megaflows=megaflows, text=text
        )


def _fields(text: str, word: str) -> list[dict[str, str]]:
    """One for each pass."""
    lines = re.findall(rf"^{word}: (.*)$", text, re.MULTILINE)
    assert lines, text
    pairs = [[part.partition("=") for part in line.split(",")] for line in lines]
    return [{name: value for name, _, value in each} for each in pairs]


def make_bridge(ovs: Sandbox, name: str, pods: Sequence[Pod], peers: Sequence[Peer] = ()) -> Bridge:
    """A bridge with the gateway port, a port for each pod and the tunnels. One bridge of a sandbox has peers."""
    command = ["add-br", name, "--", "set", "bridge", name, "datapath_type=dummy", "fail_mode=secure"]

    def add(port: str, ofport: int, kind: str, options: dict[str, str]) -> None:
        pairs = [f'options:{key}="{value}"' for key, value in options.items()]
        command.extend(["--", "add-port", name, port, "--", "set", "interface", port, f"type={kind}"])
        command.extend([f"ofport_request={ofport}", *pairs])

    add(f"gw-{name}", NODE.ofport, "internal", {})
    for each in pods:
        # Both bridges of a sandbox are on one datapath, where a port's name occurs once.
        add(f"{each.ofport}-{name}", each.ofport, "dummy", {"tx_pcap": str(pcap(ovs, name, each))})
    add(f"spare-{name}", SPARE, "dummy", {}) if not any(each.ofport == SPARE for each in pods) else None
    for peer in {peer.port: peer for peer in peers}.values():
        # Without local_ip: a dummy switch has no routing table that would know the address as its own.
        remote = None if peer.by_flow else peer.remote
        kind = encap.interface_type(peer.encap, peer.remote.version)
        add(peer.port, peer.ofport, kind, encap.options(peer.encap, remote, None, 1, None))
    ovs.vsctl(*command)
    return Bridge(ovs, name)


def pcap(ovs: Sandbox, bridge: str, pod: Pod) -> str:
    """The file with everything that leaves the bridge towards the pod."""
    return str(ovs.folder / f"{bridge}-{pod.ofport}.pcap")


def make_underlay(ovs: Sandbox) -> None:
    """What a packet in a tunnel needs to leave: the node's addresses, routes and the next hop's MAC."""
    ovs.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=dummy")
    for family, address, length in (("ip4addr", NODE.addresses[0], 24), ("ip6addr", NODE.addresses[1], 64)):
        ovs.appctl(f"netdev-dummy/{family}", "br-phy", f"{address}/{length}")
        ovs.appctl("ovs/route/add", str(ipaddress.ip_interface(f"{address}/{length}").network), "br-phy")
    for peer in PEERS:
        ovs.appctl("tnl/arp/set", "br-phy", str(peer.remote), NEXT_HOP)
