"""The node's own kernel as the agent's loop sees it: uplink, datapath, gateway, routes, masquerade.

Puts together what `host` offers and says in `host`'s terms what a topology asks for. Keeps no state
but what `host` needs to leave alone what is right already.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Collection, Iterable

from ovsnet import config, names, nodeports, pipeline, ranges
from ovsnet.errors import ConfigError, HostFailure
from ovsnet.host import datapath, gateway, uplink
from ovsnet.host.nft import Ruleset
from ovsnet.host.types import (
    MAIN_TABLE,
    STEERED_TABLE,
    EgressSpec,
    GatewaySpec,
    NeighbourSpec,
    RouteSpec,
    RuleSpec,
    Uplink,
    UplinkChoice,
)
from ovsnet.model import Encap, IPAddress, IPNetwork
from ovsnet.servicemodel import Protocol
from ovsnet.services import Reach
from ovsnet.state import Topology

log = logging.getLogger("ovsnet.host")

_ANYWHERE: dict[int, IPNetwork] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}
_TRANSLATED = tuple(
    ipaddress.ip_network(address)
    for each in (
        pipeline.CLIENT,
        pipeline.NODE_PORTS,
        pipeline.LOCAL_NODE_PORTS,
        pipeline.PORT_CLIENT,
        pipeline.REFUSED,
    )
    for address in each.addresses
)
"""Addresses that are the bridge's alone, or that nobody has: what comes back to them too late has to be refused."""


class HostSide:
    """Called by the agent's loop only."""

    def __init__(self, rules: Ruleset) -> None:
        self._rules = rules

    async def uplink(self, choice: config.NodeAddress, internal: Iterable[IPAddress]) -> Uplink:
        """The node's end of tunnels, the first address being the preferred one. Raises HostFailure that lists
        what there is.

        internal: the Node object's InternalIPs, which is where peers send. They decide when the configuration
        does not, and which address of the other family there is when it does.
        """
        explicit = UplinkChoice(address=choice.address, interface=choice.interface, route_to=choice.route_to)
        found = [await uplink.resolve(explicit)] if explicit != UplinkChoice() else []
        families = {found[0].addresses[0].version} if found else set()
        for address in internal:
            if address.version in families:
                continue
            with contextlib.suppress(HostFailure):
                found.append(await uplink.resolve(UplinkChoice(address=address)))
                families.add(address.version)
        if not found:
            return await uplink.resolve(UplinkChoice())
        by_family: dict[int, IPAddress] = {}
        # What the interface has besides the chosen address comes last: the Node object knows better.
        for each in [first.addresses[0] for first in found] + list(found[0].addresses):
            by_family.setdefault(each.version, each)
        return Uplink(
            interface=found[0].interface,
            addresses=tuple(by_family.values()),
            mtu=min(each.mtu for each in found),
        )

    def datapath(self, choice: config.Datapath, offered: Collection[str]) -> str:
        """The bridge's datapath_type. Raises ConfigError when what is asked for is not there.

        offered: what this vswitchd can do, from its Open_vSwitch row; empty if it has not said yet.
        """
        if choice is config.Datapath.AUTO:
            return "system" if datapath.kernel_has_openvswitch() else "netdev"
        if choice is config.Datapath.SYSTEM and not datapath.kernel_has_openvswitch():
            raise ConfigError(
                "datapath: system, but this kernel has no openvswitch",
                "load or build the module openvswitch, or set datapath to netdev or auto",
            )
        if offered and choice.value not in offered:
            raise ConfigError(
                f"datapath: {choice.value}, but this ovs-vswitchd has only {', '.join(sorted(offered))}",
                "choose one of these, or auto",
            )
        return str(choice.value)

    async def differences(self, topo: Topology, settings: config.Config, reach: Reach | None) -> list[str]:
        """What `reconcile` would change, one line each. Raises HostFailure.

        reach: None while nobody knows the Services: what there is more than expected may be theirs, and is not told.
        """
        known, reach = reach is not None, reach or Reach()
        rules = await self._rules.differences(egress_spec(topo, settings, reach), surplus=known)
        return gateway.differences(gateway_spec(topo, reach), surplus=known) + rules

    async def reconcile(self, topo: Topology, settings: config.Config, reach: Reach) -> list[str]:
        """Makes the kernel's side so; says what was changed, one line each. Raises HostFailure."""
        rules = egress_spec(topo, settings, reach)
        try:
            done = await gateway.reconcile(gateway_spec(topo, reach))
        except HostFailure:
            # One route that someone else has must not keep pods from their masquerade.
            for words in await self._rules.reconcile(rules, verify=True):
                log.info("%s", words)
            raise
        return done + await self._rules.reconcile(rules, verify=True)


