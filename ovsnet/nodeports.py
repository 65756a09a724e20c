"""Which of the node's addresses node ports answer on: what kube-proxy calls nodePortAddresses; and which ports are any.

Pure. Knows no address of this node but those it is told. Called by the agent, whose rules and health checks follow it,
by the stores and the inspection commands; what may stand in the configuration is in `configfields`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from ovsnet.model import Frozen, IPAddress, IPNetwork

PRIMARY: Final = "primary"
"""The first InternalIP of each family of the Node; without a Node the ends of its tunnels."""
Configured = IPNetwork | Literal["primary"]
_EVERY: dict[int, IPNetwork] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


class PortRange(Frozen):
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


USUAL: Final = PortRange(first=30000, last=32767)
"""What kube-apiserver takes node ports from, unless its --service-node-port-range says otherwise."""


class NodePortAddresses(Frozen):
    """Networks, of which several may have an address. A family without any answers nowhere."""

    networks: tuple[IPNetwork, ...] = tuple(_EVERY.values())

    def of(self, version: int) -> tuple[IPNetwork, ...]:
        return tuple(network for network in self.networks if network.version == version)

    def limits(self, version: int) -> bool:
        """Whether not just any address of the family answers."""
        return _EVERY[version] not in self.networks

    def words(self, version: int) -> str:
        """For behind what is said of a node port, such as " at 192.0.2.0/24"; "" if every address answers."""
        return f" at {', '.join(map(str, self.of(version))) or 'no address'}" if self.limits(version) else ""

    def include(self, address: IPAddress) -> bool:
        """Whether node ports answer there, if the node has the address. Never on loopback."""
        return not address.is_loopback and any(
            address.version == network.version and address in network for network in self.networks
        )


def chosen(configured: Sequence[Configured], internal: Iterable[IPAddress]) -> NodePortAddresses:
    """What the configuration means on a node with these addresses. internal: its InternalIPs, in their order.

    As kube-proxy does it a family of which nothing is listed is not limited; but `primary` lists both, and where the
    Node has no address of a family, nothing of that answers.
    """
    first = {address.version: address for address in reversed(tuple(internal))}
    found: list[IPNetwork] = []
    for version, every in _EVERY.items():
        given = [each for each in configured if each != PRIMARY and each.version == version]
        if PRIMARY in configured:
            given += [ipaddress.ip_network(first[version])] if version in first else []
        elif not given:
            given = [every]
        found += given
    return NodePortAddresses(networks=tuple(found))
