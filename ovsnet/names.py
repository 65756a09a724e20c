"""Names that more than one part must agree on: interfaces, cookies, keys of external_ids.

Pure. Called by everything; imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

GATEWAY = "ovsnet0"
"""The internal port of the bridge through which the node itself reaches the pods."""

# external_ids of a Bridge or Port row. A row without OWNER is somebody else's and never touched.
OWNER = "ovsnet"
ROLE_BRIDGE, ROLE_GATEWAY, ROLE_TUNNEL, ROLE_POD = "bridge", "gateway", "tunnel", "pod"
ROLE_KEEPER = "keeper"
"""Of the row that names devices which vswitchd is to keep; see `agent.arming`."""
KEY_CONTAINER = "ovsnet-container"
KEY_NETNS = "ovsnet-netns"
KEY_IFNAME = "ovsnet-ifname"
KEY_NAMESPACE = "ovsnet-namespace"
KEY_POD = "ovsnet-pod"
KEY_NETWORK = "ovsnet-network"
KEY_IPS = "ovsnet-ips"
KEY_MAC = "ovsnet-mac"
KEY_PEER = "ovsnet-peer"
KEY_PEERS = "ovsnet-peer/"
"""On a tunnel port that peers share, a key for each: this and its name; "RANGE ...|ADDRESS ...|ENCAPSULATION"."""
KEY_CIDRS = "ovsnet-cidrs"
KEY_ADDRESSES = "ovsnet-addresses"
KEY_ENCAP = "ovsnet-encap"
"""What the node's annotation asks for; "" if nothing."""
KEY_POLICIES = "ovsnet-policies"
"""On a pod's Port row: the directions in which policies isolate it, and once more with `cluster-` where rules of
ClusterNetworkPolicies may; or NO_POLICIES. On the Bridge row: SOME_POLICIES if the cluster has any, or NO_POLICIES.
Without the key nobody knows."""
NO_POLICIES, SOME_POLICIES = "none", "some"
KEY_RELEASED = "ovsnet-released"
"""On the Bridge row: addresses in their cool-down, "ADDRESS=UNIX_SECONDS ..."."""

AFFINITY = "affinity"
"""Cookies of flows that nobody renders: the switch learns them, one for each client of a Service with affinity."""
_POLICIES = ("policedpod", "rule", "ruleaddress", "ruleports")
POLICIES = (*_POLICIES, "clusterrule")
"""Kinds of what policies come to."""
OLDER = "older"
"""Cookies of flows for connections that are older than their policies: they end by themselves."""
CUT = "cut"
"""Cookies of flows that keep a connection from going on that policies deny by now: they end by themselves."""
UNRENDERED = (AFFINITY, OLDER, CUT)
"""Of flows that are on the switch for a time, and that no state is rendered to: audits pass over them."""
KINDS = ("node", "pod", "peer", "service", "endpointslice", AFFINITY, *_POLICIES, OLDER, "clusterrule", CUT)
"""Kinds of object that templates have macros for, and what flows learn; the index + 1 is the top byte of a cookie. New
ones come last: flows that an earlier agent has installed keep their meaning."""

SERVED = ("service", "endpointslice")
"""Those that may be missing, and pods still have their network."""

SUPPLIED = (*SERVED, *POLICIES)
"""Those that nobody but the store knows, not even by what OVSDB remembers."""

_HOST_INTERFACE = re.compile(r"pod-[0-9a-f]{8}")


def cookie(kind: str, key: str) -> int:
    """The cookie of an object's flows: 8 bits of kind, 56 bits of a stable hash of its key."""
    digest = hashlib.blake2b(f"{kind}/{key}".encode(), digest_size=7).digest()
    return (KINDS.index(kind) + 1) << 56 | int.from_bytes(digest, "big")


def cookies_of(kind: str) -> tuple[int, int]:
    """The cookies of all objects of a kind, as a value and a mask."""
    return (KINDS.index(kind) + 1) << 56, 0xFF << 56


def kind_of(cookie: int) -> str | None:
    """The kind that a cookie was made for; None if it is not one of ours."""
    index = (cookie >> 56) - 1
    return KINDS[index] if 0 <= index < len(KINDS) else None


def host_interface(token: str) -> str:
    """The end of a pod's veth pair that is in the bridge. token: 8 hexadecimal digits."""
    return f"pod-{token}"


def socket(address: IPAddress, port: int) -> str:
    """An address and port in one text, as in a URL."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def holder(namespace: str, name: str, container: str, ifname: str) -> str:
    """Who holds an address: one attachment, in words for messages."""
    return f"{namespace}/{name} ({ifname}) of container {container}".removeprefix("/")


def is_host_interface(name: str) -> bool:
    """Whether a link of that name is one of ours."""
    return _HOST_INTERFACE.fullmatch(name) is not None


def token_of(host_interface: str) -> str:
    return host_interface.removeprefix("pod-")


def tunnel_interface(encap: str, remote: str = "") -> str:
    """A tunnel port's name: at most 15 characters, the same for the same far end at every start."""
    if not remote:
        return f"{encap}-flow"
    digest = hashlib.blake2b(remote.encode(), digest_size=5).hexdigest()
    return f"{encap[:3]}-{digest}"


def mac_of(address: IPAddress) -> str:
    """A locally administered MAC that follows from the address, as 0a:58 + 4 bytes."""
    packed = (
        address.packed if address.version == 4 else hashlib.blake2b(address.packed, digest_size=4).digest()
    )
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in packed)


def link_local_of(mac: str) -> ipaddress.IPv6Address:
    """The IPv6 link-local address that Linux derives from a MAC (EUI-64, RFC 4291 appendix A)."""
    octets = bytearray(int(part, 16) for part in mac.split(":"))
    octets[0] ^= 0x02
    identifier = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier)
