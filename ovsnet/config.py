"""The agent's configuration: every field with its type, default, limits and meaning.

Owns what may stand in agent.yaml; `docs/configuration.md` is generated from the annotations here and in
`configaddresses`, so a field is described there and nowhere else. Never looks at the machine: what is to be found out
there (host name, node address, ranges) stays None or empty and the agent resolves it. `load` is for
the agent, `check` for whoever wants every mistake as data, `digest` for whoever asks which one an agent runs with.
"""

from __future__ import annotations

import enum
import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from ovsnet import configcheck, configrules, nodeports, strictyaml
from ovsnet.configaddresses import HEALTHZ_PORT, HealthzAddress, MetricsAddress
from ovsnet.configfields import (
    Address,
    Addresses,
    Interface,
    Network,
    NodeName,
    NodeNetwork,
    NodePorts,
    Section,
    SocketPath,
)
from ovsnet.configstore import Store
from ovsnet.errors import ConfigError
from ovsnet.model import Encap, Tunnels
from ovsnet.strictyaml import Problem

OUTDATED = "the configuration has changed since the agent started, which goes by the earlier one"
RESTART = "restart the agent (systemctl restart ovsnet) to have what the file says come into force"
"""For people, of an agent whose `digest` is another than the file's: what is so, and what to do."""


class Datapath(str, enum.Enum):
    """Which of Open vSwitch's datapaths the bridge uses."""

    AUTO = "auto"
    SYSTEM = "system"
    NETDEV = "netdev"


class LogLevel(str, enum.Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(str, enum.Enum):
    TEXT = "text"
    JSON = "json"


class NodeAddress(Section):
    """At most one of the three is set; none means automatic."""

    address: Annotated[
        Address | None,
        Meta(description="This address.", examples=["192.0.2.11"], extra={"default": "not set"}),
    ] = None
    interface: Annotated[
        Interface | None,
        Meta(
            description="The first global address of this interface.",
            examples=["eth1"],
            extra={"default": "not set"},
        ),
    ] = None
    route_to: Annotated[
        Address | None,
        Meta(
            description="The source address that the kernel chooses for this destination, e.g. another node.",
            examples=["192.0.2.1"],
            extra={"default": "not set"},
        ),
    ] = None


class Egress(Section):
    """How pods reach what is outside the cluster."""

    masquerade: Annotated[
        bool, Meta(description="Whether packets from pods to the outside leave with the node's address.")
    ] = True
    no_masquerade: Annotated[
        tuple[Network, ...],
        Meta(
            description="Destinations outside the cluster that see the pod's own address all the same.",
            examples=[["10.0.0.0/8", "fd00::/8"]],
        ),
    ] = ()
    random_fully: Annotated[
        bool,
        Meta(
            description="Whether source ports are chosen at random, which keeps two connections from being given "
            "the same one at the same moment. Turn it off only where the outside depends on kept ports."
        ),
    ] = True


class Policy(Section):
    """How NetworkPolicies are enforced."""

    cut_denied: Annotated[
        bool,
        Meta(
            description="Whether a connection ends that policies have allowed, when they are changed so that they deny "
            "it. Without, it goes on until it ends by itself, as Kubernetes leaves open."
        ),
    ] = False
    log_denied: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="How many lines a second at most the log has, on this node, about packets that policies deny: "
            "who to whom, and by which policy; 0 is none. What is beyond is dropped unseen; what is like a packet of "
            "the last ten seconds is counted in a later line. A line takes the agent less than 0.1 ms; 10 tell what "
            "goes wrong, 100 are for looking a while. Needs `log.level` info or debug, and a datapath with meters (of "
            "Linux's, those from 4.18 on): without, the agent says so, and logs none of these.",
            extra={"unit": "lines a second"},
        ),
    ] = 0


class Log(Section):
    """What the agent tells on standard error."""

    level: Annotated[LogLevel, Meta(description="The least severe kind of message that is written.")] = (
        LogLevel.INFO
    )
    format: Annotated[
        LogFormat, Meta(description="`text` for people, `json` for collectors: one object on each line.")
    ] = LogFormat.TEXT


