"""The network configuration that a runtime sends on stdin: decoded, checked, typed.

Pure. Strict where ovsnet reads a key, silent about keys of others: capabilities, other plugins'
options and what later specifications add may stand there. Called by `protocol`.
Specification 1.1, section 1 "Network configuration format" and section 3 "Network configuration
derivation"; CONVENTIONS.md for runtimeConfig and args.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TypeVar

import msgspec

from ovsnet.cni.result import VERSIONS, Dns, Interface, IPConfig, IPInterface, Previous
from ovsnet.errors import BadNetworkConfig, DecodeFailure, IncompatibleVersion, UnsupportedField
from ovsnet.model import Frozen, IPAddress

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}\Z")
_REPEATED = 100
"""Characters of what was sent that a message repeats: it goes into the runtime's Events and into the log."""
_ABSENT = msgspec.Raw(b"null")
_T = TypeVar("_T")


class FixedAddress(Frozen):
    """An address that the runtime asks for. prefix: its length if given; field: where, for messages."""

    address: IPAddress
    prefix: int | None
    field: str


class FixedMac(Frozen):
    """A MAC that the runtime asks for, in lower case with colons."""

    mac: str
    field: str


class Attachment(Frozen):
    """What GC must keep, within the network of the configuration."""

    container: str
    ifname: str


class NetworkConfig(Frozen):
    """The part of a configuration that every command needs. The rest is read where it matters,
    so that a DEL never fails over a value that only an ADD uses."""

    cni_version: str
    name: str
    dns: Dns | None = None
    ipam: str = ""
    """ipam.type; ovsnet allocates addresses itself and refuses it by `refuse_ipam`."""
    runtime_config: msgspec.Raw = _ABSENT
    args: msgspec.Raw = _ABSENT
    prev_result: msgspec.Raw = _ABSENT
    attachments: tuple[Attachment, ...] | None = None


# How it stands in the JSON. null counts as absent everywhere, as it does in Go.
class _Attachment(Frozen):
    container: str = msgspec.field(name="containerID")
    ifname: str


class _Dns(Frozen):
    nameservers: tuple[str, ...] | None = None
    domain: str | None = None
    search: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None


class _Ipam(Frozen):
    type: str | None = None


class _Version(Frozen):
    cni_version: str | None = msgspec.field(name="cniVersion", default=None)


class _Document(_Version):
    name: str | None = None
    type: str | None = None
    dns: _Dns | None = None
    ipam: _Ipam | None = None
    agent_socket: str | None = msgspec.field(name="agentSocket", default=None)
    runtime_config: msgspec.Raw = msgspec.field(name="runtimeConfig", default=_ABSENT)
    args: msgspec.Raw = _ABSENT
    prev_result: msgspec.Raw = msgspec.field(name="prevResult", default=_ABSENT)
    valid: tuple[_Attachment, ...] | None = msgspec.field(name="cni.dev/valid-attachments", default=None)
    # What libcni 1.1 sent at first and still sends beside it.
    valid_before: tuple[_Attachment, ...] | None = msgspec.field(name="cni.dev/attachments", default=None)


class _Wishes(Frozen):
    ips: tuple[str, ...] | None = None
    mac: str | None = None


class _Args(Frozen):
    cni: _Wishes | None = None


class _Interface(Frozen):
    name: str
    mac: str | None = None
    sandbox: str | None = None


class _IP(Frozen):
    address: str
    gateway: str | None = None
    interface: int | None = None


class _Result(Frozen):
    interfaces: tuple[_Interface, ...] | None = None
    ips: tuple[_IP, ...] | None = None
    routes: tuple[dict[str, object], ...] | None = None
    dns: dict[str, object] | None = None


def decode(stdin: bytes) -> NetworkConfig:
    """Raises DecodeFailure: not a JSON object; IncompatibleVersion; BadNetworkConfig with the key."""
    if not stdin.strip():
        raise DecodeFailure("no network configuration on stdin", "the runtime sends it as JSON")
    document = _decode(stdin, _Document, "")
    version = document.cni_version
    if version not in VERSIONS:
        said = (
            f"cniVersion {quoted(version)}"
            if version
            else "a configuration without cniVersion, which means 0.1.0,"
        )
        raise IncompatibleVersion(
            f"{said} is not supported; ovsnet speaks {', '.join(VERSIONS)}", "set cniVersion"
        )
    if not document.name:
        raise BadNetworkConfig("name: missing", "every network configuration has a name")
    if not is_name(document.name):
        raise BadNetworkConfig(
            f"name: {quoted(document.name)} is not a network name",
            "a letter or digit, then letters, digits, '_', '.' and '-'",
        )
    dns = document.dns or _Dns()
    return NetworkConfig(
        cni_version=version,
        name=document.name,
        dns=_dns(dns),
        ipam=(document.ipam and document.ipam.type) or "",
        runtime_config=document.runtime_config,
        args=document.args,
        prev_result=document.prev_result,
        attachments=_attachments(document),
    )


def quoted(text: str) -> str:
    """For messages: of what is long its beginning, and how long it is."""
    return f"{text[:_REPEATED]!r}{_rest(text)}"


def cut(text: str) -> str:
    """As `quoted`, without quotation marks."""
    return f"{text[:_REPEATED]}{_rest(text)}"


def _rest(text: str) -> str:
    return f"... ({len(text)} characters)" if len(text) > _REPEATED else ""


def is_name(text: str) -> bool:
    """Whether it is a network's name of the specification."""
    return _NAME.match(text) is not None


