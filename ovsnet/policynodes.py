"""Nodes as rules mean them: by their labels, and by blocks that have addresses of theirs.

Pure. Knows which nodes are others than before, so that only these are looked at. Called by `policygroups`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from ovsnet.mappings import different
from ovsnet.model import Frozen, IPAddress, IPNetwork
from ovsnet.policymodel import Block, Labels, Selector


class NodeAddresses(Frozen):
    """A node's own, and those that pods see its packets come from: of its gateway port. others: that it has beside
    its InternalIPs."""

    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    others: tuple[IPAddress, ...] = ()
    labels: Labels = {}

    @property
    def all(self) -> tuple[IPAddress, ...]:
        return (*self.addresses, *self.gateways, *self.others)


class Change(Frozen):
    """A node as it was and as it is; None: it was not there, or is not."""

    before: NodeAddresses | None
    after: NodeAddresses | None

    @property
    def is_of_addresses(self) -> bool:
        """Whether blocks may mean others of its addresses."""
        if self.before is None or self.after is None:
            return True
        return (self.before.addresses, self.before.gateways) != (self.after.addresses, self.after.gateways)


class Nodes:
    """Those that there are."""

    def __init__(self) -> None:
        self._known: Mapping[str, NodeAddresses] = {}
        self._by_gateway: dict[IPAddress, list[NodeAddresses]] = {}

    def __iter__(self) -> Iterator[NodeAddresses]:
        return iter(self._known.values())

    def update(self, nodes: Mapping[str, NodeAddresses]) -> list[Change]:
        """What is different."""
        found = (
            Change(before=self._known.get(name), after=nodes.get(name))
            for name in different(self._known, nodes)
        )
        changes = [each for each in found if each.before != each.after]
        self._known = nodes
        for before in (each.before for each in changes if each.before is not None):
            for address in before.gateways:
                self._by_gateway[address].remove(before)
                if not self._by_gateway[address]:
                    del self._by_gateway[address]
        for after in (each.after for each in changes if each.after is not None):
            for address in after.gateways:
                self._by_gateway.setdefault(address, []).append(after)
        return changes

    def has(self, selector: Selector, address: IPAddress) -> bool:
        """Whether it is an address of a node that is selected."""
        return any(address in node.all and selector.matches(node.labels) for node in self)

    def is_gateway_of(self, block: Block, address: IPAddress) -> bool:
        """Whether the block means it as the other address of a node."""
        return not any(address in part for part in block.excepts) and any(
            each.version == address.version and each in block
            for node in self._by_gateway.get(address, ())
            for each in node.addresses
        )


def selected(selector: Selector, node: NodeAddresses | None) -> set[IPNetwork]:
    """All addresses of the node, if it is: it is the node that is meant."""
    if node is None or not selector.matches(node.labels):
        return set()
    return set(map(ipaddress.ip_network, node.all))


def beside(block: Block, node: NodeAddresses | None) -> set[IPNetwork]:
    """What a block means beside its own addresses: nodes have two sorts of them, and who means one means the other."""
    if node is None:
        return set()
    versions = {address.version for address in node.addresses if address in block}
    return {
        ipaddress.ip_network(each)
        for each in node.gateways
        if each.version in versions and not any(each in part for part in block.excepts)
    }
