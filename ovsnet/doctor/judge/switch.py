"""Open vSwitch: its two daemons, the bridge, its datapath, ports and flows.

Pure. A fact that could not be found is None. Called by `examine`.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping

from ovsnet.config import Datapath
from ovsnet.doctor.finding import Finding, fault, ok, warning
from ovsnet.model import Frozen

RESTART = "see its log; systemctl restart openvswitch-switch"
_SHOWN = 5


class Socket(Frozen):
    """A unix socket as it is in the file system. `kind`: "" nothing there, "socket", or "other"."""

    path: str
    kind: str
    uid: int = 0
    mode: int = 0
    """Permission bits."""
    folder_mode: int = 0


def ovsdb(remote: str, socket: Socket | None, trouble: str | None) -> Finding:
    """socket: None where the server is asked by TCP. trouble: why it does not answer; None if it does."""
    title = "ovsdb-server"
    if trouble is not None:
        where = "there is no socket" if socket is not None and not socket.kind else trouble
        return fault(
            title,
            f"does not answer at {remote}: {where}",
            f"{RESTART}; is `ovsdb` in the configuration right?",
        )
    if socket is not None and socket.mode & stat.S_IWOTH and socket.folder_mode & stat.S_IXOTH:
        return warning(
            title,
            f"answers at {remote}, but everybody may write to its socket (mode {socket.mode:04o})",
            f"chmod o-rwx {socket.path}: who writes there rules this node's network",
        )
    rights = f", mode {socket.mode:04o} of uid {socket.uid}" if socket is not None else ""
    return ok(title, f"answers at {remote}{rights}")


def vswitchd(trouble: str | None, version: str | None, told: str) -> Finding:
    """trouble: why it does not answer; None if it does.

    version: as the Open_vSwitch row has it, which the distributions' scripts write. told: its own word.
    """
    if trouble is not None:
        return fault("ovs-vswitchd", f"does not answer: {trouble}", RESTART)
    own = next(iter(told.splitlines()), "").rpartition(" ")[2]
    if version and own and version != own:
        return warning(
            "ovs-vswitchd",
            f"runs, version {own}; the Open_vSwitch row says {version}",
            "after an upgrade: restart Open vSwitch, so that both daemons are the new ones",
        )
    return ok("ovs-vswitchd", f"runs, version {own or version or 'unknown'}")


def datapath(
    wanted: Datapath, bridge: str | None, offered: Collection[str], kernel: bool, alive: bool
) -> Finding:
    """bridge: the bridge's datapath_type, None without a bridge. kernel: whether it has openvswitch."""
    title, here = "datapath", "the kernel has openvswitch" if kernel else "the kernel has no openvswitch"
    offers = f"; offered: {', '.join(sorted(offered)) or 'none'}"
    kind = bridge or "system"
    if wanted is Datapath.SYSTEM and not kernel:
        return fault(
            title, f"system is configured, but {here}", "modprobe openvswitch, or set `datapath: auto`"
        )
    if bridge is None:
        return warning(title, f"no bridge yet; {here}{offers}", "the agent makes the bridge: start it")
    if kind == "system" and not kernel:
        return fault(
            title, f"the bridge uses system, but {here}", "modprobe openvswitch, or set `datapath: netdev`"
        )
    if alive and offered and kind not in offered:
        return fault(
            title, f"the bridge uses {kind}{offers}", "set `datapath` to one that ovs-vswitchd offers"
        )
    if wanted is not Datapath.AUTO and wanted.value != kind:
        return warning(
            title,
            f"the bridge uses {kind}, configured is {wanted.value}",
            "restart the agent: it sets the bridge so",
        )
    return ok(title, f"the bridge uses {kind}; {here}{offers}")


def restore_wait(is_set: bool, agent_runs: bool) -> Finding:
    """`flow-restore-wait` keeps ovs-vswitchd from forwarding until whoever set it has restored its flows.

    ovs-vswitchd.conf.db(5), table Open_vSwitch, other_config.
    """
    title = "flow-restore-wait"
    if not is_set:
        return ok(title, "not set")
    if agent_runs:
        return ok(title, "set while the agent runs: it clears it when the flows are in place")
    return fault(
        title,
        "set, and no agent runs that would clear it: ovs-vswitchd forwards nothing new after its next start",
        "start the agent, or: ovs-vsctl remove Open_vSwitch . other_config flow-restore-wait",
    )


def bridge(name: str, found: bool, owned: bool, agent_runs: bool) -> Finding:
    if not found:
        return fault(
            "bridge",
            f"there is no bridge {name}",
            "see the agent's log for why it does not make it"
            if agent_runs
            else "start the agent: it makes it",
        )
    if not owned:
        return fault(
            "bridge",
            f"{name} exists and is not ovsnet's",
            f"choose another `bridge`, or hand it over: ovs-vsctl set bridge {name} external_ids:ovsnet=bridge",
        )
    return ok("bridge", f"{name} is there and ovsnet's")


def ports(count: int, errors: Mapping[str, str]) -> Finding:
    """errors: vswitchd's words by port."""
    if not errors:
        return ok("ports", f"{count} ports, none with an error")
    words = "; ".join(f"{name}: {words}" for name, words in sorted(errors.items())[:_SHOWN])
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return fault("ports", f"{words}{more}", "ovs-vsctl list Interface NAME, and ovs-vswitchd's log")


def flows(count: int, agent_runs: bool, trouble: str | None = None) -> Finding:
    """trouble: why ovs-vswitchd, which runs, does not tell its flows; None if it does."""
    if trouble is not None:
        return fault("flows", trouble, f"ovs-vswitchd may be overloaded, or waits for OVSDB; {RESTART}")
    if count:
        return ok("flows", f"{count} flows are installed")
    return fault(
        "flows",
        "the bridge has no flows: it forwards nothing",
        "see the agent's log" if agent_runs else "start the agent: it writes them",
    )
