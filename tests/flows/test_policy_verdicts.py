"""What the switch does with a connection's first packet is what Kubernetes says of its policies, whatever they are.

Hypothesis makes clusters and what happens to them; an oracle that shares nothing with ovsnet says who may talk to whom;
`ofproto/trace` on a real vswitchd says what becomes of the packet, after every change.
"""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Iterable, Iterator
from typing import Any

import cases
import clusters
import pytest
from cluster_changes import Change, histories
from clusters import asked
from hypothesis import HealthCheck, given, settings
from oracle import verdict
from ovs.unixctl.client import UnixctlClient
from ovs_sandbox import Sandbox, installed
from policy_world import Cluster, Connection, End, Node, Object, finished, key, on_host_network, pod_addresses

from ovsnet import flowplan, names, pipeline, resources
from ovsnet.model import Encap, IPAddress, LocalNode, Peer, Pod
from ovsnet.policies import Policies
from ovsnet.policynodes import NodeAddresses
from ovsnet.render import Lines, Renderer
from ovsnet.store.clusterpolicies import ClusterPolicyReader
from ovsnet.store.labelledpods import PodReader
from ovsnet.store.namespaces import NamespaceReader
from ovsnet.store.policies import PolicyReader

CLUSTERS = int(os.environ.get("OVSNET_POLICY_CLUSTERS", "150"))
QUESTIONS = 60
"""Of the thousands that each state has."""
GATEWAY_PORT, PEER_PORT, FIRST_PORT = 1, 20000, 16
KINDS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


