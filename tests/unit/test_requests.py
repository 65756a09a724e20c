"""From a CNI request to a pod and from a pod to CNI's result."""

from __future__ import annotations

import ipaddress

import pytest

from ovsnet import names, state
from ovsnet.agent import requests
from ovsnet.agent.pods import holder
from ovsnet.cni.netconf import FixedMac, NetworkConfig
from ovsnet.cni.protocol import Args, Command, Request
from ovsnet.config import Config
from ovsnet.errors import (
    BadEnvironment,
    LimitedConnectivity,
    NotReady,
    OvsnetError,
    RangeExhausted,
    SwitchUnavailable,
)
from ovsnet.model import IPAddress, Node, Pod
from ovsnet.rows import PortRow

TOKEN, OFPORT = "00c0ffee", 16
ADDRESS4, ADDRESS6 = ipaddress.ip_address("10.244.1.5"), ipaddress.ip_address("fd00:1::5")


def topology(*cidrs: str) -> state.Topology:
    node = Node(
        name="a",
        pod_cidrs=tuple(ipaddress.ip_network(cidr) for cidr in cidrs or ("10.244.1.0/24", "fd00:1::/64")),
        addresses=(ipaddress.ip_address("192.0.2.1"),),
    )
    return state.topology(Config(), "a", node.addresses, 1500, {"a": node})


def request(args: Args | None = None, mac: str = "", netns_fd: int | None = 9) -> Request:
    return Request(
        command=Command.ADD,
        config=NetworkConfig(cni_version="1.1.0", name="ovsnet"),
        container="c0ffee",
        netns="/run/netns/web",
        netns_fd=netns_fd,
        ifname="eth0",
        args=args or Args(pod_namespace="default", pod_name="web"),
        mac=FixedMac(mac=mac, field="runtimeConfig.mac") if mac else None,
    )


def test_a_pod_on_its_port() -> None:
    pod = requests.pod(request(), (ADDRESS4, ADDRESS6), TOKEN, OFPORT)
    assert (pod.title, pod.container, pod.ifname, pod.network) == ("default/web", "c0ffee", "eth0", "ovsnet")
    assert (pod.port, pod.ofport) == ("pod-00c0ffee", 16)
    assert pod.mac == names.mac_of(ADDRESS4)
    assert state.pod(_row(pod)) == pod, "it can be read back from its row"


def _row(pod: Pod) -> PortRow:
    return PortRow(name=pod.port, external_ids=state.identity(pod), ofport=pod.ofport)


def test_without_kubernetes_the_container_is_the_pod() -> None:
    pod = requests.pod(request(Args()), (ADDRESS4,), TOKEN, OFPORT)
    assert (pod.namespace, pod.name, pod.title) == ("", "c0ffee", "c0ffee")


def test_a_mac_that_was_asked_for() -> None:
    assert (
        requests.pod(request(mac="02:00:00:00:00:01"), (ADDRESS4,), TOKEN, OFPORT).mac == "02:00:00:00:00:01"
    )


def test_messages_name_who_holds_an_address() -> None:
    assert requests.owner(request()) == "default/web (eth0) of container c0ffee"
    assert requests.owner(request(Args())) == "c0ffee (eth0) of container c0ffee"
    for each in (request(), request(Args())):
        pod = requests.pod(each, (ADDRESS4,), TOKEN, OFPORT)
        assert holder(pod) == requests.owner(each), "else a DEL would not find its own addresses"


@pytest.mark.parametrize(
    ("ips", "cidrs", "with_prefix", "gateways"),
    [
        ((ADDRESS4, ADDRESS6), (), ["10.244.1.5/24", "fd00:1::5/64"], ["10.244.1.1", "fd00:1::1"]),
        ((ADDRESS6,), (), ["fd00:1::5/64"], ["fd00:1::1"]),
        ((ADDRESS4,), ("10.9.0.0/24", "10.244.0.0/23"), ["10.244.1.5/23"], ["10.244.0.1"]),
        ((ADDRESS4,), ("10.9.0.0/24",), ["10.244.1.5/32"], []),
    ],
    ids=["both families", "IPv6", "second range", "range gone"],
)
def test_addresses_and_gateways(
    ips: tuple[IPAddress, ...], cidrs: tuple[str, ...], with_prefix: list[str], gateways: list[str]
) -> None:
    topo = topology(*cidrs)
    pod = requests.pod(request(), ips, TOKEN, OFPORT)
    assert [str(address) for address in requests.addresses(pod, topo)] == with_prefix
    assert [str(gateway) for gateway in requests.gateways(ips, topo)] == gateways


def test_what_the_host_is_asked_for() -> None:
    topo = topology()
    spec = requests.attach_spec(request(), requests.pod(request(), (ADDRESS6, ADDRESS4), TOKEN, OFPORT), topo)
    assert (spec.token, spec.netns, spec.ifname, spec.mtu) == ("00c0ffee", 9, "eth0", topo.mtu)
    assert [str(gateway) for gateway in spec.gateways] == ["10.244.1.1", "fd00:1::1"]


def test_one_default_route_for_each_family() -> None:
    topo = topology("10.244.1.0/24", "10.244.2.0/24")
    ips = (ADDRESS4, ipaddress.ip_address("10.244.2.5"))
    spec = requests.attach_spec(request(), requests.pod(request(), ips, TOKEN, OFPORT), topo)
    assert [str(gateway) for gateway in spec.gateways] == ["10.244.1.1"]


def test_the_result() -> None:
    topo = topology()
    pod = requests.pod(request(), (ADDRESS4, ADDRESS6), TOKEN, OFPORT)
    answer = requests.result(pod, requests.attach_spec(request(), pod, topo), topo)
    host, inner = answer.interfaces
    assert (host.name, host.sandbox) == ("pod-00c0ffee", "")
    assert (inner.name, inner.mac, inner.sandbox, inner.mtu) == ("eth0", pod.mac, "/run/netns/web", topo.mtu)
    assert [(str(ip.address), str(ip.gateway), ip.interface) for ip in answer.ips] == [
        ("10.244.1.5/24", "10.244.1.1", 1),
        ("fd00:1::5/64", "fd00:1::1", 1),
    ]
    assert [(str(route.dst), str(route.gw)) for route in answer.routes] == [
        ("0.0.0.0/0", "10.244.1.1"),
        ("::/0", "fd00:1::1"),
    ]


def test_a_namespace_that_could_not_be_opened() -> None:
    assert requests.netns_of(request()) == 9
    with pytest.raises(BadEnvironment, match="CNI_NETNS: /run/netns/web"):
        requests.netns_of(request(netns_fd=None))


def test_trouble_of_the_node_is_worth_another_try() -> None:
    exhausted = RangeExhausted("no free address")
    assert requests.as_try_again(exhausted) is exhausted
    other = requests.as_try_again(NotReady("the store has not been read yet", "wait"))
    assert (other.cni_code, other.message, other.hint) == (11, "the store has not been read yet", "wait")


@pytest.mark.parametrize(
    ("trouble", "running", "kind"),
    [
        (LimitedConnectivity("vswitchd is down"), True, LimitedConnectivity),
        (LimitedConnectivity("vswitchd is down"), False, NotReady),
        (SwitchUnavailable("OVSDB is away, pods go on"), True, NotReady),
        (NotReady("not yet"), True, NotReady),
        (OvsnetError("what"), True, NotReady),
    ],
)
def test_status_tells_whether_running_pods_suffer(
    trouble: OvsnetError, running: bool, kind: type[OvsnetError]
) -> None:
    assert type(requests.as_status(trouble, running=running)) is kind
