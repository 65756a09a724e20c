"""The doctor's round: every check with its own time limit, all at once, their findings in one order.

A check that fails is a warning that says so; it never keeps the others from theirs. Called by `ovsnet doctor`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from ovsnet import encap, names, state
from ovsnet.agent.view import outdated
from ovsnet.doctor import base as bases
from ovsnet.doctor.base import Base
from ovsnet.doctor.finding import Finding, ok, warning
from ovsnet.doctor.judge import agent, cni, kernel, peers, switch
from ovsnet.doctor.look import claims, files, tools
from ovsnet.doctor.look import kernel as kernels
from ovsnet.doctor.look import peers as peer_looks
from ovsnet.errors import HostFailure, OvsnetError, SwitchUnavailable
from ovsnet.host import datapath, uplink
from ovsnet.host.types import UplinkChoice
from ovsnet.model import IPAddress
from ovsnet.store import choice
from ovsnet.switch import control
from ovsnet.switch.openflow import OpenFlow, management_socket

LIMIT = 6.0
"""Seconds for each check; with those for what all need the whole stays below 10."""
_PEERS = 5.5
"""Seconds for all peers: a dead one takes 3."""
_CHAINS = 3.0
_OFCTL = 3
_BY_HAND = "look by hand; docs/troubleshooting.md says how"

Check = Callable[[Base], Awaitable[Sequence[Finding]]]


async def examine(path: Path, only: Collection[str] = ()) -> tuple[str, list[Finding]]:
    """The node's name and all findings. path: of the agent's configuration. only: peers to look at; all if empty."""
    base = await bases.look(path)

    async def the_peers(base: Base) -> Sequence[Finding]:
        return await _peers(base, only)

    everything: dict[str, Check] = {**CHECKS, "peers": the_peers}
    found = await asyncio.gather(*(guarded(title, check, base) for title, check in everything.items()))
    return base.name, [*_rights(), *(finding for each in found for finding in each)]


def _rights() -> list[Finding]:
    if os.geteuid() == 0:
        return []
    return [
        warning("root", "the doctor is not root's: much of the node is hidden from it", "run it with sudo")
    ]


async def guarded(title: str, check: Check, base: Base, seconds: float = LIMIT) -> Sequence[Finding]:
    """A check's findings, or a warning that it could not be made."""
    try:
        async with asyncio.timeout(seconds):
            return await check(base)
    except TimeoutError:
        why = f"did not end within {seconds:g} s"
    except OvsnetError as error:
        why = error.message
    except Exception as error:  # a fault of one check must not hide what the others see
        why = tools.why(error)
    return [warning(title, f"not checked: {why}", _BY_HAND)]


async def _configuration(base: Base) -> Sequence[Finding]:
    old = outdated(base.config, base.health)
    found = [agent.configuration(base.path, base.config_error, base.config_problems, old)]
    nodes, topo = base.nodes, base.topology
    problems = topo.problems if topo else ()
    if nodes is None:
        found.append(agent.unread(base.nodes_error or "", choice.hint(base.config.store)))
        return [
            *found,
            *agent.remembered(base.name, len(topo.peers) if topo else None, problems, base.topology_error),
        ]
    judge = agent.manifests if base.config.store.kubernetes is None else agent.objects
    found += judge(len(nodes.nodes), nodes.problems)
    if topo is not None or base.topology_error is not None:
        found += agent.topology(base.name, base.name in nodes.nodes, problems, base.topology_error)
    return [*found, *agent.published(state.differences(base.config, topo, nodes.nodes) if topo else ())]


async def _daemons(base: Base) -> Sequence[Finding]:
    remote = base.config.ovsdb
    socket = files.unix_socket(remote.removeprefix("unix:")) if remote.startswith("unix:") else None
    version = base.rows.version if base.rows else None
    return [
        switch.ovsdb(remote, socket, base.rows_error),
        switch.vswitchd(base.vswitchd_error, version, base.vswitchd or ""),
        agent.answers(base.config.cni_socket, base.health),
        agent.socket(files.unix_socket(base.config.cni_socket)),
    ]


