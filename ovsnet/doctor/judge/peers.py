"""The underlay and the peers: addresses, MTU, what passes between the nodes and through the tunnels.

Pure. Called by `examine`; what the packets were is told in `look.echo` and `look.tcp`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ovsnet import names
from ovsnet.doctor.finding import Finding, fault, ok, warning
from ovsnet.model import Frozen, IPAddress

_SLOW = 100.0
"""Milliseconds."""


class Echo(Frozen):
    """What came back of pings that may not be fragmented."""

    source: IPAddress
    target: IPAddress
    full: int
    """Bytes of the largest packet that was sent: what the sender believes to be the MTU."""
    largest: int = 0
    """Bytes of the largest that came back; 0: none did."""
    milliseconds: float = 0.0
    """The quickest round trip."""
    error: str = ""
    """The kernel's words where it refused to send."""

    @property
    def whole(self) -> bool:
        return self.largest >= self.full


class Tcp(Frozen):
    """What came back of two SYNs: one of the kernel's own, one with a checksum computed in software."""

    source: IPAddress
    target: IPAddress
    kernel: bool = False
    """The kernel took the answer to its own: checksums are right both ways."""
    kernel_seen: bool = False
    """An answer to it arrived, whether the kernel took it or not."""
    software: bool = False
    """An answer to the other arrived."""
    error: str = ""


class PeerLook(Frozen):
    """All that was seen of a peer."""

    name: str
    remote: IPAddress
    route: str
    """The interface that leads to it; "" without a route."""
    route_error: str
    uplink: str
    underlay: Echo
    tunnels: tuple[Echo, ...]
    tcp: tuple[Tcp, ...]


def peer(look: PeerLook) -> list[Finding]:
    """The findings for one peer, from the underlay to TCP. What can't work because of the one before is left out."""
    if not look.route:
        return [_no_route(look)]
    reached = any(echo.largest for echo in look.tunnels)
    found = [*_route(look), _underlay(look, reached)]
    if not look.underlay.largest and not reached:
        return found
    for echo in look.tunnels:
        found.append(_tunnel(look, echo))
    answered = {echo.target for echo in look.tunnels if echo.largest}
    found += [_tcp(look, tcp) for tcp in look.tcp if tcp.target in answered]
    return found


def _no_route(look: PeerLook) -> Finding:
    return fault(
        f"peer {look.name}: route",
        look.route_error,
        f"ip route get {look.remote}; give the node a route to it",
    )


def _route(look: PeerLook) -> list[Finding]:
    if look.route == look.uplink:
        return []
    return [
        warning(
            f"peer {look.name}: route",
            f"{look.remote} is reached by {look.route}, but the uplink is {look.uplink}",
            "set `nodeAddress`, or mend the route",
        )
    ]


def _underlay(look: PeerLook, reached: bool) -> Finding:
    title, echo = f"peer {look.name}: underlay", look.underlay
    where = f"{echo.target} by {look.route}"
    if not echo.largest and reached:
        return warning(
            title, f"{where} does not answer pings, but its tunnel does", "a firewall? MTU was not measured"
        )
    if not echo.largest:
        why = f" ({echo.error})" if echo.error else ""
        return fault(
            title,
            f"{where} is unreachable: no answer to pings of any size{why}",
            f"is the node up? ping {echo.target}; ip neigh show {echo.target}; firewalls between the nodes",
        )
    if not echo.whole:
        return fault(
            title,
            f"{where}: packets of {echo.full} bytes, the uplink's MTU, do not pass; {echo.largest} bytes do",
            f"raise the MTU between the nodes to {echo.full}, or lower that of {look.uplink} on all nodes; "
            f"check with: ping -M do -s {echo.full - (48 if echo.target.version == 6 else 28)} {echo.target}",
        )
    return _timed(title, f"{where}: {echo.full} bytes pass", echo)


def _timed(title: str, seen: str, echo: Echo) -> Finding:
    seen = f"{seen}, {echo.milliseconds:.1f} ms"
    if echo.milliseconds > _SLOW:
        return warning(title, seen, "slow for a cluster: is the path congested, or the node overloaded?")
    return ok(title, seen)


def _tunnel(look: PeerLook, echo: Echo) -> Finding:
    title = f"peer {look.name}: tunnel IPv{echo.target.version}"
    where = f"{echo.source} to {echo.target}"
    if not echo.largest:
        why = f" ({echo.error})" if echo.error else ""
        return fault(
            title,
            f"{where}: nothing passes{why}",
            f"ovsnet trace NODE {echo.target}; do firewalls let the UDP port pass? Are vswitchd and agent up there?",
        )
    if not echo.whole:
        return fault(
            title,
            f"{where}: packets of {echo.full} bytes, the pods' MTU, do not pass; {echo.largest} bytes do",
            f"set `mtu: {echo.largest}` on all nodes, or raise the MTU between the nodes",
        )
    return _timed(title, f"{where}: {echo.full} bytes pass", echo)


