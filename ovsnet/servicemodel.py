"""Services and their endpoints as a store supplies them: Kubernetes' objects, as far as the network needs them.

Pure data. Fields mean what the API reference of core/v1 Service and discovery.k8s.io/v1 EndpointSlice says. A store
makes them, strictly; `services` derives from them what this node programs.
"""

from __future__ import annotations

import enum

from ovsnet.model import Frozen, IPAddress, IPNetwork, Namespaced


class Protocol(str, enum.Enum):
    """The value is the API's."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class ServicePort(Frozen):
    """One of a Service's ports. name: "" if it is the only one. node_port: 0 if it has none."""

    port: int
    protocol: Protocol = Protocol.TCP
    name: str = ""
    node_port: int = 0


class Service(Namespaced):
    """A Service that packets are to be translated for.

    Those without a ClusterIP (headless, ExternalName) and those of another proxy (label
    `service.kubernetes.io/service-proxy-name`) concern no agent, and no store hands them out.
    """

    cluster_ips: tuple[IPAddress, ...]
    ports: tuple[ServicePort, ...]
    external_ips: tuple[IPAddress, ...] = ()
    load_balancer_ips: tuple[IPAddress, ...] = ()
    """Of status.loadBalancer.ingress, but for entries whose ipMode is Proxy: to those packets are sent on."""
    source_ranges: tuple[IPNetwork, ...] = ()
    """loadBalancerSourceRanges: who may use load balancers' addresses; none given: everybody."""
    external_local: bool = False
    """externalTrafficPolicy: Local."""
    internal_local: bool = False
    """internalTrafficPolicy: Local."""
    affinity: int = 0
    """Seconds that a client stays with its endpoint (sessionAffinity: ClientIP); 0: none."""
    health_check_port: int = 0
    """healthCheckNodePort; 0 if there is none."""
    created: str = ""
    """creationTimestamp (RFC 3339, in UTC), "" if unknown: of two that claim one address and port the elder has it."""
    source: str = ""
    """Where it stands, for messages."""
    withheld: frozenset[tuple[IPAddress, Protocol, int]] = frozenset()
    """Of external and load balancers' addresses: ports that another Service has (`store.frontends`)."""
    refused: frozenset[IPAddress] = frozenset()
    """Addresses given here that are a pod's or a node's, where the Service is not reached (`store.taken`)."""

    @property
    def inner_ips(self) -> tuple[IPAddress, ...]:
        """ClusterIPs that can be served."""
        if not self.refused:
            return self.cluster_ips
        return tuple(each for each in self.cluster_ips if each not in self.refused)

    @property
    def outer_ips(self) -> tuple[IPAddress, ...]:
        """External and load balancers' addresses that can be served, each once.

        The API checks no families there: one that the Service has no ClusterIP of has no endpoints, as kube-proxy sees
        it, and may be anybody's. A ClusterIP of its own is that and nothing else.
        """
        if not self.external_ips and not self.load_balancer_ips:
            return ()
        families = {address.version for address in self.cluster_ips}
        both = dict.fromkeys((*self.external_ips, *self.load_balancer_ips))
        never = {*self.cluster_ips, *self.refused}
        return tuple(each for each in both if each.version in families and each not in never)


class Endpoint(Frozen):
    """One address of an EndpointSlice (of several that an entry may have, the first counts, as the API demands)."""

    address: IPAddress
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    """nodeName."""
    zone: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()
    """hints.forZones and hints.forNodes: whose traffic it is meant for."""


class EndpointPort(Frozen):
    """name: that of the Service's port. port: of the endpoint, a number always (targetPort is resolved)."""

    port: int
    protocol: Protocol = Protocol.TCP
    name: str = ""


class EndpointSlice(Namespaced):
    """A part of a Service's endpoints, all of one family."""

    service: str
    """Label `kubernetes.io/service-name`."""
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    source: str = ""
