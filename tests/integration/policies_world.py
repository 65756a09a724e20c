"""What the tests of NetworkPolicies share: a lab with pods of several namespaces, its policies, and who reaches whom.

On each of two nodes (N is a or b): N-web, N-api and N-db of namespace shop, labelled app=web and so on; N-guest of
namespace other, labelled app=api; N-free of namespace free, which no policy is about. In every pod, on the nodes and
outside runs `service_server` on PORT and OTHER_PORT; the outside has routes to the pods.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import yaml
from lab_world import SLOWER, agent_log, begins_green, left_over, running
from services_world import FAMILIES, OTHER_PORT, PORT, Cluster, Load, vip

from ovsnet.lab.lab import Lab
from ovsnet.lab.spec import OUTSIDE, PodSpec
from ovsnet.lab.state import write_atomically

ZONE = 65502
"""Of conntrack, for connections of pods that policies isolate."""
ROLES = {"web": "shop", "api": "shop", "db": "shop", "guest": "other", "free": "free"}
"""Namespaces of the pods."""
WEB, API, DB, GUEST, FREE = ((f"a-{role}", f"b-{role}") for role in ROLES)
PODS = (*WEB, *API, *DB, *GUEST, *FREE)
NODES = ("node-a", "node-b")
NAMED = {"a-web": PORT, "b-web": OTHER_PORT}
"""Which number the port called http has."""
ISOLATED: dict[str, Any] = {"podSelector": {}}
Pair = tuple[str, str]
Way = tuple[str, str, int, str]
"""Source, target, port and protocol."""


def app(name: str) -> dict[str, Any]:
    """A label selector."""
    return {"matchLabels": {"app": name}}


def port(number: int | str, protocol: str = "TCP", **more: Any) -> dict[str, Any]:
    return {"port": number, "protocol": protocol, **more}


FLOOD = """
import select, socket, sys, time
hosts = sys.argv[1:]
udp = {host: socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) for host in hosts}
for sock in udp.values(): sock.setblocking(False)
print("ready", flush=True)
sent = 0
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    for host, sock in udp.items():
        try: sock.sendto(b"flood", (host, 9999)); sent += 1
        except OSError: pass
