"""Objects in, flow lines out: what must be installed.

Pure but for reading the templates once. A template defines a macro for each kind of object that
its table cares about (`node`, `pod`, `peer`, `service`, ...); the renderer calls the macros named after an
object's kind in every table and puts the object's cookie and the table's number in front of each
line. Groups and meters, which are in no table, are a template as well. The result is kept until the object changes.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ovsnet import names, pipeline, templating
from ovsnet.frontends import CLIENTS, ServiceObject
from ovsnet.model import IPAddress, LocalNode, Peer, Pod
from ovsnet.objects import Object
from ovsnet.policyobjects import (
    ClusterRule,
    CutConnection,
    OlderConnections,
    PolicedPod,
    Rule,
    RuleAddress,
    RulePorts,
)
from ovsnet.servicemodel import Protocol
from ovsnet.services import SliceObject

Lines = Collection[str]
Rendered = Mapping[int, Lines]
"""Flow lines by cookie."""

_KIND: dict[type, str] = {
    LocalNode: "node",
    Pod: "pod",
    Peer: "peer",
    ServiceObject: "service",
    SliceObject: "endpointslice",
    PolicedPod: "policedpod",
    OlderConnections: "older",
    CutConnection: "cut",
    Rule: "rule",
    ClusterRule: "clusterrule",
    RuleAddress: "ruleaddress",
    RulePorts: "ruleports",
}

IPAny = ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network


def kind_of(obj: Object) -> str:
    """The kind of an object: the name of its macros, and the first half of its cookie's key."""
    return _KIND[type(obj)]


def cookie_of(obj: Object) -> int:
    return cookie_for(type(obj), obj.key)


def cookie_for(kind: type, key: str) -> int:
    """The cookie of the object of this type and key, be there one or not."""
    return names.cookie(_KIND[kind], key)


def _ip_match(ipv4: str, ipv6: str) -> Callable[[IPAny], str]:
    """A filter: an address or network as a match in the syntax of its family."""
    return lambda ip: f"{ipv4 if ip.version == 4 else ipv6}={ip}"


def _l4(address: IPAddress, protocol: Protocol, side: str, port: int) -> str:
    """A match of one end of a connection."""
    version, field = ("", f"nw_{side}") if address.version == 4 else ("6", f"ipv6_{side}")
    return f"{protocol.value.lower()}{version},{field}={address},tp_{side}={port}"


_FILTERS: dict[str, Callable[[Any], str]] = {
    "src": _ip_match("ip,nw_src", "ipv6,ipv6_src"),
    "dst": _ip_match("ip,nw_dst", "ipv6,ipv6_dst"),
    "src_of": lambda ip: f"{'nw_src' if ip.version == 4 else 'ipv6_src'}={ip}",
    "dst_of": lambda ip: f"{'nw_dst' if ip.version == 4 else 'ipv6_dst'}={ip}",
    "tun_src": _ip_match("tun_src", "tun_ipv6_src"),
    "conjunctions": lambda clauses: ",".join(
        f"conjunction({each.rule},{each.place}/{each.lists})" for each in clauses
    ),
    "set_tun_dst": lambda ip: f"set_field:{ip}->{'tun_dst' if ip.version == 4 else 'tun_ipv6_dst'}",
    "l4": lambda frontend: _l4(frontend.address, frontend.protocol, "dst", frontend.port),
    "from_endpoint": lambda member: _l4(member[0], member[1], "src", member[2]),
    "to_endpoint": lambda member: _l4(member[0], member[1], "dst", member[2]),
    "in_register": lambda ip: f"reg8=0x{int(ip):x}" if ip.version == 4 else f"xxreg2=0x{int(ip):x}",
    "set_register": lambda ip: f"set_field:0x{int(ip):x}->{'reg8' if ip.version == 4 else 'xxreg2'}",
    "socket": lambda end: names.socket(end.address, end.port),
    "link_local": lambda mac: str(names.link_local_of(mac)),
}


