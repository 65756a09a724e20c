"""The nftables table `inet ovsnet`: how pods' packets leave the cluster, and that none poses as a tunnel's.

Owns that table and touches no other. The ruleset is `templates/ovsnet.nft.j2`; `nft` replaces the table in
one transaction, so that no packet meets half of it; `tracked` ends connections that it comes too late for. Called by
the agent's sync, and by an uninstallation.
"""

from __future__ import annotations

import asyncio
import difflib
import ipaddress
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ovsnet import templating
from ovsnet.errors import HostFailure
from ovsnet.host import tracked
from ovsnet.host.types import STEERED_MARK, EgressSpec
from ovsnet.model import IPAddress, IPNetwork
from ovsnet.nodeports import NodePortAddresses
from ovsnet.pipeline import (
    CLIENT,
    LOCAL_NODE_PORTS,
    NODE_MASQUERADE_PORTS,
    NODE_PORTS,
    PORT_CLIENT,
    REFUSED,
)

log = logging.getLogger("ovsnet.host")

TABLE = "inet ovsnet"
_TEMPLATE = "ovsnet.nft.j2"
_PATIENCE = 10
"""Seconds; nft takes 10 ms."""
_ABSENT = "No such file or directory"
_SET_AND_LIST = f"nft -f - && nft --stateless list table {TABLE}"


class Ruleset:
    """The table as this process applied it last. `templates`: the folder that holds the template."""

    def __init__(self, templates: Path) -> None:
        self._environment = templating.environment(templates)
        self._applied = ""
        self._listing = ""
        self._translated: tracked.NodePorts | None = None
        """UDP node ports of all connections that conntrack knows; None: nobody knows which."""

    def render(self, egress: EgressSpec) -> str:
        """The transaction that replaces the table, as text for `nft -f`."""
        template = self._environment.get_template(_TEMPLATE)
        return template.render(
            egress=egress,
            pods=_by_family(egress.pod_cidrs),
            peers=_addresses(egress.peers),
            direct=_by_family(egress.no_masquerade),
            node_port_networks=_limits(egress),
            node_ports=_ports(egress.node_ports, egress.node_port_addresses),
            local_node_ports=_ports(egress.local_node_ports, egress.node_port_addresses),
            external=_endpoints(egress.external),
            mark={"set": f"{STEERED_MARK:#x}", "others": f"{0xFFFFFFFF ^ STEERED_MARK:#x}"},
            node_ports_of_its_own=NODE_MASQUERADE_PORTS,
            translator={
                "client": CLIENT,
                "node_ports": NODE_PORTS,
                "local_node_ports": LOCAL_NODE_PORTS,
                "port_client": PORT_CLIENT,
                "refused": REFUSED,
            },
        )

    async def reconcile(self, egress: EgressSpec, verify: bool = False) -> list[str]:
        """Apply it if it differs from what was applied last; say what was changed, [] if nothing.

        verify: also compare with what the kernel has, and repair. Raises HostFailure with nft's words.
        """
        text = self.render(egress)
        reason = "set" if text != self._applied else ""
        if not reason and verify and await _list() != self._listing:
            reason = "repaired: it was changed from outside"
        if not reason:
            return []
        if not self._applied or reason != "set":
            # Connections may have begun that this table has never seen.
            self._translated = None
        self._applied = ""
        # Not as it is read back: somebody else's change that comes in between would be taken for right.
        self._listing = await _in_its_own_words(text)
        await _nft("-f", "-", text=text)
        self._applied = text
        await self._forget(egress)
        return [f"nftables table {TABLE} {reason}"]

    async def _forget(self, egress: EgressSpec) -> None:
        """Ends UDP connections that the table before this one translated otherwise, or none did."""
        wanted = tracked.NodePorts(
            ports=_udp(egress.node_ports),
            local=_udp(egress.local_node_ports),
            addresses=egress.node_port_addresses,
        )
        if wanted == self._translated:
            return
        try:
            count = await tracked.forget(wanted, self._translated)
        except HostFailure as error:
            # Whoever sends for the first time, or from another port, is served all the same.
            log.warning("UDP clients of node ports may go on as before their Service changed: %s", error)
            self._translated = None
            return
        self._translated = wanted
        if count:
            log.info(
                "%d UDP connections to node ports of Services that changed are new ones from now on", count
            )

    async def differences(self, egress: EgressSpec, *, surplus: bool = True) -> list[str]:
        """How the kernel's table differs from what `reconcile` would set, a rule or set on each line.

        surplus: also those that are there and should not. Raises HostFailure with nft's words.
        """
        found = await _list()
        if not found:
            return [f"nftables table {TABLE} is not there"]
        wanted = await _in_its_own_words(self.render(egress))
        if not surplus:
            there = set(_placed(found))
            lacking = (line for block, line in _placed(wanted) if (block, line) not in there)
            return [f"nftables table {TABLE} lacks: {line}" for line in lacking]
        lines = difflib.ndiff(found.splitlines(), wanted.splitlines())
        words = {"-": "has", "+": "lacks"}
        return [
            f"nftables table {TABLE} {words[line[0]]}: {line[2:].strip()}"
            for line in lines
            if line[0] in words and line[2:].strip()
        ]

    async def remove(self) -> None:
        """Delete the table; fine if there is none."""
        self._applied = self._listing = ""
        self._translated = None
        # Creating what is there already does nothing, so that the deletion finds it in any case.
        await _nft("-f", "-", text=f"table {TABLE}\ndelete table {TABLE}\n")


