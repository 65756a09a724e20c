"""That one agent serves a bridge, and no other beside it: two would undo one another's work without end.

Owns a name in the node's network namespace, which the kernel gives to one process and takes back when that ends,
however it ends. Called by `app`.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct

from ovsnet.errors import OvsnetError

_PATIENCE = 5.0
"""Seconds that a predecessor has to come to its end."""
_LOOK = 0.1


async def alone(ovsdb: str, bridge: str, patience: float = _PATIENCE) -> socket.socket:
    """What keeps others out until it is closed. Raises OvsnetError that names the process which has it."""
    digest = hashlib.blake2b(f"{ovsdb} {bridge}".encode(), digest_size=8).hexdigest()
    name = f"\0ovsnet-agent-{digest}"
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            held.bind(name)
        except OSError as error:
            if asyncio.get_running_loop().time() > deadline:
                held.close()
                raise OvsnetError(
                    f"another agent{_holder(name)} serves bridge {bridge} already", "stop it first"
                ) from error
            await asyncio.sleep(_LOOK)
        else:
            # Without a listener nobody can ask who it is.
            held.listen()
            return held


def _holder(name: str) -> str:
    """Its process, in words; "" if it has just ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(name)
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return ""
        pid: int = struct.unpack("3i", credentials)[0]
    # 0: of another pid namespace, as from a container.
    return f", process {pid}," if pid else ""
