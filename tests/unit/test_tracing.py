"""`ovsnet trace`: names to packets, and what became of them in words."""

from __future__ import annotations

import ipaddress

import pytest

from ovsnet import names, pipeline, resources, tracing
from ovsnet.errors import OvsnetError
from ovsnet.flowdump import Step, Trace
from ovsnet.frontends import Frontend, ServiceObject
from ovsnet.model import Encap, LocalNode, Peer, Pod
from ovsnet.nodeports import NodePortAddresses
from ovsnet.objects import Object
from ovsnet.servicemodel import Protocol
from ovsnet.services import SliceObject
from ovsnet.tracing import Packet

NODE = LocalNode(
    name="node-a",
    addresses=(ipaddress.ip_address("192.0.2.11"),),
    cidrs=(ipaddress.ip_network("10.244.1.0/24"), ipaddress.ip_network("fd00:1::/64")),
    gateways=(ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("fd00:1::1")),
    mac="0a:58:0a:f4:01:01",
    ofport=1,
)


def pod(name: str, octet: int, ofport: int) -> Pod:
    ips = (ipaddress.ip_address(f"10.244.1.{octet}"), ipaddress.ip_address(f"fd00:1::{octet:x}"))
    return Pod(
        namespace="default",
        name=name,
        container=f"c-{name}",
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=f"pod-{ofport:08x}",
        ofport=ofport,
        mac=names.mac_of(ips[0]),
        ips=ips,
    )


def peer(name: str, number: int, remote: str, by_flow: bool) -> Peer:
    return Peer(
        name=name,
        remote=ipaddress.ip_address(remote),
        encap=Encap.VXLAN,
        cidrs=(ipaddress.ip_network(f"10.244.{number}.0/24"),),
        addresses=(ipaddress.ip_address(remote),),
        port=f"vxl-{name}",
        ofport=20000 + number,
        by_flow=by_flow,
    )


WEB, DB = pod("web", 5, 16), pod("db", 6, 17)
B, C, D = (
    peer("node-b", 2, "192.0.2.12", False),
    peer("node-c", 3, "192.0.2.13", True),
    peer("node-d", 4, "2001:db8::14", True),
)
OBJECTS: tuple[Object, ...] = (NODE, WEB, DB, B, C, D)
SLICE = SliceObject(namespace="default", name="shop-x7k2p", members=())
"""Nobody's end of a packet."""


@pytest.mark.parametrize(
    ("name", "obj"),
    [
        ("default/web", WEB),
        ("web", WEB),
        ("c-web", WEB),
        ("pod-00000010", WEB),
        ("10.244.1.5", WEB),
        ("fd00:1::5", WEB),
        ("FD00:1:0::5", WEB),
        ("node-a", NODE),
        ("10.244.1.1", NODE),
        ("node-b", B),
        ("192.0.2.12", B),
        ("10.244.2.77", B),
        ("198.51.100.7", None),
    ],
)
def test_a_name_or_address_leads_to_its_object(name: str, obj: Object | None) -> None:
    assert tracing.endpoint(name, OBJECTS).obj is obj


@pytest.mark.parametrize("address", ["10.244.2.77", "fd00:1::5", "10.244.1.1"])
def test_an_address_stands_for_itself_alone(address: str) -> None:
    """Not for its owner's first one, which may be of the other family."""
    assert tracing.endpoint(address, OBJECTS).ips == (ipaddress.ip_address(address),)


def test_an_unknown_name_is_told_with_what_there_is() -> None:
    with pytest.raises(OvsnetError, match="wbe is no pod, node, Service or address") as caught:
        tracing.endpoint("wbe", (*OBJECTS, SLICE))
    assert caught.value.hint == (
        "of a pod of another node, or of what is outside, give the address; "
        "known here: default/db, default/web, node-a, node-b, node-c, node-d"
    )


def packet(source: str, target: str, protocol: str = "tcp", port: int = 80) -> str:
    ends = (tracing.endpoint(name, OBJECTS) for name in (source, target))
    return tracing.packet(Packet(source=next(ends), target=next(ends), protocol=protocol, port=port), OBJECTS)


