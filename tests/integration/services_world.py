"""What the tests of Services share: Services in the store of a lab of two nodes, servers and clients of them.

In every pod, on the nodes and outside runs `service_server` under the place's name. An endpoint is named by its place;
`Cluster.put` writes a Service and a slice for each family.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import service_client
import service_refusals
import service_server
from lab_world import SLOWER, agent_log, begins_green, dump, eventually, left_over, running

from ovsnet.lab.lab import Lab
from ovsnet.lab.node import START_SECONDS, Node
from ovsnet.lab.spec import OUTSIDE, outside_interface
from ovsnet.lab.state import write_atomically
from ovsnet.numbers import Numbers

PORT, OTHER_PORT = 8080, 8081
"""Where every server listens."""
FAMILIES = (4, 6)
PROTOCOLS = ("TCP", "UDP")
"""Of every port, unless said otherwise. SCTP is not everywhere: Open vSwitch's own conntrack can't translate it."""
SERVER = "service-server"


def vip(number: int, version: int) -> str:
    """A ClusterIP."""
    return f"10.96.0.{number}" if version == 4 else f"fd00:10:96::{number:x}"


def outer(number: int, version: int) -> str:
    """An address that the outside sends to a node: an external IP or a load balancer's."""
    return f"203.0.113.{number}" if version == 4 else f"2001:db8:f::{number:x}"


class Load:
    """A client that goes on until `stop`, which tells how it went."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        words = process.stdout.readline()
        assert words == "ready\n", words

    @property
    def over(self) -> bool:
        """It has ended by itself."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Tell it to end, without waiting: where there are many they all wind down at once."""
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None

    def stop(self) -> Any:
        self.end()
        out, _ = self._process.communicate(timeout=30 * SLOWER)
        return json.loads(out)


