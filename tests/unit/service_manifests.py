"""A Service and an EndpointSlice as manifests have them, what they mean, and either with something changed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import yaml

from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from ovsnet.store import manifest
from ovsnet.store.services import ServiceReader
from ovsnet.store.slices import SliceReader

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels: {app: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  ipFamilyPolicy: PreferDualStack
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}
  - {name: dns, port: 53, protocol: UDP}
  externalIPs: [192.0.2.80]
  loadBalancerSourceRanges: [198.51.100.7/24]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Cluster
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  healthCheckNodePort: 30100
status:
  loadBalancer:
    ingress:
    - {ip: 203.0.113.5}
    - {ip: 203.0.113.6, ipMode: VIP}
    - {ip: 203.0.113.7, ipMode: Proxy}
    - {hostname: lb.example.com}
"""
EXPECTED = Service(
    namespace="shop",
    name="web",
    cluster_ips=(ip_address("10.96.0.10"), ip_address("fd00:96::10")),
    ports=(
        ServicePort(name="http", port=80, node_port=30080),
        ServicePort(name="dns", port=53, protocol=Protocol.UDP),
    ),
    external_ips=(ip_address("192.0.2.80"),),
    load_balancer_ips=(ip_address("203.0.113.5"), ip_address("203.0.113.6")),
    source_ranges=(ip_network("198.51.100.0/24"),),
    external_local=True,
    affinity=60,
    health_check_port=30100,
    created="2026-01-02T03:04:05Z",
    source="a.yaml",
)
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-x7k2p
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
- {name: dns, port: 53, protocol: UDP, appProtocol: dns}
endpoints:
- addresses: [10.244.1.5, 10.244.1.6]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: node-a
  zone: z1
  hints: {forZones: [{name: z1}], forNodes: [{name: node-a}]}
- addresses: [10.244.2.5]
  conditions: {ready: false, terminating: true, serving: true}
- addresses: [10.244.2.6]
"""
EXPECTED_SLICE = EndpointSlice(
    namespace="shop",
    name="web-x7k2p",
    service="web",
    ports=(EndpointPort(name="http", port=8080), EndpointPort(name="dns", port=53, protocol=Protocol.UDP)),
    endpoints=(
        Endpoint(
            address=ip_address("10.244.1.5"),
            node="node-a",
            zone="z1",
            for_zones=("z1",),
            for_nodes=("node-a",),
        ),
        Endpoint(address=ip_address("10.244.2.5"), ready=False, serving=True, terminating=True),
        Endpoint(address=ip_address("10.244.2.6")),
    ),
    source="a.yaml",
)


def changed(text: str, path: str, value: object) -> dict[str, Any]:
    """The object of the manifest with one field set, or removed (None)."""
    document: dict[str, Any] = yaml.safe_load(text)
    at: Any = document
    *way, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    for step in way:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return document


def contents(*objects: object) -> manifest.Contents:
    return manifest.read("---\n".join(yaml.safe_dump(each) for each in objects), "a.yaml")


def services(found: manifest.Contents) -> tuple[Service, ...]:
    return tuple(manifest.of(found.objects, ServiceReader).values())


def slices(found: manifest.Contents) -> tuple[EndpointSlice, ...]:
    return tuple(manifest.of(found.objects, SliceReader).values())
