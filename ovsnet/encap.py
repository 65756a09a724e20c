"""Encapsulations between nodes: what they cost in bytes, and how a tunnel is written in OVSDB.

Pure. Never decides who talks to whom by which encapsulation (`state` does). Called by `state` for the
MTU and by `plan` for tunnel ports. Names and values are those of ovs-vswitchd.conf.db(5), table Interface.

The overhead is what stands between the uplink's MTU, which counts from the outer IP header on, and the
pod's, which counts from the inner IP header on:

    outer IP    20 (IPv4) or 40 (IPv6)
    vxlan       UDP 8 + VXLAN 8 (RFC 7348)
    geneve      UDP 8 + Geneve 8, no options (RFC 8926)
    gre         GRE 4 + key 4 (RFC 2890)
    inner       Ethernet 14: all three carry frames
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovsnet.model import Encap, IPAddress

UDP_PORTS = {Encap.VXLAN: 4789, Encap.GENEVE: 6081}
"""Those that Open vSwitch takes without dst_port (IANA's)."""

_DEVICES = {"vxlan": "vxlan_sys", "geneve": "genev_sys", "gre": "gre_sys", "ip6gre": "ip6gre_sys"}

_OUTER_IP = {4: 20, 6: 40}
_HEADERS = {Encap.VXLAN: 8 + 8, Encap.GENEVE: 8 + 8, Encap.GRE: 4 + 4}
_INNER_ETHERNET = 14


def overhead(encap: Encap, version: int) -> int:
    """Bytes that the encapsulation adds to a pod's IP packet. version: 4 or 6, of the outer header."""
    return _OUTER_IP[version] + _HEADERS[encap] + _INNER_ETHERNET


def pod_mtu(uplink_mtu: int, tunnels: Iterable[tuple[Encap, int]], default: tuple[Encap, int]) -> int:
    """The largest packet, in bytes, that passes every tunnel in one piece.

    tunnels: encapsulation and outer version of each. default: what counts while there are none, so that the
    first one does not change the MTU of running pods.
    """
    return uplink_mtu - max(overhead(*kind) for kind in set(tunnels) or {default})


def interface_type(encap: Encap, version: int) -> str:
    """The Interface's `type`. version: 4 or 6, of the outer header.

    GRE over IPv6 has a type of its own; with the kernel's datapath `gre` does IPv4 only.
    """
    return "ip6gre" if encap is Encap.GRE and version == 6 else encap.value


def udp_port(encap: Encap, configured: Encap, port: int | None) -> int | None:
    """The UDP port of the encapsulation's tunnels; None for GRE.

    port: what the configuration says for the encapsulation that is configured. Another one keeps its
    own: no two can have the same.
    """
    own = UDP_PORTS.get(encap)
    return own if own is None or port is None or encap is not configured else port


def device(interface_type: str, options: Mapping[str, str]) -> str | None:
    """What the kernel's datapath calls the one device behind all tunnels of a kind (netdev-vport.c).

    interface_type, options: an Interface's. None for what is no tunnel.
    """
    kind = _DEVICES.get(interface_type)
    if kind is None or interface_type not in UDP_PORTS:
        return kind
    return f"{kind}_{options.get('dst_port', UDP_PORTS[Encap(interface_type)])}"


def options(
    encap: Encap,
    remote: IPAddress | None,
    local: IPAddress | None,
    key: int,
    udp_port: int | None,
    version: int | None = None,
) -> dict[str, str]:
    """The Interface's `options`.

    remote: the far end; None leaves it to the flows (remote_ip=flow), and then `version` is the
    outer header's if all flows have the same. local: the only destination that packets are taken
    from; None takes any. key: VNI, or key of GRE. udp_port: None is the encapsulation's own, which
    Open vSwitch knows and which is therefore left out.
    """
    result = {"remote_ip": "flow" if remote is None else str(remote), "key": str(key)}
    if local is not None:
        result["local_ip"] = str(local)
    if encap in UDP_PORTS:
        if udp_port not in (None, UDP_PORTS[encap]):
            result["dst_port"] = str(udp_port)
        if 6 in (version, remote.version if remote else None):
            # IPv6 has no header checksum and a node may drop UDP without one (RFC 8200, section 8.1).
            # Over IPv4 it is left out: there the inner packet's own checksum suffices.
            result["csum"] = "true"
    return result
