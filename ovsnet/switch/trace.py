"""`ofproto/trace` on the vswitchd that serves an OVSDB server. Called by `ovsnet trace`."""

from __future__ import annotations

from pathlib import PurePath

from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.switch import command


async def trace(remote: str, bridge: str, flow: str) -> str:
    """What vswitchd says of a packet. Raises SwitchUnavailable, or OvsnetError with its words."""
    folder = (
        PurePath(remote.removeprefix("unix:")).parent if remote.startswith("unix:") else "/run/openvswitch"
    )
    target = _control_socket(f"{folder}/ovs-vswitchd.pid")
    finished = await command.run(["ovs-appctl", "-t", target, "ofproto/trace", bridge, flow])
    if finished.code != 0:
        raise OvsnetError(
            f"ofproto/trace {bridge} {flow}: {finished.err.strip()}", "is ovs-vswitchd running?"
        )
    return finished.out


def _control_socket(pid_file: str) -> str:
    """Where vswitchd takes commands: its socket is named after its process."""
    path = PurePath(pid_file)
    try:
        with open(path, encoding="ascii") as file:
            return str(path.with_name(f"ovs-vswitchd.{file.read().strip()}.ctl"))
    except OSError as error:
        raise SwitchUnavailable(f"{pid_file}: {error.strerror}", "is ovs-vswitchd running?") from None