class Config(Section):
    """agent.yaml. Every field has a default: an empty file is a valid configuration."""

    node_name: Annotated[
        NodeName | None,
        Meta(
            description="The name of this node's own Node object in the store.",
            examples=["node-a"],
            extra={"default": "the host name"},
        ),
    ] = None
    node_address: Annotated[
        NodeAddress,
        Meta(
            description="This node's end of its tunnels. Peers send to the InternalIPs of the node's own Node object, "
            "the first of each family: it must be one of these. One of the keys below; without any, these "
            "InternalIPs, else the address of the interface with the default route. On nodes with both families, the "
            "first InternalIP of the node whose name sorts first decides which of them a tunnel uses."
        ),
    ] = NodeAddress()
    ovsdb: Annotated[
        str,
        Meta(
            pattern=r"^(unix:/[^\0]{1,106}|tcp:(\[[0-9A-Fa-f:.]+\]|[^:\s\0]+):\d{1,5})\Z",
            description="The OVSDB server of the Open vSwitch on this node.",
            examples=["unix:/run/openvswitch/db.sock"],
            extra={"form": "unix:/PATH or tcp:ADDRESS:PORT"},
        ),
    ] = "unix:/run/openvswitch/db.sock"
    bridge: Annotated[
        Interface,
        Meta(
            description="The integration bridge. Made when missing; a bridge of somebody else is never taken over."
        ),
    ] = "br-int"
    datapath: Annotated[
        Datapath,
        Meta(
            description="`system` is the kernel's datapath, `netdev` that in user space; `auto` takes the kernel's "
            "where the kernel has it."
        ),
    ] = Datapath.AUTO
    encapsulation: Annotated[
        Encap,
        Meta(
            description="How packets travel between nodes. A Node's annotation `ovsnet.io/encapsulation` overrides it "
            "for tunnels to that node."
        ),
    ] = Encap.VXLAN
    tunnels: Annotated[
        Tunnels,
        Meta(
            description="`ports`: one port for each peer, so that `ovs-vsctl show` tells the whole story; `flow`: one "
            "port for all, for clusters of many hundred nodes."
        ),
    ] = Tunnels.PORTS
    vni: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24 - 1,
            description="The virtual network identifier (GRE: the key) of every tunnel packet; the same on all nodes.",
        ),
    ] = 77
    udp_port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(
            description="The UDP port of the configured `encapsulation`; the same on all nodes. Tunnels to nodes whose "
            "annotation asks for another encapsulation have that one's own port.",
            examples=[8472],
            extra={"default": "4789 for VXLAN, 6081 for Geneve"},
        ),
    ] = None
    pod_cidrs: Annotated[
        tuple[Network, ...],
        Meta(
            description="The ranges that this node's pods have their addresses from: one family or two, any number of "
            "ranges in each. A range's first address is the gateway.",
            examples=[["10.244.1.0/24", "fd00:10:244:1::/64"]],
            extra={"default": "`podCIDRs` of the node's own Node object"},
        ),
    ] = field(default=(), name="podCIDRs")
    excluded_addresses: Annotated[
        tuple[Addresses, ...],
        Meta(
            description="Addresses never given to a pod: single ones, networks, or first-last.",
            examples=[["10.244.1.10", "10.244.1.64/28", "10.244.1.200-10.244.1.210"]],
        ),
    ] = ()
    reuse_after: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="How long a freed address rests before another pod can have it, so that nobody takes the "
            "newcomer for its predecessor.",
            extra={"unit": "seconds"},
        ),
    ] = 60
    mtu: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=576, le=65535)],
        Meta(
            description="The MTU of pods. `auto` is that of the uplink less the overhead of the encapsulation, the "
            "least over all tunnels of the cluster. At least 1280 with IPv6 (RFC 8200).",
            examples=[1400],
            extra={"unit": "bytes"},
        ),
    ] = "auto"
    node_port_addresses: Annotated[
        tuple[NodeNetwork, ...],
        Meta(
            description="Which of the node's addresses answer on Services' node ports, and on `healthCheckNodePort`: "
            "those in these networks; `primary` is the first InternalIP of each family that the node's own Node object "
            "has. To any other address it is as if no Service had the port. As with kube-proxy, a family of which "
            "nothing is listed is not limited; `primary` limits both.",
            examples=[["192.0.2.0/24", "2001:db8:0:1::/64"]],
            extra={"default": "every address of the node but loopback ones"},
        ),
    ] = ()
    node_port_range: Annotated[
        NodePorts,
        Meta(
            description="Which ports a folder's Services may have as `nodePort` and `healthCheckNodePort`, as "
            "`--service-node-port-range` tells kube-apiserver. Another one, such as that of the node's SSH, is told of "
            "and not served; the rest of its Service is. With the `kubernetes` store it means nothing: there the API "
            "server's own range counts, and it refuses others.",
            examples=["30000-31999"],
            extra={"default": f"`{nodeports.USUAL}`"},
        ),
    ] = nodeports.USUAL
    egress: Annotated[Egress, Meta(description="How pods reach what is outside the cluster.")] = Egress()
    store: Annotated[
        Store,
        Meta(
            description="Where the agent learns of the cluster: a folder of manifests, or the Kubernetes API."
        ),
    ] = Store()
    policy: Annotated[Policy, Meta(description="How NetworkPolicies are enforced.")] = Policy()
    cni_socket: Annotated[
        SocketPath,
        Meta(description="The unix socket that the CNI executable talks to; only root may."),
    ] = "/run/ovsnet/agent.sock"
    metrics: Annotated[MetricsAddress, Meta(description="Where the agent tells its metrics.")] = (
        MetricsAddress()
    )
    healthz: Annotated[
        HealthzAddress, Meta(description="Where load balancers learn whether this node serves Services.")
    ] = HealthzAddress()
    log: Annotated[Log, Meta(description="What the agent tells on standard error.")] = Log()

    @property
    def healthz_port(self) -> int:
        """0: none."""
        if self.healthz.port is not None:
            return self.healthz.port
        return HEALTHZ_PORT if self.store.kubernetes is not None else 0


