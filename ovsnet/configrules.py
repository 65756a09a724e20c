"""Rules between fields of the configuration: what no single field can tell.

Pure. Called by `config` only, after every field has been looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ovsnet import encap, names, ranges
from ovsnet.model import AddressRange, Encap, IPNetwork

if TYPE_CHECKING:
    from ovsnet.config import Config

Found = Iterator[tuple[str, str]]
"""Paths and what is wrong there."""


def contradictions(config: Config, reported: set[str]) -> list[tuple[str, str]]:
    """What is wrong between fields; a rule is silent where one of its fields has been reported."""
    bad = {re.split(r"[.\[]", path)[0] for path in reported}
    return [each for rule, fields in _RULES for each in (() if bad.intersection(fields) else rule(config))]


def _node_address(config: Config) -> Found:
    chosen = config.node_address
    given = [
        key
        for key, value in (
            ("address", chosen.address),
            ("interface", chosen.interface),
            ("routeTo", chosen.route_to),
        )
        if value is not None
    ]
    if len(given) > 1:
        yield "nodeAddress", f"{' and '.join(given)} exclude one another; keep one"
    if chosen.address is not None and ranges.unusable_address(chosen.address):
        yield "nodeAddress.address", f"{chosen.address} can't be reached from another node"


def _store(config: Config) -> Found:
    if config.store.file is not None and config.store.kubernetes is not None:
        yield "store", "file and kubernetes exclude one another; keep one"


def _bridge(config: Config) -> Found:
    if config.bridge == names.GATEWAY:
        yield "bridge", f"{names.GATEWAY} is the gateway port's name; choose another"


def _udp_port(config: Config) -> Found:
    if config.encapsulation is Encap.GRE and config.udp_port is not None:
        yield "udpPort", "GRE has no UDP port; remove it, or choose vxlan or geneve"
    for other, own in encap.UDP_PORTS.items():
        if other is not config.encapsulation and config.udp_port == own:
            yield (
                "udpPort",
                f"{own} is that of {other.value}, which nodes with an annotation use; choose another",
            )


def _pod_cidrs(config: Config) -> Found:
    for index, network in enumerate(config.pod_cidrs):
        path = f"podCIDRs[{index}]"
        if (why := ranges.too_small(network)) is not None:
            yield path, f"{network} {why}"
        if (why := ranges.unusable_range(network)) is not None:
            yield path, f"{network} {why}; choose for example 10.244.1.0/24 or fd00:10:244:1::/64"
        for other in config.pod_cidrs[:index]:
            if network.version == other.version and network.overlaps(other):
                yield path, f"{network} overlaps {other}; every address may be in one range only"


def _pod_cidrs_and_node(config: Config) -> Found:
    address = config.node_address.address
    for index, network in enumerate(config.pod_cidrs):
        if address is not None and address in network:
            yield f"podCIDRs[{index}]", f"{network} contains the node's own address {address}"


def _mtu(config: Config) -> Found:
    ipv6 = [network for network in config.pod_cidrs if network.version == 6]
    if ipv6 and config.mtu != "auto" and config.mtu < 1280:
        yield "mtu", f"{config.mtu} is too small for IPv6, which podCIDRs has ({ipv6[0]}); at least 1280"


def _excluded(config: Config) -> Found:
    for index, excluded in enumerate(config.excluded_addresses):
        inside = any(_touches(excluded, network) for network in config.pod_cidrs)
        if config.pod_cidrs and not inside:
            yield f"excludedAddresses[{index}]", "lies in none of podCIDRs; correct or remove it"


def _log_denied(config: Config) -> Found:
    if config.policy.log_denied and config.log.level.value not in ("debug", "info"):
        yield (
            "policy.logDenied",
            f"these lines are of level info, which log.level {config.log.level.value} leaves out; choose info or 0",
        )


def _touches(excluded: AddressRange, network: IPNetwork) -> bool:
    return (
        excluded.first.version == network.version
        and int(excluded.first) <= int(network[-1])
        and int(excluded.last) >= int(network[0])
    )


_RULES: tuple[tuple[Callable[[Config], Found], tuple[str, ...]], ...] = (
    (_node_address, ("nodeAddress",)),
    (_store, ("store",)),
    (_bridge, ("bridge",)),
    (_udp_port, ("udpPort", "encapsulation")),
    (_pod_cidrs, ("podCIDRs",)),
    (_pod_cidrs_and_node, ("podCIDRs", "nodeAddress")),
    (_mtu, ("mtu", "podCIDRs")),
    (_excluded, ("excludedAddresses", "podCIDRs")),
    (_log_denied, ("policy", "log")),
)