def _by_family(networks: Sequence[IPNetwork]) -> dict[str, list[IPNetwork]]:
    """Sorted and without overlaps, which nft refuses."""
    found: dict[str, list[IPNetwork]] = {"ip": [], "ip6": []}
    v4 = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    found["ip"] += ipaddress.collapse_addresses(v4)
    found["ip6"] += ipaddress.collapse_addresses(v6)
    return found


def _limits(egress: EgressSpec) -> dict[str, list[IPNetwork]]:
    """Where node ports answer, of families that have some and don't answer everywhere."""
    answering = egress.node_port_addresses
    limited = {version for version, _, _ in egress.node_ports if answering.limits(version)}
    return _by_family([network for version in limited for network in answering.of(version)])


def _addresses(given: Sequence[IPAddress]) -> dict[str, list[str]]:
    """Sorted, one by one: a set without ranges is the faster one, and every packet of a tunnel is looked up in it."""
    return {
        family: sorted({str(each) for each in given if each.version == version})
        for family, version in (("ip", 4), ("ip6", 6))
    }


def _ports(given: Sequence[tuple[int, str, int]], answering: NodePortAddresses) -> dict[str, list[str]]:
    """Protocol and port, by family, of those that answer anywhere."""
    some = {network.version for network in answering.networks}
    return {
        family: [
            f"{protocol} . {port}" for found, protocol, port in given if found == version and found in some
        ]
        for family, version in (("ip", 4), ("ip6", 6))
    }


def _udp(given: Sequence[tuple[int, str, int]]) -> tracked.Ports:
    return frozenset((version, port) for version, protocol, port in given if protocol == "udp")


def _endpoints(given: Sequence[tuple[IPAddress, str, int]]) -> dict[str, list[str]]:
    """Address, protocol and port, by family."""
    return {
        family: [
            f"{address} . {protocol} . {port}"
            for address, protocol, port in given
            if address.version == version
        ]
        for family, version in (("ip", 4), ("ip6", 6))
    }


def _placed(listing: str) -> Iterator[tuple[str, str]]:
    """Each line with the chain or set that it is in."""
    block = ""
    for line in map(str.strip, listing.splitlines()):
        if line.endswith("{"):
            block = line
        if line:
            yield block, line


async def _list() -> str:
    """The table in nft's own form, without what its counters say; "" when there is none."""
    try:
        return await _nft("--stateless", "list", "table", *TABLE.split())
    except HostFailure as error:
        if _ABSENT in error.message:
            return ""
        raise


async def _in_its_own_words(text: str) -> str:
    """What `_list` says where this text was applied and nothing else: in a network namespace of its own."""
    return await _run("unshare", "--net", "sh", "-c", _SET_AND_LIST, text=text)


async def _nft(*arguments: str, text: str = "") -> str:
    return await _run("nft", *arguments, text=text)


async def _run(*argv: str, text: str = "") -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        package = "nftables" if argv[0] == "nft" else "util-linux"
        raise HostFailure(
            f"cannot run {argv[0]}: it is not installed", f"install the package {package}"
        ) from error
    try:
        async with asyncio.timeout(_PATIENCE):
            out, err = await process.communicate(text.encode())
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise HostFailure(f"{' '.join(argv)} did not end within {_PATIENCE} s") from error
        raise
    if process.returncode != 0:
        words = "; ".join(
            line.strip() for line in err.decode(errors="replace").splitlines() if "Error" in line
        )
        raise HostFailure(
            f"{' '.join(argv)} failed: {words or err.decode(errors='replace').strip()}",
            "the kernel must have nf_tables with NAT, and the agent CAP_NET_ADMIN",
        )
    return out.decode()
