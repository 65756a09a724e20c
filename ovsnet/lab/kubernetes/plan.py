"""The cluster's addresses and ranges, and the command lines of its programs.

Pure. Paths are those that the programs see in their place. Called by the rest of the package.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from ovsnet.lab import spec as lab
from ovsnet.lab.spec import CONTROL_HOST, IPAddress, IPNetwork, LabSpec, NodeSpec

API_PORT = 6443
DOMAIN = "cluster.local"
POD_RANGES: dict[int, IPNetwork] = {
    4: ipaddress.IPv4Network("10.244.0.0/16"),
    6: ipaddress.IPv6Network("fd00:10:244::/48"),
}
SERVICE_RANGES: dict[int, IPNetwork] = {
    4: ipaddress.IPv4Network("10.96.0.0/16"),
    6: ipaddress.IPv6Network("fd00:10:96::/112"),
}
NODE_RANGE = {4: 24, 6: 64}
"""Prefix lengths of the ranges that the controller-manager gives to nodes."""
FILES = "/run/ovsnet/kubernetes"
"""Where certificates, kubeconfigs and configurations are, in the control plane's place and on nodes."""
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ETCD_DATA, ETCD_CLIENTS = "/var/lib/etcd", "http://127.0.0.1:2379"
ETCD, APISERVER = "etcd", "kube-apiserver"
CONTROLLERS, SCHEDULER = "kube-controller-manager", "kube-scheduler"
AGENT_USER = "ovsnet-agent"


def control_address(version: int) -> IPAddress:
    return lab.host(version, CONTROL_HOST)


def api_address(spec: LabSpec) -> IPAddress:
    """The one that everybody uses: of the pods' first family, as that of the first Service."""
    return control_address(spec.pod_families[0])


def api_url(spec: LabSpec) -> str:
    address = api_address(spec)
    return f"https://{f'[{address}]' if address.version == 6 else address}:{API_PORT}"


def service_address(version: int, number: int) -> IPAddress:
    return SERVICE_RANGES[version][number]


def dns_addresses(spec: LabSpec) -> list[str]:
    return [str(service_address(version, 10)) for version in spec.pod_families]


def api_names(spec: LabSpec) -> list[str]:
    """What the API server's certificate is for, as openssl wants subjectAltName."""
    addresses = [control_address(version) for version in spec.underlay_families]
    addresses += [service_address(version, 1) for version in spec.pod_families]
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
    return [*(f"IP:{each}" for each in (*addresses, "127.0.0.1", "::1")), *(f"DNS:{name}" for name in names)]


def node_addresses(spec: LabSpec, node: NodeSpec) -> list[str]:
    """InternalIPs: of the pods' first family first."""
    first = spec.pod_families[0]
    return [
        str(node.address(each)) for each in sorted(spec.underlay_families, key=lambda each: each != first)
    ]


def joined(ranges: Mapping[int, object], spec: LabSpec) -> str:
    return ",".join(str(ranges[version]) for version in spec.pod_families)


def flags(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def etcd() -> list[str]:
    """One member, which does not wait for the disk: a lab that loses power is made anew."""
    return [
        ETCD,
        *flags(
            {
                "data-dir": ETCD_DATA,
                "listen-client-urls": ETCD_CLIENTS,
                "advertise-client-urls": ETCD_CLIENTS,
                "unsafe-no-fsync": "true",
                "log-level": "warn",
                "warning-unary-request-duration": "1s",
            }
        ),
    ]


def apiserver(spec: LabSpec) -> list[str]:
    return [
        APISERVER,
        *flags(
            {
                "advertise-address": api_address(spec),
                "bind-address": "::" if 6 in spec.underlay_families else "0.0.0.0",  # noqa: S104  # of the lab
                "secure-port": API_PORT,
                "etcd-servers": ETCD_CLIENTS,
                "service-cluster-ip-range": joined(SERVICE_RANGES, spec),
                "allow-privileged": "true",
                "authorization-mode": "Node,RBAC",
                "enable-admission-plugins": "NodeRestriction",
                "client-ca-file": f"{FILES}/ca.crt",
                "tls-cert-file": f"{FILES}/apiserver.crt",
                "tls-private-key-file": f"{FILES}/apiserver.key",
                "kubelet-certificate-authority": f"{FILES}/ca.crt",
                "kubelet-client-certificate": f"{FILES}/apiserver-kubelet.crt",
                "kubelet-client-key": f"{FILES}/apiserver-kubelet.key",
                # Names of nodes are in no DNS that the API server could ask.
                "kubelet-preferred-address-types": "InternalIP",
                "service-account-issuer": f"https://kubernetes.default.svc.{DOMAIN}",
                "service-account-key-file": f"{FILES}/sa.pub",
                "service-account-signing-key-file": f"{FILES}/sa.key",
                # It is on no node, where Services would be served: it takes their endpoints itself.
                "enable-aggregator-routing": "true",
                "requestheader-client-ca-file": f"{FILES}/front-proxy-ca.crt",
                "requestheader-allowed-names": "front-proxy-client",
                "requestheader-extra-headers-prefix": "X-Remote-Extra-",
                "requestheader-group-headers": "X-Remote-Group",
                "requestheader-username-headers": "X-Remote-User",
                "proxy-client-cert-file": f"{FILES}/front-proxy-client.crt",
                "proxy-client-key-file": f"{FILES}/front-proxy-client.key",
            }
        ),
    ]


def controllers(spec: LabSpec) -> list[str]:
    masks: dict[str, object] = {"node-cidr-mask-size": NODE_RANGE[spec.pod_families[0]]}
    if len(spec.pod_families) > 1:
        masks = {f"node-cidr-mask-size-ipv{version}": NODE_RANGE[version] for version in spec.pod_families}
    return [
        CONTROLLERS,
        *flags(
            {
                "kubeconfig": f"{FILES}/{CONTROLLERS}.kubeconfig",
                "leader-elect": "false",
                "allocate-node-cidrs": "true",
                "cluster-cidr": joined(POD_RANGES, spec),
                "service-cluster-ip-range": joined(SERVICE_RANGES, spec),
                **masks,
                "use-service-account-credentials": "true",
                "service-account-private-key-file": f"{FILES}/sa.key",
                "root-ca-file": f"{FILES}/ca.crt",
                "cluster-signing-cert-file": f"{FILES}/ca.crt",
                "cluster-signing-key-file": f"{FILES}/ca.key",
            }
        ),
    ]


def scheduler() -> list[str]:
    return [SCHEDULER, *flags({"kubeconfig": f"{FILES}/{SCHEDULER}.kubeconfig", "leader-elect": "false"})]


def kubelet(spec: LabSpec, node: NodeSpec) -> list[str]:
    return [
        "kubelet",
        *flags(
            {
                "config": f"{FILES}/kubelet.yaml",
                "kubeconfig": f"{FILES}/kubelet.kubeconfig",
                "hostname-override": node.name,
                "node-ip": ",".join(node_addresses(spec, node)),
            }
        ),
    ]