async def _pods(base: Base) -> Sequence[Finding]:
    return agent.pods(base.health)


async def _bridge(base: Base) -> Sequence[Finding]:
    rows = base.rows
    if rows is None:
        return []
    row = rows.bridge
    has_kernel = datapath.kernel_has_openvswitch()
    kind = row["datapath_type"] if row else None
    alive = base.vswitchd_error is None
    waits = rows.other_config.get("flow-restore-wait") == "true"
    errors = {name: port.error or "no number" for name, port in rows.ports.items() if port.ofport == -1}
    found = [
        switch.bridge(
            base.config.bridge,
            row is not None,
            bool(row and row["external_ids"].get(names.OWNER) == names.ROLE_BRIDGE),
            base.agent_runs,
        ),
        switch.datapath(base.config.datapath, kind, rows.datapath_types, has_kernel, alive),
        switch.restore_wait(waits, base.agent_runs),
    ]
    if row is not None and alive:
        found.append(switch.ports(len(rows.ports), errors))
    found.append(peers.twice({pod.port: pod.ips for pod in state.pods(rows.ports)}))
    return found


async def _flows(base: Base) -> Sequence[Finding]:
    if base.vswitchd_error is not None or base.rows is None or base.rows.bridge is None:
        return []
    try:
        lines = await OpenFlow(management_socket(base.config.ovsdb, base.config.bridge), _OFCTL).dump()
    except SwitchUnavailable as error:
        return [switch.flows(0, base.agent_runs, error.message)]
    return [switch.flows(sum("actions=" in line for line in lines), base.agent_runs)]


async def _cni(base: Base) -> Sequence[Finding]:
    present, runs = files.executable()
    return [
        cni.executable(present, runs),
        *cni.networks(files.networks(), files.binaries(), base.config.cni_socket),
    ]


async def _leftovers(base: Base) -> Sequence[Finding]:
    links = kernels.links()
    try:
        return cni.leftovers(links, await tools.chains(_CHAINS))
    except OvsnetError as error:
        found = [warning("other plugins", f"chains were not looked at: {error.message}", error.hint)]
        return [*found, *cni.leftovers(links, [])]


async def _tunnel_ports(base: Base) -> Sequence[Finding]:
    config = base.config
    configured = encap.udp_port(config.encapsulation, config.encapsulation, config.udp_port)
    ports = base.topology.tunnel_ports if base.topology else () if configured is None else (configured,)
    return [kernel.udp_port(port, kernels.holders(port)) for port in ports]


async def _uplink(base: Base) -> Sequence[Finding]:
    here, topo = base.uplink, base.topology
    pairs = {(peer.encap, peer.remote.version) for peer in topo.peers} if topo else set()
    if here is not None and not pairs:
        pairs = {(base.config.encapsulation, here.addresses[0].version)}
    overhead = max((encap.overhead(*pair) for pair in pairs), default=0)
    return [
        peers.uplink(
            here.interface if here else None,
            here.addresses if here else (),
            here.mtu if here else 0,
            topo.mtu if topo else 0,
            overhead,
            base.uplink_error or "",
        )
    ]


async def _gateway(base: Base) -> Sequence[Finding]:
    if base.topology is None:
        return []
    try:
        found = await uplink.resolve(UplinkChoice(interface=names.GATEWAY))
        present, addresses, mtu = True, found.addresses, found.mtu
    except HostFailure:
        present, addresses, mtu = False, (), 0
    return [peers.gateway(present, addresses, mtu, base.topology.gateways, base.topology.mtu)]