def address(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def addresses(texts: Iterable[str]) -> tuple[IPAddress, ...]:
    return tuple(map(address, texts))


def cidrs(node: Node) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Its pods' ranges, of which the gateways are the first addresses."""
    return tuple(
        ipaddress.ip_network(f"{each}/{24 if address(each).version == 4 else 64}", strict=False)
        for each in node.gateways
    )


class Place:
    """One of two nodes: what it has, and how packets enter its switch."""

    def __init__(self, here: Node, there: Node) -> None:
        self.name = here.name
        self.node = LocalNode(
            name=here.name,
            addresses=addresses(here.addresses),
            cidrs=cidrs(here),
            gateways=addresses(here.gateways),
            mac="0a:58:0a:01:00:01",
            ofport=GATEWAY_PORT,
        )
        self.peer = Peer(
            name=there.name,
            remote=address(there.addresses[0]),
            encap=Encap.VXLAN,
            cidrs=cidrs(there),
            addresses=addresses(there.addresses),
            port="peer",
            ofport=PEER_PORT,
            by_flow=False,
        )
        self.all_addresses = {
            each.name: NodeAddresses(
                addresses=addresses(each.addresses),
                gateways=addresses(each.gateways),
                labels=dict(each.labels),
            )
            for each in (here, there)
        }

    def has(self, pod: object) -> bool:
        """Whether the pod is on its switch."""
        return (
            isinstance(pod, dict)
            and pod["spec"]["nodeName"] == self.name
            and not finished(pod)
            and not on_host_network(pod)
            and bool(pod_addresses(pod))
        )

    def follow(self, policies: Policies, cluster: Cluster) -> None:
        policies.update(
            read(PolicyReader, cluster.policies),
            read(NamespaceReader, cluster.namespaces),
            read(PodReader, cluster.pods),
            {key(pod): addresses(pod_addresses(pod)) for pod in cluster.pods if self.has(pod)},
            self.all_addresses,
            read(ClusterPolicyReader, cluster.cluster_policies),
        )

    def packet(self, connection: Connection) -> str:
        """The first of the connection, as it enters the switch."""
        source, target = connection.source, connection.destination
        version = address(source.address).version
        port, mac = GATEWAY_PORT, self.node.mac
        if self.has(source.who):
            assert isinstance(source.who, dict)
            pod = attachment(source.who)
            port, mac = pod.ofport, pod.mac
        elif self._is_the_peers(source):
            port, mac = PEER_PORT, pipeline.ROUTER.mac
        kind = (KINDS[connection.protocol] if connection.protocol else "icmp") + ("6" if version == 6 else "")
        layer = ("nw_src", "nw_dst") if version == 4 else ("ipv6_src", "ipv6_dst")
        fields = [
            f"in_port={port},dl_src={mac},dl_dst={pipeline.ROUTER.mac},{kind},nw_ttl=64",
            f"{layer[0]}={source.address},{layer[1]}={target.address}",
        ]
        if connection.protocol is None:
            fields.append("icmp_type=8,icmp_code=0" if version == 4 else "icmpv6_type=128,icmpv6_code=0")
        else:
            prefix = KINDS[connection.protocol]
            fields.append(f"{prefix}_src=40000,{prefix}_dst={connection.port}")
            if prefix == "tcp":
                fields.append("tcp_flags=syn")
        return ",".join(fields)

    def _is_the_peers(self, end: End) -> bool:
        ip = address(end.address)
        return any(ip in each for each in self.peer.cidrs) or ip in self.peer.addresses

    def expects(self, cluster: Cluster, connection: Connection) -> bool:
        """What the oracle says, as far as this node has a say in it."""
        said = verdict(cluster, connection)
        if said.always:
            return True
        leaves = not self.has(connection.source.who) or said.egress.allows
        enters = not self.has(connection.destination.who) or said.ingress.allows
        return leaves and enters

    def is_asked(self, connection: Connection) -> bool:
        """Not about a pod to itself, nor a pod that nobody has attached yet."""
        ends = connection.source.who, connection.destination.who
        return (
            any(map(self.has, ends))
            and ends[0] is not ends[1]
            and not any(
                isinstance(end, dict) and not finished(end) and not pod_addresses(end) for end in ends
            )
        )


def attachment(pod: Object) -> Pod:
    """By the last number of its addresses."""
    ips = addresses(pod_addresses(pod))
    host = int(ips[0]) & 0xFF
    return Pod(
        namespace=pod["metadata"]["namespace"],
        name=pod["metadata"]["name"],
        container="c",
        ifname="eth0",
        netns="",
        network="ovsnet",
        port=names.host_interface(f"{host:08x}"),
        ofport=FIRST_PORT + host,
        mac=names.mac_of(ips[0]),
        ips=ips,
    )


class Judge:
    """A switch that is led from one state of a cluster to the next by bundles, as the agent does it."""

    def __init__(self, ovs: Sandbox) -> None:
        self._ovs = ovs
        command = ["add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=dummy"]
        command.append("fail_mode=secure")
        pods = ((f"p{each}", FIRST_PORT + each) for each in range(2, 30))
        for name, ofport in (("gw", GATEWAY_PORT), ("peer", PEER_PORT), *pods):
            command += ["--", "add-port", "br-int", name, "--", "set", "interface", name, "type=dummy"]
            command += [f"ofport_request={ofport}"]
        ovs.vsctl(*command)
        error, self._control = UnixctlClient.create(f"{ovs.folder}/ovs-vswitchd.ctl")
        assert not error, error
        self._installed: dict[int, Lines] = {}
        self._renderer = Renderer(resources.flows_dir())

    def follow(self, place: Place, policies: Policies, cluster: Cluster) -> None:
        """policies: kept from one state to the next, or new ones, as of an agent that starts."""
        place.follow(policies, cluster)
        pods = [attachment(pod) for pod in cluster.pods if place.has(pod)]
        wanted = self._renderer.state((place.node, place.peer, *pods, *policies.objects))
        bundle = flowplan.bundle(self._installed, wanted)
        if bundle:
            target = self._ovs.mgmt("br-int")
            self._ovs.ofctl("bundle", target, "-", stdin="\n".join(bundle) + "\n")
        self._installed = wanted

    def passes(self, packet: str) -> bool:
        """Whether it leaves the switch."""
        error, words, text = self._control.transact(
            "ofproto/trace", ["br-int", packet, "--ct-next", "trk,new"]
        )
        assert not error, words
        return str(text).rpartition("Datapath actions: ")[2].strip() != "drop"


_READ: dict[int, tuple[Object, Any]] = {}


def read(kind: Any, objects: Iterable[Object]) -> dict[str, Any]:
    """As a store hands them out: an object that did not change is the same."""
    found = {}
    for each in objects:
        known = _READ.get(id(each))
        if known is None or known[0] is not each:
            reader = kind(each, "", "")
            item = reader.read()
            assert not reader.problems, reader.problems
            known = _READ[id(each)] = each, item
        if known[1] is not None:
            found[known[1].key] = known[1]
    return found


def some(cluster: Cluster, place: Place) -> list[Connection]:
    """Of the connections that the node is asked about: the same ones for the same cluster."""
    found = [each for each in asked(cluster) if place.is_asked(each)]
    return random.Random(len(found)).sample(found, min(QUESTIONS, len(found)))


HERE = Place(*clusters.NODES)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    if not installed():
        pytest.skip("Open vSwitch is not installed")
    with Sandbox() as running:
        yield Judge(running)


@settings(
    max_examples=CLUSTERS,
    deadline=None,
    derandomize="OVSNET_POLICY_CLUSTERS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(history=histories(max_changes=3))
def test_the_switch_says_what_the_oracle_says(
    judge: Judge, history: tuple[Cluster, tuple[Change, ...]]
) -> None:
    _READ.clear()
    cluster, changes = history
    policies, told = Policies(), "at first"
    for change in (None, *changes):
        if change is not None:
            cluster, told = change.after(cluster), change.words
        judge.follow(HERE, policies, cluster)
        for each in some(cluster, HERE):
            said = judge.passes(HERE.packet(each))
            assert said == HERE.expects(cluster, each), (told, str(each), str(verdict(cluster, each)))


@pytest.mark.parametrize("case", cases.load(), ids=str)
def test_the_switches_do_what_the_documentation_says(judge: Judge, case: cases.Case) -> None:
    """On both nodes: each has its say."""
    _READ.clear()
    one, other = case.cluster.nodes
    places = Place(one, other), Place(other, one)
    denied: list[set[int]] = []
    for place in places:
        judge.follow(place, Policies(), case.cluster)
        denied.append(
            {
                number
                for number, (each, _) in enumerate(case.expected)
                if place.is_asked(each) and not judge.passes(place.packet(each))
            }
        )
    passed = [number not in set().union(*denied) for number in range(len(case.expected))]
    assert passed == [expected == cases.ALLOWED for _, expected in case.expected], denied


@settings(max_examples=CLUSTERS, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories(max_changes=6))
def test_the_same_follows_whatever_came_first(history: tuple[Cluster, tuple[Change, ...]]) -> None:
    """All at once, policies before pods, pods before policies, and by way of everything that was before."""
    _READ.clear()
    cluster, changes = history
    by_way = Policies()
    HERE.follow(by_way, cluster)
    for change in changes:
        cluster = change.after(cluster)
        HERE.follow(by_way, cluster)
    at_once = Policies()
    HERE.follow(at_once, cluster)
    assert by_way.objects == at_once.objects
    for first in ("policies", "pods", "namespaces", "cluster_policies"):
        late = Policies()
        for number in range(len(getattr(cluster, first)) + 1):
            HERE.follow(late, Cluster(nodes=cluster.nodes, **{first: getattr(cluster, first)[:number]}))
        HERE.follow(late, cluster)
        assert late.objects == at_once.objects
