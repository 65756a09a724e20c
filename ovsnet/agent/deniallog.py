"""A line in the log for packets that policies deny, with names for addresses, where the configuration asks for it.

The switch shows the agent the headers of denied packets, as many each second as its meter lets through. What is alike
(source, destination, protocol, port, and who denies it) is one line in ten seconds with the number of all. Names are
those of now, whoever had the address before. Owns the lines; knows nothing of flows but their cookies. Runs beside the
agent's loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from ovsnet import headers, pipeline, policies
from ovsnet.agent.complaints import Complaints
from ovsnet.agent.logs import FIELDS
from ovsnet.errors import MeterRefused
from ovsnet.headers import Headers
from ovsnet.model import IPAddress, Pod
from ovsnet.policymodel import Direction, LabelledPod
from ovsnet.render import Renderer
from ovsnet.repetitions import Repetitions, Told
from ovsnet.servicemodel import Service
from ovsnet.state import Topology
from ovsnet.switch.packetins import PacketIn, PacketIns

log = logging.getLogger("ovsnet.denied")

_TICK = 1.0
"""Seconds between looks for what is to be told though nothing comes."""
_STALE = 1.0
"""Seconds for which names are taken from what was known: of a large cluster it takes some 10 ms to know anew. So it is
with the policies of a pod, which may have many."""


class Policies(Protocol):
    """What is needed of `policing.Policing`."""

    @property
    def known_pods(self) -> Mapping[str, LabelledPod]: ...

    @property
    def known_services(self) -> Mapping[str, Service]: ...

    def denier(self, cookie: int, source: IPAddress) -> tuple[Direction | None, list[str]]: ...

    def render_anew(self) -> None: ...


class Switch(Protocol):
    """What is needed of `switch.openflow.OpenFlow`."""

    @property
    def path(self) -> str: ...

    async def bundle(self, lines: Iterable[str]) -> None: ...


class _Denier(NamedTuple):
    """As of `Policies.denier`."""

    direction: Direction | None
    by: list[str]


class _Packet(NamedTuple):
    headers: Headers
    denier: _Denier


class Naming:
    """Whose an address is now. pods: this node's."""

    def __init__(
        self,
        known: Policies,
        pods: Callable[[], Iterable[Pod]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._pods = pods
        self._clock = clock
        self._names: dict[IPAddress, str] = {}
        self._services: tuple[Mapping[str, Service] | None, dict[IPAddress, str]] = None, {}
        self._looked: float | None = None

    def of(self, address: IPAddress, topology: Topology | None) -> str:
        """As "pod default/web-1", "node node-b", "a client of node-a's ports" or "Service default/web"; "" if nobody
        knows."""
        now = self._clock()
        if self._looked is None or now - self._looked >= _STALE:
            self._looked = now
            self._names = dict(self._look(topology))
        return self._names.get(address, "") or self._of_services().get(address, "")

    def _look(self, topology: Topology | None) -> Iterable[tuple[IPAddress, str]]:
        """The later a name comes, the better it is."""
        if topology is not None:
            for peer in topology.peers:
                gateways = (cidr.network_address + 1 for cidr in peer.cidrs)
                yield from ((each, f"node {peer.name}") for each in (*peer.addresses, *gateways))
            yield from ((each, f"node {topology.name}") for each in topology.addresses)
            # The node itself is never denied: these are of whom its kernel forwards.
            for each in (*topology.gateways, *pipeline.PORT_CLIENT.addresses):
                yield each, f"a client of {topology.name}'s ports"
        for key, pod in self._known.known_pods.items():
            if not pod.host_network:
                yield from ((each, f"pod {key}") for each in pod.ips)
        for key, ips in policies.addresses(self._pods()).items():
            yield from ((each, f"pod {key}") for each in ips)

    def _of_services(self) -> dict[IPAddress, str]:
        """Packets to a port that the Service does not have are no Service's to the switch, and keep its address."""
        services = self._known.known_services
        if self._services[0] is not services:
            found = {
                address: f"Service {key}"
                for key, each in services.items()
                for address in (*each.inner_ips, *each.outer_ips)
            }
            self._services = services, found
        return self._services[1]


class DenialLog:
    """per_second: lines at most. pods: this node's."""

    def __init__(
        self,
        openflow: Switch,
        renderer: Renderer,
        per_second: int,
        known: Policies,
        pods: Callable[[], Iterable[Pod]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._openflow = openflow
        self._renderer = renderer
        self._meter = pipeline.denied_meter(per_second)
        self._refused: MeterRefused | None = None
        self._packets = PacketIns(openflow.path, self.came)
        self._repetitions: Repetitions[tuple[object, ...], _Packet] = Repetitions(per_second, clock=clock)
        self._known = known
        self._clock = clock
        self._deniers: dict[tuple[int, IPAddress], tuple[float, _Denier]] = {}
        """Who denied packets from an address by flows of a cookie, and until when that is taken for granted."""
        self._naming = Naming(known, pods, clock)
        self.topology: Topology | None = None
        """Who this node and its peers are; the agent's loop sets it."""

    @property
    def counts(self) -> Mapping[str, float]:
        """For `metrics`."""
        return {
            "denied_log_lines": self._repetitions.told,
            "denied_log_suppressed_packets": self._repetitions.suppressed,
        }

    async def look_for_meters(self, complaints: Complaints) -> None:
        """To be called before all flows are written: without a meter any number of packets would come, so that without
        none may. Raises SwitchUnavailable."""
        refused, self._refused = self._refused, None
        if refused is None:
            try:
                await self._openflow.bundle([f"meter set {self._meter}"])
            except MeterRefused as error:
                refused = error
        if self._renderer.use_meters(refused is None):
            self._known.render_anew()
        if refused is None:
            complaints.over("meters", "packets that policies deny are logged")
        else:
            complaints.about(
                "meters",
                "packets that policies deny are dropped and not logged, until ovs-vswitchd starts anew: "
                f"{refused.message}; Linux has meters from 4.18 on; see the log of ovs-vswitchd, or set "
                "policy.logDenied to 0",
            )

    def give_up(self, error: MeterRefused) -> None:
        """The switch made the meter, but does not keep it: it is not asked for when all flows are written next."""
        if self._renderer.tells:
            # Else it is a bundle of before that is late.
            self._refused = error

    async def run(self) -> None:
        """Listens and tells until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._packets.run())
            while True:
                await asyncio.sleep(_TICK)
                self.tell_due()

    def came(self, packet: PacketIn) -> None:
        """A flow has denied it."""
        found = headers.read(packet.frame)
        if found is None:
            return
        alike = packet.cookie, found.source, found.target, found.what, found.port
        # When it is told of in a later line, other policies may be in force.
        told = self._repetitions.meet(alike, _Packet(found, self._denier(packet.cookie, found.source)))
        if told is not None:
            self._tell(told)

    def tell_due(self) -> None:
        """Tells what has been met again since it was told of."""
        now = self._clock()
        self._deniers = {key: each for key, each in self._deniers.items() if now < each[0]}
        for told in self._repetitions.due():
            self._tell(told)

    def _denier(self, cookie: int, source: IPAddress) -> _Denier:
        now = self._clock()
        until, found = self._deniers.get((cookie, source), (now, None))
        if found is None or now >= until:
            found = _Denier(*self._known.denier(cookie, source))
            self._deniers[cookie, source] = now + _STALE, found
        return found

    def _tell(self, told: Told[_Packet]) -> None:
        packet, (direction, by) = told.example
        ends = [
            f"{self._naming.of(address, self.topology)} {end}".lstrip()
            for address, end in zip((packet.source, packet.target), packet.ends, strict=True)
        ]
        who = " ".join(", ".join(_together(by)).split()) or "policies that nobody knows now"
        way = f", {direction.value.lower()}" if direction is not None else ""
        more = f", and {told.times - 1} more" if told.times > 1 else ""
        fields = self._fields(packet, direction, by, told.times)
        log.info(
            "%s -> %s %s%s, by %s%s", *ends, packet.what, way, who, more, extra={FIELDS: {"denied": fields}}
        )

    def _fields(
        self, packet: Headers, direction: Direction | None, by: list[str], times: int
    ) -> dict[str, Any]:
        return {
            "source": str(packet.source),
            "sourceName": self._naming.of(packet.source, self.topology),
            "sourcePort": packet.source_port,
            "destination": str(packet.target),
            "destinationName": self._naming.of(packet.target, self.topology),
            "port": packet.port,
            "protocol": packet.protocol,
            "icmpType": packet.icmp,
            "direction": direction.value.lower() if direction is not None else None,
            "by": by,
            "packets": times,
        }


def _together(by: list[str]) -> Iterable[str]:
    """Several of one kind share its name."""
    kind = ""
    for each in by:
        before, kind = kind, each.partition(" ")[0]
        yield each.partition(" ")[2] if kind == before else each
