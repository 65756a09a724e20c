"""All that can be seen of the peers, many at once. Called by `examine`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ovsnet.doctor.judge.peers import Echo, PeerLook, Tcp
from ovsnet.doctor.look import tools
from ovsnet.doctor.look.echo import echo
from ovsnet.doctor.look.tcp import tcp
from ovsnet.errors import HostFailure
from ovsnet.host import uplink
from ovsnet.host.types import Uplink, UplinkChoice
from ovsnet.model import IPAddress
from ovsnet.state import PeerNode, Topology

_AT_ONCE = 64


async def look(
    topo: Topology, here: Uplink, wanted: Sequence[PeerNode], seconds: float
) -> tuple[list[PeerLook], dict[str, str]]:
    """What was seen of each within that time, and by name why nothing was. Those that took longer are in neither."""
    turn = asyncio.Semaphore(_AT_ONCE)
    failed: dict[str, str] = {}

    async def one(peer: PeerNode) -> PeerLook | None:
        async with turn:
            try:
                return await _peer(topo, here, peer)
            except Exception as error:  # the other peers are looked at all the same
                failed[peer.name] = tools.why(error)
                return None

    tasks = [asyncio.create_task(one(peer)) for peer in wanted]
    if not tasks:
        return [], failed
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    results = [task.result() for task in tasks if task in done]
    return [each for each in results if each is not None], failed


async def _peer(topo: Topology, here: Uplink, peer: PeerNode) -> PeerLook:
    route, error, mtu = "", "", here.mtu
    try:
        way = await uplink.resolve(UplinkChoice(route_to=peer.remote))
        route, mtu = way.interface, way.mtu
    except HostFailure as failure:
        # It also lists this node's addresses, for those who look for an uplink.
        error = failure.message.partition("; this node has")[0].rpartition("address: ")[2]
    pairs = _gateways(topo, peer)
    if not route:
        none = Echo(source=peer.local, target=peer.remote, full=mtu)
        return _result(peer, here, "", error, none, (), ())
    underlay, *rest = await asyncio.gather(
        echo(peer.local, peer.remote, mtu), *(echo(own, far, topo.mtu) for own, far in pairs)
    )
    # Only now: the pings have made all neighbours known.
    answered = {each.target for each in rest if each.largest}
    exchanges = await asyncio.gather(*(tcp(own, far) for own, far in pairs if far in answered))
    return _result(peer, here, route, error, underlay, tuple(rest), tuple(exchanges))


def _gateways(topo: Topology, peer: PeerNode) -> list[tuple[IPAddress, IPAddress]]:
    """A pair of gateway addresses for each family that both have: the nodes' kernels in the pod network."""
    own = {address.version: address for address in reversed(topo.gateways)}
    far = {cidr.version: cidr.network_address + 1 for cidr in reversed(peer.cidrs)}
    return [(own[version], far[version]) for version in sorted(own) if version in far]


def _result(
    peer: PeerNode,
    here: Uplink,
    route: str,
    error: str,
    underlay: Echo,
    tunnels: tuple[Echo, ...],
    exchanges: tuple[Tcp, ...],
) -> PeerLook:
    return PeerLook(
        name=peer.name,
        remote=peer.remote,
        route=route,
        route_error=error,
        uplink=here.interface,
        underlay=underlay,
        tunnels=tunnels,
        tcp=exchanges,
    )
