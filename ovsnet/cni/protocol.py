"""A CNI request as typed data: the CNI_* variables, checked, and what stands in the configuration.

Pure. Owns the meaning of a request; never opens anything, never answers. How a request travels is
`framing`; `server` parses with this and hands the `Request` to the backend.

Variables: CNI specification 1.1, section 2 "Execution Protocol", "Parameters"; CNI_ARGS as libcni
reads them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from ovsnet.cni import netconf
from ovsnet.cni.netconf import Attachment, FixedAddress, FixedMac, NetworkConfig
from ovsnet.cni.result import Previous
from ovsnet.errors import BadEnvironment, BadNetworkConfig, IncompatibleVersion
from ovsnet.model import Frozen

_T = TypeVar("_T")
_TITLE = 63 + 1 + 253
"""Characters of a namespace, '/', and a pod's name."""
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_IFNAME = re.compile(r"(?!\.{1,2}\Z)[!-~]{1,15}\Z")


class Command(str, enum.Enum):
    """What the agent answers. VERSION is not among them: the executable answers it alone."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


REQUIRED = {
    Command.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.GC: ("CNI_PATH",),
    Command.STATUS: (),
}
SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
"""The version of the specification that a command came with."""


class Args(Frozen):
    """CNI_ARGS, as far as it is known: what Kubernetes' runtimes say about the pod."""

    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    infra_container: str = ""
    ip: str = ""
    mac: str = ""


class Request(Frozen):
    """One checked CNI request. What its command does not have is empty.

    `netns` is empty where a DEL came without, or with one that is gone.
    `netns_fd` is an open descriptor of the network namespace or None. It belongs to the server, which
    closes it when the backend's call has returned; whoever keeps it longer duplicates it.
    """

    command: Command
    config: NetworkConfig
    container: str = ""
    netns: str = ""
    netns_fd: int | None = None
    ifname: str = ""
    args: Args = Args()
    path: tuple[str, ...] = ()
    """Where other plugins are."""
    addresses: tuple[FixedAddress, ...] = ()
    """ADD: asked for by the runtime; empty leaves the choice to ovsnet."""
    mac: FixedMac | None = None
    previous: Previous | None = None
    """ADD: of an earlier plugin in the chain. CHECK: of the whole chain, always there."""
    valid: frozenset[Attachment] = frozenset()
    """GC: everything else in the network may go. Only a list in the request makes this."""

    @property
    def network(self) -> str:
        return self.config.name

    @property
    def title(self) -> str:
        """The pod as people call it, or the container where no pod is known; cut where no pod's name is so long."""
        name = (
            f"{self.args.pod_namespace}/{self.args.pod_name}" if self.args.pod_name else self.container[:12]
        )
        return f"{name[:_TITLE]} ({self.ifname})" if self.ifname else self.network[:_TITLE]


def parse(variables: Mapping[str, str], stdin: bytes, netns_fd: int | None = None) -> Request:
    """The request. Raises one of the RequestErrors: environment first, then version, then configuration."""
    command = _command(variables)
    _check_variables(command, variables)
    args = parse_args(variables.get("CNI_ARGS", ""))
    config = netconf.decode(stdin)
    since = SINCE.get(command, "")
    if config.cni_version < since:
        raise IncompatibleVersion(
            f"{command.value} came with specification {since}, this is {config.cni_version}",
            f"set cniVersion to {since} or later",
        )
    common = Request(
        command=command,
        config=config,
        container=variables.get("CNI_CONTAINERID", ""),
        netns=variables.get("CNI_NETNS", "") if command is not Command.DEL or netns_fd is not None else "",
        netns_fd=netns_fd,
        ifname=variables.get("CNI_IFNAME", ""),
        args=args,
        path=tuple(each for each in variables.get("CNI_PATH", "").split(":") if each),
    )
    return _particular(common, variables)


def parse_args(text: str) -> Args:
    """CNI_ARGS: pairs joined by ';', unknown ones only with IgnoreUnknown=1. Raises BadEnvironment."""
    pairs: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        name, equals, value = pair.partition("=")
        if not equals or not name or "=" in value or not value.isprintable():
            raise BadEnvironment(
                f"CNI_ARGS: {netconf.quoted(pair)} is not NAME=VALUE", "pairs are joined by ';'"
            )
        pairs[name] = value
    lenient = pairs.pop("IgnoreUnknown", "").lower() in ("1", "true", "t")
    unknown = sorted(pairs.keys() - _ARGS.keys())
    if unknown and not lenient:
        raise BadEnvironment(
            f"CNI_ARGS: unknown {netconf.cut(', '.join(unknown))}", "add IgnoreUnknown=1 to have them ignored"
        )
    return Args(**{_ARGS[name]: value for name, value in pairs.items() if name in _ARGS})


