"""What a support bundle holds: commands to run, files to read. Pure: a list, for `bundle` to go through."""

from __future__ import annotations

import enum
import sys

from ovsnet.config import Config
from ovsnet.model import Frozen
from ovsnet.rows import PROTOCOL

SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.conf.ovsnet0.rp_filter",
    "net.ipv4.conf.all.send_redirects",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.arp_announce",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.neigh.default.gc_thresh1",
    "net.ipv4.neigh.default.gc_thresh2",
    "net.ipv4.neigh.default.gc_thresh3",
    "net.ipv6.neigh.default.gc_thresh3",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.all.disable_ipv6",
    "net.ipv6.conf.all.accept_ra",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "net.core.rmem_max",
    "net.core.netdev_max_backlog",
    "fs.file-nr",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "kernel.osrelease",
)
LOG_LINES = 5000


class Kind(enum.Enum):
    """How an answer is kept free of secrets."""

    TEXT = "text"
    SWITCH = "switch"
    """Open vSwitch's words: a tunnel's `key` is a network number."""
    JSON = "json"
    OVSDB = "ovsdb"
    """`ovsdb-client --format=json dump`."""


class Command(Frozen):
    """What is run, and the file in the archive that has the answer."""

    name: str
    argv: tuple[str, ...]
    kind: Kind = Kind.TEXT


def commands(config: Config, path: str, control: str, management: str) -> list[Command]:
    """path: of the configuration. control, management: vswitchd's sockets, for itself and for the bridge."""
    return [*_own(path), *_switch(config, control, management), *_kernel(), *_system()]


def _own(path: str) -> list[Command]:
    ovsnet = (sys.executable, "-P", "-m", "ovsnet")
    asked = ("-o", "json", "--config", path)
    return [
        Command(name="doctor.json", argv=(*ovsnet, "doctor", *asked), kind=Kind.JSON),
        Command(name="show.json", argv=(*ovsnet, "show", *asked), kind=Kind.JSON),
        Command(name="policy.json", argv=(*ovsnet, "policy", "show", *asked), kind=Kind.JSON),
        Command(name="flows.txt", argv=(*ovsnet, "flows", "--config", path), kind=Kind.SWITCH),
        Command(name="ovsnet-version.txt", argv=(*ovsnet, "version")),
    ]


def _switch(config: Config, control: str, management: str) -> list[Command]:
    ofctl = ("ovs-ofctl", "-O", PROTOCOL, "--timeout=4")
    questions = (
        "version", "coverage/show", "memory/show", "upcall/show", "dpif/show", "dpctl/dump-flows", "dpctl/show",
        "fdb/show", "tnl/ports/show", "tnl/arp/show", "tnl/neigh/show", "tnl/egress_port_range", "ovs/route/show",
        "dpif-netdev/pmd-stats-show", "vlog/list",
    )  # fmt: skip
    arguments = {"fdb/show": (config.bridge,), "tnl/ports/show": ("-v",)}
    return [
        Command(name="ovs/vsctl-show.txt", argv=("ovs-vsctl", f"--db={config.ovsdb}", "--timeout=4", "show"),
                kind=Kind.SWITCH),
        Command(name="ovs/ovsdb-dump.json",
                argv=("ovsdb-client", "--timeout=4", "--format=json", "dump", config.ovsdb, "Open_vSwitch"),
                kind=Kind.OVSDB),
        *(
            Command(name=f"ovs/ofctl-{what}.txt", argv=(*ofctl, what, f"unix:{management}"), kind=Kind.SWITCH)
            for what in ("dump-flows", "dump-groups", "dump-meters", "dump-ports-desc", "dump-ports", "show")
        ),
        *(
            Command(name=f"ovs/appctl-{what.replace('/', '-')}.txt",
                    argv=("ovs-appctl", "-t", control, "-T", "4", what, *arguments.get(what, ())), kind=Kind.SWITCH)
            for what in questions
        ),
    ]  # fmt: skip


def _kernel() -> list[Command]:
    looks = {
        "link": ("-d", "-s", "link"), "address": ("-d", "address"), "rule4": ("-4", "rule"), "rule6": ("-6", "rule"),
        "route4": ("-4", "route", "show", "table", "all"), "route6": ("-6", "route", "show", "table", "all"),
        "neigh4": ("-4", "neigh"), "neigh6": ("-6", "neigh"), "netconf": ("netconf",),
    }  # fmt: skip
    return [
        *(Command(name=f"kernel/ip-{name}.txt", argv=("ip", *words)) for name, words in looks.items()),
        Command(name="kernel/nft.txt", argv=("nft", "list", "ruleset")),
        Command(name="kernel/iptables.txt", argv=("iptables-save", "-c")),
        Command(name="kernel/tc.txt", argv=("tc", "-s", "qdisc")),
        Command(name="kernel/ethtool-ovsnet0.txt", argv=("ethtool", "-k", "ovsnet0")),
        Command(name="kernel/sysctl.txt", argv=("sysctl", "--ignore", *SYSCTLS)),
        Command(name="kernel/conntrack.txt", argv=("conntrack", "-S")),
        Command(name="kernel/sockets.txt", argv=("ss", "-lnptux")),
        Command(name="kernel/modules.txt", argv=("lsmod",)),
    ]


def _system() -> list[Command]:
    tail = ("--no-pager", "-n", str(LOG_LINES))
    versions = {
        "ovs": ("ovs-vsctl", "--version"), "ip": ("ip", "-V"), "nft": ("nft", "--version"),
        "python": (sys.executable, "--version"), "kernel": ("uname", "-a"),
    }  # fmt: skip
    return [
        *(Command(name=f"versions/{name}.txt", argv=argv) for name, argv in versions.items()),
        Command(name="logs/journal-ovsnet.txt", argv=("journalctl", "-u", "ovsnet", *tail)),
        Command(name="logs/journal-openvswitch.txt",
                argv=("journalctl", "-u", "openvswitch-switch", "-u", "ovs-vswitchd", "-u", "ovsdb-server", *tail)),
        Command(name="logs/kernel.txt", argv=("dmesg", "--notime")),
        Command(name="system/units.txt", argv=("systemctl", "--no-pager", "status", "ovsnet", "openvswitch-switch")),
        Command(name="system/time.txt", argv=("timedatectl", "show")),
        Command(name="system/disks.txt", argv=("df", "-h")),
        Command(name="system/processes.txt", argv=("ps", "-eo", "pid,ppid,user,stat,pcpu,rss,etime,comm")),
    ]  # fmt: skip
