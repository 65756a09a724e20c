"""What the tests of Services on a Kubernetes cluster share: Services and what is behind them, and clients.

A client is a place as in `kube_world`; a name alone that is no place of the lab is a pod of the test's namespace. All
servers are agnhost's netexec: HTTP on port 8080, datagrams on 8081.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import service_client
from kube_world import NODES, PORT, Namespace, Object, await_calm, by_family, server
from lab_world import SLOWER, eventually
from services_world import FAMILIES, Load

UDP_PORT = 8081
AGE = 15.0
"""Seconds within which a change of objects has come from the API server through its controllers to every node."""
TCP = {"name": "http", "port": 80, "targetPort": PORT}
UDP = {"name": "udp", "port": 80, "targetPort": UDP_PORT, "protocol": "UDP"}
SERVERS = {f"web-{node[-1]}": node for node in NODES}
CLIENTS = {f"client-{node[-1]}": node for node in NODES}
EVERYWHERE = (*CLIENTS, *NODES)
"""Where Services are called from within the cluster."""
BY_OUTSIDE = '"name": "outside"'
"""In what the lab's web server outside (TCP port 80) says."""
Target = tuple[str, int, str]
"""Address, port, protocol."""
PROBE = {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 5}


def service(name: str, selector: Mapping[str, str], *ports: Object, **spec: Any) -> Object:
    """Of both families, on TCP and UDP port 80 unless it says otherwise."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": dict(selector),
            "ports": list(ports or (TCP, UDP)),
            **spec,
        },
    }


def workload(kind: str, name: str, replicas: int, more: Object, **pod: Any) -> Object:
    """A Deployment or StatefulSet of servers; more of its fields; pod: as for `server`."""
    made = server(name, **pod)
    template = {"metadata": {"labels": {"app": name}}, "spec": made["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
            **more,
        },
    }


class Called:
    """The Services of a namespace, as their clients have them."""

    def __init__(self, world: Namespace) -> None:
        self.world = world
        self.cluster = world.cluster

    def start(self) -> None:
        """A server and a client on each node."""
        web: dict[str, Any] = {"labels": {"group": "web"}, "livenessProbe": PROBE, "readinessProbe": PROBE}
        web["ports"] = [{"name": "by-name", "containerPort": PORT}]
        servers = [server(name, node, **web) for name, node in SERVERS.items()]
        self.world.start(
            *servers, *(server(name, node, arguments=["pause"]) for name, node in CLIENTS.items())
        )

    def make(self, name: str, selector: Mapping[str, str], *ports: Object, **spec: Any) -> dict[int, str]:
        """A Service; its ClusterIPs by family."""
        self.world.apply(service(name, selector, *ports, **spec))
        return self.addresses(name)

    def addresses(self, name: str) -> dict[int, str]:
        return by_family(self.world.get("service", name)["spec"].get("clusterIPs", []))

    def node_port(self, name: str, port: str = "http") -> int:
        found = self.world.get("service", name)["spec"]["ports"]
        return next(int(each["nodePort"]) for each in found if each["name"] == port)

    def node_ports(self, name: str) -> list[Target]:
        """A Service's on every node, in both families and protocols."""
        ports = {"tcp": self.node_port(name), "udp": self.node_port(name, "udp")}
        hosts = [str(node.node.address(version)) for node in self.cluster.nodes for version in FAMILIES]
        return [(host, port, protocol) for host in hosts for protocol, port in ports.items()]

    def balance(self, name: str, addresses: Iterable[str], **more: str) -> None:
        """What a load balancer's controller writes: its addresses, each with more of its fields."""
        ingress = [{"ip": address, **more} for address in addresses]
        self.patch(name, {"status": {"loadBalancer": {"ingress": ingress}}}, "--subresource=status")

    def patch(self, name: str, change: Object, *arguments: str) -> None:
        self.world.kubectl(
            "patch", "service", name, "--type=merge", f"--patch={json.dumps(change)}", *arguments
        )

    def pods(self, app: str) -> set[str]:
        """Those with the label that are not about to go."""
        listed = self.labelled("pods", f"app={app}")
        return {each["metadata"]["name"] for each in listed if "deletionTimestamp" not in each["metadata"]}

    def slices(self, name: str) -> list[Object]:
        """The EndpointSlices of a Service."""
        return self.labelled("endpointslices", f"kubernetes.io/service-name={name}")

    def offers(self, name: str) -> list[set[str]]:
        """The pods that are ready, of each EndpointSlice of a Service."""
        return [
            {
                each["targetRef"]["name"]
                for each in found.get("endpoints") or ()
                if each["conditions"].get("ready")
            }
            for found in self.slices(name)
        ]

    def labelled(self, kind: str, selector: str) -> list[Object]:
        listed = self.world.kubectl("get", kind, f"--selector={selector}", "--output=json")
        return list(json.loads(listed)["items"])

    def canonical(self, name: str) -> str:
        """What the cluster's DNS says to a pod that a name is an alias of; nothing if it is none."""
        asked = f"nslookup -type=cname {name}.{self.world.name}.svc.cluster.local 10.96.0.10; :"
        said = self.world.kubectl("exec", "client-a", "--", "sh", "-c", asked)
        return said.partition("canonical name = ")[2].partition("\n")[0].strip().rstrip(".")

    # clients

    def place(self, source: str) -> str:
        return (
            source if source in (*NODES, "outside", "control") or "/" in source else self.world.place(source)
        )

    def command(self, source: str, do: str, host: str, port: int, **options: Any) -> list[str]:
        options = {"text": "hostname", "seconds": 3.0, **options}
        if options["text"] is None:  # the server is a `service_server`
            del options["text"]
        options["seconds"] *= SLOWER
        asked = json.dumps({"do": do, "host": host, "port": port, **options})
        return self.cluster.command(
            self.place(source), [sys.executable, "-I", "-S", service_client.__file__, asked]
        )

    def ask(self, source: str, host: str, port: int = 80, *, do: str = "ask", **options: Any) -> list[Object]:
        """What `count` connections in a row are answered; {"error": ...} where there is no answer."""
        done = subprocess.run(
            self.command(source, do, host, port, **options),
            capture_output=True, text=True, timeout=120 * SLOWER, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def one(self, source: str, host: str, port: int = 80, **options: Any) -> Object:
        return self.ask(source, host, port, **options)[0]

    def names(self, source: str, host: str, port: int = 80, count: int = 24, **options: Any) -> set[str]:
        """Who answers so many connections, errors in their own words."""
        found = self.ask(source, host, port, count=count, **options)
        return {each.get("name") or each["error"] for each in found}

    def seen(self, source: str, host: str, port: int = 80, **options: Any) -> str:
        """The address that the server sees the source come from, or the error."""
        said = self.one(source, host, port, text="clientip", **options)
        return str(said["name"]).rpartition(":")[0].strip("[]") if "name" in said else str(said["error"])

    def await_names(
        self, host: str, names: set[str], port: int = 80, sources: Sequence[str] = EVERYWHERE, **options: Any
    ) -> None:
        """Until all that is answered from every source is these, and each of them is."""
        options = {"seconds": 1.0, **options}

        def others() -> dict[str, set[str]]:
            with ThreadPoolExecutor(max_workers=3) as pool:
                found = pool.map(lambda source: self.names(source, host, port, **options), sources)
            return {source: got for source, got in zip(sources, found, strict=True) if got != names}

        last: dict[str, set[str]] = {}

        def met() -> bool:
            last.clear()
            last.update(others())
            return not last

        try:
            eventually(met, AGE)
        except AssertionError as error:
            raise AssertionError(f"{host} port {port} {options}: wanted {names}, found {last}") from error

    def await_served(self, addresses: Mapping[int, str], names: set[str], port: int = 80) -> None:
        """Until everybody in the cluster is answered by these and nobody else, in each family and protocol."""
        for address in addresses.values():
            for protocol in ("tcp", "udp"):
                self.await_names(address, names, port, protocol=protocol)

    def await_answer(self, sources: Sequence[str], targets: Sequence[Target], answer: str) -> None:
        """Until every source has had an answer (or error) with these words from every target, within a second.

        Who has had it is not asked again: kernels send a host few ICMP errors in a second.
        """
        missing = {source: [*targets] for source in sources}
        last: dict[str, list[Object]] = {}

        def probed(source: str) -> None:
            asked = missing[source]
            last[source] = found = (
                self.ask(source, "", do="probe", targets=asked, seconds=1.0) if asked else []
            )
            said = [str(each.get("name") or each["error"]) for each in found]
            missing[source] = [each for each, words in zip(asked, said, strict=True) if answer not in words]

        def met() -> bool:
            with ThreadPoolExecutor(max_workers=3) as pool:
                list(pool.map(probed, sources))
            return not any(missing.values())

        try:
            eventually(met, AGE)
        except AssertionError as error:
            raise AssertionError(f"wanted {answer} from {missing}, found {last}") from error

    @contextlib.contextmanager
    def going(
        self, source: str, host: str, port: int = 80, *, do: str = "load", **options: Any
    ) -> Iterator[Load]:
        """By default new connections, one after the other, until `stop`."""
        process = subprocess.Popen(
            self.command(source, do, host, port, **{"gap": 0.02, **options}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield Load(process)
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def unfailing(self, *targets: tuple[str, str, int], gap: float = 0.02) -> Iterator[None]:
        """Meanwhile new connections from sources to addresses and ports, of which not one fails. gap: seconds between
        two of a source."""
        with contextlib.ExitStack() as stack:
            loads = {each: stack.enter_context(self.going(*each, gap=gap)) for each in targets}
            yield
            results = {each: load.stop() for each, load in loads.items()}
        assert all(each["good"] > 20 for each in results.values()), results
        assert not any(each["failed"] for each in results.values()), results

    @contextlib.contextmanager
    def lasting(
        self, streams: Sequence[tuple[str, Sequence[str], int]], held: Sequence[tuple[str, str, int]]
    ) -> Iterator[None]:
        """Meanwhile datagrams of flows that stay, from sources to some hosts, and connections of TCP that stay; of
        neither is anything lost. The servers are `service_server`s."""
        options: dict[str, Any] = {"text": None, "seconds": 10.0, "gap": 0.05}
        await_calm(self.world.cluster)
        with contextlib.ExitStack() as stack:
            flows = [
                self.going(source, hosts[0], port, do="stream", hosts=hosts, protocol="udp", **options)
                for source, hosts, port in streams
            ]
            connections = [self.going(*each, do="hold", **options) for each in held]
            loads = [stack.enter_context(each) for each in (*flows, *connections)]
            yield
            for load in loads:
                load.end()
            results = [load.stop() for load in loads]
        for (_, hosts, _), done in zip(streams, results, strict=False):
            assert done["lost"] == dict.fromkeys(hosts, 0), done
            assert {*done["names"]} == {*hosts}, done
        for done in results[len(streams) :]:
            assert "error" not in done, done
            assert done["count"] > 20, done