def version_of(stdin: bytes) -> str:
    """The version to answer an error in: the configuration's if it can be told and may be one, else our newest."""
    try:
        version = msgspec.json.decode(stdin, type=_Version).cni_version or ""
    except (ValueError, RecursionError):
        version = ""
    return version if 0 < len(version) <= _REPEATED else VERSIONS[-1]


def refuse_ipam(config: NetworkConfig) -> None:
    """Raises UnsupportedField: addresses that another plugin allocates would collide with ours."""
    if config.ipam:
        raise UnsupportedField(
            f'ipam: {{"type": {quoted(config.ipam)}}} is not supported: ovsnet allocates addresses itself',
            "remove ipam; ranges are the node's podCIDRs",
        )


def fixed_addresses(config: NetworkConfig) -> tuple[FixedAddress, ...]:
    """runtimeConfig.ips, else args.cni.ips. Raises BadNetworkConfig naming the entry."""
    for path, wishes in _wishes(config):
        if wishes.ips:
            entries = [parse_address(text, f"{path}.ips[{at}]") for at, text in enumerate(wishes.ips)]
            for at, entry in enumerate(entries):
                if entry.address in {other.address for other in entries[:at]}:
                    raise BadNetworkConfig(f"{entry.field}: {entry.address} stands there twice")
            return tuple(entries)
    return ()


def fixed_mac(config: NetworkConfig) -> FixedMac | None:
    """runtimeConfig.mac, else args.cni.mac. Raises BadNetworkConfig."""
    return next(
        (parse_mac(wishes.mac, f"{path}.mac") for path, wishes in _wishes(config) if wishes.mac), None
    )


def previous(config: NetworkConfig) -> Previous | None:
    """The prevResult, None without one. Raises BadNetworkConfig with the key at fault."""
    if config.prev_result == _ABSENT:
        return None
    typed = _decode(config.prev_result, _Result, "prevResult")
    interfaces = tuple(
        Interface(name=each.name, mac=each.mac or "", sandbox=each.sandbox or "")
        for each in typed.interfaces or ()
    )
    ips = tuple(_previous_ip(each, at, len(interfaces)) for at, each in enumerate(typed.ips or ()))
    raw = _decode(config.prev_result, dict[str, object], "prevResult")
    return Previous(raw=raw, interfaces=interfaces, ips=ips)


def parse_address(text: str, field: str) -> FixedAddress:
    """ADDRESS or ADDRESS/LENGTH. Raises BadNetworkConfig."""
    try:
        if "%" in text:
            raise ValueError(text)
        interface: IPInterface = ipaddress.ip_interface(text)
    except ValueError:
        raise BadNetworkConfig(
            f"{field}: {quoted(text)} is not an address", "write 10.244.1.9 or 10.244.1.9/24"
        ) from None
    prefix = interface.network.prefixlen if "/" in text else None
    return FixedAddress(address=interface.ip, prefix=prefix, field=field)


def parse_mac(text: str, field: str) -> FixedMac:
    """Raises BadNetworkConfig: not a MAC, or not one that an interface can have."""
    if not _MAC.match(text):
        raise BadNetworkConfig(f"{field}: {quoted(text)} is not a MAC address", "write 0a:58:0a:f4:01:09")
    mac = text.lower().replace("-", ":")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadNetworkConfig(f"{field}: {text} is no interface's own address", "multicast and zero are not")
    return FixedMac(mac=mac, field=field)


def _wishes(config: NetworkConfig) -> list[tuple[str, _Wishes]]:
    """What the runtime asks for, by precedence."""
    runtime = (
        _decode(config.runtime_config, _Wishes, "runtimeConfig") if config.runtime_config != _ABSENT else None
    )
    args = _decode(config.args, _Args, "args") if config.args != _ABSENT else None
    return [("runtimeConfig", runtime or _Wishes()), ("args.cni", (args and args.cni) or _Wishes())]


def _decode(data: bytes | msgspec.Raw, kind: type[_T], path: str) -> _T:
    """JSON as `kind`. path: where it stands in the configuration. Raises DecodeFailure, BadNetworkConfig."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        place = ".".join(each for each in (path, where.rstrip("`").removeprefix(".")) if each).replace(
            ".[", "["
        )
        if not place:
            raise DecodeFailure("the network configuration is not a JSON object") from None
        raise BadNetworkConfig(
            f"{place}: {text}".replace("`", ""), "correct the network configuration"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DecodeFailure(
            f"{path or 'the network configuration'}: {reason}", "is it JSON in UTF-8?"
        ) from None


def _dns(dns: _Dns) -> Dns | None:
    made = Dns(
        nameservers=dns.nameservers or (),
        domain=dns.domain or "",
        search=dns.search or (),
        options=dns.options or (),
    )
    return None if made == Dns() else made


def _attachments(document: _Document) -> tuple[Attachment, ...] | None:
    """Of both spellings together: what either of them calls valid is kept."""
    if document.valid is None and document.valid_before is None:
        return None
    both = (*(document.valid or ()), *(document.valid_before or ()))
    return tuple(dict.fromkeys(Attachment(container=each.container, ifname=each.ifname) for each in both))


def _previous_ip(ip: _IP, at: int, interfaces: int) -> IPConfig:
    field = f"prevResult.ips[{at}]"
    if ip.interface is not None and not 0 <= ip.interface < interfaces:
        raise BadNetworkConfig(f"{field}.interface: {ip.interface}, but there are {interfaces} interfaces")
    parse_address(ip.address, f"{field}.address")
    gateway = parse_address(ip.gateway, f"{field}.gateway").address if ip.gateway else None
    return IPConfig(address=ipaddress.ip_interface(ip.address), gateway=gateway, interface=ip.interface)