@dataclasses.dataclass
class Switch:
    """What templates may ask of the switch, as `switch`."""

    rewrites_discovery: bool = True
    """Whether it can make an advertisement of a solicitation. The kernel's datapath can't: it sets neither the type of
    an option nor the flags, and ovs-vswitchd refuses flows that would (OFPBAC_BAD_SET_ARGUMENT)."""
    tells_collisions: bool = False
    """Whether nat(src) makes two connections differ that are alike on the far side. In the kernel it does; in user
    space it may end ovs-vswitchd (see 38-service)."""
    told_a_second: int = 0
    """Of packets that policies deny, so many each second come to the agent, which logs them."""

    @property
    def deny(self) -> str:
        """The actions of flows of policies that drop."""
        return pipeline.DENY_AND_TELL if self.told_a_second else "drop"

    @property
    def meter(self) -> str:
        """The meter in these actions."""
        return pipeline.denied_meter(self.told_a_second)


class _Flows(Collection[str]):
    """Lines of one cookie as a single text, without that. There may be hundreds of thousands, of some hundred bytes:
    each as a text of its own takes half as much again. Equal to a tuple of the same lines too."""

    __slots__ = ("_cookie", "_text")

    def __init__(self, cookie: int, lines: Iterable[str]) -> None:
        """lines: without cookie."""
        self._cookie = cookie
        self._text = "\n".join(lines)

    def __len__(self) -> int:
        return self._text.count("\n") + 1 if self._text else 0

    def __iter__(self) -> Iterator[str]:
        head = f"cookie=0x{self._cookie:x},"
        return (head + line for line in self._text.splitlines())

    def __contains__(self, line: object) -> bool:
        return line in tuple(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Flows):
            return self._text == other._text and self._cookie == other._cookie
        return tuple(self) == other

    __hash__ = None  # type: ignore[assignment]


_CLAUSE = "conjunction("
_CLAUSES = 2000
"""Lists of rules that one flow is on: each takes 16 bytes of its message, of 64 KiB at most."""


