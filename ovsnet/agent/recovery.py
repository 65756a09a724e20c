"""Asks a pod's own interface whether what a note says of it is true.

Notes are files: they may be old, restored from elsewhere, or wrong. The interface is not. Called by `upkeep` before a
pod gets a lost row back.
"""

from __future__ import annotations

import os
from typing import Protocol

from ovsnet.errors import HostFailure
from ovsnet.host.pod import index_of
from ovsnet.host.types import PodInterface
from ovsnet.model import Pod


class Links(Protocol):
    """What is needed of `host.worker.LinkWorker`."""

    async def inspect(self, namespace: int, ifname: str) -> PodInterface | None: ...


async def contradiction(pod: Pod, links: Links) -> str:
    """What is wrong with the note, in words; "" if nothing is.

    Raises PermissionError for a namespace that the agent may not open, such as /proc/PID/ns/net from within its unit:
    then nobody can tell.
    """
    try:
        namespace = os.open(pod.netns, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        return f"{pod.netns}: {error}"
    try:
        seen = await links.inspect(namespace, pod.ifname)
    except (HostFailure, OSError) as error:
        return f"{pod.netns}: {error}"
    finally:
        os.close(namespace)
    if seen is None or not seen.peer or seen.peer != index_of(pod.port):
        return f"{pod.ifname} in {pod.netns} is not the other end of {pod.port}"
    if seen.mac != pod.mac:
        return f"the interface has MAC {seen.mac}, not {pod.mac}"
    if missing := set(pod.ips) - {address.ip for address in seen.addresses}:
        return f"the interface does not have {', '.join(sorted(map(str, missing)))}"
    return ""
