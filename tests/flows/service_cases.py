"""Connections to Services: a client, what it talks to, and which endpoints answer behind which ports."""

from __future__ import annotations

from collections.abc import Sequence

import service_world
from flow_world import A1, A2, NODE
from packets import ROUTER
from service_world import EXTERNAL, FAR, LOAD_BALANCER, SHUT_LOAD_BALANCER, vip
from wire import SYN, TCP, UDP, Arrived, Packet, Wire

from ovsnet import pipeline
from ovsnet.model import Frozen

Pair = tuple[str, str]


def both(translator: pipeline.Translator) -> Pair:
    return str(translator.ipv4), str(translator.ipv6)


GATEWAY: Pair = ("10.244.1.1", "fd00:1::1")
POD_1: Pair = service_world.A1
POD_2: Pair = ("10.244.1.3", "fd00:1::3")
PEER_POD: Pair = ("10.244.2.9", "fd00:2::9")
OUTSIDE: Pair = ("198.51.100.7", "2001:db8:100::7")
ELSEWHERE: Pair = ("203.0.113.200", "2001:db8:200::7")
BACK: Pair = both(pipeline.CLIENT)
REFUSED: Pair = both(pipeline.REFUSED)
NODE_PORT: Pair = both(pipeline.NODE_PORTS)
LOCAL_NODE_PORT: Pair = both(pipeline.LOCAL_NODE_PORTS)
MACS = {"a1": A1.mac, "a2": A2.mac, "gateway": NODE.mac, "peer": ROUTER.mac}


class Case(Frozen):
    """A client behind a port, what it talks to, and which endpoints answer behind which ports."""

    shows: str
    port: str
    client: Pair
    target: Pair
    answers: tuple[tuple[str, Pair], ...]
    dport: int = 80
    seen: Pair | None = None
    """As whom the endpoint sees the client, by another port; None: as it is."""
    seen_at_home: Pair | None = None
    """The same for endpoints in the node's own network."""
    protocol: int = TCP
    endpoint_port: int = 8080


HERE = ("a1", service_world.A1)
B1, B2 = ("peer", service_world.B1), ("peer", service_world.B2)
HOME, AWAY = ("gateway", service_world.NODE_A), ("peer", service_world.NODE_B)
ABROAD = ("gateway", FAR)

