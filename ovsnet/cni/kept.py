"""What the container runtime keeps of the pods that it attached: for a start that finds their rows gone.

Runtimes on libcni, as containerd and CRI-O are, write the result of every ADD into a folder on the node and remove it
after DEL: one JSON document per attachment (libcni/api.go, `cachedInfo`). The CNI specification asks for the keeping
(section 4, "CHECK" and "DEL") and not for a place. Only reads; what can't be read as such a document says nothing.
Called by the agent's upkeep.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ovsnet import names
from ovsnet.model import Pod

FOLDERS = (Path("/var/lib/cni/results"), Path("/var/lib/cni/cache/results"))
"""Of containerd and CRI-O; of cri-dockerd."""
_POD_NAMESPACE, _POD_NAME = "K8S_POD_NAMESPACE", "K8S_POD_NAME"


class _Interface(msgspec.Struct):
    name: str
    mac: str = ""
    sandbox: str = ""


class _Address(msgspec.Struct):
    address: str
    interface: int = -1


class _Result(msgspec.Struct):
    interfaces: list[_Interface] = []
    ips: list[_Address] = []


class _Kept(msgspec.Struct, rename="camel"):
    """As libcni writes it; `config` and the arguments of capabilities are left unread."""

    kind: str
    container_id: str
    if_name: str
    network_name: str
    result: _Result
    netns: str = ""
    cni_args: list[tuple[str, str]] | None = None


def pods(folders: Sequence[Path] = FOLDERS) -> Iterator[Pod]:
    """The pods whose interface on the host has a name of ours; `ofport` is 0."""
    for folder in folders:
        for path in sorted(folder.glob("*")):
            # Somebody else's, of another version, or removed this moment.
            with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
                if (pod := _pod(msgspec.json.decode(path.read_bytes(), type=_Kept))) is not None:
                    yield pod


def _pod(kept: _Kept) -> Pod | None:
    interfaces = kept.result.interfaces
    port = next((each.name for each in interfaces if _is_ours(each)), None)
    inside = next((i for i, each in enumerate(interfaces) if each.name == kept.if_name and each.sandbox), -1)
    ips = tuple(ipaddress.ip_interface(e.address).ip for e in kept.result.ips if e.interface == inside)
    if kept.kind != "cniCacheV1" or port is None or inside < 0 or not ips:
        return None
    arguments = dict(kept.cni_args or ())
    return Pod(
        namespace=arguments.get(_POD_NAMESPACE, ""),
        name=arguments.get(_POD_NAME) or kept.container_id,
        container=kept.container_id,
        ifname=kept.if_name,
        netns=kept.netns or interfaces[inside].sandbox,
        network=kept.network_name,
        port=port,
        ofport=0,
        mac=interfaces[inside].mac,
        ips=ips,
    )


def _is_ours(interface: _Interface) -> bool:
    return names.is_host_interface(interface.name) and not interface.sandbox