print(sent, flush=True)
"""
"""Datagrams to a port where nobody listens, until standard input ends."""


class Policed(Cluster):
    """The lab, and its policies."""

    def file(self, name: str, namespace: str = "shop") -> Path:
        return self.lab.folder.path / "cluster" / f"policy.{namespace}.{name}.yaml"

    def allow(self, name: str, namespace: str = "shop", folder: Path | None = None, **spec: Any) -> None:
        """Put a policy into the store; what its spec isolates follows from the rules that it has."""
        types = [each.capitalize() for each in ("ingress", "egress") if each in spec]
        document = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"podSelector": {}, "policyTypes": types, **spec},
        }
        path = self.file(name, namespace)
        write_atomically(folder / path.name if folder else path, json.dumps(document))

    def decree(self, name: str, tier: str, priority: int, subject: Mapping[str, Any], **spec: Any) -> None:
        """Put a ClusterNetworkPolicy into the store; subject: the labels of namespaces."""
        document = {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name},
            "spec": {
                "tier": tier,
                "priority": priority,
                "subject": {"namespaces": {"matchLabels": dict(subject)}},
                **spec,
            },
        }
        write_atomically(self.file(name, "cluster"), json.dumps(document))

    def disallow(self, name: str, namespace: str = "shop") -> None:
        self.file(name, namespace).unlink(missing_ok=True)

    @contextlib.contextmanager
    def policies(self, *specs: Mapping[str, Any]) -> Iterator[None]:
        """So many policies, p0 and so on; each says how it is as `allow` takes it. In the end there is none."""
        for number, spec in enumerate(specs):
            self.allow(f"p{number}", **spec)
        try:
            yield
        finally:
            for path in self.file("x").parent.glob("policy.*.yaml"):
                path.unlink()

    def label_namespace(self, name: str, **labels: str) -> None:
        path = self.lab.folder.path / "cluster" / f"namespace.{name}.yaml"
        document = yaml.safe_load(path.read_text())
        document["metadata"]["labels"] = {"kubernetes.io/metadata.name": name, **labels}
        write_atomically(path, yaml.safe_dump(document))

    def relabel(self, pod: PodSpec, labels: Mapping[str, str]) -> None:
        """In the store alone, many times a second."""
        self.lab.manifests.label_pod(msgspec.structs.replace(pod, labels=dict(labels)))

    # who reaches whom

    def probe(
        self, source: str, targets: Sequence[tuple[str, int, str]], seconds: float = 0.7
    ) -> list[dict[str, Any]]:
        """One connection to each of (address, port, protocol), all at once: what was answered."""
        argv = self.client("probe", "", 0, targets=targets, seconds=seconds)
        done = self.lab.run(source, argv, timeout=120 * SLOWER)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def answered(
        self,
        sources: Iterable[str],
        targets: Iterable[str],
        ports: Iterable[int] = (PORT,),
        protocols: Sequence[str] = ("tcp", "udp"),
        service: int = 0,
    ) -> set[Way]:
        """Ways that are answered in both families; where it is one only, the protocol tells which.

        service: the number of a Service whose address is asked, instead of the target's own.
        """
        ways = [
            (target, number, protocol) for target in targets for number in ports for protocol in protocols
        ]
        asked = [
            (vip(service, version) if service else self.address(target, version), number, protocol)
            for target, number, protocol in ways
            for version in FAMILIES
        ]

        def of(source: str) -> set[Way]:
            answers = self.probe(source, asked)
            found = set()
            for at, (target, number, protocol) in enumerate(ways):
                good = [each.get("name") == target for each in answers[2 * at : 2 * at + 2]]
                only = "" if all(good) else f" over IPv{FAMILIES[good.index(True)] if any(good) else 0} only"
                if any(good) and source != target:
                    found.add((source, target, number, protocol + only))
            return found

        with ThreadPoolExecutor(4) as pool:
            return set().union(*pool.map(of, sources))

    def reaching(self, target: str, sources: Iterable[str], **how: Any) -> set[str]:
        """The sources that reach the target by all that `answered` is asked for."""
        ways = self.answered(sources, [target], **how)
        count = len(tuple(how.get("ports", (PORT,)))) * len(how.get("protocols", ("tcp", "udp")))
        found = {source for source, *_ in ways}
        odd = {source for source in found if sum(way[0] == source for way in ways) != count}
        return found - odd | {
            f"{way[0]}: {way[3]} to port {way[2]}" for way in ways if way[0] in odd or " " in way[3]
        }

    def becomes(self, wanted: set[Way], sources: Sequence[str], targets: Sequence[str], **how: Any) -> None:
        """Soon these ways, and no others, are open. Each pod's own node reaches it always, and it its node."""
        always = {(a, b) for a, b in self.hosts.items()} | {(b, a) for a, b in self.hosts.items()}

        def otherwise() -> set[Way]:
            found = self.answered(sources, targets, **how)
            return {way for way in found ^ wanted if way[:2] not in always or way not in found}

        different = left_over(otherwise)
        assert not different, "\n".join(
            f"{'closed' if way in wanted else 'open'}: {way}" for way in sorted(different)
        )

    def expect(self, target: str, sources: Iterable[str], only: Iterable[str], **how: Any) -> None:
        """Soon only those of the sources reach the target, and the node that it runs on. See `answered`."""
        everybody = [each for each in sources if each != target]
        wanted = {each for each in {*only, self.hosts[target]} if each in everybody}
        different = left_over(lambda: self.reaching(target, everybody, **how) ^ wanted)
        assert not different, f"to {target}, where {sorted(wanted)} may: otherwise: {sorted(different)}"

    @contextlib.contextmanager
    def watching(
        self, allowed: Iterable[Pair], denied: Iterable[Pair], gap: float = 0.01, seconds: float = 10.0
    ) -> Iterator[dict[str, int]]:
        """New TCP connections all the time, in both families: of these pairs all succeed, of those none.

        seconds: how long one may take, for a switch that is away meanwhile. How many there were is told afterwards.
        """
        figures = {"good": 0, "denied": 0}
        with contextlib.ExitStack() as stack:
            good = self._all(stack, "load", allowed, gap=gap, seconds=seconds)
            bad = self._all(stack, "knock", denied, gap=gap, seconds=1.0)
            yield figures
            for load in (*good.values(), *bad.values()):
                load.end()
            for pair, load in bad.items():
                done = load.stop()
                figures["denied"] += done["count"]
                assert done["count"] > 10, (pair, done)
                assert done["accepted"] == [], (pair, done)
            for pair, load in good.items():
                done = load.stop()
                assert done["failed"] == [], (pair, done)
                assert done["good"] > 10, (pair, done)
                figures["good"] += done["good"]

    def _all(
        self, stack: contextlib.ExitStack, do: str, pairs: Iterable[Pair], **options: Any
    ) -> dict[tuple[str, str, int], Load]:
        return {
            (source, target, version): stack.enter_context(
                self.going(do, source, self.address(target, version), PORT, **options)
            )
            for source, target in pairs
            for version in FAMILIES
        }

    # what comes in, answered or not

    @contextlib.contextmanager
    def flood(self, source: str, hosts: Sequence[str]) -> Iterator[None]:
        """From a pod to all of these addresses; pings too."""
        command = self.lab.command(source, [sys.executable, "-I", "-S", "-c", FLOOD, *hosts])
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        pings = [
            subprocess.Popen(
                self.lab.command(source, ["ping", "-q", "-i", "0.002", "-W", "1", host]),
                stdout=subprocess.DEVNULL,
            )
            for host in hosts
        ]
        with subprocess.Popen(command, **pipes) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield
                sent, _ = process.communicate(timeout=20 * SLOWER)
                assert int(sent) > 20
            finally:
                process.kill()
                for each in pings:
                    each.kill()
                    each.wait()

    def received(self, pod: str) -> int:
        """Pings and datagrams to where nobody listens that have come to a pod since it is there."""
        place, netns = self.lab.place(pod)
        text = place.run(["cat", "/proc/net/snmp", "/proc/net/snmp6"], netns=netns, check=True).stdout
        found = sum(
            int(number) for number in re.findall(r"^(?:Icmp6InEchos|Udp6NoPorts)\s+(\d+)", text, re.M)
        )
        for protocol, names in (("Icmp", ("InEchos",)), ("Udp", ("NoPorts",))):
            head, values = (line.split()[1:] for line in text.splitlines() if line.startswith(f"{protocol}:"))
            found += sum(int(values[head.index(name)]) for name in names)
        return found

    @contextlib.contextmanager
    def flooding(self, sources: Iterable[str], target: str) -> Iterator[None]:
        """Floods from all of them, of which nothing comes to the target."""
        before = self.received(target)
        hosts = [self.address(target, version) for version in FAMILIES]
        with contextlib.ExitStack() as stack:
            for source in sources:
                stack.enter_context(self.flood(source, hosts))
            yield
            assert self.received(target) == before, f"of a flood to {target} something arrived"

    # what the switch has

    def connections(self, node: str, *words: str) -> list[str]:
        """Conntrack's entries in which all of these words are."""
        dump = self.lab.node(node).run(["ovs-appctl", "dpctl/dump-conntrack"], check=True).stdout
        return [line for line in dump.splitlines() if all(word in line for word in words)]


def make_pods(lab: Lab) -> None:
    for name in PODS:
        letter, _, role = name.partition("-")
        labels = {"app": "api" if role == "guest" else role, "node": letter}
        named = {"http": NAMED[name]} if name in NAMED else {}
        lab.add_pod(f"node-{letter}", name, namespace=ROLES[role], labels=labels, ports=named)


@contextlib.contextmanager
def policed_cluster(**options: Any) -> Iterator[Policed]:
    with running(nodes=2, pods=0, **options) as lab:
        make_pods(lab)
        cluster = Policed(lab)
        cluster.serve()
        routes = [
            f"route add {node.node.pod_range(version)} via {node.node.address(version)} dev eth0"
            for node in lab.nodes
            for version in FAMILIES
        ]
        lab.outside.ip(routes)
        cluster.label_namespace("other", team="blue")
        begins_green(lab)
        yield cluster
        for node in lab.nodes:
            assert "Traceback" not in agent_log(node)


EVERYBODY = (*PODS, *NODES, OUTSIDE)
