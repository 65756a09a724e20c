"""Results and errors in the shape that each version of the CNI specification wants.

Pure. Owns what an ADD answers; never decides what the answer is. The backend makes an `AddResult`,
mostly by `attachment`; `server` renders it. Specification 1.1, sections "ADD Success" and "Error".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from ovsnet.errors import OvsnetError
from ovsnet.model import Frozen, IPAddress, IPNetwork

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Versions of the specification that ovsnet speaks, oldest first."""

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Interface(Frozen):
    """One interface of a result. sandbox: path of the network namespace, empty on the node."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int | None = None
    """Bytes; from 1.1.0 on, as are the next two."""
    socket_path: str = ""
    pci_id: str = ""


class IPConfig(Frozen):
    """An address with its prefix length; `interface` is an index into the result's interfaces."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None


class Route(Frozen):
    """A route in the pod. The last five exist from 1.1.0 on; mtu and advmss in bytes."""

    dst: IPNetwork
    gw: IPAddress | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Dns(Frozen):
    """Name resolution, as the configuration has it."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class AddResult(Frozen):
    """What an ADD made. The server adds an earlier plugin's result and the configuration's dns."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()


class Previous(Frozen):
    """A prevResult: `raw` as it came, the rest as far as ovsnet reads it."""

    raw: Mapping[str, object]
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()

    def has(self, ifname: str) -> bool:
        """Whether it has an interface of this name inside a container."""
        return any(each.name == ifname and each.sandbox for each in self.interfaces)

    def addresses(self, ifname: str) -> frozenset[IPAddress]:
        """The addresses of that interface."""
        mine = {index for index, each in enumerate(self.interfaces) if each.name == ifname and each.sandbox}
        return frozenset(ip.address.ip for ip in self.ips if ip.interface in mine)


def attachment(
    host: Interface,
    container: Interface,
    ips: Iterable[tuple[IPInterface, IPAddress | None]],
    routes: Iterable[Route],
) -> AddResult:
    """The result of one veth pair: `host` and `container` are its ends, `ips` are on the latter."""
    configs = tuple(IPConfig(address=address, gateway=gateway, interface=1) for address, gateway in ips)
    return AddResult(interfaces=(host, container), ips=configs, routes=tuple(routes))


def render(
    result: AddResult, version: str, previous: Previous | None = None, dns: Dns | None = None
) -> bytes:
    """The JSON of a result in `version`. `previous` goes first, so that its indices stay right."""
    earlier: Mapping[str, object] = previous.raw if previous else {}
    interfaces, ips, routes = (_items(earlier.get(key)) for key in ("interfaces", "ips", "routes"))
    offset = len(interfaces)
    interfaces += [_interface(each, version) for each in result.interfaces]
    ips = [_in_version(each, version) for each in ips]
    ips += [_ip(each, version, offset) for each in result.ips]
    routes += [_route(each, version) for each in result.routes]
    document: dict[str, object] = {"cniVersion": version, "interfaces": interfaces, "ips": ips}
    if routes:
        document["routes"] = routes
    names = _dns(dns) if dns else earlier.get("dns")
    if names:
        document["dns"] = names
    return msgspec.json.encode(document)


def render_error(error: OvsnetError, version: str) -> bytes:
    """The JSON of an error: `msg` says what was wrong and where, `details` what to do."""
    document: dict[str, object] = {"cniVersion": version, "code": error.cni_code, "msg": error.message}
    if error.hint:
        document["details"] = error.hint
    return msgspec.json.encode(document)


def _items(value: object) -> list[dict[str, object]]:
    return [dict(each) for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _in_version(ip: dict[str, object], version: str) -> dict[str, object]:
    """Another plugin's address: only the key "version" differs, which ended with 1.0.0."""
    if version >= "1.0.0":
        return {key: value for key, value in ip.items() if key != "version"}
    return {"version": "6" if ":" in str(ip.get("address")) else "4", **ip}


def _interface(interface: Interface, version: str) -> dict[str, object]:
    document: dict[str, object] = {"name": interface.name}
    optional = {"mac": interface.mac, "sandbox": interface.sandbox}
    if version >= "1.1.0":
        optional |= {"socketPath": interface.socket_path, "pciID": interface.pci_id}
        if interface.mtu is not None:
            document["mtu"] = interface.mtu
    return document | {key: value for key, value in optional.items() if value}


def _ip(ip: IPConfig, version: str, offset: int) -> dict[str, object]:
    document: dict[str, object] = {} if version >= "1.0.0" else {"version": str(ip.address.version)}
    document["address"] = str(ip.address)
    if ip.gateway is not None:
        document["gateway"] = str(ip.gateway)
    if ip.interface is not None:
        document["interface"] = ip.interface + offset
    return document


def _route(route: Route, version: str) -> dict[str, object]:
    document: dict[str, object] = {"dst": str(route.dst)}
    if route.gw is not None:
        document["gw"] = str(route.gw)
    if version >= "1.1.0":
        numbers = {key: getattr(route, key) for key in ("mtu", "advmss", "priority", "table", "scope")}
        document |= {key: value for key, value in numbers.items() if value is not None}
    return document


def _dns(dns: Dns) -> dict[str, object]:
    values = {
        "nameservers": dns.nameservers,
        "domain": dns.domain,
        "search": dns.search,
        "options": dns.options,
    }
    return {key: value for key, value in values.items() if value}