def check(text: str) -> list[Problem]:
    """Every mistake in the text of a configuration, in the order of the file as far as it is known."""
    return _read(text)[1]


def parse(text: str, source: str = "configuration") -> Config:
    """The configuration in `text`. Raises ConfigError with every problem; `source` names it there."""
    config, problems = _read(text)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(
            f"{source}: {count}",
            "correct it; docs/configuration.md lists every key",
            [str(each) for each in problems],
        )
    return config


def load(path: Path) -> Config:
    """The configuration in the file. Raises ConfigError: unreadable, or with every problem in it."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", "name the agent's configuration with --config FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}", "is this a YAML file?") from error


def digest(config: Config) -> str:
    """The same for all files that mean the same, as far as they differ from the defaults: in hexadecimal."""
    said = msgspec.json.encode(_chosen(config), enc_hook=str, order="sorted")
    return hashlib.sha256(said).hexdigest()[:16]


def _chosen(section: Section) -> dict[str, object]:
    """What is not as by default; in `store`, that Kubernetes is chosen counts even if nothing in it is."""
    usual = type(section)()
    return {
        name: _chosen(value) if isinstance(value, Section) else value
        for name in section.__struct_fields__
        if (value := getattr(section, name)) != getattr(usual, name)
    }


def _read(text: str) -> tuple[Config, list[Problem]]:
    document = strictyaml.read(text)
    walk = configcheck.Walk(document)
    value = {} if document.value is None else document.value
    config = walk.value(configcheck.kind_of(Config), value, "")
    problems = document.problems + walk.problems
    if not isinstance(config, Config):
        return Config(), problems
    problems += [
        document.located(path, text)
        for path, text in configrules.contradictions(config, {p.path for p in problems})
    ]
    return config, sorted(problems, key=lambda problem: problem.line)