class Cluster:
    """A lab with servers in it, and what its store says of Services. protocols: what each of their ports has."""

    def __init__(self, lab: Lab, protocols: Sequence[str] = PROTOCOLS) -> None:
        self.lab = lab
        self.protocols = protocols
        self.places = [*(pod.name for pod in lab.pods), *(node.name for node in lab.nodes), OUTSIDE]
        self.hosts = {pod.name: pod.node.name for pod in lab.pods} | {
            node.name: node.name for node in lab.nodes
        }
        self._addresses: dict[tuple[str, int], str] = {}

    def serve(self) -> None:
        """Start a server under each name: a process for each node and its pods, and one outside."""

        def start(home: str) -> None:
            place, _ = self.lab.place(home)
            pods = [f"{pod.name}={pod.netns}" for pod in self.lab.pods if pod.node.name == home]
            ports = f"{PORT},{OTHER_PORT}"
            argv = [sys.executable, "-I", "-S", service_server.__file__, ports, home, *pods]
            place.launch(SERVER, argv)
            log = place.log(SERVER)
            eventually(
                lambda: service_server.READY in log.read_text() or not place.daemon(SERVER), START_SECONDS
            )
            assert service_server.READY in log.read_text(), place.last_words(SERVER)

        with ThreadPoolExecutor() as pool:
            list(pool.map(start, [*(node.name for node in self.lab.nodes), OUTSIDE]))

    # the store

    def path(self, name: str) -> Path:
        return self.lab.folder.path / "cluster" / f"service-{name}.yaml"

    def put(self, name: str, endpoints: Sequence[str | Mapping[str, Any]], number: int, **spec: Any) -> None:
        """A Service of all protocols, and slices of both families. See `service` and `slice_of`."""
        ports = spec.pop("ports", {"": PORT})
        documents = [service(name, number, list(ports), self.protocols, **spec)]
        documents += [self.slice_of(name, endpoints, ports, version) for version in FAMILIES]
        self.write(name, documents)

    def write(self, name: str, documents: Sequence[object]) -> None:
        # JSON is YAML, and much quicker to write and to read.
        write_atomically(self.path(name), "\n---\n".join(json.dumps(each) for each in documents))

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def slice_of(
        self, name: str, endpoints: Sequence[str | Mapping[str, Any]], ports: Mapping[str, int], version: int
    ) -> dict[str, Any]:
        """endpoints: places, or mappings with "place" and more of an endpoint's fields."""
        entries = []
        for each in endpoints:
            said = dict(each) if isinstance(each, Mapping) else {"place": each}
            place = said.pop("place")
            address = said.pop("address", None) or self.address(place, version)
            entry: dict[str, Any] = {"addresses": [address], "conditions": {"ready": True}, **said}
            if place in self.hosts:
                entry["nodeName"] = self.hosts[place]
            entries.append(entry)
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-v{version}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": f"IPv{version}",
            "ports": [
                {"name": port_name(port, protocol), "port": number, "protocol": protocol}
                for port, number in ports.items()
                for protocol in self.protocols
            ],
            "endpoints": entries,
        }

    def address(self, place: str, version: int) -> str:
        if (place, version) not in self._addresses:
            self._addresses[place, version] = self._look_up(place, version)
        return self._addresses[place, version]

    def _look_up(self, place: str, version: int) -> str:
        if place == OUTSIDE:
            return str(outside_interface(version).ip)
        if place in {node.name for node in self.lab.nodes}:
            return str(self.lab.node(place).node.address(version))
        return str(self.lab.pod(place).address(version))

    # clients

    def client(self, do: str, host: object, port: int, **options: Any) -> list[str]:
        """A command line for any place."""
        options = {"seconds": 3.0, **options}
        options["seconds"] *= SLOWER
        asked = json.dumps({"do": do, "host": str(host), "port": port, **options})
        return [sys.executable, "-I", "-S", service_client.__file__, asked]

    def ask(self, source: str, host: object, port: int = 80, **options: Any) -> list[dict[str, Any]]:
        """What `count` connections in a row are answered; {"error": ...} where there is no answer."""
        done = self.lab.run(source, self.client("ask", host, port, **options), timeout=120 * SLOWER)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def one(self, source: str, host: object, port: int = 80, **options: Any) -> dict[str, Any]:
        return self.ask(source, host, port, **options)[0]

    def names(self, source: str, host: object, port: int = 80, count: int = 40, **options: Any) -> set[str]:
        """Who answers so many connections, errors in their own words."""
        found = self.ask(source, host, port, count=count, **options)
        return {each.get("name") or each["error"] for each in found}

    @contextlib.contextmanager
    def going(self, do: str, source: str, host: object, port: int = 80, **options: Any) -> Iterator[Load]:
        """A client under way: "load" or "hold"."""
        with going(self.lab.command(source, self.client(do, host, port, **options))) as load:
            yield load

    def refusals(self, source: str, ends: Sequence[tuple[str, int]]) -> list[list[list[Any]]]:
        """The packets that answer over TCP and over UDP, for each of these: see `service_refusals`."""
        targets = json.dumps([(*end, protocol) for end in ends for protocol in ("tcp", "udp")])
        argv = [sys.executable, "-I", "-S", service_refusals.__file__, str(5 * SLOWER), targets]
        done = self.lab.run(source, argv)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    @contextlib.contextmanager
    def loads(self, host: str, *sources: str) -> Iterator[None]:
        """New connections over TCP and UDP from all of these to port 80; none of them may fail."""
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(self.going("load", source, host, protocol=protocol))
                for source in sources
                for protocol in ("tcp", "udp")
            ]
            yield
            for client in clients:
                done = client.stop()
                assert done["failed"] == [], done
                assert done["good"] > 10, done

    # what is there

    def groups(self, node: str = "node-a") -> list[str]:
        """Groups as ovs-ofctl prints them."""
        command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-groups", "br-int"]
        printed = self.lab.node(node).run(command, check=True).stdout
        return sorted(line.strip() for line in printed.splitlines() if "group_id=" in line)

    def chosen(self, name: str, version: int = 4, protocol: str = "tcp", node: str = "node-a") -> set[str]:
        """The places that the node's group of a Service's only port sends connections to."""
        number = Numbers().number(f"default/{name}", f"{protocol}/{port_name('', protocol)}/{version}")
        line = next((each for each in self.groups(node) if f"group_id={number}," in each), "")
        places = {self.address(place, version): place for place in self.places}
        return {
            places.get(found, found) for found in re.findall(r"nat\(dst=\[?([0-9a-f.:]+?)\]?:\d+\)", line)
        }

    def choose(self, name: str, *places: str) -> None:
        """Wait until both nodes send connections to just these."""
        last = self.protocols[-1].lower()
        for node in self.lab.nodes:
            for version in FAMILIES:
                eventually(lambda: self.chosen(name, version, last, node.name) == set(places))  # noqa: B023


