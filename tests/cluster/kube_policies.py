"""The world of the policies' cases on a cluster: its pods, nodes and Services, and who is answered by whom.

Owns namespaces called x, y and z, of which a cluster has one set. Policies and labels change through one connection to
the API server, and in each place one prober stays, so that a case costs neither kubectl nor the start of a program.
Called by test_cluster_policies alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import policy_prober
import service_server
from kube_api import Api, Refused
from kube_world import AGNHOST, READY_SECONDS, Object, by_family, started
from lab_world import SLOWER, agent_log, eventually
from policy_cases import HOST_PODS, POD_LABELS, Labels, Situation, Step, filled, namespace, pod, policy
from policy_matrix import FAMILIES, HOSTS, NAMESPACES, NODES, OUTSIDE, PODS, PORTS, SERVED, Table, Way

from ovsnet.host import netns
from ovsnet.lab.kubernetes.cluster import Cluster
from ovsnet.lab.spec import outside_interface
from ovsnet.store.kubernetes.access import Source

SECONDS = 10.0
"""Within which a change is in force on all nodes."""
LONGEST = 1.5
"""Seconds that one round of probes waits for those who should be answered."""
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
        self.client = httpx.Client(base_url=access.server, verify=access.context(), timeout=30, trust_env=False)

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
    for container in itertools.chain(*(made["spec"].get(kind, ()) for kind in ("containers", "initContainers"))):
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
        self.allowed: dict[Way, bool] = {}
        """What was true at last."""
        self.book: dict[str, Mapping[int, str]] = {}
        self.cluster_addresses: dict[str, Mapping[int, str]] = {}
        self.probers: dict[str, subprocess.Popen[str]] = {}

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
        for program in (["-c", ECHO], [service_server.__file__, OUTSIDE, str(PORTS[1])]):
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
        """"" if it is not."""
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
                self.api.apply(policy(name, filled(spec, self.book)))
        for name in {*self.now.policies} - {*wanted.policies}:
            self.api.remove(policy(name, {}))
        self.now = wanted

    def label(self, path: str, before: Labels, labels: Labels) -> None:
        self.api.patch(path, {"metadata": {"labels": {**dict.fromkeys(before), **labels}}})

    def recreate(self, name: str, labels: Labels) -> None:
        old = self.cluster.place(name)
        self.api.remove(pod(name, {}))
        self.end_prober(name)
        self._make(name, labels)
        self.await_ready([name])
        # The runtime may have the last one still: the prober is to be in the new one's network.
        eventually(lambda: self.cluster.place(name) != old, READY_SECONDS)
        self.learn_pods([name])

    def undo(self) -> None:
        """As it was in the beginning."""
        self.become(Situation())

    # who is answered

    def prober(self, place: str) -> subprocess.Popen[str]:
        if place not in self.probers:
            command = [sys.executable, "-I", "-S", str(Path(policy_prober.__file__))]
            self.probers[place] = self.stack.enter_context(
                started(self.cluster.command(place, command), stdin=subprocess.PIPE)
            )
        return self.probers[place]

    def end_prober(self, place: str) -> None:
        if place in self.probers:
            self.probers.pop(place).kill()

    def ask(self, wanted: Mapping[Way, bool]) -> dict[Way, str]:
        """What each way was answered, all at once. wanted: and whether an answer is expected."""
        by_source: dict[str, list[Way]] = {}
        for way in wanted:
            by_source.setdefault(way.source, []).append(way)
        for source, ways in by_source.items():
            asked = [[*self.address(way), way.protocol, wanted[way]] for way in ways]
            stdin = self.prober(source).stdin
            assert stdin is not None
            stdin.write(json.dumps({"ways": asked, "seconds": LONGEST * SLOWER}) + "\n")
            stdin.flush()
        found: dict[Way, str] = {}
        for source, ways in by_source.items():
            stdout = self.prober(source).stdout
            assert stdout is not None
            found.update(zip(ways, json.loads(stdout.readline()), strict=True))
        return found

    def address(self, way: Way) -> tuple[str, int]:
        """What is dialled."""
        if way.kind == "service":
            return self.cluster_addresses[way.end][way.family], BASE + way.port
        if way.entry:
            return self.book[way.entry][way.family], node_port(way.end, way.port, way.kind == "local")
        return self.book[way.target][way.family], way.port

    def wrong(self, wanted: Mapping[Way, bool]) -> dict[Way, str]:
        """Those that were answered otherwise, and how."""
        said = self.ask(wanted)
        return {way: word for way, word in said.items() if word != ("answered" if wanted[way] else "")}

    def becomes(self, table: Table, ways: Iterable[Way]) -> None:
        """Soon the table is true of all the ways, and then of each that is denied at the first try."""
        wanted = {way: allowed for way, allowed in table.of(ways).items() if way.protocol != "SCTP"}
        until = time.monotonic() + SECONDS * SLOWER
        wrong = self.retried(self.changed(wanted), until)
        leaks: list[Way] = []
        if not wrong:
            wrong = self.wrong(wanted)
            leaks = [way for way in wrong if not wanted[way]]
            wrong = self.retried({way: wanted[way] for way in wrong}, until)
        if not wrong and leaks:
            wrong = self.wrong({way: False for way, allowed in wanted.items() if not allowed})
        assert not wrong, told(wrong, wanted)
        self.allowed = wanted

    def retried(self, wanted: Mapping[Way, bool], until: float) -> dict[Way, str]:
        """What is still wrong then."""
        left = dict(wanted)
        while left:
            wrong = self.wrong(left)
            if time.monotonic() > until:
                return wrong
            left = {way: wanted[way] for way in wrong}
        return {}

    def changed(self, wanted: Mapping[Way, bool]) -> dict[Way, bool]:
        """A few of the ways on which something else is wanted now: from each such source, to each such target."""
        few: dict[Way, bool] = {}
        sources, targets = set(), set()
        for way, allowed in wanted.items():
            if self.allowed.get(way, True) != allowed and not (way.source in sources and way.target in targets):
                few[way] = allowed
                sources.add(way.source)
                targets.add(way.target)
        if not few:
            self.await_audits()
        return few

    def await_audits(self) -> None:
        """Where nothing changes that can be seen: until the flows on all nodes are what the objects ask for."""

        def clean() -> bool:
            with ThreadPoolExecutor() as pool:
                return not any(pool.map(self._audit, NODES))

        eventually(clean, SECONDS)

    def _audit(self, node: str) -> int:
        return self.cluster.node(node).run(["/run/ovsnet/bin/ovsnet", "audit"]).returncode

    # what ovsnet says itself

    def checked(self, table: Table, ways: Iterable[Way]) -> None:
        """Where no packet can be sent: what `ovsnet policy check` says on both ends' nodes, proven by their flows."""
        wanted = {way: allowed for way, allowed in table.of(ways).items() if way.protocol == "SCTP"}
        asked = {
            (node, way.source, way.target, way.port)
            for way in wanted
            for node in {HOSTS[way.source], HOSTS[way.target]}
        }
        with ThreadPoolExecutor() as pool:
            answers = dict(zip(sorted(asked), pool.map(lambda each: self.check(*each), sorted(asked)), strict=True))
        wrong = [
            f"{way} on {node}: {answers[node, way.source, way.target, way.port]}"
            for way, allowed in wanted.items()
            for node in {HOSTS[way.source], HOSTS[way.target]}
            if answers[node, way.source, way.target, way.port].get(way.family) is not allowed
        ]
        assert not wrong, "\n".join(wrong)

    def check(self, node: str, source: str, target: str, port: int) -> dict[int, bool]:
        """By family."""
        command = ["/run/ovsnet/bin/ovsnet", "policy", "check", source, target, "--sctp", str(port), "-o", "json"]
        done = self.cluster.node(node).run(command)
        assert done.returncode in (0, 1), done.stderr
        found = json.loads(done.stdout)["connections"]
        return {6 if ":" in each["target"] else 4: each["allowed"] for each in found}

    def logged(self, words: Iterable[str]) -> bool:
        """Whether the log of some agent has a line with all of these."""
        lines = itertools.chain(*(agent_log(node).splitlines() for node in self.cluster.nodes))
        return any(all(word in line for word in words) for line in lines)


def told(wrong: Mapping[Way, str], wanted: Mapping[Way, bool]) -> str:
    """For people who look for the reason; the first of many."""
    lines = [
        f"{way} is to be {'allowed' if wanted[way] else 'denied'}, and is {word or 'not answered'}"
        for way, word in sorted(wrong.items())
    ]
    more = [f"... and {len(lines) - 25} more"] if len(lines) > 25 else []
    return "\n".join([f"{len(lines)} of {len(wanted)} ways:", *lines[:25], *more])


@contextlib.contextmanager
def policed(cluster: Cluster) -> Iterator[Policed]:
    with contextlib.ExitStack() as stack:
        made = Policed(cluster, stack)
        stack.callback(made.undo)
        made.start()
        yield made
