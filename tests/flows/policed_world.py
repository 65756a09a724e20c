"""A bridge whose pods have policies: it is led from one state to the next by bundles, as the agent does it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from flow_world import A1, A2, NODE, PEERS, WITH_SERVICES, Bridge

from ovsnet import flowplan, resources
from ovsnet.model import IPAddress, Pod
from ovsnet.objects import Object
from ovsnet.policies import Policies
from ovsnet.policymodel import (
    Block,
    ClusterNetworkPolicy,
    LabelledPod,
    Namespace,
    NetworkPolicy,
    Operator,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
)
from ovsnet.policynodes import NodeAddresses
from ovsnet.policyobjects import OlderConnections
from ovsnet.render import Lines, Renderer
from ovsnet.servicemodel import Protocol

NODES = {
    "node-a": NodeAddresses(addresses=NODE.addresses, gateways=NODE.gateways),
    **{
        peer.name: NodeAddresses(
            addresses=peer.addresses, gateways=tuple(cidr.network_address + 1 for cidr in peer.cidrs)
        )
        for peer in PEERS
    },
}
NAMESPACES = {
    name: Namespace(name=name, labels={"kubernetes.io/metadata.name": name, **labels})
    for name, labels in (("default", {"team": "a"}), ("other", {"team": "b"}))
}


def labelled(name: str, ips: Iterable[IPAddress], namespace: str = "default", **labels: str) -> LabelledPod:
    return LabelledPod(namespace=namespace, name=name, labels=labels, ips=tuple(ips))


def selector(**labels: str) -> Selector:
    return Selector(
        requirements=tuple(
            Requirement(key=key, operator=Operator.IN, values=frozenset({value}))
            for key, value in sorted(labels.items())
        )
    )


def policy(
    name: str,
    pods: Selector,
    ingress: Iterable[PolicyRule] | None = None,
    egress: Iterable[PolicyRule] | None = None,
    namespace: str = "default",
) -> NetworkPolicy:
    return NetworkPolicy(
        namespace=namespace,
        name=name,
        pods=pods,
        ingress=None if ingress is None else tuple(ingress),
        egress=None if egress is None else tuple(egress),
    )


def rule(*peers: PolicyPeer, ports: Iterable[int] | None = None) -> PolicyRule:
    """ports: of TCP."""
    return PolicyRule(
        peers=peers or None,
        ports=None
        if ports is None
        else tuple(PolicyPort(protocol=Protocol.TCP, first=each, last=each) for each in ports),
    )


B1 = labelled("b1", (ipaddress.ip_address("10.244.2.5"), ipaddress.ip_address("fd00:2::5")), app="b")
PODS = {each.key: each for each in (labelled("a1", A1.ips, app="a1"), labelled("a2", A2.ips, app="a2"), B1)}


class Policed:
    """What is installed of policies on a bridge, beside everything else."""

    def __init__(
        self, bridge: Bridge, others: Iterable[Object] = WITH_SERVICES, pods: Iterable[Pod] = (A1, A2)
    ) -> None:
        self.bridge = bridge
        self.policies = Policies()
        self.renderer = Renderer(resources.flows_dir())
        self.others = tuple(others)
        self.local: Mapping[str, tuple[IPAddress, ...]] = {each.title: each.ips for each in pods}
        self.installed: dict[int, Lines] = {}

    def apply(
        self,
        *policies: NetworkPolicy,
        older: bool = True,
        pods: Mapping[str, LabelledPod] = PODS,
        namespaces: Mapping[str, Namespace] = NAMESPACES,
        cluster: Iterable[ClusterNetworkPolicy] = (),
    ) -> list[str]:
        """These are the policies from now on. The bundle that it took.

        older: pods that they isolate may have connections from before.
        """
        before = {each.key for each in self.policies.isolated}
        self.policies.update(
            {each.key: each for each in policies},
            namespaces,
            pods,
            self.local,
            NODES,
            {each.name: each for each in cluster},
        )
        wanted = self.renderer.state((*self.others, *self.policies.objects))
        bundle = flowplan.bundle(self.installed, wanted)
        for each in self.policies.isolated:
            if older and each.key not in before:
                found = OlderConnections(namespace=each.namespace, name=each.name, ips=each.ips, seconds=300)
                bundle += [f"flow add {line}" for line in self.renderer.object(found)]
        if bundle:
            ovs = self.bridge.ovs
            ovs.ofctl("bundle", ovs.mgmt(self.bridge.name), "-", stdin="\n".join(bundle) + "\n")
        self.installed = wanted
        return bundle


def everything_allowed() -> tuple[Object, ...]:
    """Policies that isolate the node's pods in both directions and allow them everything, by its addresses."""
    blocks = tuple(PolicyPeer(block=Block(cidr=ipaddress.ip_network(each))) for each in ("0.0.0.0/0", "::/0"))
    policies = Policies()
    policies.update(
        {"default/all": policy("all", Selector(), ingress=[rule(*blocks)], egress=[rule(*blocks)])},
        NAMESPACES,
        PODS,
        {each.title: each.ips for each in (A1, A2)},
        NODES,
    )
    return tuple(policies.objects)
