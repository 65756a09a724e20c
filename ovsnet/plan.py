"""Desired against observed: what to change, as data.

Pure. Nothing here knows how a change is carried out; `switch` and `host` do that. Each function is
idempotent in the sense that a plan carried out leaves nothing to plan.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from ovsnet import encap, names, recall, state
from ovsnet.config import Config
from ovsnet.errors import OvsnetError
from ovsnet.model import Frozen, IPAddress, Pod, Tunnels
from ovsnet.rows import AddPort, Change, DeletePort, PortRow, PortSpec, SetIdentity, SetPort
from ovsnet.state import PeerNode, Topology

GATEWAY_NUMBERS = 1
POD_NUMBERS = 16
TUNNEL_NUMBERS = 20000
"""Where each role's OpenFlow port numbers begin; apart, so that a dump is easy to read."""


class PortPlan(Frozen):
    """changes: to the rows. numbers: OpenFlow port by name, once the changes are made."""

    changes: list[Change]
    numbers: dict[str, int]


class LostPorts(Frozen):
    """changes: rows for pods that have lost theirs. refused: why others get none, a line for each."""

    changes: list[AddPort]
    refused: list[str]


def free_numbers(rows: Iterable[PortRow], start: int, claimed: Collection[int] = ()) -> Iterator[int]:
    """OpenFlow port numbers from `start` on that no row has or has asked for, and nobody has claimed."""
    used = {number for row in rows for number in (row.ofport, row.ofport_request)} | set(claimed)
    number = start
    while True:
        if number not in used:
            yield number
        number += 1


def desired_ports(config: Config, topo: Topology) -> list[PortSpec]:
    """The gateway and the tunnels; pods' ports come and go with CNI requests."""
    gateway = PortSpec(
        name=names.GATEWAY,
        type="internal",
        mac=topo.mac,
        mtu_request=topo.mtu,
        external_ids={names.OWNER: names.ROLE_GATEWAY}
        | recall.ids(topo.name, topo.cidrs, topo.internal, topo.wants),
    )
    by_port: dict[str, list[PeerNode]] = {}
    for peer in topo.peers:
        by_port.setdefault(state.tunnel_port(peer, config.tunnels), []).append(peer)
    return [gateway, *(_tunnel(config, topo, name, peers) for name, peers in by_port.items())]


def _tunnel(config: Config, topo: Topology, name: str, peers: list[PeerNode]) -> PortSpec:
    """A tunnel port: of one peer, or with remote_ip=flow of all that have this encapsulation."""
    peer = peers[0]
    ids = {names.OWNER: names.ROLE_TUNNEL}
    if config.tunnels is Tunnels.FLOW:
        remote, version = None, max(each.remote.version for each in peers)
        # A port has one local_ip: with peers of both families it must take packets to any address.
        local = peer.local if len({each.local for each in peers}) == 1 else None
        ids |= recall.shared_ids(peers)
    else:
        if len(peers) > 1:
            raise OvsnetError(
                f"the tunnels to {peers[0].name} and {peers[1].name} would have one name, {name}",
                "give one of these nodes another address, or choose tunnels: flow",
            )
        remote, local, version = peer.remote, peer.local, peer.remote.version
        ids |= recall.ids(peer.name, peer.cidrs, peer.addresses, peer.wants)
    udp_port = encap.udp_port(peer.encap, config.encapsulation, config.udp_port)
    return PortSpec(
        name=name,
        type=encap.interface_type(peer.encap, version),
        options=encap.options(peer.encap, remote, local, config.vni, udp_port, version),
        external_ids=ids,
    )


def ports(desired: Iterable[PortSpec], rows: Mapping[str, PortRow]) -> PortPlan:
    """Brings gateway and tunnel rows in line with `desired`; touches no other role.

    Raises OvsnetError when a name is taken by a port that is not ours.
    """
    wanted = {spec.name: spec for spec in desired}
    ours = (names.ROLE_GATEWAY, names.ROLE_TUNNEL)
    changes: list[Change] = [
        DeletePort(name=row.name)
        for row in rows.values()
        if row.role in ours and (row.name not in wanted or row.type != wanted[row.name].type)
    ]
    gone = {change.name for change in changes if isinstance(change, DeletePort)}
    kept = {name: row for name, row in rows.items() if name not in gone}
    numbers: dict[str, int] = {}
    # A number that someone else has or asks for as well is nobody's before vswitchd says whose.
    claims = collections.Counter(row.number for row in rows.values())
    free = {
        names.ROLE_GATEWAY: free_numbers(rows.values(), GATEWAY_NUMBERS),
        names.ROLE_TUNNEL: free_numbers(rows.values(), TUNNEL_NUMBERS),
    }
    for spec in wanted.values():
        row = kept.get(spec.name)
        if row is None:
            number = next(free[spec.external_ids[names.OWNER]])
            changes.append(AddPort(spec=_numbered(spec, number)))
            numbers[spec.name] = number
            continue
        changes += _corrections(_numbered(spec, row.ofport_request), row)
        if row.number is not None and (row.number == row.ofport or claims[row.number] == 1):
            numbers[spec.name] = row.number
    return PortPlan(changes=changes, numbers=numbers)


