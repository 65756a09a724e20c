"""ovs-vswitchd's control socket, through ovs-appctl. Called by `trace`, the agent and the doctor."""

from __future__ import annotations

import asyncio
import signal
from pathlib import PurePath

from ovsnet.errors import OvsnetError, SwitchUnavailable
from ovsnet.switch import command

_PATIENCE = 30
"""Seconds until vswitchd is taken to hang: a dump of a large conntrack takes some."""
_LOOK = 0.05
"""Seconds: more than a look at one entry takes, with thousands of flows that it may match too."""


async def appctl(remote: str, *arguments: str) -> str:
    """What the vswitchd that serves an OVSDB server says.

    Raises SwitchUnavailable if it does not answer, or OvsnetError with its words.
    """
    argv = ["ovs-appctl", f"--timeout={_PATIENCE}", "-t", control_socket(remote), *arguments]
    finished = await command.run(argv)
    if finished.code == 0:
        return finished.out
    # Of the two lines about a socket without a listener one is in the form of a log.
    said = " ".join(line for line in finished.err.splitlines() if "|WARN|" not in line).strip()
    words = f"{' '.join(arguments)}: {said}"
    if finished.code == -signal.SIGALRM or "cannot connect to" in finished.err:
        raise SwitchUnavailable(f"{words}; ovs-vswitchd does not answer", "is ovs-vswitchd running?")
    raise OvsnetError(words, "is ovs-vswitchd running?")


async def renew_entries(remote: str) -> None:
    """Has vswitchd delete all entries of its datapaths; the next packets make new ones. Raises like `appctl`.

    Twice: it passes over an entry that one of its threads is looking at, and right after a change of flows they look at
    one after the other.
    """
    await appctl(remote, "revalidator/purge")
    await asyncio.sleep(_LOOK)
    await appctl(remote, "revalidator/purge")


def run_folder(remote: str) -> str:
    """Where the daemons have their sockets and pid files: beside OVSDB's."""
    return (
        str(PurePath(remote.removeprefix("unix:")).parent)
        if remote.startswith("unix:")
        else "/run/openvswitch"
    )


def control_socket(remote: str) -> str:
    """Where vswitchd takes commands: its socket is named after its process. Raises SwitchUnavailable."""
    return f"{run_folder(remote)}/ovs-vswitchd.{process(remote, 'ovs-vswitchd')}.ctl"


def process(remote: str, daemon: str) -> int:
    """The number of the daemon's process, from its pid file. Raises SwitchUnavailable."""
    path = f"{run_folder(remote)}/{daemon}.pid"
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except OSError as error:
        raise SwitchUnavailable(f"{path}: {error.strerror}", f"is {daemon} running?") from None
    except ValueError:
        raise SwitchUnavailable(f"{path} has no process number", f"is {daemon} running?") from None