def _tcp(look: PeerLook, tcp: Tcp) -> Finding:
    title = f"peer {look.name}: TCP IPv{tcp.target.version}"
    where = f"{tcp.source} to {tcp.target}"
    if tcp.kernel:
        return ok(title, f"{where}: checksums are right both ways")
    if tcp.kernel_seen:
        return fault(
            title,
            f"{where}: answers arrive, but this kernel drops them: their checksums are wrong",
            f"on {look.name}: ethtool -K {names.GATEWAY} tx off, and see ethtool -k of its uplink",
        )
    if tcp.software:
        return fault(
            title,
            f"{where}: a SYN with a checksum from software is answered, one of the kernel's is not: offload breaks it",
            f"ethtool -K {names.GATEWAY} tx off; also try the uplink: ethtool -K {look.uplink} tx off",
        )
    why = f" ({tcp.error})" if tcp.error else ""
    return warning(
        title,
        f"{where}: pings pass, but no SYN was answered{why}",
        "does a firewall there drop TCP? Otherwise all checksums are wrong: ethtool -k on both nodes",
    )


def left_out(names_of: Sequence[str]) -> list[Finding]:
    """Peers for which there was no time."""
    if not names_of:
        return []
    some = ", ".join(names_of[:5]) + (" ..." if len(names_of) > 5 else "")
    return [
        warning(
            "peers", f"no time for {len(names_of)} of them: {some}", "ovsnet doctor --peer NAME looks at one"
        )
    ]


def uplink(
    interface: str | None, addresses: Sequence[IPAddress], mtu: int, pod_mtu: int, overhead: int, error: str
) -> Finding:
    """overhead: the most that any tunnel adds. error: why there is none."""
    if interface is None:
        return fault("uplink", error, "set `nodeAddress`, or give the node its address")
    seen = f"{interface} with {', '.join(map(str, addresses))}, MTU {mtu}"
    if pod_mtu and pod_mtu + overhead > mtu:
        return fault(
            "uplink",
            f"{seen}: too small for pods' packets of {pod_mtu} bytes and {overhead} bytes of tunnel",
            f"set `mtu: {mtu - overhead}` or `mtu: auto`, or raise the uplink's",
        )
    return ok("uplink", f"{seen}; pods' packets of {pod_mtu} bytes and {overhead} of tunnel fit")


def gateway(
    present: bool, addresses: Sequence[IPAddress], mtu: int, wanted: Sequence[IPAddress], wanted_mtu: int
) -> Finding:
    """The node's own port in the pod network."""
    title, todo = (
        f"gateway {names.GATEWAY}",
        "the agent makes it so: is it running, and what does its log say?",
    )
    if not present:
        return fault(
            title, "is not there, or has no address", "ovs-vswitchd and the agent make it: are they running?"
        )
    # An address of each family at most is known here, the first.
    families = {address.version for address in wanted}
    if lacks := families - {address.version for address in addresses}:
        return fault(title, f"has no address of IPv{', IPv'.join(map(str, sorted(lacks)))}", todo)
    if mtu != wanted_mtu:
        return fault(title, f"has MTU {mtu}, not {wanted_mtu}", todo)
    return ok(title, f"{', '.join(map(str, addresses))}, MTU {mtu}")


def claims(address: IPAddress, interface: str, macs: Iterable[str]) -> Finding:
    """macs: of others on the segment that answered for this node's own address."""
    title = f"address {address}"
    if others := sorted(set(macs)):
        return fault(
            title,
            f"{', '.join(others)} on {interface}'s segment has it too",
            f"find that machine in the switches' MAC tables; check: arping -D -I {interface} {address}",
        )
    return ok(title, f"nobody else on {interface}'s segment answers for it")


def twice(pods: Mapping[str, Sequence[IPAddress]]) -> Finding:
    """pods: addresses by port."""
    held = Counter(address for addresses in pods.values() for address in set(addresses))
    doubles = sorted((address for address, count in held.items() if count > 1), key=str)
    if not doubles:
        return ok("pods' addresses", f"{len(held)} addresses of {len(pods)} pods, none twice")
    owners = [name for name, addresses in pods.items() if doubles[0] in addresses]
    return fault(
        "pods' addresses",
        f"{', '.join(map(str, doubles))} twice: ports {', '.join(owners)}",
        "make one of these pods again; `ovs-vsctl list Port` tells which they are",
    )
