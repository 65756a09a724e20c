"""What the log says of a change of the topology."""

from __future__ import annotations

import ipaddress

from msgspec.structs import replace

from ovsnet.agent import changes
from ovsnet.model import Encap
from ovsnet.state import PeerNode, Topology


def peer(number: int, remote: str = "") -> PeerNode:
    address = ipaddress.ip_address(remote or f"192.0.2.{number}")
    return PeerNode(
        name=f"node-{number}",
        remote=address,
        local=ipaddress.ip_address("192.0.2.1"),
        encap=Encap.VXLAN,
        cidrs=(ipaddress.ip_network(f"10.244.{number}.0/24"),),
        addresses=(address,),
    )


def topology(*peers: PeerNode) -> Topology:
    return Topology(
        name="node-1",
        addresses=(ipaddress.ip_address("192.0.2.1"),),
        internal=(ipaddress.ip_address("192.0.2.1"),),
        cidrs=(ipaddress.ip_network("10.244.1.0/24"),),
        gateways=(ipaddress.ip_address("10.244.1.1"),),
        mac="0a:58:0a:f4:01:01",
        mtu=1450,
        encaps=(Encap.VXLAN,),
        tunnel_ports=(4789,),
        peers=peers,
    )


def test_nothing_changed() -> None:
    assert changes.between(topology(peer(2)), topology(peer(2))) == []


def test_a_start_tells_every_peer() -> None:
    assert changes.between(None, topology(peer(2))) == [
        "peer node-2 added (vxlan to 192.0.2.2, 10.244.2.0/24)"
    ]


def test_a_peer_gone_and_a_peer_moved() -> None:
    after = topology(peer(3, "192.0.2.33"))
    assert changes.between(topology(peer(2), peer(3)), after) == [
        "peer node-3 changed (vxlan to 192.0.2.3, 10.244.3.0/24 -> vxlan to 192.0.2.33, 10.244.3.0/24)",
        "peer node-2 removed",
    ]


def test_many_peers_are_counted() -> None:
    after = topology(*(peer(number) for number in range(2, 52)))
    assert changes.between(None, after) == ["50 peers added, changed or removed; now 50"]


def test_mtu_and_ranges() -> None:
    after = replace(topology(), mtu=1430, cidrs=(ipaddress.ip_network("10.9.0.0/24"),))
    assert changes.between(topology(), after) == [
        "MTU of pods changed from 1450 to 1430",
        "pod ranges changed to 10.9.0.0/24",
    ]
