"""The world of the policies' cases on a cluster: pods, nodes, Services, policies and labels.

Owns namespaces called x, y and z, of which a cluster has one set. Changes go through one connection to the API server,
so that a case costs no kubectl. Who is answered by whom is asked by `policy_probes`. Called by test_cluster_policies.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import httpx
import service_server
from kube_api import Api, Refused
from kube_world import READY_SECONDS, Object, by_family
from lab_world import agent_log, eventually
from policy_cases import HOST_PODS, POD_LABELS, Labels, Situation, Step, filled, namespace, pod, policy
from policy_matrix import FAMILIES, NAMESPACES, NODES, OUTSIDE, PODS, PORTS, SERVED, Way
from policy_probes import Probes

from ovsnet.host import netns
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.kubernetes.images import AGNHOST
from ovsnet.lab.spec import outside_interface
from ovsnet.store.kubernetes.access import Source

BASE = 9000
"""What Services add to the port of their endpoint."""
FIRST_NODE_PORT = 30010
"""Of those that the API server gives to nobody who doesn't ask for one."""
SERVER = "/agnhost netexec --http-port={port} --udp-port={port} --udp-listen-addresses=$ADDRESSES"
ECHO = f"""
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("::", {PORTS[0]}))
while True: sock.sendto(*sock.recvfrom(2048))
"""
"""For the outside, where the lab has a web server on that port of TCP."""
PROBE = {"httpGet": {"path": "/healthz", "port": PORTS[0]}, "periodSeconds": 1, "timeoutSeconds": 5}


class Direct(Api):
    """The administrator's requests over one connection that stays, made in the control plane's network namespace."""

    def __init__(self, cluster: Cluster) -> None:
        control = cluster.control
        self.namespace = f"/proc/{control.held().pid}/ns/net"
        super().__init__(control.pki.folder / "admin.kubeconfig", lambda argv, text: "")
        access = Source(str(self.kubeconfig)).load()
        self.client = httpx.Client(
            base_url=access.server, verify=access.context(), timeout=30, trust_env=False
        )

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        content = None if body is None else json.dumps(body)
        with open(self.namespace) as there, netns.entered(there.fileno()):
            answer = self.client.request(method, path, content=content, headers={"Content-Type": kind})
        found = answer.json()
        if answer.status_code >= 300:
            raise Refused(answer.status_code, found.get("message", ""))
        return found


def with_server(made: Object) -> Object:
    """The manifest with what answers on both ports over TCP and UDP."""
    for container in itertools.chain(
        *(made["spec"].get(kind, ()) for kind in ("containers", "initContainers"))
    ):
        container["image"] = AGNHOST
        container["args"] = ["pause"]
    here = "hostIPs" if made["spec"].get("hostNetwork") else "podIPs"
    first, second = (SERVER.format(port=port) for port in PORTS)
    made["spec"]["containers"][0] |= {
        "command": ["sh", "-c", f"{second} & exec {first}"],
        "args": [],
        "env": [{"name": "ADDRESSES", "valueFrom": {"fieldRef": {"fieldPath": f"status.{here}"}}}],
        "readinessProbe": PROBE,
        "livenessProbe": PROBE,
    }
    made["spec"]["terminationGracePeriodSeconds"] = 0
    return made


def service(of: str, local: bool) -> Object:
    """Of a pod alone. Its own ports are others than the pod's."""
    namespace, _, name = of.partition("/")
    ports = [
        {
            "name": f"{protocol.lower()}-{port}",
            "protocol": protocol,
            "port": BASE + port,
            "targetPort": port,
            "nodePort": node_port(of, port, local),
        }
        for port in PORTS
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-local" if local else name, "namespace": namespace},
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "RequireDualStack",
            "externalTrafficPolicy": "Local" if local else "Cluster",
            "selector": {"service": name},
            "ports": ports,
        },
    }


def node_port(of: str, port: int, local: bool) -> int:
    return FIRST_NODE_PORT + 4 * SERVED.index(of) + 2 * local + PORTS.index(port)