CASES: Sequence[Case] = (
    Case(shows="pod to ClusterIP", port="a2", client=POD_2, target=vip(1), answers=(HERE, B1, B2)),
    Case(
        shows="pod to ClusterIP over UDP", port="a2", client=POD_2, target=vip(2), answers=(B1,), protocol=UDP
    ),
    Case(shows="pod to remote endpoint", port="a2", client=POD_2, target=vip(14), answers=(B1,)),
    Case(shows="pod to local endpoint", port="a2", client=POD_2, target=vip(11), answers=(HERE,)),
    Case(
        shows="node to ClusterIP",
        port="gateway",
        client=GATEWAY,
        target=vip(1),
        answers=(HERE, B1, B2),
        seen=GATEWAY,
    ),
    Case(
        shows="node by its own address to ClusterIP",
        port="gateway",
        client=service_world.NODE_A,
        target=vip(1),
        answers=(HERE, B1, B2),
        seen=GATEWAY,
    ),
    Case(shows="pod to itself", port="a1", client=POD_1, target=vip(11), answers=(HERE,), seen=BACK),
    Case(
        shows="node to itself",
        port="gateway",
        client=service_world.NODE_A,
        target=vip(8),
        answers=(HOME,),
        seen=BACK,
    ),
    Case(
        shows="node's gateway address to itself",
        port="gateway",
        client=GATEWAY,
        target=vip(8),
        answers=(HOME,),
        seen=BACK,
    ),
    Case(shows="pod to its node", port="a1", client=POD_1, target=vip(8), answers=(HOME,)),
    Case(
        shows="node to a peer node",
        port="gateway",
        client=GATEWAY,
        target=vip(9),
        answers=(AWAY,),
        seen=GATEWAY,
    ),
    Case(shows="pod to a peer node", port="a1", client=POD_1, target=vip(9), answers=(AWAY,)),
    Case(
        shows="node to outside", port="gateway", client=GATEWAY, target=vip(10), answers=(ABROAD,), seen=BACK
    ),
    Case(shows="pod to outside", port="a1", client=POD_1, target=vip(10), answers=(ABROAD,)),
    Case(shows="internal Local", port="a2", client=POD_2, target=vip(5), answers=(HERE,)),
    Case(shows="sticky", port="a2", client=POD_2, target=vip(7), answers=(HERE, B1, B2)),
    Case(
        shows="node port from outside",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(HERE, B1),
        dport=30012,
        seen=GATEWAY,
    ),
    Case(
        shows="node port from outside to a peer",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(B1,),
        dport=30014,
        seen=GATEWAY,
    ),
    Case(
        shows="node port from the node",
        port="gateway",
        client=service_world.NODE_A,
        target=NODE_PORT,
        answers=(HERE, B1),
        dport=30012,
        seen=GATEWAY,
    ),
    Case(
        shows="node port from a pod",
        port="gateway",
        client=POD_2,
        target=NODE_PORT,
        answers=(HERE, B1),
        dport=30012,
    ),
    Case(
        shows="node port of a pod's own Service",
        port="gateway",
        client=POD_1,
        target=NODE_PORT,
        answers=(HERE,),
        dport=30023,
        seen=BACK,
    ),
    Case(
        shows="node port from a pod, of a Service for the node's own network",
        port="gateway",
        client=POD_1,
        target=NODE_PORT,
        answers=(HOME,),
        dport=30016,
        seen=BACK,
    ),
    Case(
        shows="Local node port from outside",
        port="gateway",
        client=OUTSIDE,
        target=LOCAL_NODE_PORT,
        answers=(HERE,),
        dport=30013,
    ),
    Case(
        shows="Local node port from the node",
        port="gateway",
        client=GATEWAY,
        target=LOCAL_NODE_PORT,
        answers=(HERE, B1),
        dport=30013,
        seen=GATEWAY,
    ),
    Case(
        shows="node port of a Service for the node's own network",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(HOME,),
        dport=30016,
        seen=BACK,
    ),
    Case(
        shows="the same over UDP",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(HOME,),
        dport=30017,
        seen=BACK,
        protocol=UDP,
    ),
    Case(
        shows="node port of a Service for outside",
        port="gateway",
        client=OUTSIDE,
        target=NODE_PORT,
        answers=(ABROAD,),
        dport=30018,
        seen=BACK,
        protocol=UDP,
    ),
    Case(shows="external address from a pod", port="a2", client=POD_2, target=EXTERNAL, answers=(HERE, B1)),
    Case(
        shows="external address from outside",
        port="gateway",
        client=OUTSIDE,
        target=EXTERNAL,
        answers=(HERE, B1),
        seen=GATEWAY,
    ),
    Case(
        shows="external address from the node",
        port="gateway",
        client=GATEWAY,
        target=EXTERNAL,
        answers=(HERE, B1),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer from an admitted source",
        port="gateway",
        client=OUTSIDE,
        target=LOAD_BALANCER,
        answers=(B1,),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer from the node",
        port="gateway",
        client=service_world.NODE_A,
        target=LOAD_BALANCER,
        answers=(B1,),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer from the node, by the gateway's address",
        port="gateway",
        client=GATEWAY,
        target=LOAD_BALANCER,
        answers=(B1,),
        seen=GATEWAY,
    ),
    Case(
        shows="load balancer that admits pods, not nodes",
        port="a2",
        client=POD_2,
        target=SHUT_LOAD_BALANCER,
        answers=(B1,),
    ),
    Case(shows="directly to an endpoint", port="a2", client=POD_2, target=POD_1, answers=(HERE,), dport=8080),
    Case(
        shows="directly to a remote endpoint",
        port="a2",
        client=POD_2,
        target=service_world.B1,
        answers=(B1,),
        dport=8080,
    ),
    Case(
        shows="node directly to an endpoint",
        port="gateway",
        client=GATEWAY,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="outside directly to an endpoint",
        port="gateway",
        client=OUTSIDE,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="a peer's pod directly to an endpoint",
        port="peer",
        client=PEER_POD,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="a peer node to an endpoint",
        port="peer",
        client=service_world.NODE_B,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
    ),
    Case(
        shows="a peer node over UDP",
        port="peer",
        client=service_world.NODE_B,
        target=POD_1,
        answers=(HERE,),
        dport=8080,
        protocol=UDP,
    ),
    Case(
        shows="pod to pod", port="a2", client=POD_2, target=POD_1, answers=(HERE,), dport=9, endpoint_port=9
    ),
)


def go(wire: Wire, port: str, packet: Packet) -> Arrived:
    """The one packet that comes of it."""
    to_mac = ROUTER.mac if port in ("gateway", "peer") else NODE.mac
    arrived = wire.send(port, packet, MACS[port], to_mac)
    assert len(arrived) == 1, (port, packet, arrived, wire.ask("dpctl/dump-conntrack"))
    (one,) = arrived
    if one.port != "peer":
        assert one.to_mac == MACS[one.port]
        assert one.from_mac != one.to_mac, "a receiver would not take it"
    return one


def opening(case: Case, family: int, sport: int) -> Packet:
    return Packet(
        src=case.client[family],
        dst=case.target[family],
        protocol=case.protocol,
        sport=sport,
        dport=case.dport,
        flags=SYN,
        seq=1000,
        body=b"" if case.protocol == TCP else b"question",
    )
