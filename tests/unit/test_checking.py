"""CNI CHECK: each difference between what was made and what is there, in words."""

from __future__ import annotations

import ipaddress

import pytest
from msgspec.structs import replace

from ovsnet import names, state
from ovsnet.agent import checking
from ovsnet.cni.netconf import NetworkConfig
from ovsnet.cni.protocol import Command, Request
from ovsnet.cni.result import Interface, IPConfig, Previous
from ovsnet.errors import AttachmentBroken
from ovsnet.host.types import PodInterface, RouteSpec
from ovsnet.model import Pod
from ovsnet.rows import PortRow

POD = Pod(
    namespace="default",
    name="web",
    container="c0ffee",
    ifname="eth0",
    netns="/run/netns/web",
    network="ovsnet",
    port="pod-00c0ffee",
    ofport=16,
    mac="0a:58:0a:f4:01:05",
    ips=(ipaddress.ip_address("10.244.1.5"), ipaddress.ip_address("fd00:1::5")),
)
ROW = PortRow(name=POD.port, external_ids=state.identity(POD), ofport=16, ofport_request=16)
ADDRESSES = (ipaddress.ip_interface("10.244.1.5/24"), ipaddress.ip_interface("fd00:1::5/64"))
GATEWAYS = (ipaddress.ip_address("10.244.1.1"), ipaddress.ip_address("fd00:1::1"))
SEEN = PodInterface(
    mac=POD.mac,
    mtu=1450,
    up=True,
    addresses=(*ADDRESSES, ipaddress.ip_interface("10.99.0.1/24")),
    routes=(
        RouteSpec(cidr=ipaddress.ip_network("0.0.0.0/0"), next_hop=GATEWAYS[0]),
        RouteSpec(cidr=ipaddress.ip_network("::/0"), next_hop=GATEWAYS[1]),
        RouteSpec(cidr=ipaddress.ip_network("10.244.1.0/24")),
    ),
    peer=7,
)


def test_a_sound_attachment() -> None:
    checking.row(POD, ROW)
    checking.flows(POD, ("a", "b"), ("a", "b"))
    checking.interface(POD, ADDRESSES, GATEWAYS, SEEN)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "port pod-00c0ffee is not on the bridge"),
        (replace(ROW, external_ids={}), "names another pod or address"),
        (
            replace(ROW, external_ids=ROW.external_ids | {names.KEY_IPS: "10.244.1.6"}),
            "names another pod or address",
        ),
        (replace(ROW, external_ids=ROW.external_ids | {names.KEY_CONTAINER: "other"}), "names another pod"),
        (replace(ROW, ofport=-1, error="No such device"), "does not work: No such device"),
        (replace(ROW, ofport=None), "vswitchd has not looked at it"),
    ],
)
def test_a_row_that_differs(found: PortRow | None, words: str) -> None:
    with pytest.raises(AttachmentBroken, match=words) as caught:
        checking.row(POD, found)
    assert caught.value.cni_code == 102
    assert "default/web" in caught.value.message


@pytest.mark.parametrize("installed", [None, (), ("a",)])
def test_flows_that_differ(installed: tuple[str, ...] | None) -> None:
    with pytest.raises(AttachmentBroken, match="its flows are not installed"):
        checking.flows(POD, installed, ("a", "b"))


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (None, "/run/netns/web has no interface eth0"),
        (replace(SEEN, up=False), "eth0 is down"),
        (replace(SEEN, mac="02:00:00:00:00:01"), "has MAC 02:00:00:00:00:01, not 0a:58:0a:f4:01:05"),
        (replace(SEEN, addresses=ADDRESSES[:1]), "has lost fd00:1::5/64"),
        (
            replace(SEEN, addresses=(ipaddress.ip_interface("10.244.1.5/32"), ADDRESSES[1])),
            "has lost 10.244.1.5/24",
        ),
        (replace(SEEN, routes=SEEN.routes[1:]), "no default route by 10.244.1.1"),
    ],
)
def test_an_interface_that_differs(seen: PodInterface | None, words: str) -> None:
    with pytest.raises(AttachmentBroken, match=words):
        checking.interface(POD, ADDRESSES, GATEWAYS, seen)


def test_a_default_route_by_another_interface_is_fine_where_there_are_several() -> None:
    checking.interface(POD, ADDRESSES, (), replace(SEEN, routes=()))


def request(previous: Previous | None) -> Request:
    config = NetworkConfig(cni_version="1.1.0", name="ovsnet")
    return Request(command=Command.CHECK, config=config, previous=previous)


def previous(
    ifname: str = "eth0", addresses: tuple[str, ...] = ("10.244.1.5/24", "fd00:1::5/64")
) -> Previous:
    return Previous(
        raw={},
        interfaces=(Interface(name=POD.port), Interface(name=ifname, sandbox=POD.netns)),
        ips=tuple(IPConfig(address=ipaddress.ip_interface(text), interface=1) for text in addresses),
    )


def test_the_runtime_remembers_the_same() -> None:
    checking.previous(POD, request(None))
    checking.previous(POD, request(previous()))
    checking.previous(POD, request(previous(addresses=("10.244.1.5/24", "fd00:1::5/64", "10.1.1.1/8"))))


@pytest.mark.parametrize(
    ("remembered", "words"),
    [
        (previous(ifname="net1"), "prevResult has no interface eth0"),
        (previous(addresses=("10.244.1.5/24",)), "prevResult lacks its address fd00:1::5"),
        (previous(addresses=()), "lacks its address 10.244.1.5, fd00:1::5"),
    ],
)
def test_the_runtime_remembers_something_else(remembered: Previous, words: str) -> None:
    with pytest.raises(AttachmentBroken, match=words):
        checking.previous(POD, request(remembered))