ROUTER = pipeline.ROUTER.mac


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        (packet("web", "db"), f"in_port=16,dl_src={WEB.mac},dl_dst={DB.mac},tcp,nw_src=10.244.1.5,nw_dst=10.244.1.6,"),
        (packet("web", "node-b"), f"in_port=16,dl_src={WEB.mac},dl_dst={NODE.mac},tcp,nw_src=10.244.1.5,"),
        (packet("node-a", "web"), f"in_port=1,dl_src={NODE.mac},dl_dst={ROUTER},tcp,nw_src=192.0.2.11,"),
        (packet("198.51.100.7", "web"), f"in_port=1,dl_src={NODE.mac},dl_dst={ROUTER},tcp,nw_src=198.51.100.7,"),
        (packet("10.244.2.77", "web"), f"in_port=20002,dl_src={ROUTER},dl_dst={ROUTER},tcp,nw_src=10.244.2.77,"),
        (packet("node-c", "web"), f"in_port=20003,dl_src={ROUTER},dl_dst={ROUTER},tcp,tun_src=192.0.2.13,"),
        (packet("node-d", "web"), f"in_port=20004,dl_src={ROUTER},dl_dst={ROUTER},tcp6,tun_ipv6_src=2001:db8::14,"),
    ],
    ids=["pod", "peer", "node", "outside", "peer's pod", "by flow", "by flow over IPv6"],
)  # fmt: skip
def test_a_packet_enters_where_its_source_is(text: str, begins: str) -> None:
    assert text.startswith(begins)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (packet("web", "db"), "tcp_src=40000,tcp_dst=80,tcp_flags=syn"),
        (packet("web", "db", "udp", 53), "udp_src=40000,udp_dst=53"),
        (packet("web", "db", "icmp"), "nw_ttl=64,icmp_type=8,icmp_code=0"),
        (
            packet("default/web", "fd00:1::6", "icmp"),
            "ipv6_dst=fd00:1::6,nw_ttl=64,icmpv6_type=128,icmpv6_code=0",
        ),
    ],
)
def test_the_protocol(text: str, ends: str) -> None:
    assert text.endswith(ends)


def test_a_service_is_a_target_with_a_hash_to_choose_by_and_says_its_endpoint() -> None:
    vip = ipaddress.ip_address("10.96.0.1")
    frontend = Frontend(address=vip, protocol=Protocol.TCP, port=80)
    shop = ServiceObject(namespace="default", name="shop", frontends=(frontend,), groups=())
    objects = (*OBJECTS, shop)
    question = Packet(
        source=tracing.endpoint("web", objects),
        target=tracing.endpoint("default/shop", objects),
        protocol="tcp",
        port=80,
    )
    assert tracing.packet(question, objects).endswith(
        "nw_dst=10.96.0.1,nw_ttl=64,tcp_src=40000,tcp_dst=80,tcp_flags=syn,dp_hash=1"
    )
    masqueraded = ("src", "10.244.1.1:1024-32767")
    assert (
        tracing.translated(trace(translations=(masqueraded, ("dst", "10.244.2.5:8080")))) == "10.244.2.5:8080"
    )
    assert tracing.translated(trace(translations=(masqueraded,))) is None


def test_a_node_port_is_asked_for_where_the_bridge_has_it_and_where_the_node_answers() -> None:
    frontend = Frontend(address=pipeline.NODE_PORTS.ipv4, protocol=Protocol.TCP, port=30080)
    local = Frontend(address=pipeline.LOCAL_NODE_PORTS.ipv4, protocol=Protocol.TCP, port=30081)
    shop = ServiceObject(namespace="default", name="shop", frontends=(frontend, local), groups=())
    objects = (*OBJECTS, shop)

    def asked(source: str, target: str, port: int, networks: str = "0.0.0.0/0") -> str:
        ends = [tracing.endpoint(name, objects) for name in (source, target)]
        question = Packet(source=ends[0], target=ends[1], protocol="tcp", port=port)
        answering = NodePortAddresses(networks=(ipaddress.ip_network(networks),))
        past = tracing.past(question, objects, answering)
        return past or tracing.packet(question, objects, answering).partition("nw_dst=")[2].partition(",")[0]

    taken = "TAKEN by the kernel of node node-a, to which it is addressed: it does not come to the bridge"
    for source in ("node-a", "198.51.100.7"):
        assert asked(source, "node-a", 30080) == "169.254.77.3"
        assert asked(source, "10.244.1.1", 30080) == "169.254.77.3"
        assert asked(source, "node-a", 30080, "10.244.1.1/32") == taken
        assert asked(source, "node-a", 30082) == taken
    assert asked("198.51.100.7", "node-a", 30081) == "169.254.77.4"
    assert asked("node-a", "node-a", 30081) == taken
    # A pod's packet passes the bridge as it is, before the node's kernel has it.
    assert asked("web", "node-a", 30080) == "192.0.2.11"
    question = Packet(
        source=tracing.endpoint("web", objects),
        target=tracing.endpoint("node-a", objects),
        protocol="tcp",
        port=30080,
    )
    for networks, back in (("0.0.0.0/0", True), ("10.244.1.1/32", False)):
        answering = NodePortAddresses(networks=(ipaddress.ip_network(networks),))
        _, said = tracing.verdict(trace(output=1), objects, {}, {}, question, answering)
        assert said.endswith(", which sends it back for node port 30080 of service default/shop") is back, (
            said
        )


