"""The node's kernel: settings, tables that fill up, ports, disks, the clock.

Pure. A setting that this kernel does not show is None, and then nothing is wrong with it. Called by `examine`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovsnet import names
from ovsnet.doctor.finding import Finding, fault, ok, warning
from ovsnet.model import Frozen

FULL = 0.8
"""The share of a table or limit from which on it is told."""
_STRICT = 1
_MIB = 1 << 20
VSWITCHD = "ovs-vswitchd"


def udp_port(port: int, holders: Sequence[str]) -> Finding:
    """holders: processes with a socket on the port; "kernel" is a tunnel of the kernel's own."""
    title = f"UDP port {port}"
    others = sorted({each for each in holders if each not in ("kernel", VSWITCHD)})
    if others:
        return fault(
            title,
            f"held by {', '.join(others)}: tunnel packets may go there",
            "end it, or set `udpPort` on all nodes",
        )
    return ok(
        title,
        f"held by {' and '.join(sorted(set(holders)))}" if holders else "free; nobody takes packets away",
    )


def rp_filter(everything: int | None, gateway: int | None) -> Finding:
    """The kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst): 0 off, 1 strict, 2 loose."""
    title = "rp_filter"
    if gateway is None:
        return warning(
            title, f"there is no {names.GATEWAY} to look at", "ovs-vswitchd makes it for the agent"
        )
    if max(everything or 0, gateway) == _STRICT:
        return fault(
            title,
            f"strict on {names.GATEWAY} (all {everything}, {names.GATEWAY} {gateway}): packets of pods are dropped",
            f"sysctl -w net.ipv4.conf.{names.GATEWAY}.rp_filter=2; what sets it? see /etc/sysctl.d",
        )
    return ok(title, f"all {everything}, {names.GATEWAY} {gateway}: not strict on {names.GATEWAY}")


def forwarding(v4: int | None, v6: int | None, families: Sequence[int]) -> Finding:
    """families: those that pods have."""
    lacks = [
        key
        for key, value, version in (
            ("net.ipv4.ip_forward", v4, 4),
            ("net.ipv6.conf.all.forwarding", v6, 6),
        )
        if version in families and value == 0
    ]
    if lacks:
        words = " and ".join(lacks)
        return fault(
            "forwarding",
            f"{words} is 0: pods do not reach the outside",
            f"{'; '.join(f'sysctl -w {key}=1' for key in lacks)}; what unsets it? see /etc/sysctl.d",
        )
    return ok(
        "forwarding",
        "on for " + " and ".join(f"IPv{version}" for version in families) if families else "no pods",
    )


def conntrack(count: int | None, most: int | None) -> Finding:
    if count is None or not most:
        return ok("conntrack", "not in use")
    seen = f"{count} of {most} connections ({100 * count // most} %)"
    todo = f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}; `conntrack -L` tells who has them"
    if count >= most:
        return fault("conntrack", f"the table is full: {seen}; new connections are dropped", todo)
    if count >= FULL * most:
        return warning("conntrack", f"the table is nearly full: {seen}", todo)
    return ok("conntrack", seen)


def neighbours(version: int, most: int | None, pods: int, peers: int) -> Finding:
    """most: gc_thresh3, which only the machine's first network namespace shows."""
    title = f"neighbours IPv{version}"
    if most is None:
        return ok(title, "the limit is not visible here")
    need = pods + peers
    if need > FULL * most:
        return warning(
            title,
            f"{pods} pods and {peers} peers, but the kernel keeps {most} neighbours at most",
            f"sysctl -w net.ipv{version}.neigh.default.gc_thresh3={4 * need}, thresh1 and thresh2 in proportion",
        )
    return ok(title, f"room for {most}; {pods} pods and {peers} peers")


class Files(Frozen):
    """Open files of a process or of the whole system."""

    who: str
    used: int
    most: int


def files(all_of: Sequence[Files]) -> Finding:
    title = "open files"
    if scarce := [each for each in all_of if each.used > FULL * each.most]:
        words = ", ".join(f"{each.who} {each.used} of {each.most}" for each in scarce)
        makes = fault if any(each.used >= each.most for each in scarce) else warning
        return makes(title, words, "raise LimitNOFILE of its unit (the system's: sysctl fs.file-max)")
    return ok(title, ", ".join(f"{each.who} {each.used} of {each.most}" for each in all_of) or "not known")


def inotify(error: str | None) -> Finding:
    """error: why another watch can't be had; None if it can."""
    if error is None:
        return ok("inotify", "another instance and watch can be had")
    return fault(
        "inotify",
        f"no more watches: {error}; the agent does not notice changed manifests",
        "sysctl -w fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576",
    )


class Disk(Frozen):
    """A file system, in bytes."""

    path: str
    free: int
    size: int


def disk(found: Disk) -> Finding:
    title = f"disk {found.path}"
    seen = f"{found.free / _MIB:.0f} of {found.size / _MIB:.0f} MiB free"
    todo = f"make room: df {found.path}; du -x; journalctl --vacuum-size=100M"
    if found.size and found.free < _MIB:
        return fault(title, f"full: {seen}; changes of OVSDB are lost", todo)
    if found.size and (found.free < 32 * _MIB or found.free < found.size / 50):
        return warning(title, f"nearly full: {seen}", todo)
    return ok(title, seen)


def clock(now: float, newest: float, synchronised: bool | None) -> Finding:
    """now, newest: Unix seconds; newest: of the installation's files. synchronised: the kernel's word (adjtimex(2)).

    Clocks of nodes can't be compared without a partner, so that this never is more than a warning.
    """
    todo = "timedatectl; is chrony or systemd-timesyncd running? Certificates and logs need the time"
    if now < newest:
        days = (newest - now) / 86400
        return warning(
            "clock", f"{days:.1f} days before the newest file of the installation: it is slow", todo
        )
    if synchronised is False:
        return warning("clock", "the kernel says that nobody synchronises it", todo)
    return ok("clock", "plausible" + (", and synchronised" if synchronised else ""))
