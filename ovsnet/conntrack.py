"""Connections that conntrack follows for Services and policies: what Open vSwitch prints of them, and which of the
Services' lead nowhere any more.

Pure. A UDP "connection" lives as long as packets come: a client that keeps sending would never leave an endpoint that
is gone; those of TCP end by themselves. Called by `services`, `policycuts`, the agent, and `ovsnet conntrack`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterator

from ovsnet.frontends import ServiceObject
from ovsnet.model import Frozen, IPAddress
from ovsnet.servicemodel import Protocol

_TUPLE = r"\(src=(\S+?),dst=(\S+?),sport=(\d+),dport=(\d+)\)"
_ENTRY = re.compile(rf"(tcp|udp|sctp),orig={_TUPLE},reply={_TUPLE}")
_BEGUN = re.compile(
    r"(tcp|udp|sctp|icmp|icmpv6),orig=\(src=([0-9a-f.:]+),dst=([0-9a-f.:]+)(?:,sport=(\d+),dport=(\d+))?"
)
_ENDS = re.compile(r"(\w+),orig=\(src=([0-9a-f.:]+),dst=([0-9a-f.:]+)")
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOLS = {each.value.lower(): each for each in Protocol}
_UNSEEN = 1
"""The bit of a policed connection's mark: the first packet was not the first of the connection, see table 48."""
_FIELD = re.compile(r"(zone|mark|state)=([^,()]+)")


class Way(Frozen):
    """From a Service's address to one of its endpoints."""

    protocol: Protocol
    address: IPAddress
    port: int
    endpoint: IPAddress
    endpoint_port: int


class Connection(Frozen):
    """One that conntrack knows. client: who began it."""

    client: IPAddress
    client_port: int
    way: Way
    mark: int = 0
    state: str = ""
    """Of TCP and SCTP."""


def connection(line: str) -> Connection | None:
    """What a line of `dpctl/dump-conntrack` says; None if it is of another protocol."""
    found = _ENTRY.match(line)
    if found is None:
        return None
    protocol, src, dst, sport, dport, endpoint, _, endpoint_port, _ = found.groups()
    fields = dict(_FIELD.findall(line))
    way = Way(
        protocol=Protocol(protocol.upper()),
        address=ipaddress.ip_address(dst),
        port=int(dport),
        endpoint=ipaddress.ip_address(endpoint),
        endpoint_port=int(endpoint_port),
    )
    return Connection(
        client=ipaddress.ip_address(src),
        client_port=int(sport),
        way=way,
        mark=int(fields.get("mark", "0"), 0),
        state=fields.get("state", ""),
    )


class Known(Frozen):
    """One that policies have allowed, as it was begun. protocol None: a ping, which has no ports. unseen: nobody saw it
    begin, so that it may have been the other way round."""

    source: IPAddress
    target: IPAddress
    protocol: Protocol | None = None
    source_port: int = 0
    port: int = 0
    unseen: bool = False

    @property
    def key(self) -> Known:
        """The same, whoever saw it begin."""
        return self.reverse.reverse

    @property
    def reverse(self) -> Known:
        return Known(
            source=self.target,
            target=self.source,
            protocol=self.protocol,
            source_port=self.port,
            port=self.source_port,
        )


def known(line: str) -> Known | None:
    """What a line of `dpctl/dump-conntrack` says. None: it has another protocol, or no ports though its protocol has,
    as SCTP in user space: nobody can tell then what it is."""
    found = _BEGUN.match(line)
    if found is None:
        return None
    word, source, target, source_port, port = found.groups()
    protocol = _PROTOCOLS.get(word)
    if protocol is not None and not int(port or 0):
        return None
    mark = int(dict(_FIELD.findall(line)).get("mark", "0"), 0)
    return Known(
        source=ipaddress.ip_address(source),
        target=ipaddress.ip_address(target),
        protocol=protocol,
        source_port=int(source_port or 0) if protocol else 0,
        port=int(port or 0) if protocol else 0,
        unseen=protocol is not None and bool(mark & _UNSEEN),
    )


class End(Frozen):
    """An address that began connections of a protocol, or to which they were begun. protocol: its number (IANA)."""

    address: IPAddress
    protocol: int
    began: bool


def ends(line: str) -> Iterator[End]:
    """What a line of `dpctl/dump-conntrack` says, of whatever protocol but pings; nothing if it can't be read."""
    found = _ENDS.match(line)
    if found is None:
        return
    word, source, target = found.groups()
    number = _NUMBERS.get(word) or (int(word) if word.isdecimal() else None)
    if number is not None:
        yield End(address=ipaddress.ip_address(source), protocol=number, began=True)
        yield End(address=ipaddress.ip_address(target), protocol=number, began=False)


def ways(service: ServiceObject, protocol: Protocol = Protocol.UDP) -> Iterator[Way]:
    """All that lead to the Service's endpoints from here."""
    for frontend in service.frontends:
        if frontend.protocol is not protocol:
            continue
        for number in dict.fromkeys((frontend.group, frontend.outside_group)):
            for backend in service.backends(number):
                yield Way(
                    protocol=protocol,
                    address=frontend.address,
                    port=frontend.port,
                    endpoint=backend.address,
                    endpoint_port=backend.port,
                )


Taken = tuple[str, ...]
"""A Service's address and port, and the endpoint's, as they are printed."""


def taken(line: str) -> Taken | None:
    """The way of a translated UDP connection, if the line of `dpctl/dump-conntrack` is about one. There may be hundreds
    of thousands of lines and few ways, so nothing is made of it yet: see `way`."""
    found = _ENTRY.match(line) if line.startswith("udp,") else None
    if found is None:
        return None
    said = found.group(3, 5, 6, 8)
    return said if said[:2] != said[2:] else None


def way(said: Taken) -> Way:
    """Of UDP."""
    address, port, endpoint, endpoint_port = said
    return Way(
        protocol=Protocol.UDP,
        address=ipaddress.ip_address(address),
        port=int(port),
        endpoint=ipaddress.ip_address(endpoint),
        endpoint_port=int(endpoint_port),
    )


class Departures:
    """Ways of UDP to endpoints that are gone, until conntrack has forgotten them."""

    def __init__(self) -> None:
        self.left: set[Way] = set()
        """Those that conntrack still sends datagrams, of whoever has sent some from the same port before."""
        self._ending: dict[str, set[Way]] = {}
        """Ways to endpoints that get no new connections and still answer those that they have, by Service."""

    def note(
        self,
        key: str,
        before: ServiceObject | None,
        after: ServiceObject | None,
        serving: Container[tuple[IPAddress, int]],
    ) -> None:
        """The Service of this key changed. serving: endpoints that answer, whether they get new connections or not."""
        lost = self._ending.pop(key, set())
        if before is not None:
            lost.update(ways(before))
        if after is not None:
            there = set(ways(after))
            lost -= there
            self.left -= there
            if ending := {way for way in lost if (way.endpoint, way.endpoint_port) in serving}:
                self._ending[key] = ending
                lost -= ending
        self.left |= lost

    def met(self, key: str, way: Way, *, ending: bool) -> None:
        """A connection goes that way, to an endpoint that the Service of this key does not choose any more.

        ending: it still answers.
        """
        if ending:
            self._ending.setdefault(key, set()).add(way)
        else:
            self.left.add(way)

    @property
    def endpoints(self) -> set[tuple[IPAddress, int]]:
        """Where datagrams may still go that should not, and come from with an answer."""
        return {(way.endpoint, way.endpoint_port) for way in self.left}