def test_a_node_whose_address_and_port_a_service_has_is_reached_as_that_service() -> None:
    frontends = tuple(
        Frontend(address=ipaddress.ip_address(text), protocol=Protocol.TCP, port=80, external=True)
        for text in ("192.0.2.11", "192.0.2.12")
    )
    shop = ServiceObject(namespace="default", name="shop", frontends=frontends, groups=())
    objects = (*OBJECTS, shop)

    def asked(source: str, target: str, port: int) -> str:
        ends = [tracing.endpoint(name, objects) for name in (source, target)]
        question = Packet(source=ends[0], target=ends[1], protocol="tcp", port=port)
        return tracing.past(question, objects) or tracing.packet(question, objects).rpartition(",")[2]

    for target in ("node-a", "node-b"):
        assert asked("web", target, 80) == "dp_hash=1"
        assert asked("web", target, 81) == "tcp_flags=syn"
    for source in ("node-a", "198.51.100.7"):
        assert asked(source, "node-b", 80) == "dp_hash=1"
        assert asked(source, "node-b", 81).startswith("SENT by the kernel")
        # What an interface of the node has is the node's own.
        assert asked(source, "node-a", 80).startswith("TAKEN by the kernel")


def test_of_services_that_share_an_address_the_one_with_the_port_is_meant() -> None:
    """All node ports do, under the addresses that the bridge has them by; so may external addresses."""
    shared = ipaddress.ip_address("203.0.113.1")
    objects: tuple[Object, ...] = OBJECTS
    for number, protocol in enumerate((Protocol.TCP, Protocol.TCP, Protocol.UDP)):
        frontends = (
            Frontend(address=pipeline.NODE_PORTS.ipv4, protocol=protocol, port=30080 + number),
            Frontend(address=shared, protocol=protocol, port=80 + number, external=True),
        )
        objects += (ServiceObject(namespace="default", name=f"s{number}", frontends=frontends, groups=()),)

    def asked(address: str, protocol: str, port: int, source: str = "198.51.100.7") -> tuple[str, bool]:
        target = tracing.endpoint(address, objects, protocol, port)
        question = Packet(
            source=tracing.endpoint(source, objects), target=target, protocol=protocol, port=port
        )
        return target.title, tracing.past(question, objects) is None

    for number, which in enumerate(("tcp", "tcp", "udp")):
        service = f"service default/s{number}"
        assert asked("169.254.77.3", which, 30080 + number) == (service, True)
        assert asked("203.0.113.1", which, 80 + number) == (service, True)
    assert asked("169.254.77.3", "tcp", 30082)[0] == "169.254.77.3"
    assert asked("203.0.113.1", "tcp", 82) == ("203.0.113.1", False)
    assert asked("203.0.113.1", "icmp", 0) == ("203.0.113.1", False)


def test_a_service_without_endpoints_refuses() -> None:
    answer = trace(steps=(Step(table=40, priority=100, cookie=1),), output=1)
    assert tracing.verdict(answer, OBJECTS, {40: "refuse"}, {}) == (
        False,
        "REFUSED by the kernel of this node: the Service has no endpoint",
    )


def test_the_families_must_meet() -> None:
    with pytest.raises(OvsnetError, match="have no address family in common"):
        packet("198.51.100.7", "fd00:1::5")


TABLES = {0: "classify", 30: "route"}


def trace(
    output: int | None = None,
    *,
    answered: bool = False,
    steps: tuple[Step, ...] = (),
    missed: int | None = None,
    translations: tuple[tuple[str, str], ...] = (),
) -> Trace:
    return Trace(
        steps=steps,
        output=output,
        answered=answered,
        datapath_actions="",
        missed=missed,
        translations=translations,
    )


@pytest.mark.parametrize(
    ("answer", "passes", "words"),
    [
        (trace(17), True, "DELIVERED to pod default/db by port pod-00000011 (17)"),
        (trace(20002), True, "SENT to node node-b by vxlan tunnel vxl-node-b (20002)"),
        (trace(1), True, "HANDED to the kernel of node node-a by the gateway port (1)"),
        (trace(99), True, "SENT out of port 99, which is no port of ovsnet's"),
        (trace(answered=True), True, "ANSWERED by the switch"),
        (trace(steps=(Step(table=30, priority=60, cookie=1),)), False, "DROPPED in table route: nobody's"),
        (trace(steps=(Step(table=30, priority=100, cookie=1),)), False, "DROPPED in table route"),
        (
            trace(steps=(Step(table=0, priority=100, cookie=1),), missed=30),
            False,
            "DROPPED: no flow in table route (30) matches; flows are missing",
        ),
        (trace(steps=(Step(table=7, priority=60, cookie=1),)), False, "DROPPED in table 7"),
        (trace(), False, "DROPPED before any table"),
    ],
)
def test_the_verdict(answer: Trace, passes: bool, words: str) -> None:
    assert tracing.verdict(answer, OBJECTS, TABLES, {(30, 60): "nobody's"}) == (passes, words)


def test_the_templates_say_why_they_drop() -> None:
    tables = pipeline.tables(resources.flows_dir())
    by_name = {table.name: pipeline.drops(table) for table in tables}
    assert by_name["route"][60] == "an address of this node's range that no pod has"
    assert set(by_name["spoof_guard"]) == {105, 60, 50, 0}
    dropping = {table.name for table in tables if "actions=drop" in table.path.read_text()}
    assert {name for name, reasons in by_name.items() if reasons} == dropping