async def _claims(base: Base) -> Sequence[Finding]:
    """The addresses that other nodes know, and those that tunnels end at."""
    here = base.uplink
    if here is None:
        return []

    async def one(address: IPAddress) -> Finding:
        macs = await claims.others(here.interface, address)
        if macs is None:
            return ok(f"address {address}", f"{here.interface} has no neighbours that could have it too")
        return peers.claims(address, here.interface, set(macs) - own)

    own = kernels.macs()
    return await asyncio.gather(*map(one, here.addresses))


async def _settings(base: Base) -> Sequence[Finding]:
    families = sorted({cidr.version for cidr in base.topology.cidrs}) if base.topology else [4]
    pods = len(state.pods(base.rows.ports)) if base.rows else 0
    count = len(base.topology.peers) if base.topology else 0
    get = kernels.setting
    return [
        kernel.rp_filter(get("ipv4/conf/all/rp_filter"), get(f"ipv4/conf/{names.GATEWAY}/rp_filter")),
        kernel.forwarding(get("ipv4/ip_forward"), get("ipv6/conf/all/forwarding"), families),
        kernel.conntrack(get("netfilter/nf_conntrack_count"), get("netfilter/nf_conntrack_max")),
        *(
            kernel.neighbours(version, get(f"ipv{version}/neigh/default/gc_thresh3"), pods, count)
            for version in families
        ),
    ]


async def _limits(base: Base) -> Sequence[Finding]:
    opened = [kernels.files_of_system()]
    for daemon in ("ovsdb-server", kernel.VSWITCHD):
        if (process := _process(base, daemon)) is not None and (found := kernels.files_of(daemon, process)):
            opened.append(found)
    return [kernel.files(opened), kernel.inotify(kernels.inotify(base.config.store.folder or "/"))]


async def _disks(base: Base) -> Sequence[Finding]:
    database = Path(kernels.database_file(_process(base, "ovsdb-server"))).parent
    return [kernel.disk(files.disk(str(folder))) for folder in (database, Path("/run")) if folder.exists()]


async def _clock(base: Base) -> Sequence[Finding]:
    return [kernel.clock(time.time(), files.newest(), kernels.synchronised())]


async def _peers(base: Base, only: Collection[str]) -> Sequence[Finding]:
    topo, here = base.topology, base.uplink
    if topo is None or here is None:
        return []
    row = base.rows.bridge if base.rows else None
    if base.vswitchd_error is not None and row is not None and row["datapath_type"] == "netdev":
        why = "not looked at: with the userspace datapath nothing passes without ovs-vswitchd"
        return [warning("peers", why, "first let ovs-vswitchd run")]
    unknown = sorted(set(only) - {peer.name for peer in topo.peers})
    wanted = [peer for peer in topo.peers if not only or peer.name in only]
    looks, failed = await peer_looks.look(topo, here, wanted, _PEERS)
    seen = {*failed, *(look.name for look in looks)}
    found = [finding for look in looks for finding in peers.peer(look)]
    found += [warning(f"peer {name}", f"not checked: {why}", _BY_HAND) for name, why in failed.items()]
    found += [warning(f"peer {name}", "there is no such peer", "ovsnet show lists them") for name in unknown]
    found += peers.left_out([peer.name for peer in wanted if peer.name not in seen])
    return found or [ok("peers", "there are none")]


def _process(base: Base, daemon: str) -> int | None:
    """None also where the number is that of another process: the daemon runs in a container, or this does."""
    try:
        process = control.process(base.config.ovsdb, daemon)
    except OvsnetError:
        return None
    return process if kernels.is_called(process, daemon) else None


CHECKS: dict[str, Check] = {
    "daemons": _daemons,
    "configuration": _configuration,
    "bridge": _bridge,
    "flows": _flows,
    "pods": _pods,
    "CNI": _cni,
    "other plugins": _leftovers,
    "tunnel ports": _tunnel_ports,
    "uplink": _uplink,
    "gateway": _gateway,
    "addresses": _claims,
    "settings": _settings,
    "limits": _limits,
    "disks": _disks,
    "clock": _clock,
}
"""In the order of the answer; the peers come last."""
