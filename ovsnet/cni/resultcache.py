"""The result cache of the container runtime: the pods that it attached, for a start that finds their rows gone.

Runtimes on libcni, as containerd and CRI-O are, write the result of every ADD into a folder on the node and remove it
after DEL: one JSON document per attachment (libcni/api.go, `cachedInfo`). The CNI specification asks for the caching
(section 4, "CHECK" and "DEL") and not for a place. Only reads. An entry of another network says nothing; one that can't
be read, or that says what no ADD of ours has answered, is refused in words. Called by the agent's recovery.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from ovsnet import names, ranges
from ovsnet.cni import netconf, protocol
from ovsnet.errors import BadNetworkConfig
from ovsnet.model import IPAddress, Pod

FOLDERS = (Path("/var/lib/cni/results"), Path("/var/lib/cni/cache/results"))
"""Of containerd and CRI-O; of cri-dockerd."""
PLUGIN = "ovsnet"
"""The `type` that a network of ours has in its configuration."""
LARGEST = 64 * 1024
"""Bytes of an entry; they have some two thousand."""

_KIND = "cniCacheV1"
_POD_NAMESPACE, _POD_NAME = "K8S_POD_NAMESPACE", "K8S_POD_NAME"
_LONGEST_NAME, _LONGEST_PATH = 253, 4095
_T = TypeVar("_T")


class Cached(NamedTuple):
    """pods: as they were added; `ofport` is 0. refused: what is wrong with the other entries, a line for each."""

    pods: tuple[Pod, ...]
    refused: tuple[str, ...] = ()


class _Refused(Exception):
    """Why an entry is not taken."""


class _Plugin(msgspec.Struct):
    type: str = ""


class _Network(msgspec.Struct):
    """A list, or one plugin's configuration."""

    name: str = ""
    type: str = ""
    plugins: list[_Plugin] = []


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


class _Entry(msgspec.Struct, rename="camel"):
    """As libcni writes it; the arguments of capabilities are left unread. config: base64 in the file."""

    kind: str = ""
    container_id: str = ""
    config: bytes = b""
    if_name: str = ""
    netns: str = ""
    cni_args: list[tuple[str, str]] | None = None
    result: msgspec.Raw = msgspec.Raw(b"{}")


def pods(folders: Sequence[Path] = FOLDERS) -> Cached:
    """The pods that entries in these folders tell of."""
    found: list[Pod] = []
    refused: list[str] = []
    for path in _files(folders):
        try:
            if (pod := _pod(_decode(_read(path), _Entry))) is not None:
                found.append(pod)
        except FileNotFoundError:
            continue  # Removed this moment.
        except (_Refused, BadNetworkConfig) as error:
            refused.append(f"{_shown(path)} gives no pod its row back: {error}")
        except OSError as error:
            refused.append(f"{_shown(path)} gives no pod its row back: {error.strerror}")
    return Cached(tuple(found), tuple(refused))


def _files(folders: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        try:
            found += sorted(folder.iterdir())
        except OSError:
            continue  # Of another runtime.
    return found


def _read(path: Path) -> bytes:
    """The file's bytes. Neither waits nor follows: who can write there could put anything in its place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Refused("it is no regular file")
        if status.st_uid != os.geteuid():
            raise _Refused(f"it belongs to user {status.st_uid}")  # The agent is root, and so are runtimes.
        data = b""
        while len(data) <= LARGEST and (more := os.read(descriptor, LARGEST + 1 - len(data))):
            data += more
    finally:
        os.close(descriptor)
    if len(data) > LARGEST:
        raise _Refused(f"it has more than {LARGEST} bytes")
    return data


def _decode(data: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _Refused(f"it is not as libcni writes them: {reason}") from None


def _pod(entry: _Entry) -> Pod | None:
    """The pod that the entry tells of; None if it is none of ours. Raises _Refused and BadNetworkConfig."""
    network = _network(entry)
    if network is None:
        return None
    result = _decode(entry.result, _Result)
    inside = _inside(entry, result)
    interface = result.interfaces[inside]
    arguments = dict(entry.cni_args or ())
    pod = Pod(
        namespace=arguments.get(_POD_NAMESPACE, ""),
        name=arguments.get(_POD_NAME) or entry.container_id,
        container=entry.container_id,
        ifname=entry.if_name,
        netns=entry.netns or interface.sandbox,
        network=network,
        port=_port(result),
        ofport=0,
        mac=_mac(interface.mac),
        ips=_addresses(result, inside),
    )
    _require_names(pod)
    return pod


def _network(entry: _Entry) -> str | None:
    """The network's name; None if no plugin of it is ours, or if the entry is of another kind."""
    if entry.kind != _KIND or not entry.config:
        return None
    network = _decode(entry.config, _Network)
    if PLUGIN not in {network.type, *(plugin.type for plugin in network.plugins)}:
        return None
    return network.name


def _port(result: _Result) -> str:
    ours = {
        each.name for each in result.interfaces if names.is_host_interface(each.name) and not each.sandbox
    }
    if len(ours) != 1:
        raise _Refused(f"it names {len(ours) or 'no'} interfaces of ours")
    return ours.pop()


def _inside(entry: _Entry, result: _Result) -> int:
    """Which interface of the result is the pod's."""
    for index, each in enumerate(result.interfaces):
        if each.name == entry.if_name and each.sandbox:
            return index
    raise _Refused(f"its result has no interface {entry.if_name!r} in a pod")


def _mac(text: str) -> str:
    if "-" in text:
        raise _Refused(f"{text!r} is not a MAC address")
    return netconf.parse_mac(text, "mac").mac


def _addresses(result: _Result, inside: int) -> tuple[IPAddress, ...]:
    texts = [each.address for each in result.ips if each.interface == inside]
    found = [netconf.parse_address(text, "ips").address for text in texts]
    for address in found:
        if kind := ranges.unusable_address(address):
            raise _Refused(f"no pod can have {address}, which is {kind}")
    if not found:
        raise _Refused("it has no addresses")
    return tuple(dict.fromkeys(found))


def _require_names(pod: Pod) -> None:
    """Nothing but what an ADD would have been taken with. Raises _Refused."""
    checks = (
        ("container", pod.container, _LONGEST_NAME, protocol.is_container(pod.container)),
        ("interface", pod.ifname, _LONGEST_NAME, protocol.is_ifname(pod.ifname)),
        ("network", pod.network, _LONGEST_NAME, netconf.is_name(pod.network)),
        ("netns", pod.netns, _LONGEST_PATH, protocol.is_netns(pod.netns)),
        ("namespace", pod.namespace, _LONGEST_NAME, pod.namespace.isprintable()),
        ("name", pod.name, _LONGEST_NAME, pod.name.isprintable()),
    )
    for what, value, longest, fine in checks:
        if len(value) > longest:
            raise _Refused(f"{what}: longer than {longest} characters")
        if not fine:
            raise _Refused(f"{what}: {value!r} is none")


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else repr(text)