class Renderer:
    """Renders objects with the templates of one folder, for the datapath that `use` told last, else netdev.

    told_a_second: of packets that policies deny, how many are to come to the agent; see `use_meters`.
    Raises jinja2.TemplateError at construction for a template that does not compile: that is a
    fault of the installation, not of the state.
    """

    def __init__(self, folder: Path, told_a_second: int = 0) -> None:
        self.tables = pipeline.tables(folder)
        self._told_a_second = told_a_second
        self._switch = Switch(told_a_second=told_a_second)
        environment = templating.environment(folder)
        environment.filters.update(_FILTERS)
        environment.globals.update(
            table={table.name: table.number for table in self.tables},
            router=pipeline.ROUTER,
            switch=self._switch,
            from_pod=pipeline.FROM_POD,
            from_gateway=pipeline.FROM_GATEWAY,
            from_tunnel=pipeline.FROM_TUNNEL,
            client=pipeline.CLIENT,
            refused=pipeline.REFUSED,
            port_client=pipeline.PORT_CLIENT.addresses,
            node_ports=pipeline.NODE_PORTS.addresses + pipeline.LOCAL_NODE_PORTS.addresses,
            errors=pipeline.ERRORS,
            keep_client=pipeline.KEEP_CLIENT,
            masquerade_ports=pipeline.MASQUERADE_PORTS,
            clients=CLIENTS,
            zone={
                "service": pipeline.SERVICE_ZONE,
                "back": pipeline.BACK_ZONE,
                "policy": pipeline.POLICY_ZONE,
                "refused": pipeline.REFUSED_ZONE,
            },
        )
        self._macros: dict[str, list[tuple[str, Callable[[Object], str]]]] = {
            kind: [] for kind in names.KINDS
        }
        for table in self.tables:
            module = environment.get_template(table.path.name).module
            for kind in names.KINDS:
                if hasattr(module, kind):
                    self._macros[kind].append((f"table={table.number},", getattr(module, kind)))
        groups = environment.get_template(pipeline.GROUPS).module
        for kind in names.KINDS:
            if hasattr(groups, kind):
                self._macros[kind].append(("", getattr(groups, kind)))
        self._memo: dict[int, tuple[Object, Lines]] = {}

    def use(self, datapath: str) -> None:
        """Render for a bridge of this datapath_type from now on."""
        self._switch.rewrites_discovery = datapath != "system"
        self._switch.tells_collisions = datapath == "system"
        self._memo.clear()

    def use_meters(self, there: bool) -> bool:
        """Whether the switch has the meter: without, no packet comes to the agent. True if that is news, and the node
        and what policies come to are to be rendered anew."""
        told = self._told_a_second if there else 0
        changed = told != self._switch.told_a_second
        if changed:
            self._switch.told_a_second = told
            for cookie in [each for each in self._memo if names.kind_of(each) in ("node", *names.POLICIES)]:
                del self._memo[cookie]
        return changed

    @property
    def in_kernel(self) -> bool:
        """Whether the bridge's datapath is the kernel's, whose conntrack outlives ovs-vswitchd."""
        return self._switch.tells_collisions

    @property
    def deny(self) -> str:
        """The actions of flows of policies that drop."""
        return self._switch.deny

    @property
    def tells(self) -> bool:
        """Whether packets that policies deny come to the agent."""
        return self._switch.told_a_second > 0

    def known(self, cookie: int) -> Object | None:
        """The object of that cookie that was rendered last."""
        found = self._memo.get(cookie)
        return found[0] if found is not None else None

    def object(self, obj: Object) -> Lines:
        """The flow lines that serve one object, in the syntax of ovs-ofctl."""
        cookie = cookie_of(obj)
        known = self._memo.get(cookie)
        if known is not None and (known[0] is obj or known[0] == obj):
            return known[1]
        lines = self.lines(obj)
        self._memo[cookie] = (obj, lines)
        return lines

    def lines(self, obj: Object) -> Lines:
        """The same, of what is rendered once."""
        cookie = cookie_of(obj)
        return _Flows(
            cookie,
            (
                where + line
                for where, macro in self._macros[kind_of(obj)]
                for whole in filter(None, map(str.strip, macro(obj).splitlines()))
                for line in _parts(whole)
            ),
        )

    @property
    def objects(self) -> Mapping[int, Object]:
        """What was rendered last, by cookie; made anew each time."""
        return {cookie: obj for cookie, (obj, _) in self._memo.items()}

    def state(self, objects: Iterable[Object], others: Rendered | None = None) -> dict[int, Lines]:
        """Everything that must be installed for these objects, and nothing else.

        others: what `object` gave for more of them, which is not looked at again.
        """
        rendered = {cookie_of(obj): self.object(obj) for obj in objects}
        rendered.update(others or {})
        for cookie in self._memo.keys() - rendered.keys():
            del self._memo[cookie]
        return rendered


def _parts(line: str) -> Iterator[str]:
    """The flow as several, where it is on more lists of rules than an OpenFlow message takes.

    Flows of one match would be one flow. So each further one also asks for a bit of `metadata` that is never set: of
    conjunctive matches Open vSwitch takes all that a packet meets at one priority together, whatever fields they have.
    """
    match, _, actions = line.partition(" actions=")
    if not actions.startswith(_CLAUSE) or actions.count(_CLAUSE) <= _CLAUSES:
        yield line
        return
    clauses = [_CLAUSE + each for each in actions.split(_CLAUSE)[1:]]
    for number, at in enumerate(range(0, len(clauses), _CLAUSES)):
        also = f",metadata=0/0x{number << pipeline.JUDGED_BITS:x}" if number else ""
        yield f"{match}{also} actions={''.join(clauses[at : at + _CLAUSES]).rstrip(',')}"