def gateway_spec(topo: Topology, reach: Reach) -> GatewaySpec:
    """The gateway port with the addresses of this node's ranges and the routes to the peers' and to Services.

    To external addresses leads a table of its own, for packets to the Services' ports alone, which the rules of
    nftables mark: the rest of the address may be a host's, or a node's that tunnels end at. It is one default route,
    because Open vSwitch 3.1 takes routes of all tables for where its own tunnels go, the longest prefix first.
    """
    addresses = tuple(
        ipaddress.ip_interface((address, cidr.prefixlen))
        for address, cidr in zip(topo.gateways, topo.cidrs, strict=True)
    )
    source = {address.version: address for address in reversed(topo.gateways)}
    hop: dict[int, IPAddress] = {4: pipeline.ROUTER.ipv4, 6: pipeline.ROUTER.ipv6}
    steered = sorted({address.version for address, _, _ in reach.external if address.version in source})
    # ClusterIPs around nodes' addresses must not draw in these: neither packets for them nor tunnels would arrive.
    nodes = (*topo.addresses, *(address for peer in topo.peers for address in peer.addresses))
    uses: dict[IPNetwork, str] = {
        **dict.fromkeys(ranges.without(reach.networks, nodes), "ClusterIPs of Services"),
        **dict.fromkeys(_TRANSLATED, "what is translated for Services"),
        **{cidr: f"pods of node {peer.name}" for peer in topo.peers for cidr in peer.cidrs},
    }
    places = [
        *((cidr, MAIN_TABLE) for cidr in uses),
        *((_ANYWHERE[version], STEERED_TABLE) for version in steered),
    ]
    routes = tuple(
        RouteSpec(cidr=cidr, next_hop=hop[cidr.version], source=source[cidr.version], table=table)
        for cidr, table in places
        if cidr.version in source
    )
    # Not every datapath can answer for the router in IPv6.
    router = (NeighbourSpec(address=hop[6], mac=pipeline.ROUTER.mac),) if 6 in source else ()
    return GatewaySpec(
        interface=names.GATEWAY,
        mac=topo.mac,
        mtu=topo.mtu,
        addresses=addresses,
        routes=routes,
        neighbours=router,
        rules=tuple(RuleSpec(version=version) for version in steered),
        uses={**uses, **dict.fromkeys(_ANYWHERE.values(), "external addresses of Services")},
    )


def egress_spec(topo: Topology, settings: config.Config, reach: Reach) -> EgressSpec:
    """What the node's rules are about."""
    families = {cidr.version for cidr in topo.cidrs}
    egress = settings.egress
    return EgressSpec(
        gateway=names.GATEWAY,
        pod_cidrs=topo.cidrs,
        peers=tuple(address for peer in topo.peers for address in peer.addresses),
        tunnel_ports=topo.tunnel_ports,
        gre=Encap.GRE in topo.encaps,
        no_masquerade=egress.no_masquerade,
        masquerade=egress.masquerade,
        random_fully=egress.random_fully,
        node_ports=_ports(reach.node_ports, topo),
        local_node_ports=_ports(reach.local_node_ports, topo),
        node_port_addresses=nodeports.chosen(settings.node_port_addresses, topo.internal),
        external=tuple(
            (address, protocol.value.lower(), port)
            for address, protocol, port in reach.external
            if address.version in families
        ),
    )


def _ports(ports: Iterable[tuple[int, Protocol, int]], topo: Topology) -> tuple[tuple[int, str, int], ...]:
    """Of the families that pods have, as nft writes them."""
    families = {cidr.version for cidr in topo.cidrs}
    return tuple(
        (version, protocol.value.lower(), port) for version, protocol, port in ports if version in families
    )
