"""Which connections that conntrack remembers lead to endpoints that a Service does not use any more.

Pure. TCP ends by itself when an endpoint goes; a sender of datagrams that goes on from the same port would be sent to
nobody for as long as it sends. So entries are deleted that took one of these ways. Called by `agent.serving`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovsnet.endpoints import Backend
from ovsnet.frontends import ServiceObject
from ovsnet.model import Frozen, IPAddress
from ovsnet.servicemodel import Protocol

_UDP = 17


class Way(Frozen):
    """From a Service's address and port to an endpoint, in datagrams."""

    address: IPAddress
    port: int
    backend: Backend

    @property
    def tuples(self) -> tuple[str, str]:
        """Of entries that took it, original and reply, as `ovs-ofctl ct-flush` reads them."""
        ip = "ct_nw" if self.address.version == 4 else "ct_ipv6"
        return (
            f"{ip}_dst={self.address},ct_nw_proto={_UDP},ct_tp_dst={self.port}",
            f"{ip}_src={self.backend.address},ct_nw_proto={_UDP},ct_tp_src={self.backend.port}",
        )


def gone(before: ServiceObject, after: ServiceObject | None) -> frozenset[Way]:
    """The ways that there were before and that there are not any more."""
    return frozenset(_ways(before)) - ways(after)


def ways(service: ServiceObject | None) -> frozenset[Way]:
    """All of a Service; none if it is not there."""
    return frozenset(_ways(service)) if service else frozenset()


def _ways(service: ServiceObject) -> Iterator[Way]:
    groups = {group.number: group for group in service.groups}
    for frontend in service.frontends:
        if frontend.protocol is not Protocol.UDP:
            continue
        for number in {frontend.group, frontend.outside_group} - {0}:
            members = [groups[member] for member, _ in groups[number].members] or [groups[number]]
            for group in members:
                for backend in group.backends:
                    yield Way(address=frontend.address, port=frontend.port, backend=backend)
