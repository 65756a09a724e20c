"""Encapsulations between nodes: what they cost in bytes, and how OVSDB is told about them.

Pure. Called by `state` for the MTU and by `plan` for tunnel ports.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovsnet.model import Encap, IPAddress

_OUTER_IP = {4: 20, 6: 40}
_INNER_ETHERNET = 14
_HEADER = {
    Encap.VXLAN: 8 + 8,  # UDP, VXLAN (RFC 7348)
    Encap.GENEVE: 8 + 8,  # UDP, Geneve without options (RFC 8926)
    Encap.GRE: 4 + 4,  # GRE, key (RFC 2784, RFC 2890)
}
DEFAULT_UDP_PORT = {Encap.VXLAN: 4789, Encap.GENEVE: 6081}


def overhead(encap: Encap, version: int) -> int:
    """Bytes that a tunnel adds to a pod's packet. version: of the outer IP, 4 or 6.

    The outer Ethernet header is the uplink's own and not part of its MTU.
    """
    return _OUTER_IP[version] + _HEADER[encap] + _INNER_ETHERNET


def pod_mtu(uplink_mtu: int, peers: Iterable[tuple[Encap, IPAddress]], default: tuple[Encap, int]) -> int:
    """The largest packet that reaches every peer, in bytes; without peers that of the default encapsulation."""
    costs = {overhead(encap, remote.version) for encap, remote in peers}
    return uplink_mtu - max(costs, default=overhead(*default))


def options(
    encap: Encap, remote: IPAddress | None, local: IPAddress | None, key: int, udp_port: int | None
) -> dict[str, str]:
    """The Interface's options (ovs-vswitchd.conf.db(5), "Tunnel Options").

    remote None: one port for all peers, whose far end flows choose. The UDP port is named only where it
    is not the encapsulation's own. GRE has none.
    """
    found = {"remote_ip": "flow" if remote is None else str(remote), "key": str(key)}
    if local is not None:
        found["local_ip"] = str(local)
    if encap in DEFAULT_UDP_PORT and udp_port not in (None, DEFAULT_UDP_PORT[encap]):
        found["dst_port"] = str(udp_port)
    return found