class Policed:
    """The cluster, and what it is meant to be now."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack) -> None:
        self.cluster = cluster
        self.stack = stack
        self.api = Direct(cluster)
        self.now = Situation()
        self.book: dict[str, Mapping[int, str]] = {}
        self.cluster_addresses: dict[str, Mapping[int, str]] = {}
        self.probes = Probes(cluster, stack, self.address)

    # what there is

    def start(self) -> None:
        for name, labels in self.now.namespaces.items():
            self.api.apply(namespace(name, labels))
            self.stack.callback(self.api.remove, namespace(name, {}))
        for name in NAMESPACES:
            eventually(lambda: self._there(f"api/v1/namespaces/{name}/serviceaccounts/default"))  # noqa: B023
        for name, labels in {**self.now.pods, **dict.fromkeys(HOST_PODS, POD_LABELS["a"])}.items():
            self._make(name, labels)
        for of in SERVED:
            for local in (False, True):
                made = self.api.apply(service(of, local))
                self.cluster_addresses[of] = by_family(made["spec"]["clusterIPs"])
        self.learn_nodes()
        self.serve_outside()
        self.await_ready((*PODS, *HOST_PODS))
        self.learn_pods()

    def _there(self, path: str) -> bool:
        try:
            self.api.call("GET", path)
        except Refused as refused:
            if refused.code != 404:
                raise
            return False
        return True

    def _make(self, name: str, labels: Labels) -> None:
        made = with_server(pod(name, labels))
        if name in SERVED:
            made["metadata"]["labels"]["service"] = name[-1]
        self.api.apply(made)

    def serve_outside(self) -> None:
        """Servers there, and the way to pods. Whoever else uses the cluster has neither."""
        for program in (["-c", ECHO], [service_server.__file__, str(PORTS[1]), OUTSIDE]):
            server = subprocess.Popen(self.cluster.command(OUTSIDE, [sys.executable, "-I", "-S", *program]))
            self.stack.callback(server.wait)
            self.stack.callback(server.kill)
        routes = [
            f"{self.book[f'pods of {node}'][version]} via {self.book[node][version]} dev eth0"
            for node in NODES
            for version in FAMILIES
        ]
        self.cluster.outside.ip([f"route add {route}" for route in routes])
        self.stack.callback(self.cluster.outside.ip, [f"route delete {route}" for route in routes])

    def learn_nodes(self) -> None:
        """Addresses of all but the pods. Which node has which range of pods is the controller-manager's choice."""
        for node in self.cluster.nodes:
            name = node.node.name
            ranges = by_family(self.api.call("GET", f"api/v1/nodes/{name}")["spec"]["podCIDRs"])
            self.book[name] = {version: str(node.node.address(version)) for version in FAMILIES}
            self.book[f"pods of {name}"] = ranges
            self.book[f"gateway of {name}"] = {
                version: str(ip_network(pods)[1]) for version, pods in ranges.items()
            }
        self.book[OUTSIDE] = {version: str(outside_interface(version).ip) for version in FAMILIES}

    def learn_pods(self, names: Iterable[str] = PODS) -> None:
        for name in names:
            self.book[name] = by_family(each["ip"] for each in self.status(name)["podIPs"])

    def status(self, name: str) -> Object:
        namespace, _, own = name.partition("/")
        found: Object = self.api.call("GET", f"api/v1/namespaces/{namespace}/pods/{own}")["status"]
        return found

    def ready_since(self, name: str) -> str:
        """ "" if it is not."""
        for each in self.status(name).get("conditions", ()):
            if each["type"] == "Ready" and each["status"] == "True":
                return str(each["lastTransitionTime"])
        return ""

    def await_ready(self, names: Iterable[str]) -> None:
        for name in names:
            eventually(lambda: self.ready_since(name), READY_SECONDS)  # noqa: B023

    # changes

    def do(self, step: Step) -> None:
        self.become(step.after(self.now), step.recreate)

    def become(self, wanted: Situation, recreate: Iterable[str] = ()) -> None:
        """Change what is different."""
        for name in recreate:
            self.recreate(name, wanted.pods[name])
        for name, labels in wanted.pods.items():
            if name not in recreate and labels != self.now.pods[name]:
                self.label(f"api/v1/namespaces/{name[0]}/pods/{name[-1]}", self.now.pods[name], labels)
        for name, labels in wanted.namespaces.items():
            if labels != self.now.namespaces[name]:
                self.label(f"api/v1/namespaces/{name}", self.now.namespaces[name], labels)
        for name, spec in wanted.policies.items():
            if spec != self.now.policies.get(name):
                self.put(name, spec)
        for name in {*self.now.policies} - {*wanted.policies}:
            self.api.remove(policy(name, {}))
        self.now = wanted

    def put(self, name: str, spec: Object) -> None:
        """A policy as the case says it. Raises Refused."""
        self.api.apply(policy(name, filled(spec, self.book)))
        self.now = replace(self.now, policies={**self.now.policies, name: spec})

    def label(self, path: str, before: Labels, labels: Labels) -> None:
        self.api.patch(path, {"metadata": {"labels": {**dict.fromkeys(before), **labels}}})

    def recreate(self, name: str, labels: Labels) -> None:
        old = self.cluster.place(name)
        self.api.remove(pod(name, {}))
        self.probes.end(name)
        self._make(name, labels)
        self.await_ready([name])
        # The runtime may have the last one still: the prober is to be in the new one's network.
        eventually(lambda: self.cluster.place(name) != old, READY_SECONDS)
        self.learn_pods([name])

    def undo(self) -> None:
        """As it was in the beginning."""
        self.become(Situation())

    def address(self, way: Way) -> tuple[str, int]:
        """What is dialled."""
        if way.kind == "service":
            return self.cluster_addresses[way.end][way.family], BASE + way.port
        if way.entry:
            return self.book[way.entry][way.family], node_port(way.end, way.port, way.kind == "local")
        return self.book[way.target][way.family], way.port

    def lived(self, name: str) -> tuple[str, int]:
        """Since when a pod is ready, "" if it is not; how often its server was started again."""
        containers = self.status(name)["containerStatuses"]
        return self.ready_since(name), sum(each["restartCount"] for each in containers)

    def logged(self, words: Iterable[str]) -> bool:
        """Whether the log of some agent has a line with all of these."""
        lines = itertools.chain(*(agent_log(node).splitlines() for node in self.cluster.nodes))
        return any(all(word in line for word in words) for line in lines)


@contextlib.contextmanager
def policed(cluster: Cluster) -> Iterator[Policed]:
    with contextlib.ExitStack() as stack:
        made = Policed(cluster, stack)
        stack.callback(made.undo)
        made.start()
        yield made
