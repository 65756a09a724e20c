"""A node and its pods, for tests of rows that are lost."""

from __future__ import annotations

import ipaddress

from ovsnet.model import Encap, Pod
from ovsnet.state import PeerNode, Topology

NODE, PEER, GATEWAY = map(ipaddress.ip_address, ("192.0.2.1", "192.0.2.2", "10.244.1.1"))
TOPOLOGY = Topology(
    name="node-1",
    addresses=(NODE,),
    internal=(NODE,),
    cidrs=(ipaddress.ip_network("10.244.1.0/24"),),
    gateways=(GATEWAY,),
    mac="0a:58:0a:f4:01:01",
    mtu=1450,
    encaps=(Encap.VXLAN,),
    tunnel_ports=(4789,),
    peers=(PeerNode(name="node-2", remote=PEER, local=NODE, encap=Encap.VXLAN, cidrs=(), addresses=(PEER,)),),
)


def pod(number: int) -> Pod:
    return Pod(
        namespace="default",
        name=f"p{number}",
        container=f"c{number}",
        ifname="eth0",
        netns=f"/run/netns/p{number}",
        network="ovsnet",
        port=f"pod-0000000{number}",
        ofport=0,
        mac=f"0a:58:0a:f4:01:0{number}",
        ips=(ipaddress.ip_address(f"10.244.1.{number}"), ipaddress.ip_address(f"fd00::{number}")),
    )
