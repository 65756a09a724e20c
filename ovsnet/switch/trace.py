"""`ofproto/trace` on the vswitchd that serves an OVSDB server. Called by `ovsnet trace`."""

from __future__ import annotations

from pathlib import PurePath

from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.switch import command


async def trace(remote: str, bridge: str, flow: str) -> str:
    """What vswitchd says of a packet. Raises SwitchUnavailable, or OvsnetError with its words."""
    folder = PurePath(remote.removeprefix("unix:")).parent if remote.startswith("unix:") else "/run/openvswitch"
    try:
        with open(f"{folder}/ovs-vswitchd.pid", encoding="ascii") as file:
            pid = file.read().strip()
    except OSError as error:
        raise SwitchUnavailable(f"{folder}/ovs-vswitchd.pid: {error.strerror}", "is ovs-vswitchd running?") from None
    target = f"{folder}/ovs-vswitchd.{pid}.ctl"
    finished = await command.run(["ovs-appctl", "-t", target, "ofproto/trace", bridge, flow])
    if finished.code != 0:
        raise OvsnetError(f"ofproto/trace {bridge} {flow}: {finished.err.strip()}", "is ovs-vswitchd running?")
    return finished.out
