"""Between CNI's words and ours: a request as a wish for a pod, a pod as a result.

Pure. Called by `attachments`, which does what is to be done.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ovsnet import names
from ovsnet.cni import netconf
from ovsnet.cni.protocol import Request
from ovsnet.cni.result import AddResult, Interface, Route, attachment
from ovsnet.errors import (
    BadEnvironment,
    LimitedConnectivity,
    NotReady,
    OvsnetError,
    TryAgain,
)
from ovsnet.host.types import AttachSpec, IPInterface
from ovsnet.model import IPAddress, Pod
from ovsnet.state import Topology

_DEFAULT_ROUTE = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


def pod(request: Request, ips: tuple[IPAddress, ...], token: str, ofport: int) -> Pod:
    """The pod that the request describes, on the port of that token and OpenFlow number.

    Without Kubernetes' arguments the container stands for the pod.
    """
    return Pod(
        namespace=request.args.pod_namespace,
        name=request.args.pod_name or request.container,
        container=request.container,
        ifname=request.ifname,
        netns=request.netns,
        network=request.network,
        port=names.host_interface(token),
        ofport=ofport,
        mac=request.mac.mac if request.mac else names.mac_of(ips[0]),
        ips=ips,
    )


def title(request: Request) -> str:
    """The key of the Pod that it is for."""
    return f"{request.args.pod_namespace}/{request.args.pod_name or request.container}"


def owner(request: Request) -> str:
    """Who will hold the addresses: the same as `pods.holder` says of the pod that comes of it."""
    name = request.args.pod_name or request.container
    return names.holder(request.args.pod_namespace, name, request.container, request.ifname)


def addresses(pod: Pod, topo: Topology) -> tuple[IPInterface, ...]:
    """The pod's addresses with the prefix lengths of their ranges; alone if the range is gone."""
    return tuple(_with_prefix(ip, topo) for ip in pod.ips)


def _with_prefix(ip: IPAddress, topo: Topology) -> IPInterface:
    length = next((c.prefixlen for c in topo.cidrs if c.version == ip.version and ip in c), ip.max_prefixlen)
    return ipaddress.ip_interface((ip, length))


def gateways(ips: Iterable[IPAddress], topo: Topology) -> tuple[IPAddress, ...]:
    """The gateway of each address's range."""
    return tuple(
        gateway
        for ip in ips
        for cidr, gateway in zip(topo.cidrs, topo.gateways, strict=True)
        if cidr.version == ip.version and ip in cidr
    )


def netns_of(request: Request) -> int:
    """The descriptor of the pod's namespace. Raises BadEnvironment when the executable could not open it."""
    if request.netns_fd is None:
        raise BadEnvironment(
            f"CNI_NETNS: {netconf.cut(request.netns)} can't be opened", "the runtime makes it before it calls"
        )
    return request.netns_fd


def attach_spec(request: Request, pod: Pod, topo: Topology) -> AttachSpec:
    """What the host does for the pod. One default route for each family."""
    by_family = {gateway.version: gateway for gateway in reversed(gateways(pod.ips, topo))}
    return AttachSpec(
        token=names.token_of(pod.port),
        netns=netns_of(request),
        ifname=pod.ifname,
        mac=pod.mac,
        mtu=topo.mtu,
        addresses=addresses(pod, topo),
        gateways=tuple(by_family[version] for version in sorted(by_family)),
    )


def result(pod: Pod, spec: AttachSpec, topo: Topology) -> AddResult:
    """What the runtime is told."""
    return attachment(
        Interface(name=pod.port),
        Interface(name=pod.ifname, mac=pod.mac, sandbox=pod.netns, mtu=spec.mtu),
        zip(spec.addresses, gateways(pod.ips, topo), strict=True),
        [Route(dst=_DEFAULT_ROUTE[gateway.version], gw=gateway) for gateway in spec.gateways],
    )


def as_try_again(trouble: OvsnetError) -> TryAgain:
    """Trouble of the node in the words of a request: later it may work."""
    return trouble if isinstance(trouble, TryAgain) else TryAgain(trouble.message, trouble.hint)


def as_status(trouble: OvsnetError, *, running: bool) -> OvsnetError:
    """Trouble of the node as STATUS tells it: 51 if running pods suffer as well, else 50."""
    if isinstance(trouble, LimitedConnectivity) and running:
        return trouble
    return NotReady(trouble.message, trouble.hint)
