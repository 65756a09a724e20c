"""One Service with any number of endpoints on a real switch, and which of them connections get."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flow_world import A1, NODE, make_bridge
from msgspec.structs import replace
from ovs_sandbox import Sandbox

from ovsnet import flowplan, pipeline, resources
from ovsnet.endpoints import Here
from ovsnet.render import Lines, Renderer
from ovsnet.servicemodel import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from ovsnet.services import Services

FIRST = (ipaddress.ip_address("10.200.0.0"), ipaddress.ip_address("fd00:200::"))
VIPS = (ipaddress.ip_address("10.96.1.1"), ipaddress.ip_address("fd00:96:1::1"))
EXTERNAL = (ipaddress.ip_address("203.0.113.80"), ipaddress.ip_address("2001:db8:80::80"))
OUTSIDE = (ipaddress.ip_address("198.51.100.7"), ipaddress.ip_address("2001:db8:100::7"))
HERE = Here(node="node-a", zone="east")
Connection = tuple[int, int]
"""The datapath's hash of it, 0 before the datapath was asked; the client's port."""
HASHES: list[Connection] = [(value, 40000) for value in range(0x5A00, 0x5B00)]
"""All values of the last octet: a group looks at no more of it."""
_PORT = 1024
_CHOSEN = re.compile(r"nat\(dst=\[?([0-9a-f.:]+?)\]?:(\d+)\)")
_FROM = re.compile(r" group:(\d+)\n")
_MEMBER = re.compile(r"actions=group:(\d+)")
_PER_SLICE = 100
_AT_ONCE = 100
_JSON = json.JSONDecoder()
_TRIES = 40
"""Ports for each bucket of a group that are tried at most: without one of 256 buckets ends one group in 1e15."""


class Way(NamedTuple):
    """What a connection gets. groups: that it was chosen from, the outermost first."""

    groups: tuple[int, ...]
    endpoint: int
    text: str


class _Clients(NamedTuple):
    """top: the group that they choose from; others may be behind it."""

    top: int
    outside: bool


class Balance:
    """A bridge that is led from one set of endpoints to the next by bundles, as the agent does it.

    said: of the Service, as long as `serve` says nothing else.
    """

    def __init__(self, ovs: Sandbox, name: str, *, family: int = 0, **said: Any) -> None:
        self.bridge = make_bridge(ovs, name, ())
        self._target = ovs.mgmt(name)
        self.bridge.ovs.ofctl("del-groups", self._target)
        self.family = family
        self._service = Service(
            namespace="default",
            name="balanced",
            cluster_ips=(VIPS[family],),
            external_ips=(EXTERNAL[family],),
            ports=(ServicePort(port=80),),
            **said,
        )
        self._port = 8080
        self._services = Services()
        self._renderer = Renderer(resources.flows_dir())
        self._installed: dict[int, Lines] = {}
        self._groups: dict[int, str] | None = None
        """As they were dumped since the last bundle."""
        self._telling: dict[tuple[str, bool], dict[int, tuple[int, ...]]] = {}
        """Ports that met all buckets of a group: they do in others of as many that choose by the same hash. By that and
        whether clients are outside, then by the number of buckets."""
        self._control = socket.socket(socket.AF_UNIX)
        self._control.connect(f"{ovs.folder}/ovs-vswitchd.ctl")

    def remove(self) -> None:
        self._control.close()
        self.bridge.ovs.vsctl("del-br", self.bridge.name)

    def serve(
        self, endpoints: Iterable[int] | Mapping[int, Mapping[str, Any]], *, port: int = 8080, **said: Any
    ) -> list[str]:
        """These are the endpoints from now on, with what is said of each. The bundle that it took."""
        known = endpoints if isinstance(endpoints, Mapping) else {each: {} for each in endpoints}
        chosen = sorted(known)
        service = replace(self._service, **said)
        slices = {}
        for at in range(0, len(chosen), _PER_SLICE):
            piece = EndpointSlice(
                namespace="default",
                name=f"balanced-{at}",
                service="balanced",
                ports=(EndpointPort(port=port),),
                endpoints=tuple(
                    Endpoint(address=FIRST[self.family] + each, **known[each])
                    for each in chosen[at : at + _PER_SLICE]
                ),
            )
            slices[piece.key] = piece
        self._services.update({service.key: service}, slices, HERE)
        wanted = self._renderer.state([NODE, A1, *self._services.objects])
        bundle = flowplan.bundle(self._installed, wanted)
        self.bridge.ovs.ofctl("bundle", self._target, "-", stdin="\n".join(bundle) + "\n")
        self._installed, self._port, self._groups = wanted, port, None
        return bundle

    def groups(self) -> dict[int, str]:
        """As the switch prints them, by number."""
        if self._groups is None:
            ovs = self.bridge.ovs
            dumped = map(str.strip, ovs.ofctl("dump-groups", self._target).splitlines())
            self._groups = flowplan.split(line for line in dumped if line.startswith("group_id="))[1]
        return self._groups

    def differences(self) -> list[str]:
        """Between the groups as the switch prints them and as they are rendered."""
        wanted = flowplan.split(line for lines in self._installed.values() for line in lines)[1]
        return flowplan.group_differences(self.groups(), wanted)

    def trace(self, connections: Iterable[Connection], *, outside: bool = False) -> list[str]:
        """What becomes of new connections of a pod, or of a client outside of the cluster to the external address."""
        packets = [f"{self._packet(port, outside)},dp_hash={value}" for value, port in connections]
        return self._ask("ofproto/trace", [[packet] for packet in packets])

    def choose(self, connections: Iterable[Connection], *, outside: bool = False) -> list[Way]:
        """The same, of those that get an endpoint."""
        return list(map(self._way, self.trace(connections, outside=outside)))

    def reached(self, *, outside: bool = False) -> set[int]:
        """Every endpoint that a connection can get: over all values of the datapath's hash, and from groups where Open
        vSwitch hashes by itself over as many ports as it takes to meet all their buckets. Each group of a group is
        looked at by itself."""
        ways = self.choose(HASHES, outside=outside)
        (top,) = {way.groups[0] for way in ways}
        clients = _Clients(top, outside)
        if ",selection_method=dp_hash," not in self.groups()[top]:
            return self._below(top, clients)
        members = self._members(top)
        if not members:
            return {way.endpoint for way in ways}
        assert {way.groups[1] for way in ways} == members
        return self._below_all(members, clients)

    def _members(self, group: int) -> set[int]:
        return set(map(int, _MEMBER.findall(self.groups()[group])))

    def _below(self, group: int, clients: _Clients) -> set[int]:
        """All endpoints that one of the groups leads to."""
        members = self._members(group)
        if not members:
            return self._met(group, clients, lambda way: way.endpoint)
        assert self._met(group, clients, lambda way: way.groups[1]) == members
        return self._below_all(members, clients)

    def _below_all(self, members: set[int], clients: _Clients) -> set[int]:
        # The largest first: ports that meet all its buckets meet those of the others.
        largest = sorted(members, key=lambda each: -self.groups()[each].count("bucket="))
        return {endpoint for each in largest for endpoint in self._below(each, clients)}

    def _met(self, group: int, clients: _Clients, what: Callable[[Way], int]) -> set[int]:
        """What clients' ports lead to from the group, until each of its buckets was met."""
        head, *buckets = self.groups()[group].split(",bucket=")
        count = len(buckets)
        telling = self._telling.setdefault((head.partition(",")[2], clients.outside), {})
        near = min((each for each in telling if each >= count), default=0)
        found: dict[int, int] = {}
        others = (range(_PORT + at * count, _PORT + (at + 1) * count) for at in range(_TRIES))
        for ports in (telling.get(near, ()), *others):
            if len(found) == count:
                break
            for port, way in zip(ports, self._into(group, clients, ports), strict=True):
                found.setdefault(what(way), port)
        telling[count] = tuple(found.values())
        return set(found)

    def _into(self, group: int, clients: _Clients, ports: Iterable[int]) -> list[Way]:
        """What connections get that have come to the group."""
        client = int((OUTSIDE if clients.outside else A1.ips)[self.family])
        register = ("reg12", "xxreg3")[self.family]
        fields = {"reg3": int(clients.outside), "reg6": clients.top, register: client}
        actions = [*(f"set_field:0x{value:x}->{name}" for name, value in fields.items()), f"group:{group}"]
        asked = [[self._packet(port, clients.outside), ",".join(actions)] for port in ports]
        return list(map(self._way, self._ask("ofproto/trace-packet-out", asked)))

    def _packet(self, port: int, outside: bool) -> str:
        source, target = (OUTSIDE, EXTERNAL) if outside else (A1.ips, VIPS)
        from_mac, to_mac = (NODE.mac, pipeline.ROUTER.mac) if outside else (A1.mac, NODE.mac)
        head = f"in_port={NODE.ofport if outside else A1.ofport},dl_src={from_mac},dl_dst={to_mac}"
        layers = ("tcp,nw_src={},nw_dst={}", "tcp6,ipv6_src={},ipv6_dst={}")[self.family]
        ends = layers.format(source[self.family], target[self.family])
        return f"{head},{ends},nw_ttl=64,tp_src={port},tp_dst=80"

    def _way(self, text: str) -> Way:
        found = set(_CHOSEN.findall(text))
        assert len(found) == 1, text
        address, port = found.pop()
        assert int(port) == self._port, text
        return Way(
            groups=tuple(map(int, _FROM.findall(text))),
            endpoint=int(ipaddress.ip_address(address)) - int(FIRST[self.family]),
            text=text,
        )

    def _ask(self, command: str, asked: Sequence[list[str]]) -> list[str]:
        """Answers of ovs-vswitchd (ovs-appctl(8)), many at once: a process for each, or only waiting for each, takes
        longer than ovs-vswitchd."""
        return [
            answer
            for at in range(0, len(asked), _AT_ONCE)
            for answer in self._answers(command, asked[at : at + _AT_ONCE])
        ]

    def _answers(self, command: str, asked: Sequence[list[str]]) -> Iterator[str]:
        requests = [{"id": 0, "method": command, "params": [self.bridge.name, *words]} for words in asked]
        self._control.sendall("".join(map(json.dumps, requests)).encode())
        received, at = "", 0
        for _ in requests:
            while True:
                with contextlib.suppress(ValueError):
                    answer, at = _JSON.raw_decode(received, at)
                    break
                received, at = received[at:] + self._control.recv(1 << 20).decode(), 0
            assert answer["error"] is None, answer
            yield answer["result"]


def connections(count: int) -> list[Connection]:
    """Of one client from many ports, whose hashes are all different."""
    return [(value * 0x9E3779B1 % 2**32 or 1, _PORT + value) for value in range(count)]


def writes(bundle: Sequence[str]) -> list[str]:
    """The groups that a bundle writes as a whole."""
    return [line for line in bundle if line.startswith(("group add", "group modify"))]
