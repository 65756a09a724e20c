"""MTU: what every encapsulation leaves of the uplink's, given to pods and gateway, the least over all peers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from lab_world import assert_green, eventually, fetch, manifest, ovsnet_json, reconfigure, running

from ovsnet.lab.lab import Lab
from ovsnet.lab.pods import Pod
from ovsnet.lab.state import write_atomically

# Bytes of uplink minus pod: outer IP 20 or 40, UDP 8 and VXLAN or Geneve 8, or GRE 4 with its key 4; Ethernet 14.
OVERHEAD = {
    ("vxlan", "4"): 50,
    ("vxlan", "6"): 70,
    ("geneve", "4"): 50,
    ("geneve", "6"): 70,
    ("gre", "4"): 42,
    ("gre", "6"): 62,
}
ICMP_SIZE = 28
"""Of the IPv4 and ICMP headers in front of what ping counts."""


def mtu_of(lab: Lab, place: str, interface: str = "eth0") -> int:
    done = lab.run(place, ["cat", f"/sys/class/net/{interface}/mtu"])
    return int(done.stdout)


def mtus(lab: Lab) -> set[int]:
    """Of all pods, of their host ends and of all gateways."""
    found = {mtu_of(lab, pod.name) for pod in lab.pods}
    found |= {mtu_of(lab, pod.node.name, host_end(pod)) for pod in lab.pods}
    return found | {mtu_of(lab, node.name, "ovsnet0") for node in lab.nodes}


def become(lab: Lab, mtu: int) -> None:
    """Wait until all agents have come to that MTU and their gateways have it."""

    def reached() -> bool:
        shown = [ovsnet_json(node, "show")["mtu"] for node in lab.nodes]
        return {*shown, *(mtu_of(lab, node.name, "ovsnet0") for node in lab.nodes)} == {mtu}

    eventually(reached)


def host_end(pod: Pod) -> str:
    result = pod.result()
    assert result is not None
    return str(result["interfaces"][0]["name"])


def ping(lab: Lab, source: str, target: object, size: int, *options: str) -> str:
    """One ping in packets of that size, headers included, not to be fragmented; what it says."""
    command = ["ping", "-n", "-c2", "-i0.2", "-W1", "-Mdo", f"-s{size - ICMP_SIZE}", *options, str(target)]
    done = lab.run(source, command)
    return done.stdout + done.stderr


def passes(lab: Lab, source: str, target: object, size: int) -> bool:
    """The first packet through a userspace tunnel may be lost: it waits for a neighbour."""
    return f"{size - ICMP_SIZE + 8} bytes from {target}" in ping(lab, source, target, size)


@pytest.mark.parametrize(
    ("encap", "underlay"),
    [pytest.param(*each, marks=() if each == ("gre", "6") else pytest.mark.slow) for each in OVERHEAD],
)
def test_pods_get_what_the_encapsulation_leaves(encap: str, underlay: str) -> None:
    with running(nodes=2, pods=1, encap=encap, underlay=underlay, families="4", mtu=1600) as lab:
        expected = 1600 - OVERHEAD[encap, underlay]
        assert mtus(lab) == {expected}
        assert_green(lab)  # with packets of that very size
        assert {result.size for result in lab.check().results if result.source == "a1"} == {expected}
        # One byte more does not leave the pod.
        assert f"mtu={expected}" in ping(lab, "a1", lab.pod("b1").address(4), expected + 1)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(nodes=3, pods=1, encap="gre", families="4", underlay="4") as lab:
        yield lab


def annotate(lab: Lab, node: str, encap: str | None) -> None:
    document: dict[str, Any] = yaml.safe_load(manifest(lab, node).read_text())
    document["metadata"]["annotations"] = {"ovsnet.io/encapsulation": encap} if encap else {}
    write_atomically(manifest(lab, node), yaml.safe_dump(document))


def test_the_least_over_all_peers_counts(lab: Lab) -> None:
    assert mtus(lab) == {1458}
    annotate(lab, "node-c", "vxlan")
    try:
        become(lab, 1450)
        # Running pods too: what is too big for a tunnel would be lost in silence.
        eventually(lambda: mtus(lab) == {1450})
        assert_green(lab)
        added = lab.add_pod("node-a", "new")
        assert mtu_of(lab, "new") == 1450
        assert mtu_of(lab, "node-a", host_end(added)) == 1450
        for target in ("b1", "c1"):
            assert passes(lab, "new", lab.pod(target).address(4), 1450)
    finally:
        lab.remove_pod("new")
        annotate(lab, "node-c", None)
    become(lab, 1458)
    eventually(lambda: mtus(lab) == {1458})
    assert_green(lab)


def test_the_node_answers_a_packet_that_is_too_big(lab: Lab) -> None:
    node, pod = lab.node("node-a"), lab.pod("a1")
    address = node.node.address(4)
    lab.outside.ip([f"route replace {node.node.pod_range(4)} via {address} dev eth0"])
    try:
        assert passes(lab, "outside", pod.address(4), 1458)
        said = ping(lab, "outside", pod.address(4), 1500)
        assert re.search(rf"From {re.escape(str(address))} .*[Ff]rag needed.*mtu = 1458", said), said
        assert fetch(lab, "outside", pod.address(4))["name"] == "a1"
    finally:
        lab.outside.ip([f"route delete {node.node.pod_range(4)}", "route flush cache"])


def test_a_fixed_mtu_is_what_pods_get(lab: Lab) -> None:
    node = lab.node("node-a")
    reconfigure(node, mtu=1400)
    try:
        eventually(lambda: mtu_of(lab, "node-a", "ovsnet0") == 1400)
        lab.add_pod("node-a", "small")
        assert mtu_of(lab, "small") == 1400
        assert passes(lab, "small", lab.pod("b1").address(4), 1400)
        lab.remove_pod("small")
    finally:
        reconfigure(node, mtu="auto")
    eventually(lambda: mtu_of(lab, "node-a", "ovsnet0") == 1458)


def test_an_uplink_that_becomes_narrower_is_noticed_at_once(lab: Lab) -> None:
    node = lab.node("node-a")

    def widen(mtu: int) -> None:
        # vswitchd keeps what is asked for in its own row.
        request = ["ovs-vsctl", "set", "Interface", node.uplink, f"mtu_request={mtu}"]
        own = ["ip", "link", "set", node.uplink, "mtu", str(mtu)]
        node.run(request if lab.state.datapath == "netdev" else own, check=True)

    widen(1400)
    try:
        eventually(lambda: mtu_of(lab, "a1") == mtu_of(lab, "node-a", host_end(lab.pod("a1"))) == 1358)
        assert passes(lab, "a1", lab.pod("b1").address(4), 1358)
    finally:
        widen(1500)
    eventually(lambda: mtu_of(lab, "a1") == 1458)