def _corrections(spec: PortSpec, row: PortRow) -> list[Change]:
    """What makes the row of that name so. Raises OvsnetError when it is not ours."""
    found = _as_spec(row, spec)
    if row.role in (names.ROLE_GATEWAY, names.ROLE_TUNNEL):
        return [SetPort(spec=spec)] if found != spec else []
    if row.role is None and _without_ids(found) == _without_ids(spec):
        # Ours to the letter, so somebody removed its mark.
        return [SetIdentity(name=spec.name, external_ids=spec.external_ids, reclaim=True)]
    raise OvsnetError(
        f"port {spec.name} exists on the bridge and is not ovsnet's",
        f"remove it, or give its Port row external_ids:{names.OWNER}={spec.external_ids[names.OWNER]}",
    )


def lost_ports(
    rows: Mapping[str, PortRow], orphans: Collection[str], cached: Sequence[Pod], topo: Topology
) -> LostPorts:
    """Gives pods their rows back.

    orphans: pods' interfaces without a row of ours. cached: the pods that the runtime knows. A row that is there says
    better who has an address, or where a pod's interface is. An address outside of the ranges stays a pod's own, as for
    pods with rows: ranges may change while pods run.
    """
    candidates = list(dict.fromkeys(pod for pod in cached if pod.port in orphans))
    nodes = _nodes_addresses(topo)
    refused = [_misplaced(pod, nodes) for pod in candidates if nodes.intersection(pod.ips)]
    attached, taken = _held(state.pods(rows))
    taken |= nodes
    candidates = [
        pod
        for pod in candidates
        if (pod.container, pod.ifname) not in attached and not taken.intersection(pod.ips)
    ]
    claims = collections.Counter(pod.port for pod in candidates)
    refused += [_ambiguous(port, candidates) for port, count in claims.items() if count > 1]
    numbers = free_numbers(rows.values(), POD_NUMBERS)
    changes: list[AddPort] = []
    for pod in candidates:
        key = pod.container, pod.ifname
        if claims[pod.port] > 1 or key in attached or taken.intersection(pod.ips):
            continue
        attached.add(key)
        taken.update(pod.ips)
        spec = PortSpec(name=pod.port, external_ids=state.identity(pod), ofport_request=next(numbers))
        changes.append(AddPort(spec=spec))
    return LostPorts(changes=changes, refused=refused)


def _held(pods: Sequence[Pod]) -> tuple[set[tuple[str, str]], set[IPAddress]]:
    """The attachments of these pods, and their addresses."""
    return {(pod.container, pod.ifname) for pod in pods}, {ip for pod in pods for ip in pod.ips}


def _nodes_addresses(topo: Topology) -> set[IPAddress]:
    """What nodes have themselves, gateways of this one included."""
    return {*topo.gateways, *topo.addresses, *(ip for peer in topo.peers for ip in peer.addresses)}


def _misplaced(pod: Pod, nodes: Collection[IPAddress]) -> str:
    theirs = ", ".join(str(ip) for ip in pod.ips if ip in nodes)
    return f"pod {pod.title} does not get its port {pod.port} back: {theirs} belongs to a node"


def _ambiguous(port: str, pods: Iterable[Pod]) -> str:
    who = ", ".join(f"{pod.title} ({pod.container[:12]} {pod.ifname})" for pod in pods if pod.port == port)
    return f"port {port} is given back to nobody: results of ADDs name it for several: {who}"


def _numbered(spec: PortSpec, number: int | None) -> PortSpec:
    return PortSpec(
        name=spec.name,
        type=spec.type,
        options=spec.options,
        external_ids=spec.external_ids,
        ofport_request=number,
        mac=spec.mac,
        mtu_request=spec.mtu_request,
    )


def _without_ids(spec: PortSpec) -> PortSpec:
    return msgspec.structs.replace(spec, external_ids={})


def _as_spec(row: PortRow, spec: PortSpec) -> PortSpec:
    """What the row says, as far as `spec` has an opinion: others' external_ids are none of ours."""
    return PortSpec(
        name=row.name,
        type=row.type,
        options=row.options,
        external_ids={key: value for key, value in row.external_ids.items() if key.startswith(names.OWNER)},
        ofport_request=row.ofport_request,
        mac=row.mac,
        mtu_request=row.mtu_request,
    )