@contextlib.contextmanager
def going(command: Sequence[str]) -> Iterator[Load]:
    """A client by its command line, which has begun; ended afterwards."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Load(process)
    finally:
        process.kill()
        process.wait()


def audits(lab: Lab) -> list[str]:
    """What `ovsnet audit` says on the nodes where not all is as it should be."""
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda node: node.run(["/run/ovsnet/bin/ovsnet", "audit"]), lab.nodes))
    return [each.stdout + each.stderr for each in done if each.returncode]


def assert_clean(lab: Lab) -> None:
    """All is as it should be on all nodes, soon at least."""
    said = left_over(lambda: audits(lab))
    assert not said, "\n".join(said)
    for node in lab.nodes:
        assert "Traceback" not in agent_log(node)


def everything(node: Node) -> dict[str, object]:
    """What there may be of a Service: on the bridge, and what sends to it in the node's kernel."""

    def told(command: str) -> list[str]:
        return node.run(command.split(), check=True).stdout.splitlines()

    routes = ("rule", "route", "route show dev ovsnet0 table all")
    return {
        "flows": dump(node),
        "groups": sorted(told("ovs-ofctl -O OpenFlow15 dump-groups br-int")[1:]),
        "routes": [told(f"ip {family} {each}") for family in ("-4", "-6") for each in routes],
        "nft": told("nft -s list table inet ovsnet"),
    }


def tracked(node: Node) -> dict[tuple[str, str], dict[str, int]]:
    """UDP connections through Services, by the Service's address and the endpoint's: all that conntrack says of each,
    and the seconds that are left to it."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    dump = (
        "ovs-appctl",
        "dpctl/dump-conntrack",
        "-m",
        "-s",
        f"{node.datapath}@ovs-{node.datapath}",
        "zone=65500",
    )
    for line in node.run(dump, check=True).stdout.splitlines():
        if said := re.match(r"udp,.*?dst=(.+?),.*reply=\(src=(.+?),", line):
            row, seconds = re.subn(r",timeout=\d+", "", line)[0], re.findall(r",timeout=(\d+)", line)[0]
            found[said[1], said[2]][row] = int(seconds)
    return found


def masks(node: Node) -> set[str]:
    """How much of the datapath's hash its entries look at that give new connections an endpoint."""
    entries = node.run(["ovs-appctl", "dpctl/dump-flows", "-m", "netdev@ovs-netdev"], check=True).stdout
    return set(re.findall(r"dp_hash\(0x\w+/(0x[1-9a-f]\w*)\).*nat\(dst=10\.", entries))


@contextlib.contextmanager
def cluster_of(
    nodes: int = 2, pods: int = 2, protocols: Sequence[str] = PROTOCOLS, **options: Any
) -> Iterator[Cluster]:
    """A lab with servers. The outside sends what is for `outer` addresses to node-a."""
    with running(nodes=nodes, pods=pods, **options) as lab:
        cluster = Cluster(lab, protocols)
        cluster.serve()
        first = lab.nodes[0].node
        lab.outside.ip(
            [
                f"route add {ipaddress.ip_network((outer(0, version), 24 if version == 4 else 64))} "
                f"via {first.address(version)} dev eth0"
                for version in FAMILIES
            ]
        )
        begins_green(lab)
        yield cluster


def port_name(name: str, protocol: str) -> str:
    return f"{name}-{protocol.lower()}" if name else protocol.lower()


def service(
    name: str,
    number: int,
    ports: Sequence[str] = ("",),
    protocols: Sequence[str] = PROTOCOLS,
    **spec: Any,
) -> dict[str, Any]:
    """The manifest of a Service; the first of its ports is 80, then 81 and so on. node_port: the first of those.

    spec: more of its fields; "status" goes to where that belongs.
    """
    node_port, status = spec.pop("node_port", 0), spec.pop("status", None)
    entries = []
    for at, port in enumerate(ports):
        for protocol in protocols:
            entry: dict[str, Any] = {"name": port_name(port, protocol), "port": 80 + at, "protocol": protocol}
            if node_port:
                entry["nodePort"] = node_port + at
            entries.append(entry)
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": vip(number, 4),
            "clusterIPs": [vip(number, 4), vip(number, 6)],
            "ports": entries,
            **({"type": "NodePort"} if node_port else {}),
            **spec,
        },
    }
    return document | ({"status": status} if status else {})