_ARGS = {
    "K8S_POD_NAMESPACE": "pod_namespace",
    "K8S_POD_NAME": "pod_name",
    "K8S_POD_UID": "pod_uid",
    "K8S_POD_INFRA_CONTAINER_ID": "infra_container",
    "IP": "ip",
    "MAC": "mac",
}


def _command(variables: Mapping[str, str]) -> Command:
    text = variables.get("CNI_COMMAND", "")
    if not text:
        raise BadEnvironment("CNI_COMMAND: missing", "one of ADD, DEL, CHECK, GC, STATUS, VERSION")
    try:
        return Command(text)
    except ValueError:
        raise BadEnvironment(
            f"CNI_COMMAND: {netconf.quoted(text)} is unknown", "one of ADD, DEL, CHECK, GC, STATUS, VERSION"
        ) from None


def _check_variables(command: Command, variables: Mapping[str, str]) -> None:
    """Raises BadEnvironment that names every variable at fault."""
    missing = [name for name in REQUIRED[command] if not variables.get(name)]
    if missing:
        raise BadEnvironment(
            f"{', '.join(missing)}: missing, {command.value} needs it", "the runtime sets it"
        )
    faults = []
    if command not in (Command.GC, Command.STATUS):
        if not is_container(variables["CNI_CONTAINERID"]):
            container = netconf.quoted(variables["CNI_CONTAINERID"])
            faults.append(f"CNI_CONTAINERID: {container} is not a container ID")
        faults += _ifname_faults(variables["CNI_IFNAME"])
    if command in (Command.ADD, Command.CHECK):
        netns = variables["CNI_NETNS"]
        if not is_netns(netns):
            faults.append(f"CNI_NETNS: {netconf.quoted(netns)} is not an absolute path")
    if faults:
        raise BadEnvironment("; ".join(faults), "correct what the runtime passes")


def is_container(text: str) -> bool:
    """Whether it is a container ID of the specification."""
    return _CONTAINER.match(text) is not None


def is_ifname(name: str) -> bool:
    """What the specification and Linux allow; no '%' because the kernel would put a number in its place."""
    return _IFNAME.match(name) is not None and not set(name) & set("/:%")


def is_netns(path: str) -> bool:
    """Whether it can be the path of a network namespace."""
    return path.startswith("/") and path.isprintable()


def _ifname_faults(name: str) -> list[str]:
    if is_ifname(name):
        return []
    return [
        f"CNI_IFNAME: {netconf.quoted(name)} is no interface name: 1 to 15 characters without space, '/', ':' or '%'"
    ]


def _particular(request: Request, variables: Mapping[str, str]) -> Request:
    """What only some commands have. DEL and GC stay lenient: what they undo was checked by ADD."""
    config = request.config
    match request.command:
        case Command.ADD:
            _check_netns(request, variables)
            netconf.refuse_ipam(config)
            return replace(
                request,
                previous=netconf.previous(config),
                addresses=netconf.fixed_addresses(config) or _addresses_of(request.args),
                mac=netconf.fixed_mac(config) or _mac_of(request.args),
            )
        case Command.CHECK:
            _check_netns(request, variables)
            netconf.refuse_ipam(config)
            previous = netconf.previous(config)
            if previous is None:
                raise BadNetworkConfig(
                    "prevResult: missing, CHECK needs the result of the ADD", "the runtime adds it"
                )
            return replace(request, previous=previous)
        case Command.GC:
            if config.attachments is None:
                raise BadNetworkConfig(
                    "cni.dev/valid-attachments: missing; nothing was removed",
                    "an absent list is no empty one: send [] if no attachment is valid",
                )
            return replace(request, valid=frozenset(config.attachments))
        case Command.STATUS:
            netconf.refuse_ipam(config)
    return request


def _check_netns(request: Request, variables: Mapping[str, str]) -> None:
    if request.netns_fd is None:
        reason = variables.get("OVSNET_NETNS_ERROR") or "no descriptor came with the request"
        raise BadEnvironment(
            f"CNI_NETNS: {netconf.cut(request.netns)}: {netconf.cut(reason)}",
            "the runtime makes the namespace before it calls",
        )


def _addresses_of(args: Args) -> tuple[FixedAddress, ...]:
    """IP= of CNI_ARGS; several are joined by ','."""
    return tuple(_of_args(netconf.parse_address, text, "CNI_ARGS: IP") for text in args.ip.split(",") if text)


def _mac_of(args: Args) -> FixedMac | None:
    return _of_args(netconf.parse_mac, args.mac, "CNI_ARGS: MAC") if args.mac else None


def _of_args(parse: Callable[[str, str], _T], text: str, field: str) -> _T:
    """The same notation as in the configuration, but the fault is the environment's."""
    try:
        return parse(text, field)
    except BadNetworkConfig as error:
        raise BadEnvironment(error.message, error.hint) from None
